"""Tells what a file claims to be from its first bytes, before any decoder sees it."""

from collections.abc import Callable

from app.domain.errors import EmptyFile, NotMedia
from app.operations.ffmpeg import CONTAINER_NAMES

HEAD_BYTES = 1024

PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"[playlist]", b"v=0")
"""Text that makes FFmpeg open other files; refused by name, so that the reason is clear."""

_MOV_ATOMS = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_TS_SYNC = 0x47
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _is_mpegts(head: bytes) -> bool:
    """Sync bytes every 188 bytes, or 192 with a leading time code."""
    for first, packet in ((0, 188), (4, 192)):
        marks = head[first::packet][:3]
        if len(marks) > 1 and all(mark == _TS_SYNC for mark in marks):
            return True
    return False


_MAGIC: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("mov", lambda head: head[4:8] in _MOV_ATOMS),
    ("matroska", lambda head: head.startswith(b"\x1a\x45\xdf\xa3")),
    ("avi", lambda head: head.startswith(b"RIFF") and head[8:11] == b"AVI"),
    ("ogg", lambda head: head.startswith(b"OggS")),
    ("flv", lambda head: head.startswith(b"FLV\x01")),
    ("mpegts", _is_mpegts),
)


def sniff(head: bytes) -> str:
    """Return our name of the container that ``head`` begins. Raises EmptyFile, NotMedia."""
    if not head:
        raise EmptyFile("The file has no bytes.")
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if text.startswith(PLAYLISTS):
        raise not_media("The file is a playlist or manifest, not a video")
    for name, matches in _MAGIC:
        if matches(head):
            return name
    raise not_media("The file is in no container that is read here")


def not_media(what: str) -> NotMedia:
    """Return the refusal, with the containers that are allowed."""
    return NotMedia(
        f"{what}. Allowed are {', '.join(CONTAINER_NAMES)}.",
        extra={"allowed": list(CONTAINER_NAMES)},
    )
