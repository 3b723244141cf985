"""What was delivered of an output: byte intervals, and whether together they are all of it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ByteSpan:
    """The bytes ``start``..``end`` of a file, ``end`` excluded."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


def merge_spans(spans: Iterable[ByteSpan]) -> tuple[ByteSpan, ...]:
    """Return the union of ``spans`` as ordered spans that neither overlap nor touch."""
    merged: list[ByteSpan] = []
    for span in sorted(each for each in spans if each.length > 0):
        if merged and span.start <= merged[-1].end:
            merged[-1] = ByteSpan(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return tuple(merged)


def covers(spans: Iterable[ByteSpan], size_bytes: int) -> bool:
    """Whether the union of ``spans`` holds every byte of a file of ``size_bytes``."""
    return size_bytes == 0 or merge_spans(spans) == (ByteSpan(0, size_bytes),)
