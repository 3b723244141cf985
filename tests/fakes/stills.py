"""Pictures for tests, sound and spoilt, as bytes."""

import io
import struct
import zlib
from functools import cache
from typing import Any

from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
RED, GREEN, BLUE, YELLOW = (230, 20, 20), (20, 200, 40), (30, 40, 220), (240, 220, 20)


def four_corners(size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A picture whose quarters are red, green (right), blue (below) and yellow."""
    width, height = size
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@cache
def still(form: str = "PNG") -> bytes:
    return encoded(four_corners(), form)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@cache
def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A sound PNG of one bit a pixel, all black: large only when it is decoded."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    packed = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", packed)
        + _chunk(b"IEND", b"")
    )


def webp_bomb(side: int = 16_383) -> bytes:
    """The header of a WebP as large as there are."""
    size = (side - 1).to_bytes(3, "little") * 2
    return (
        b"RIFF"
        + struct.pack("<I", 1000)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + size
        + bytes(99)
    )


def disguised() -> dict[str, bytes]:
    """What calls itself a picture and is none that is read here."""
    return {
        "gif": encoded(four_corners(), "GIF"),
        "bmp": encoded(four_corners(), "BMP"),
        "tiff": encoded(four_corners(), "TIFF"),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/hostname"/></svg>',
        "html": b"<!doctype html><img src=x>",
        "mp4": b"\0\0\0\x20ftypisom\0\0\0\0isomiso2avc1mp41" + bytes(100),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "text": b"hello",
        "avi": b"RIFF\x10\0\0\0AVI LIST",
    }
