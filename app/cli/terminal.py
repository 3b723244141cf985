"""How the command talks: results on stdout, everything else on stderr, one sentence per failure."""

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime

from rich.console import Console

from app.infrastructure.logging import configure_logging
from app.settings import Settings

FAILED = 1
USAGE = 2
INTERRUPTED = 130
PIPE_COLUMNS = 10_000


def output() -> Console:
    """Return the console for results; made anew, since stdout may be replaced.

    In a pipe nothing is wrapped or cut: ids and values are for the next command.
    """
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def messages() -> Console:
    """Return the console for everything that is not the result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def complain(sentences: Iterable[str]) -> None:
    """Print what went wrong, one line each, without markup: values are other people's text."""
    console = messages()
    for sentence in sentences:
        console.print(f"tidemill: {sentence}", markup=False)


def load_settings(options: Mapping[str, object | None] | None = None) -> Settings:
    """Load the settings, options of the command above the environment. Raises ``SettingsError``.

    ``options`` maps variable names to values; None is an option that was not given. From here on
    the log of a command has its warnings only: what it did is its own output.
    """
    given = {name: str(value) for name, value in (options or {}).items() if value is not None}
    settings = Settings.load(options=given)
    configure_logging(settings.service.log_format, "warning")
    return settings


def to_json(told: object) -> str:
    """Return ``told`` as JSON, times as in the API (RFC 3339)."""
    return json.dumps(told, indent=2, default=_plain)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def show_bytes(size_bytes: int) -> str:
    """Return a size for people, in binary units."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004 - the step between binary units
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
