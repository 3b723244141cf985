"""A child's pipes are closed once: the number of a closed one may be another thread's file already."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop

from app.infrastructure.media import process_runner
from app.infrastructure.media.process_runner import Command, ProcessRunner
from app.infrastructure.media.sandbox import Sandbox, SandboxLevel

pytestmark = pytest.mark.own_commands


class WatchedPipe(io.FileIO):
    """Takes its own number again the moment it is closed, as another thread may do."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(os.dup(pipe.fileno()), "rb")
        pipe.close()
        self.number = self.fileno()
        self.taken = -1

    def close(self) -> None:
        if not self.closed:
            os.fstat(self.number)  # raises when somebody else has closed it before
            super().close()
            self.taken = os.open(os.devnull, os.O_RDONLY)


@pytest.fixture
def pipes(monkeypatch: pytest.MonkeyPatch) -> list[WatchedPipe]:
    made: list[WatchedPipe] = []
    fork = process_runner._fork

    def watched(arguments: list[str], folder: str) -> "tuple[subprocess.Popen[bytes], int]":
        process, pidfd = fork(arguments, folder)
        process.stdout, process.stderr = both = (
            WatchedPipe(process.stdout),
            WatchedPipe(process.stderr),
        )
        made.extend(both)
        return process, pidfd

    monkeypatch.setattr(process_runner, "_fork", watched)
    return made


@pytest.mark.parametrize("script", ["print('out')", "import time; time.sleep(60)"])
def test_nobody_closes_the_number_of_a_pipe_that_is_closed_already(
    pipes: list[WatchedPipe], tmp_path: Path, script: str
) -> None:
    command = Command((sys.executable, "-I", "-S", "-c", script), tmp_path)
    out = bytearray()

    async def scenario() -> None:
        runner = ProcessRunner(Sandbox(SandboxLevel.LIMITS))
        async with runner.start(command, on_stdout=out.extend) as child:
            if "sleep" not in script:
                await child.wait()
        await runner.close()

    uvloop.run(scenario())  # the loop of the service
    assert bytes(out) == (b"out\n" if "print" in script else b"")
    assert [pipe.closed for pipe in pipes] == [True, True]
    for pipe in pipes:
        os.fstat(pipe.taken)
        os.close(pipe.taken)


async def test_a_child_that_cannot_be_watched_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked: list[int] = []

    def refuse(pid: int) -> int:
        forked.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    runner = ProcessRunner(Sandbox(SandboxLevel.LIMITS))
    command = Command(("/bin/sleep", "60"), tmp_path)
    with pytest.raises(OSError, match="open files"):
        async with runner.start(command, on_stdout=lambda _: None):
            pass
    await runner.close()
    with pytest.raises(ProcessLookupError):
        os.kill(forked[0], 0)
