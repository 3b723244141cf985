"""The atoms of an MP4, to be changed by tests that spoil one."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

HOLDERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta"})


def box(kind: bytes, payload: bytes, *, claimed: int | None = None) -> bytes:
    """An atom, with the size it has or claims."""
    size = 8 + len(payload) if claimed is None else claimed
    return struct.pack(">I", size) + kind + payload


@dataclass
class Box:
    """One atom: with atoms inside, or with bytes. ``claimed`` is a size that it lies about."""

    kind: bytes
    payload: bytes = b""
    inside: list["Box"] = field(default_factory=list)
    claimed: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> "Box":
        """The file as one atom without a head of its own."""
        return cls(b"", inside=list(_parse(data)))

    def render(self) -> bytes:
        payload = b"".join(each.render() for each in self.inside) or self.payload
        return box(self.kind, payload, claimed=self.claimed) if self.kind else payload


def _parse(data: bytes) -> Iterator[Box]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        if kind in HOLDERS:
            yield Box(kind, inside=list(_parse(body)))
        else:
            yield Box(kind, body)
        at += size


def find(box: Box, kind: bytes) -> list[Box]:
    """Every atom of a kind, at any depth."""
    own = [box] if box.kind == kind else []
    return own + [found for each in box.inside for found in find(each, kind)]
