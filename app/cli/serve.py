"""``tidemill serve``: the service in this process until it is told to stop."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.terminal import load_settings


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on, above TIDEMILL_HOST.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, above TIDEMILL_PORT; 0 takes a free one.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for everything, above TIDEMILL_DATA_DIR.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that serve side by side, above TIDEMILL_PROCESSES. How many jobs run "
            "at once is TIDEMILL_WORKERS, in all of them together.",
            metavar="N",
        ),
    ] = None,
) -> None:
    """Run the service: uploads, jobs, outputs and the sweeps.

    One process takes about 1 GiB of uploads a second and is enough for most. Where its core is
    what limits you (many small uploads at once, fast disks and lines) and more cores are there,
    --workers N runs N of them on the same port and folder; one that dies is replaced.

    Bound to loopback it is open to this machine; anywhere else it needs the key in the file that
    TIDEMILL_ADMIN_KEY_FILE names. The first Ctrl+C or SIGTERM stops it in order, a second at once.

    \b
    Examples:
      tidemill serve
      tidemill serve --workers 4
      tidemill serve --port 9000 --data-dir /srv/tidemill
      TIDEMILL_ADMIN_KEY_FILE=/etc/tidemill/key tidemill serve --host 0.0.0.0

    \b
    Exit codes: 0 stopped, 1 failed or refused to start, 2 wrong command line or settings.
    """  # noqa: D301 - \b keeps the lines apart in the help
    options = {
        "TIDEMILL_HOST": host,
        "TIDEMILL_PORT": port,
        "TIDEMILL_DATA_DIR": data_dir,
        "TIDEMILL_PROCESSES": workers,
    }
    settings = load_settings(options)
    # Here, since the server brings everything with it, and `tidemill upload` should start quickly.
    from app.server import serve as run  # noqa: PLC0415

    raise typer.Exit(run(settings))
