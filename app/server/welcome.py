"""What the start of the service tells a person: where it is and what to try next."""

import shlex
import shutil
import sys
from pathlib import Path

from app.settings import Settings

COMMAND = "tidemill"


def base_url(settings: Settings, port: int) -> str:
    """Return the address to open: the public one, else the one listened on."""
    service = settings.service
    if service.public_url:
        return service.public_url
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(service.host, service.host)  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}{service.root_path}"


def command_here(called_as: str) -> str:
    """Return how to call the command in this folder: by name where PATH leads to it, else by path.

    ``make run`` starts the one in ``.venv``, which is not on the PATH of whoever reads this.
    """
    called = Path(called_as)
    if called.name != COMMAND or not called.exists():
        return COMMAND
    by_name = shutil.which(COMMAND)
    if by_name is not None and called.samefile(by_name):
        return COMMAND
    here = Path.cwd()
    full = here / called
    path = full.relative_to(here) if full.is_relative_to(here) else full
    return shlex.quote(str(path) if len(path.parts) > 1 else f"./{path}")


def print_welcome(settings: Settings, port: int) -> None:
    """Print to stderr, among the log lines of the console."""
    url = base_url(settings, port)
    server = "" if url == "http://127.0.0.1:8000" else f" --server {url}"
    key_file = settings.access.admin_key_file
    key = f" --key-file {key_file}" if key_file else ""
    command = command_here(sys.argv[0])
    sys.stderr.write(
        f"\n  Tidemill is running on {url}\n\n"
        f"  Look around   {url}/docs\n"
        f"  Try it        {command} upload clip.mp4 --then trim --start 2 --end 7 -o out.mp4"
        f"{server}{key}\n"
        f"  From a page   point tus-js-client or Uppy at {url}/files/\n"
        f"  What it keeps {settings.data.data_dir.absolute()}  ({command} storage)\n"
        f"  Stop          Ctrl+C\n\n"
    )
    sys.stderr.flush()


def print_stopping(seconds: float) -> None:
    """Say to whoever pressed Ctrl+C what the service still waits for, and how to end that."""
    sys.stderr.write(
        f"\n  Stopping: what is under way gets up to {seconds:g} s to end; "
        "Ctrl+C again stops at once.\n\n"
    )
    sys.stderr.flush()
