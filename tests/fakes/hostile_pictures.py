"""Pictures that point elsewhere, or that are far larger than their bytes: for stills and logos."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from tests.fakes.bombs import png_bomb
from tests.fakes.hostile import Bait

REFUSED = ("not_an_image",)
DAMAGED = ("input_damaged",)
OVER = ("media_over_limits",)
A_PICTURE = ("",)
"""What stands behind or inside it is of no concern: the picture alone is read."""
TEXT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class HostilePicture:
    """One picture, and what the service says of it; "" where it is taken for what it shows."""

    title: str
    content: bytes = field(repr=False)
    codes: tuple[str, ...]


def hostile_pictures(bait: Bait) -> Iterator[HostilePicture]:
    """Every one; ``bait`` is what those that point elsewhere point to."""
    svg = drawing(str(bait.path)) + drawing(bait.url)
    png, jpeg = picture("PNG"), picture("JPEG")
    yield HostilePicture("SVG that shows another file", svg, REFUSED)
    yield HostilePicture("SVG behind the head of a PNG", png[:8] + svg, DAMAGED)
    yield HostilePicture("SVG behind a PNG", png + svg, A_PICTURE)
    yield HostilePicture("PostScript", postscript(str(bait.path)), REFUSED)
    yield HostilePicture(
        "script inside a JPEG", jpeg[:2] + comment(script(bait.url)) + jpeg[2:], A_PICTURE
    )
    yield HostilePicture("a film", b"\0\0\0\x18ftypisom" + bytes(100), REFUSED)
    yield HostilePicture("GIF", picture("GIF"), REFUSED)
    yield HostilePicture("TIFF", picture("TIFF"), REFUSED)
    yield HostilePicture("PNG of 50,000 x 50,000", png_bomb(50_000), OVER)
    yield HostilePicture("PNG of 4,000 x 4,000 without its rows", png_bomb(4_000), DAMAGED)
    size = struct.pack(">HH", 65_500, 65_500)
    at = jpeg.index(b"\xff\xc0") + 5
    yield HostilePicture("JPEG of 65,500 x 65,500", jpeg[:at] + size + jpeg[at + 4 :], OVER)
    yield HostilePicture("WebP of 16,383 x 16,383", lossless_webp(16_383), OVER)
    yield HostilePicture("PNG with packed text", with_text(png), (*A_PICTURE, *DAMAGED))


def picture(form: str) -> bytes:
    """A small sound picture."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (20, 90, 160)).save(file, form)
    return file.getvalue()


def drawing(target: str) -> bytes:
    return (
        f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "{target}">]>'
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<image xlink:href="{target}" width="9" height="9"/><text>&x;</text></svg>'
    ).encode()


def postscript(target: str) -> bytes:
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({target}) run\n".encode()


def script(target: str) -> bytes:
    return f"<script src='{target}'></script>".encode()


def comment(words: bytes) -> bytes:
    return b"\xff\xfe" + struct.pack(">H", len(words) + 2) + words


def with_text(png: bytes) -> bytes:
    """A PNG with a comment of a quarter of a gigabyte, packed."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(TEXT_BYTES // 2**20))
    data = b"Comment\0\0" + packed + packer.flush()
    chunk = (
        struct.pack(">I", len(data))
        + b"zTXt"
        + data
        + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    )
    at = png.index(b"IDAT") - 4
    return png[:at] + chunk + png[at:]


def lossless_webp(side: int) -> bytes:
    bits = (side - 1) | (side - 1) << 14
    body = b"VP8L" + struct.pack("<I", 20) + b"\x2f" + struct.pack("<I", bits) + bytes(15)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
