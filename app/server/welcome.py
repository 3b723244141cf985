"""What the start of the service tells a person: where it is and what to try next."""

import sys

from app.settings import Settings


def base_url(settings: Settings, port: int) -> str:
    """Return the address to open: the public one, else the one listened on."""
    service = settings.service
    if service.public_url:
        return service.public_url
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(service.host, service.host)  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}{service.root_path}"


def print_welcome(settings: Settings, port: int) -> None:
    """Print to stderr, among the log lines of the console."""
    url = base_url(settings, port)
    server = "" if url == "http://127.0.0.1:8000" else f" --server {url}"
    key_file = settings.access.admin_key_file
    key = f" --key-file {key_file}" if key_file else ""
    sys.stderr.write(
        f"\n  Tidemill is running on {url}\n\n"
        f"  Look around   {url}/docs\n"
        f"  Try it        tidemill upload clip.mp4 --then trim --start 2 --end 7 -o out.mp4"
        f"{server}{key}\n"
        f"  From a page   point tus-js-client or Uppy at {url}/files/\n"
        f"  What it keeps {settings.data.data_dir.absolute()}  (tidemill storage)\n"
        f"  Stop          Ctrl+C\n\n"
    )
    sys.stderr.flush()
