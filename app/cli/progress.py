"""What a person sees while the command works: bars on a terminal, plain lines everywhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

PLAIN_EVERY_SECONDS = 10.0
"""How often a log gets a line while something moves."""


class Meter(Protocol):
    """One thing under way. ``done`` is in the unit of its total and may go back."""

    def update(self, done: float, note: str = "") -> None: ...


class Display:
    """Messages and meters on standard error, so that standard output holds results only."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet

    def say(self, text: str) -> None:
        """Say something that happened."""
        if not self._quiet:
            self._console.print(escape(text), soft_wrap=True)

    @contextmanager
    def bytes_meter(self, title: str, total_bytes: int) -> Iterator[Meter]:
        """Show bytes with speed and time left."""
        columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with self._meter(title, max(total_bytes, 1), columns) as meter:
            yield meter

    @contextmanager
    def percent_meter(self, title: str) -> Iterator[Meter]:
        """Show 0 to 100 with what is going on."""
        with self._meter(title, 100, (TextColumn("{task.fields[note]}"),)) as meter:
            yield meter

    @contextmanager
    def _meter(
        self, title: str, total: float, columns: tuple[ProgressColumn, ...]
    ) -> Iterator[Meter]:
        if self._quiet:
            yield _Silent()
        elif not self._console.is_terminal:
            yield _Lines(self, title, total)
        else:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                *columns,
                console=self._console,
            ) as progress:
                yield _Bar(progress, title, total)


class _Silent:
    def update(self, done: float, note: str = "") -> None:
        pass


class _Bar:
    def __init__(self, progress: Progress, title: str, total: float) -> None:
        self._progress = progress
        self._task = progress.add_task(escape(title), total=total, note="")

    def update(self, done: float, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=escape(note))


class _Lines:
    """A line at the start, at the end, when the note changes, and now and then in between."""

    def __init__(self, display: Display, title: str, total: float) -> None:
        self._display = display
        self._title = title
        self._total = total
        self._last_percent = -1
        self._last_note = ""
        self._last_at = 0.0

    def update(self, done: float, note: str = "") -> None:
        percent = int(100 * done / self._total)
        ended = done >= self._total and percent > self._last_percent
        due = time.monotonic() - self._last_at >= PLAIN_EVERY_SECONDS
        if percent == self._last_percent and note == self._last_note:
            return
        if ended or due or note != self._last_note:
            self._last_at = time.monotonic()
            self._last_percent, self._last_note = percent, note
            self._display.say(f"{self._title}: {percent} %{f', {note}' if note else ''}")
