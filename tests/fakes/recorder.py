"""Records every process that the service starts during the tests, and judges its arguments.

In this process and in servers in processes of their own alike: ``recording/sitecustomize.py`` is
told of each start by the interpreter itself, so that no way of starting one goes by it.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.infrastructure.media.process_runner import GUARD
from tests.fakes import ffmpeg_arguments
from tests.fakes.recording.sitecustomize import VARIABLE, record

HOOK = Path(__file__).with_name("recording")
ASKING = frozenset({"-version", "-hide_banner", "-encoders", "-decoders", "-filters", "-demuxers"})
"""What an FFmpeg may be told without reading anything."""
SANDBOX_TRIAL = ("-I", "-c", "import json")
DEMO = "app/cli/demo"
"""Makes its own clip from a test picture, before there is a service."""


@dataclass(frozen=True, slots=True)
class Started:
    """One process that the service started: by which of its files, in which process, and how."""

    by: str
    pid: int
    arguments: tuple[str, ...]

    @property
    def guarded(self) -> bool:
        return str(GUARD) in self.arguments

    @property
    def command(self) -> tuple[str, ...]:
        """What runs in the end, behind the guard and the sandbox."""
        rest = self.arguments
        while "--" in rest:
            rest = rest[rest.index("--") + 1 :]
        return rest

    @property
    def is_ffmpeg(self) -> bool:
        binary, *arguments = self.command
        asks = bool(arguments) and set(arguments) <= ASKING
        return asks or "ffmpeg" in Path(binary).name or "-i" in arguments


def recording_environment() -> dict[str, str]:
    """What a server's environment must hold, so that it records; nothing outside a test session."""
    if VARIABLE not in os.environ:
        return {}
    return {VARIABLE: os.environ[VARIABLE], "PYTHONPATH": str(HOOK)}


def begin(sheet: Path) -> None:
    """Record from now on, in this process and those that get ``recording_environment``."""
    sheet.touch()
    os.environ[VARIABLE] = str(sheet)
    sys.addaudithook(record)


class Reader:
    """Reads what was recorded since it read last."""

    def __init__(self, sheet: Path) -> None:
        self._sheet = sheet
        self._offset = 0

    def read(self) -> list[Started]:
        """Return the new entries; a line that is still being written waits for the next time."""
        if self._sheet.stat().st_size == self._offset:
            return []
        with self._sheet.open("rb") as file:
            file.seek(self._offset)
            lines = file.read().rpartition(b"\n")[0]
        self._offset += len(lines) + 1 if lines else 0
        return [_started(json.loads(line)) for line in lines.splitlines()]


def _started(told: Mapping[str, object]) -> Started:
    arguments = told["arguments"]
    assert isinstance(arguments, list)
    return Started(str(told["by"]), int(str(told["pid"])), tuple(arguments))


def judge(started: Sequence[Started], *, own_commands: bool = False) -> list[str]:
    """Return what is wrong with these starts. ``own_commands``: the test runs programs of its own."""
    return [
        f"{' '.join(each.command)[:2000]}: {fault}"
        for each in started
        for fault in _faults(each, own_commands=own_commands)
    ]


def _faults(each: Started, *, own_commands: bool) -> Iterator[str]:
    binary, *arguments = each.command
    if each.is_ffmpeg:
        if set(arguments) <= ASKING:
            return
        if each.by.startswith(DEMO):
            if set(ffmpeg_arguments.kinds(arguments)) != {"source"}:
                yield "the demo makes its clip from nothing but a source"
            return
        if not each.guarded:
            yield "FFmpeg without the guard"
        yield from ffmpeg_arguments.faults(arguments)
    elif not own_commands and not _is_ours(binary, tuple(arguments)):
        yield "neither FFmpeg nor a program of ours"


def _is_ours(binary: str, arguments: tuple[str, ...]) -> bool:
    """Whether it is our interpreter, by itself, with a file; or the command itself."""
    if Path(binary).resolve() != Path(sys.executable).resolve() and Path(binary).name != "tidemill":
        return False
    # Tests put programs that misbehave in the place of one of the service's: a file all the same.
    runs_a_file = arguments[:1] == ("-I",) and any(a.endswith(".py") for a in arguments[1:4])
    return runs_a_file or "serve" in arguments or arguments == SANDBOX_TRIAL
