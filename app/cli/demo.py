"""``tidemill demo``: the main job end to end on a real clip, with the bytes on disk before and after."""

import subprocess
from typing import Annotated

import typer

from app.cli.terminal import FAILED, complain


def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave ./demo-data as it is at the end.")
    ] = False,
) -> None:
    """Show the main job on a real clip: upload, trim, download, and nothing left behind.

    Starts a server of its own on a free port with a folder of its own, ./demo-data, and removes
    both at the end. Takes about half a minute.
    """
    # Here, since they bring HTTP libraries with them, and other commands should start quickly.
    import httpx  # noqa: PLC0415

    from app.cli.demo_run import DemoError, give  # noqa: PLC0415

    try:
        give(keep=keep)
    except (DemoError, OSError, subprocess.SubprocessError, httpx.HTTPError) as error:
        complain([str(error)])
        raise typer.Exit(FAILED) from error
