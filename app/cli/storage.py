"""``tidemill storage``: what is kept, from the disk and from the rows side by side."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from app.cli.terminal import load_settings, output, show_bytes, to_json
from app.services.storage_ledger import StorageReport
from app.settings import Settings


def storage(
    *,
    data_dir: Annotated[
        Path | None, typer.Option(help="The data folder, above TIDEMILL_DATA_DIR.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, sizes in bytes.")] = False,
) -> None:
    """Print how many bytes of each kind are kept, on the disk and by the rows.

    Works beside a running service; what moves meanwhile may differ between the two columns.

    \b
    Examples:
      tidemill storage
      tidemill storage --data-dir /srv/tidemill --json

    \b
    Exit codes: 0 done, 1 there is no data folder or it cannot be read,
    2 wrong command line or settings.
    """  # noqa: D301 - \b keeps the lines apart in the help
    settings = load_settings({"TIDEMILL_DATA_DIR": data_dir})
    report = asyncio.run(_report(settings))
    if as_json:
        told = {**asdict(report), "total_bytes": report.total_bytes}
        typer.echo(to_json(told))
        return
    console = output()
    console.print(_table(report), markup=False)
    console.print(f"free: {show_bytes(report.free_bytes)}", markup=False)
    console.print(f"promised to open uploads: {show_bytes(report.reserved_bytes)}", markup=False)
    if report.pending_cleanups:
        console.print(f"still to be deleted: {report.pending_cleanups}", markup=False)


async def _report(settings: Settings) -> StorageReport:
    # Here, since the container brings everything with it, and other commands should start quickly.
    from app.bootstrap import Role, open_container  # noqa: PLC0415

    async with open_container(settings, Role.COMMAND) as container:
        return await container.storage.report()


def _table(report: StorageReport) -> Table:
    table = Table(box=None, header_style="bold", show_footer=True)
    table.add_column("kind", footer="all")
    files = str(sum(kind.count for kind in report.kinds))
    table.add_column("files", justify="right", footer=files)
    table.add_column("on disk", justify="right", footer=show_bytes(report.total_bytes))
    table.add_column("by the rows", footer="")
    for kind in report.kinds:
        rows = ", ".join(
            f"{row.count} {row.state} {show_bytes(row.size_bytes)}" for row in kind.rows
        )
        table.add_row(kind.kind, str(kind.count), show_bytes(kind.size_bytes), rows or "-")
    return table
