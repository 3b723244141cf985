"""A client in a process of its own that costs little: it reads into one buffer, or discards.

A line of JSON on its standard input is a ``Task``, one on its standard output the answer: the seconds
that the downloads took, and the client's own processor seconds. It ends with its input.
"""

import json
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

READ_BYTES = 256 * 1024
DISCARD_BYTES = 64 * 1024 * 1024
"""Of MSG_TRUNC the buffer stays untouched; its size is only how much one call may discard."""


@dataclass(frozen=True, slots=True)
class Task:
    """Downloads of ``start`` to ``end`` of a file, ``ranges`` one after the other on one connection.

    ``at_once``: so many connections share the bytes. ``times``: each range so often. ``discard``: the
    bytes are thrown away in the kernel. ``source``: they are compared with this file's.
    """

    port: int
    path: str
    end: int
    is_whole: bool
    ranges: int = 1
    at_once: int = 1
    times: int = 1
    discard: bool = False
    source: str | None = None


class Client:
    """The client's process, as the benchmark sees it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, task: Task) -> tuple[float, float]:
        """Return the seconds it took, and the client's processor seconds."""
        to_it, from_it = self._process.stdin, self._process.stdout
        if to_it is None or from_it is None:
            raise TypeError
        to_it.write(json.dumps(asdict(task)) + "\n")
        to_it.flush()
        answer = from_it.readline()
        if not answer:
            sys.exit(f"the client failed at {task}")
        seconds, cpu = json.loads(answer)
        return seconds, cpu


@contextmanager
def client() -> Iterator[Client]:
    """Run a client for the length of the block."""
    command = [sys.executable, str(Path(__file__))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Client(process)


class _Download:
    """One connection's part of a task."""

    def __init__(self, task: Task, start: int, end: int) -> None:
        self._task = task
        self._start, self._end = start, end
        self._flags = socket.MSG_TRUNC if task.discard else 0
        self._buffer = mmap.mmap(-1, DISCARD_BYTES if task.discard else READ_BYTES)
        self._source = os.open(task.source, os.O_RDONLY) if task.source else None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            self.error = error

    def _run(self) -> None:
        part = -(-(self._end - self._start) // self._task.ranges)
        with socket.create_connection(("127.0.0.1", self._task.port), timeout=60) as connection:
            connection.settimeout(None)  # with one each read would be two calls
            for start in range(self._start, self._end, part):
                for _ in range(self._task.times):
                    self._fetch(connection, start, min(start + part, self._end))
        if self._source is not None:
            os.close(self._source)

    def _fetch(self, connection: socket.socket, start: int, end: int) -> None:
        asked = "" if self._task.is_whole else f"Range: bytes={start}-{end - 1}\r\n"
        head = f"GET {self._task.path} HTTP/1.1\r\nHost: 127.0.0.1:{self._task.port}\r\n{asked}\r\n"
        connection.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1024) or _fail("the server hung up")
        head_bytes, _, first = answer.partition(b"\r\n\r\n")
        status, *lines = head_bytes.lower().split(b"\r\n")
        length = b"content-length: %d" % (end - start)
        wanted = b" 200 " if self._task.is_whole else b" 206 "
        if wanted not in status or length not in lines:
            _fail(f"an answer that was not asked for: {answer!r}")
        self._compare(first, start)
        position = start + len(first)
        while position < end:
            most = min(end - position, len(self._buffer))
            count = connection.recv_into(self._buffer, most, self._flags)
            if not count:
                _fail(f"the server hung up {end - position} bytes early")
            self._compare(memoryview(self._buffer)[:count], position)
            position += count
        if position != end:
            _fail("more bytes than were asked for")

    def _compare(self, piece: bytes | memoryview, position: int) -> None:
        if self._source is None:
            return
        if os.pread(self._source, len(piece), position) != piece:
            _fail(f"other bytes than the source has, at {position}")


def _fail(why: str) -> bytes:
    raise RuntimeError(why)


def _run(task: Task) -> tuple[float, float]:
    share = task.end // task.at_once
    spans = [(0, task.end)] * task.at_once if task.is_whole else []
    spans = spans or [(number * share, (number + 1) * share) for number in range(task.at_once)]
    downloads = [_Download(task, start, end) for start, end in spans]
    threads = [threading.Thread(target=download.run) for download in downloads[1:]]
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    downloads[0].run()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    for download in downloads:
        if download.error is not None:
            raise download.error
    return seconds, cpu


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(_run(Task(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
