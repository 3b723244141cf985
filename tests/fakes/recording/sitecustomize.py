"""Writes down the arguments of every process that the service's code starts.

Python imports a module of this name at its start where it stands on PYTHONPATH: so a server in a
process of its own records too. It has no place of its own in the service, and imports none of it.
"""

import json
import os
import sys
from contextlib import suppress
from typing import Any

VARIABLE = "RECORD_ARGUMENTS_IN"
"""Names the file, which is there already: a traced server creates none."""
STARTING = {"subprocess.Popen": 1, "os.posix_spawn": 1, "os.exec": 1, "os.spawn": 2, "os.system": 0}
"""Audit events of starting a program -> which of their arguments is the argument list."""
OURS = os.sep + "app" + os.sep


def place() -> str:
    """Return which file of the service is starting a process, "" when a test does."""
    frame = sys._getframe(1).f_back
    root = os.path.dirname(__file__).removesuffix(os.path.join("tests", "fakes", "recording"))  # noqa: PTH118, PTH120
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(root + OURS[1:]):
            return name.removeprefix(root)
        if name.startswith(root):
            return ""
        frame = frame.f_back
    return ""


def record(event: str, given: tuple[Any, ...]) -> None:
    """Write a line when an audit event says that the service starts a process."""
    which = STARTING.get(event)
    if which is None:
        return
    path, starter = os.environ.get(VARIABLE), place()
    if path is None or not starter:
        return
    arguments = given[which] if isinstance(given[which], (list, tuple)) else [given[which]]
    told = {"by": starter, "pid": os.getpid(), "arguments": [os.fsdecode(a) for a in arguments]}
    # A server that has no descriptor left still starts what it can.
    with suppress(OSError):
        sheet = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(sheet, (json.dumps(told) + "\n").encode())
        finally:
            os.close(sheet)


if os.environ.get(VARIABLE):
    sys.addaudithook(record)
