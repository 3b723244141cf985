"""The command ``tidemill``: one module per command, and the one place where failures become words."""

import sys
from typing import Annotated

import typer

from app.cli.config import config
from app.cli.demo import demo
from app.cli.doctor import doctor
from app.cli.migrate import migrate
from app.cli.serve import serve
from app.cli.storage import storage
from app.cli.sweep import sweep
from app.cli.terminal import FAILED, INTERRUPTED, USAGE, complain
from app.cli.upload import upload
from app.cli.version import show_version
from app.domain.errors import AppError
from app.infrastructure.storage.paths import StartRefused
from app.settings import SettingsError

app = typer.Typer(
    name="tidemill",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings are variables: `tidemill config --list` shows them all.",
)


@app.callback()
def tidemill(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Take large videos in over resumable uploads, hand finished files out, leave nothing behind.

    \b
    Try it, in two terminals:
      tidemill serve
      tidemill upload clip.mp4 --then trim --start 2 --end 7 -o out.mp4
    """  # noqa: D301 - \b keeps the lines apart in the help
    del version


for command in (serve, upload, sweep, storage, config, doctor, migrate, demo):
    app.command()(command)


def main() -> None:
    """Run the command: exit 0, 1 when it failed, 2 for wrong usage or settings."""
    try:
        app()
    except SettingsError as error:
        complain(error.problems)
        sys.exit(USAGE)
    except (AppError, StartRefused, OSError) as error:
        complain([str(error)])
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
