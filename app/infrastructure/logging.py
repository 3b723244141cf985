"""One stream of log lines on stderr, for people or machines: ours and those of the libraries.

Every request writes a line, so ours take the short way: rendered once, written with one call. Those of
the libraries come through the standard library's logging, and look the same.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from typing import Any, TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

_HANDLER = "tidemill"
_QUIET = ("alembic", "apscheduler", "asyncio", "httpx", "tuspyserver", "uvicorn.error")
"""Libraries whose everyday lines say what our own events say better."""
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logging(log_format: str, log_level: str, *, with_pid: bool = False) -> None:
    """Send everything that is logged in this process to stderr. A repeat replaces the first.

    ``log_format`` is console or json, ``log_level`` debug, info, warning or error. Times are UTC.
    ``with_pid`` adds to each line which process wrote it, for services of several.
    """
    level = _LEVELS[log_level]
    shared = [*_shared_processors(), *([_add_pid] if with_pid else [])]
    structlog.configure(
        processors=[*shared, *_renderers(log_format)],
        logger_factory=_Writers(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A logger that is kept would never learn of a second configuration.
        cache_logger_on_first_use=False,
    )
    handler = _StderrHandler()
    handler.set_name(_HANDLER)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _drop_decoration, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
        )
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.get_name() == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    _route_libraries(level)


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _renderers(log_format: str) -> Sequence[Processor]:
    if log_format == "json":
        return (
            structlog.processors.format_exc_info,
            structlog.processors.UnicodeDecoder(),
            _render_json,
        )
    return (
        _show_unprintable,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr is not None and sys.stderr.isatty(),
            # Never the rich one: it prints local variables, which may be keys or file names.
            exception_formatter=_plain_traceback,
        ),
    )


_encode = json.JSONEncoder(default=repr).encode


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    try:
        return _encode(event)
    except (TypeError, ValueError):
        told = {name: each if isinstance(each, str) else repr(each) for name, each in event.items()}
        return _encode(told)


def _show_unprintable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape what would move a terminal's cursor or begin a line: paths are what clients make them."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable() and name != "stack":
            event[name] = _escaped(value.rstrip("\n"))
    return event


def _escaped(text: str) -> str:
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def _plain_traceback(out: TextIO, error: Any) -> None:
    """Write a traceback in which only its own line ends are any."""
    text = StringIO()
    structlog.dev.plain_traceback(text, error)
    out.write("\n".join(_escaped(line) for line in text.getvalue().split("\n")))


def _add_pid(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["pid"] = os.getpid()
    return event


def _drop_decoration(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Remove uvicorn's second, coloured copy of its message."""
    event.pop("color_message", None)
    return event


def _route_libraries(level: int) -> None:
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn").setLevel(level)
    # Our own request.finished has more and leaves queries out; uvicorn asks hasHandlers().
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at that moment, since it may be replaced meanwhile."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Writers:
    """Makes the loggers of structlog, one for each name."""

    def __init__(self) -> None:
        self._known: dict[str, _Writer] = {}

    def __call__(self, *names: Any) -> "_Writer":
        name = str(names[0]) if names else _HANDLER
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = _Writer(name)
        return found


class _Writer:
    """Writes rendered lines to what ``sys.stderr`` is at that moment. Thread-safe: one call a line."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, line: str) -> None:
        # Nobody may read the log, or nobody any more: no reason to fail what was only to be told.
        stream: TextIO | None = sys.stderr
        if stream is None:
            return
        with suppress(OSError, ValueError):
            stream.write(f"{line}\n")

    debug = info = warning = error = critical = write
