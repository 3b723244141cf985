"""Where the processes of one service show each other what they have counted: shared memory."""

import mmap
import struct
import zlib

SEAT_BYTES = 512 * 1024
"""Room for what one process counts, many times over; memory that is never touched costs nothing."""
_HEAD = struct.Struct("<QII")
"""The number of a note, its length and its checksum."""


class MetricsBoard:
    """A place for each process, made by their parent before it forks; it ends with the last of them.

    Notes go by turns into the two halves of a place, each with a checksum: neither a reader beside
    the writer nor a kill -9 in the middle of writing ever makes half a note count.
    """

    def __init__(self, seats: int, *, seat_bytes: int = SEAT_BYTES) -> None:
        self.seats = seats
        self._half = seat_bytes // 2
        self._memory = mmap.mmap(-1, seats * 2 * self._half)

    def show(self, seat: int, note: bytes) -> bool:
        """Replace what ``seat`` shows; return whether there was room. One writer for each seat."""
        if _HEAD.size + len(note) > self._half:
            return False
        number = self._newest(seat)[0] + 1
        start = self._start(seat, number)
        self._memory[start + _HEAD.size : start + _HEAD.size + len(note)] = note
        head = _HEAD.pack(number, len(note), _checksum(number, note))
        self._memory[start : start + _HEAD.size] = head
        return True

    def read(self, seat: int) -> bytes:
        """Return what ``seat`` showed last, also when its process has died since; b"" if nothing."""
        return self._newest(seat)[1]

    def _newest(self, seat: int) -> tuple[int, bytes]:
        return max(self._note(self._start(seat, half)) for half in range(2))

    def _start(self, seat: int, number: int) -> int:
        return (2 * seat + number % 2) * self._half

    def _note(self, start: int) -> tuple[int, bytes]:
        number, length, checksum = _HEAD.unpack_from(self._memory, start)
        note = self._memory[start + _HEAD.size : start + _HEAD.size + min(length, self._half)]
        is_whole = len(note) == length and _checksum(number, note) == checksum
        return (number, note) if is_whole else (0, b"")


def _checksum(number: int, note: bytes) -> int:
    return zlib.crc32(note, number & 0xFFFFFFFF)
