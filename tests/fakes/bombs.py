"""Files that are broken, or that promise more than anybody should take: made, not kept.

``codes`` are what the service may say of each; a file without codes is a film after all, of which the
harmless part is used.
"""

import random
import struct
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.boxes import Box, box, find
from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.hostile import element, vint

BROKEN = ("input_damaged", "not_media", "no_video_stream")
OVER = ("media_over_limits",)
LOST = (*BROKEN, *OVER, "")
"""The empty code stands for a job that completes: what was spoilt was not needed."""
CUT = (*LOST, "trim_out_of_range", "empty_file", "render_failed")
"""Where a piece is left of a container without an index, it is a shorter clip."""
CONTAINERS = ("mp4", "mkv", "ts", "avi", "flv")
BILLION = 1_000_000_000
MEBI = 2**20


@dataclass(frozen=True)
class Bomb:
    """One such file; ``codes`` with "" where it may also complete."""

    title: str
    content: bytes = field(repr=False)
    codes: tuple[str, ...]


class Foundry:
    """Makes them from small clips that it makes first, in ``folder``."""

    def __init__(self, folder: Path, ffmpeg: Path) -> None:
        self._folder = folder
        self._ffmpeg = ffmpeg
        self.clip = make_clip(
            folder, ffmpeg, ClipSpec(seconds=2, width=256, height=144)
        ).read_bytes()

    def made(self, name: str, *arguments: str) -> bytes:
        """What FFmpeg makes with these arguments."""
        target = self._folder / name
        if not target.exists():
            command = [str(self._ffmpeg), "-v", "error", "-nostdin", "-y", *arguments, str(target)]
            subprocess.run(command, check=True, timeout=60)
        return target.read_bytes()

    def remade(self, container: str) -> bytes:
        """The clip in another container."""
        if container == "mp4":
            return self.clip
        source = self._folder / "base.mp4"
        source.write_bytes(self.clip)
        kept = ("-c:v", "mpeg4", "-c:a", "copy") if container == "avi" else ("-c", "copy")
        return self.made(f"base.{container}", "-i", str(source), *kept)

    def all(self) -> list[Bomb]:
        return [*self.promises(), *self.headers(), *self.ruins(), *self.spoilt(range(40))]

    def some(self) -> list[Bomb]:
        """Each kind of promise and lie, and a few of the ruins."""
        ruins = list(self.ruins())
        return [
            *self.promises(),
            *self.headers(),
            *ruins[:4],
            *ruins[10::4],
            *self.spoilt(range(5)),
        ]

    # --- more than anybody should take -----------------------------------------------------------

    def promises(self) -> Iterator[Bomb]:
        x264 = ("-c:v", "libx264", "-preset", "ultrafast")
        huge = ("-f", "lavfi", "-i", "color=s=8192x8192:r=1:d=1", "-c:v", "mjpeg")
        yield Bomb("8192 x 8192 pixels", self.made("huge.mp4", *huge), OVER)
        slow = ("-f", "lavfi", "-i", "color=s=64x64:r=1/20000", *x264, "-frames:v", "10")
        yield Bomb("200,000 seconds", self.made("slow.mp4", *slow), OVER)
        fast = ("-f", "lavfi", "-i", "color=s=64x64:r=100000", *x264, "-frames:v", "3000")
        yield Bomb("100,000 frames a second", self.made("fast.mkv", *fast), (*OVER, *BROKEN))
        many = ("-i", str(self._folder / "slow.mp4"), *("-map", "0:v:0") * 100, "-c", "copy")
        yield Bomb("100 streams", self.made("many.mp4", *many), OVER)
        yield Bomb("half an hour of 4K60", self.long_4k60(), OVER)

    def long_4k60(self) -> bytes:
        """All its limits are kept but one: that of all pixels together."""
        picture = "color=s=3840x2160:r=1:d=3"
        short = self.made("4k.mp4", "-f", "lavfi", "-i", picture, "-c:v", "mjpeg")
        return _stretched(short, rate=60, seconds=1500)

    def headers(self) -> Iterator[Bomb]:
        """Numbers in headers that are lies."""
        for kind in (b"stsz", b"stts", b"stsc", b"stco", b"ctts", b"elst", b"stss"):
            name = kind.decode()
            spoilt = self._count_claimed(kind, 0x7FFFFFFF)
            yield Bomb(f"two billion entries in {name}", spoilt, LOST)
        yield Bomb("20,000 x 20,000 in a header", self._size_claimed(20000), LOST)
        yield Bomb("half a gigabyte of moov", self._moov_claimed(500 * MEBI), LOST)
        yield Bomb("a packed moov of two gigabytes", packed_moov(), BROKEN)
        yield Bomb("fifty thousand atoms deep", deep_atoms(50_000), BROKEN)
        yield Bomb("65,535 channels", self._channels_claimed(0xFFFF), LOST)
        yield Bomb("an attachment of a gigabyte", attachment_claimed(1024 * MEBI), BROKEN)
        yield Bomb("Matroska deep in itself", deep_elements(5000), BROKEN)
        yield Bomb("times that jump", self._jumping(0x7FFFFFF0), LOST)
        late = ("-i", str(self._written()), "-c", "copy", "-output_ts_offset", "95442")
        yield Bomb("times that wrap", self.made("wrap.ts", *late), LOST)
        yield Bomb("a cluster at 2^62", self._late_cluster(), LOST)

    def _written(self) -> Path:
        source = self._folder / "one.mp4"
        source.write_bytes(self.clip)
        return source

    def _count_claimed(self, kind: bytes, count: int) -> bytes:
        film = Box.parse(self.clip)
        for each in find(film, kind):
            at = 8 if kind == b"stsz" else 4
            each.payload = each.payload[:at] + struct.pack(">I", count) + each.payload[at + 4 :]
        return film.render()

    def _size_claimed(self, side: int) -> bytes:
        film = Box.parse(self.clip)
        each = find(film, b"stsd")[0]
        each.payload = each.payload[:40] + struct.pack(">HH", side, side) + each.payload[44:]
        return film.render()

    def _moov_claimed(self, size: int) -> bytes:
        film = Box.parse(self.clip)
        find(film, b"moov")[0].claimed = size
        return film.render()

    def _channels_claimed(self, count: int) -> bytes:
        sound = ("-i", str(self._written()), "-c:v", "copy", "-c:a", "pcm_s16le")
        film = Box.parse(self.made("sowt.mov", *sound))
        each = find(film, b"stsd")[1]
        each.payload = each.payload[:32] + struct.pack(">H", count) + each.payload[34:]
        return film.render()

    def _jumping(self, ticks: int) -> bytes:
        film = Box.parse(self.clip)
        each = find(film, b"stts")[0]
        count = struct.unpack_from(">II", each.payload, 4)[1]
        runs = struct.pack(">IIIIIII", 3, count // 2, 512, 1, ticks, count - count // 2 - 1, 512)
        each.payload = b"\0\0\0\0" + runs
        return film.render()

    def _late_cluster(self) -> bytes:
        content = self.remade("mkv")
        at = content.rindex(bytes.fromhex("1f43b675"))
        size = 4 + (9 - content[at + 4].bit_length())
        return (
            content[: at + size] + element("e7", (2**62).to_bytes(8, "big")) + content[at + size :]
        )

    # --- what is left of a file ------------------------------------------------------------------------

    def ruins(self) -> Iterator[Bomb]:
        yield Bomb("nothing", b"", ("empty_file",))
        yield Bomb("one byte", b"\0", ("not_media",))
        yield Bomb("zeros", bytes(100_000), ("not_media",))
        yield Bomb("noise", random.Random(1).randbytes(100_000), BROKEN)
        yield Bomb("a bomb of a PNG", png_bomb(50_000), ("not_media",))
        yield Bomb("a gzip", b"\x1f\x8b\x08" + bytes(50), ("not_media",))
        for head in (
            b"\0\0\0\x18ftypisom",
            b"\x1aE\xdf\xa3",
            b"RIFF\0\0\0\0AVI LIST",
            b"FLV\x01\5",
        ):
            yield Bomb(f"a head alone, {head[:12]!r}", head + bytes(600), BROKEN)
        for container in CONTAINERS:
            whole = self.remade(container)
            for share in (0.02, 0.3, 0.9):
                left = whole[: round(len(whole) * share)]
                yield Bomb(f"{share:.0%} of {container}", left, CUT)

    def spoilt(self, seeds: range) -> Iterator[Bomb]:
        """Bits turned at random, the same for the same seed."""
        for seed in seeds:
            yield self.spoil(seed)

    def spoil(self, seed: int) -> Bomb:
        """A clip with flipped bits, or cut short, or with a piece twice: what the seed says."""
        dice = random.Random(seed)
        container = CONTAINERS[seed % len(CONTAINERS)]
        content = bytearray(self.remade(container))
        reach = min(len(content), dice.choice([2000, 20_000, len(content)]))
        for _ in range(dice.choice([1, 4, 30, 300])):
            content[dice.randrange(reach)] ^= 1 << dice.randrange(8)
        if dice.random() < 0.3:
            del content[dice.randrange(len(content)) :]
        if dice.random() < 0.2:
            at = dice.randrange(len(content) or 1)
            content[at:at] = content[at : at + 5000]
        return Bomb(f"seed {seed}, {container}", bytes(content), CUT)


def _stretched(clip: bytes, *, rate: int, seconds: int) -> bytes:
    """A clip whose one keyframe is said to be each of very many frames."""
    film = Box.parse(clip)
    count = rate * seconds
    (sizes,) = find(film, b"stsz")
    # Of one size all, or a list of sizes.
    first = (
        struct.unpack(">I", sizes.payload[4:8])[0] or struct.unpack(">I", sizes.payload[12:16])[0]
    )
    (offsets,) = find(film, b"stco")
    start = struct.unpack_from(">I", offsets.payload, 8)[0]
    sizes.payload = bytes(4) + struct.pack(">II", first, count)
    (times,) = find(film, b"stts")
    scale = struct.unpack_from(">I", find(film, b"mdhd")[0].payload, 12)[0]
    times.payload = bytes(4) + struct.pack(">III", 1, count, scale // rate)
    (chunks,) = find(film, b"stsc")
    chunks.payload = bytes(4) + struct.pack(">IIII", 1, 1, 1, 1)
    for each in (*find(film, b"ctts"), *find(film, b"stss"), *find(film, b"elst")):
        each.kind = b"free"
    offsets.payload = bytes(4) + struct.pack(">I", count) + struct.pack(">I", start) * count
    (clock,) = find(film, b"mdhd")
    clock.payload = clock.payload[:16] + struct.pack(">I", scale * seconds) + clock.payload[20:]
    # The data must stay where the offsets say: before the header that grew.
    moov = find(film, b"moov")[0]
    mdat = find(film, b"mdat")[0]
    film.inside = [find(film, b"ftyp")[0], mdat, moov]
    head = len(film.inside[0].render()) + 8
    offsets.payload = bytes(4) + struct.pack(">I", count) + struct.pack(">I", head) * count
    mdat.payload = clip[start : start + first]
    return film.render()


def packed_moov() -> bytes:
    """A compressed header that claims to become two gigabytes."""
    packed = zlib.compress(bytes(8 * MEBI))
    inner = box(b"dcom", b"zlib") + box(b"cmvd", struct.pack(">I", 0x7FFFFFFF) + packed)
    return box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", box(b"cmov", inner))


def deep_atoms(depth: int) -> bytes:
    """Atoms one inside the other."""
    kinds = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
    heads = (struct.pack(">I4s", 8 * (depth - n), kinds[n % 5]) for n in range(depth))
    return box(b"ftyp", b"isom\0\0\0\0isom") + b"".join(heads)


def deep_elements(depth: int) -> bytes:
    """Matroska tags one inside the other, which may nest without end."""
    inner = b""
    for _ in range(depth):
        inner = bytes.fromhex("67c8") + vint(len(inner)) + inner
    tags = element("1254c367", element("7373", inner))
    header = element("1a45dfa3", element("4282", b"matroska"))
    return header + element("18538067", tags)


def attachment_claimed(size: int) -> bytes:
    """A Matroska file with an attached font of which only the beginning is there."""
    font = element("466e", b"a.ttf") + element("4660", b"font/ttf") + element("46ae", b"\1")
    font += bytes.fromhex("465c") + vint(size) + bytes(1000)
    attached = bytes.fromhex("61a7") + vint(size + 100) + font
    attachments = bytes.fromhex("1941a469") + vint(size + 200) + attached
    header = element("1a45dfa3", element("4282", b"matroska"))
    return header + bytes.fromhex("18538067") + vint(size + 300) + attachments


def png_bomb(side: int) -> bytes:
    """A picture that is small until it is unpacked."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    rows = zlib.compress(bytes(16 * MEBI), 9)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
