"""Files that try to make FFmpeg read something else, each with its bait and a control that takes it.

A refusal alone proves nothing. So each has a bait of its own, whose opening a trace shows, and a
control: what FFmpeg is given in our stead to show that the file would work. ``Reader`` says how much
had to be loosened for that.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.fakes.boxes import Box, box, find

RTP_PORT = 47654
"""Nothing listens there: FFmpeg itself would, for whatever comes."""
PICKY = ("-f", "hls", "-allowed_extensions", "ALL", "-extension_picky", "0")


class Reader(StrEnum):
    """Who follows such a file, on the FFmpeg that comes with the packages."""

    DEFAULT = "FFmpeg as it comes"
    LOOSENED = "FFmpeg with options that a service might set"
    NAMED = "FFmpeg that is given the file's own name"
    NOBODY = "no FFmpeg that we know"


@dataclass(frozen=True)
class Bait:
    """What one file is to be lured into: ``port`` is a loopback server's, ``name`` also its page.

    ``sign`` is in a trace, or among the pages asked for, once somebody took it.
    """

    folder: Path
    name: str
    port: int
    sign: str

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.name}"

    def taken(self, trace: str, asked: Sequence[str]) -> bool:
        """Whether a trace, or the pages asked for, show that somebody took it.

        The sandbox opens all that lies in a job's folder to mount it; nothing can be read by that.
        """
        opened = (line for line in trace.splitlines() if "O_PATH" not in line)
        return any(self.sign in each for each in (*opened, *asked))


@dataclass(frozen=True)
class Lure:
    """One hostile file. ``control`` are FFmpeg's options before ``-i``; ``address`` what it is given
    there, the file itself unless told. ``filename`` is what the client calls it.
    """

    title: str
    write: Callable[[Bait, bytes], bytes]
    reader: Reader
    codes: tuple[str, ...] = ("not_media",)
    control: tuple[str, ...] = ()
    address: Callable[[Bait], str] | None = None
    filename: Callable[[Bait], str] | None = None
    sign: str = ""

    @property
    def slug(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())

    def bait(self, folder: Path, port: int) -> Bait:
        """The bait of this file alone, so that one trace of many tells which was taken."""
        name = f"bait-of-{self.slug}.mp4"
        return Bait(folder, name, port, self.sign or name)


# --- manifests and lists ----------------------------------------------------------------------------

DASH_PROFILE = "urn:mpeg:dash:profile:isoff-on-demand:2011"


def dash(target: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        f'mediaPresentationDuration="PT2S" profiles="{DASH_PROFILE}">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" '
        f'width="320" height="180"><BaseURL>{target}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>"
    )


def hls(target: str) -> str:
    return (
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n"
        f"#EXTINF:2.0,\n{target}\n#EXT-X-ENDLIST\n"
    )


def ffconcat(target: str) -> str:
    return f"ffconcat version 1.0\nfile '{target}'\n"


def smil(target: str) -> str:
    return f'<smil><body><video src="{target}"/></body></smil>'


def pls(target: str) -> str:
    return f"[playlist]\nNumberOfEntries=1\nFile1={target}\nVersion=2\n"


def sdp() -> str:
    return (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {RTP_PORT} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )


def text(
    make: Callable[[str], str], target: Callable[[Bait], str], before: str = ""
) -> Callable[[Bait, bytes], bytes]:
    """A file that is nothing but this text."""
    return lambda bait, _: (before + make(target(bait))).encode()


def absolute(bait: Bait) -> str:
    return str(bait.path)


def sibling(bait: Bait) -> str:
    return bait.name


def loopback(bait: Bait) -> str:
    return bait.url


def file_url(bait: Bait) -> str:
    return f"file://{bait.path}"


# --- films that point elsewhere ----------------------------------------------------------------------


def external_reference(bait: Bait, clip: bytes) -> bytes:
    """A MOV whose samples are said to lie in another file: a data reference of the old Finder kind."""
    path = str(bait.path).encode()
    record = bytearray(150)
    struct.pack_into(">HHIIHH", record, 4, 150, 2, 0, 0, 0, 0)
    record[56:60] = b"mov "
    name = bait.name.encode()[:60]
    record[50] = len(name)
    record[51 : 51 + len(name)] = name
    struct.pack_into(">hh", record, 130, 1, 1)
    pieces = bytes(record)
    pieces += struct.pack(">hH", 2, len(path)) + path + b"\0" * (len(path) % 2)
    pieces += struct.pack(">hH", 18, len(path)) + path + b"\0" * (len(path) % 2)
    pieces += struct.pack(">hH", -1, 0)
    alias = box(b"alis", b"\0\0\0\0" + pieces)
    return _with_reference(clip, alias)


def reference_by_url(bait: Bait, clip: bytes) -> bytes:
    """An MP4 whose samples are said to lie at an address."""
    return _with_reference(clip, box(b"url ", b"\0\0\0\0" + bait.url.encode() + b"\0"))


def _with_reference(clip: bytes, entry: bytes) -> bytes:
    film = Box.parse(clip)
    for each in find(film, b"dref"):
        each.payload = b"\0\0\0\0" + struct.pack(">I", 1) + entry
    return film.render()


def vint(number: int) -> bytes:
    """A size as Matroska writes it, in eight bytes."""
    return (number | 1 << 56).to_bytes(8, "big")


def element(code: str, payload: bytes, *, claimed: int | None = None) -> bytes:
    return bytes.fromhex(code) + vint(len(payload) if claimed is None else claimed) + payload


def linked_segments(bait: Bait, clip: bytes) -> bytes:
    """A Matroska file that says which files come before and after it, and carries one."""
    del clip
    header = element("1a45dfa3", element("4282", b"matroska"))
    info = element("3c83ab", bait.name.encode()) + element("3e83bb", bait.name.encode())
    attached = element("466e", str(bait.path).encode()) + element("465c", b"x")
    segment = element("1549a966", info) + element("1941a469", element("61a7", attached))
    return header + element("18538067", segment)


def behind_ftyp(make: Callable[[str], str]) -> Callable[[Bait, bytes], bytes]:
    """A manifest behind the first atom of an MP4."""
    return lambda bait, clip: clip[:32] + b"\n" + make(str(bait.path)).encode()


def in_transport_packets(bait: Bait, _: bytes) -> bytes:
    """A manifest whose every 188th byte is that of a transport stream."""
    words = dash(str(bait.path)).encode()
    return b"".join(b"G" + words[at : at + 187].ljust(187) for at in range(0, len(words), 187))


def in_an_ogg_page(bait: Bait, _: bytes) -> bytes:
    words = ffconcat(str(bait.path)).encode()
    return b"OggS\0\2" + bytes(20) + bytes([1, len(words) % 255]) + b"\n" + words


def a_film(_: Bait, clip: bytes) -> bytes:
    return clip


FOLLOWED = ("-protocol_whitelist", "file,http,tcp,crypto,data")
GUESSED = ("not_media", "input_damaged", "no_video_stream")
FINE: tuple[str, ...] = ("",)
"""No refusal: the file is a film, and only its name is hostile."""

LURES: Sequence[Lure] = (
    Lure("DASH, absolute path", text(dash, absolute), Reader.DEFAULT),
    Lure("DASH, sibling", text(dash, sibling), Reader.DEFAULT),
    Lure("DASH, loopback", text(dash, loopback), Reader.LOOSENED, control=FOLLOWED),
    Lure("DASH behind a byte order mark", text(dash, absolute, "\ufeff"), Reader.DEFAULT),
    Lure(
        "DASH behind blank lines",
        lambda bait, _: b"\n \t\r\n" + dash(str(bait.path)).partition("?>")[2].encode(),
        Reader.DEFAULT,
    ),
    Lure("DASH behind ftyp", behind_ftyp(dash), Reader.NOBODY, GUESSED),
    Lure("DASH in transport packets", in_transport_packets, Reader.NOBODY, GUESSED),
    Lure("HLS, absolute path", text(hls, absolute), Reader.LOOSENED, control=PICKY),
    Lure("HLS, sibling", text(hls, sibling), Reader.LOOSENED, control=PICKY),
    Lure("HLS, file address", text(hls, file_url), Reader.LOOSENED, control=PICKY),
    Lure("HLS, loopback", text(hls, loopback), Reader.LOOSENED, control=(*FOLLOWED, *PICKY)),
    Lure("HLS behind ftyp", behind_ftyp(hls), Reader.NOBODY, GUESSED),
    Lure("ffconcat, sibling", text(ffconcat, sibling), Reader.DEFAULT),
    Lure(
        "ffconcat, absolute path", text(ffconcat, absolute), Reader.LOOSENED, control=("-safe", "0")
    ),
    Lure(
        "ffconcat, loopback",
        text(ffconcat, loopback),
        Reader.LOOSENED,
        control=("-safe", "0", *FOLLOWED),
    ),
    Lure("ffconcat in an Ogg page", in_an_ogg_page, Reader.NOBODY, GUESSED),
    Lure("playlist of a radio", text(pls, absolute), Reader.NOBODY),
    Lure("SMIL", text(smil, absolute), Reader.NOBODY),
    Lure(
        "session description",
        lambda _, __: sdp().encode(),
        Reader.LOOSENED,
        control=("-protocol_whitelist", "file,udp,rtp"),
        sign=f"htons({RTP_PORT})",
    ),
    Lure(
        "MOV with its samples elsewhere",
        external_reference,
        Reader.LOOSENED,
        (*GUESSED, ""),
        control=("-enable_drefs", "1", "-use_absolute_path", "1"),
    ),
    Lure("MP4 with its samples at an address", reference_by_url, Reader.NOBODY, (*GUESSED, "")),
    Lure("Matroska with linked segments", linked_segments, Reader.NOBODY, GUESSED),
    Lure(
        "a name that is a list",
        a_film,
        Reader.NAMED,
        FINE,
        address=lambda bait: f"concat:{bait.path}|{bait.path}",
        filename=lambda bait: f"concat:{bait.path}|{bait.path}",
    ),
    Lure(
        "a name that is a part of a file",
        a_film,
        Reader.NAMED,
        FINE,
        address=lambda bait: f"subfile,,start,0,end,0,,:{bait.path}",
        filename=lambda bait: f"subfile,,start,0,end,0,,:{bait.path}",
    ),
    Lure(
        "a name that is an address",
        a_film,
        Reader.NAMED,
        FINE,
        address=lambda bait: bait.url,
        filename=lambda bait: bait.url,
    ),
    Lure(
        "a name that is an option",
        a_film,
        Reader.NOBODY,
        FINE,
        filename=lambda bait: f"-i {bait.path}",
    ),
    Lure(
        "a name that is a row of pictures",
        a_film,
        Reader.NOBODY,
        FINE,
        filename=lambda _: "%03d.png",
    ),
)
"""Those of ``NOBODY`` have no control run: that they open nothing is shown for them all the same."""
