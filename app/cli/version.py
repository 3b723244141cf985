"""``tidemill --version``."""

from importlib.metadata import version

import typer


def show_version(value: bool) -> None:
    """Print the version and leave; the callback of ``--version``."""
    if value:
        typer.echo(f"tidemill {version('tidemill')}")
        raise typer.Exit
