"""``tidemill sweep NAME``: one sweep by hand, or what it would do."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.cli.terminal import FAILED, complain, load_settings, output, show_bytes, to_json
from app.domain.sweeps import SweepName, SweepReport, Trigger, Victim
from app.settings import Settings

ID_COLUMNS = 32
"""A shortened id is good for nothing."""


def read_name(text: str) -> SweepName:
    """Return the sweep of that name. Raises BadParameter naming all there are."""
    try:
        return SweepName(text)
    except ValueError as error:
        msg = f"there is no sweep {text!r}; there is: {', '.join(SweepName)}"
        raise typer.BadParameter(msg) from error


def sweep(
    name: Annotated[
        SweepName,
        typer.Argument(
            parser=read_name, metavar="NAME", help=f"Which one: {', '.join(SweepName)}."
        ),
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only tell what would go, why and how much.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="The data folder, above TIDEMILL_DATA_DIR.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run one sweep now, beside a running service or without one.

    It takes the sweep's lease, looks at each thing again under its lock before it deletes it, and
    leaves a report, as the runs by interval do. A dry run changes nothing.

    \b
    Examples:
      tidemill sweep spent_inputs --dry-run
      tidemill sweep gc_files
      tidemill sweep expired_jobs --json

    \b
    Exit codes: 0 done, 1 it failed for some things or is running elsewhere,
    2 wrong command line or settings.
    """  # noqa: D301 - \b keeps the lines apart in the help
    settings = load_settings({"TIDEMILL_DATA_DIR": data_dir})
    report, victims = asyncio.run(_run(settings, name, dry_run=dry_run))
    if as_json:
        told = {**asdict(report), "victims": [asdict(each) for each in victims]}
        typer.echo(to_json(told))
    else:
        _show(output(), report, victims)
    complain(report.errors)
    if report.errors:
        raise typer.Exit(FAILED)


async def _run(
    settings: Settings, name: SweepName, *, dry_run: bool
) -> tuple[SweepReport, tuple[Victim, ...]]:
    # Here, since the container brings everything with it, and other commands should start quickly.
    from app.bootstrap import Role, open_container  # noqa: PLC0415

    async with open_container(settings, Role.COMMAND) as container:
        return await container.sweeps.run(name, Trigger.MANUAL, dry_run=dry_run)


def _show(console: Console, report: SweepReport, victims: tuple[Victim, ...]) -> None:
    if victims:
        table = Table(box=None, header_style="bold")
        table.add_column("kind", no_wrap=True)
        table.add_column("id", no_wrap=True, min_width=ID_COLUMNS)
        table.add_column("why", overflow="fold")
        table.add_column("size", justify="right", no_wrap=True)
        for each in victims:
            table.add_row(each.kind, each.id, each.why, show_bytes(each.size_bytes))
        console.print(table, markup=False)
    verb = "would remove" if report.dry_run else "removed"
    count = len(victims) if report.dry_run else report.removed
    size = sum(each.size_bytes for each in victims) if report.dry_run else report.bytes_freed
    console.print(
        f"{report.sweep.value} {verb} {count} of {report.examined} examined, "
        f"{show_bytes(size)}, in {report.duration_seconds:.2f} s.",
        markup=False,
    )
    for reason, times in sorted(report.skipped.items()):
        console.print(f"  left alone: {times} ({reason})", markup=False)
