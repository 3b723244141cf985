"""How children are shut in: bubblewrap, else a network of their own, else flags and rlimits alone."""

import os
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from app.infrastructure.media.process_runner import (
    Command,
    ProcessLimits,
    guarded,
    run_briefly,
)

SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
LOADER_FILES = ("/etc/ld.so.cache", "/etc/alternatives")
"""Where libraries are: on Debian some of FFmpeg's, such as BLAS, are reached by /etc/alternatives."""


TRIAL_SECONDS = 30.0


class SandboxLevel(StrEnum):
    """From the strongest down."""

    BUBBLEWRAP = "bubblewrap"
    NO_NETWORK = "no-network"
    LIMITS = "limits"


class SandboxUnavailableError(RuntimeError):
    """``SANDBOX=require`` on a machine that has neither bubblewrap nor network namespaces."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One level, ready to wrap commands. ``bubblewrap`` is its binary at that level."""

    level: SandboxLevel
    bubblewrap: Path | None = None

    @property
    def guard_mode(self) -> str:
        return self.level.value

    def wrap(self, command: Command) -> tuple[str, ...]:
        """Return the argument list that runs the command at this level.

        With bubblewrap it sees the system's libraries, ``readable`` and its folder, nothing else.
        """
        if self.bubblewrap is None:
            return command.arguments
        return (
            str(self.bubblewrap),
            "--unshare-all",
            "--die-with-parent",
            *_powers(),
            *_system_mounts(),
            *("--proc", "/proc", "--dev", "/dev"),
            *_mounts("--bind" if command.writable else "--ro-bind", (command.folder,)),
            # After the folder, so that what is inside it and only to be read stays as it is.
            *_mounts("--ro-bind", command.readable),
            *("--chdir", str(command.folder)),
            "--",
            *command.arguments,
        )


def _powers() -> tuple[str, ...]:
    """Give up what root could do: bubblewrap leaves root's capabilities alone unless told.

    But one, so that a service run as root still reads files that somebody else owns.
    """
    if os.geteuid() != 0:
        return ("--cap-drop", "ALL")
    return ("--cap-drop", "ALL", "--cap-add", "CAP_DAC_OVERRIDE")


def _mounts(kind: str, paths: tuple[Path, ...]) -> list[str]:
    return [part for path in paths for part in (kind, str(path), str(path))]


def _system_mounts() -> list[str]:
    mounts: list[str] = []
    for folder in SYSTEM_FOLDERS:
        path = Path(folder)
        if path.is_symlink():
            mounts += ["--symlink", str(path.readlink()), folder]
        elif path.is_dir():
            mounts += ["--ro-bind", folder, folder]
    for file in LOADER_FILES:
        mounts += ["--ro-bind-try", file, file]
    return mounts


def python_folders() -> tuple[Path, ...]:
    """Return what a child that is our own interpreter must be able to read."""
    named = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent}
    return tuple(sorted(p for p in named if p.is_dir() and not p.is_relative_to("/usr")))


def detect_sandbox(mode: Literal["auto", "require", "off"] = "auto") -> Sandbox:
    """Try the levels once, strongest first, and return the first that works here.

    ``off`` asks for rlimits alone. Raises ``SandboxUnavailableError`` for ``require`` when neither
    bubblewrap nor a network namespace is to be had.
    """
    if mode == "off":
        return Sandbox(SandboxLevel.LIMITS)
    for sandbox in candidates():
        if works(sandbox):
            return sandbox
    if mode == "require":
        msg = (
            "TIDEMILL_SANDBOX=require, but neither bubblewrap nor network namespaces work here. "
            "Install bubblewrap (apt-get install bubblewrap), or allow unprivileged user "
            "namespaces, or set TIDEMILL_SANDBOX=auto to go on with resource limits alone."
        )
        raise SandboxUnavailableError(msg)
    return Sandbox(SandboxLevel.LIMITS)


def candidates() -> list[Sandbox]:
    """Return the levels to try here, strongest first."""
    bubblewrap = shutil.which("bwrap")
    first = [Sandbox(SandboxLevel.BUBBLEWRAP, Path(bubblewrap))] if bubblewrap else []
    return [*first, Sandbox(SandboxLevel.NO_NETWORK)]


def can_run(sandbox: Sandbox, binary: Path) -> bool:
    """Whether a binary that answers ``-version`` outside also does at this level.

    One whose libraries, or a script whose programs, lie outside the system's folders does not.
    """
    command = Command((str(binary), "-version"), Path("/usr"), readable=(binary,), writable=False)
    return run_briefly(guarded(command, sandbox), timeout_seconds=TRIAL_SECONDS).succeeded


def works(sandbox: Sandbox) -> bool:
    """Whether our own interpreter, which the probe is, runs at this level on this machine."""
    command = Command(
        arguments=(sys.executable, "-I", "-c", "import json"),
        folder=Path("/usr"),
        readable=python_folders(),
        writable=False,
        limits=ProcessLimits(),
    )
    # A busy machine is no reason for a weaker level.
    return run_briefly(guarded(command, sandbox), timeout_seconds=TRIAL_SECONDS).succeeded
