"""Decodes pictures that nobody trusts: PNG, JPEG and WebP. Only ever in the limited child."""

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageCms, ImageColor, ImageStat

from app.domain.errors import EmptyFile, InputDamaged, MediaOverLimits
from app.infrastructure.picture_magic import is_picture, not_an_image
from app.operations.templates.scene import Fit, Picture, Plate

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 64_000_000
"""Whatever the settings allow: more would not fit the child's memory."""
WEBP_HEAD = 30
"""Bytes: in so many a WebP says how large it is."""
_ORIENTATION = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
)
"""What Pillow's readers raise for bytes that make no sense."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a picture is; the size as it is shown."""

    format: str
    width: int
    height: int
    has_alpha: bool


def over_limit(pixels: int, maximum: int) -> MediaOverLimits:
    """Return the refusal of a picture with too many pixels."""
    return MediaOverLimits(
        f"The picture has {pixels} pixels; the limit is {maximum}.",
        extra={"limit": "pixels", "value": pixels, "maximum": maximum},
    )


def look(path: Path, max_pixels: int) -> Seen:
    """Decode a picture once and return what it is.

    Raises EmptyFile, NotAnImage, MediaOverLimits (before a pixel is decoded), InputDamaged.
    """
    image = decode(path, max_pixels)
    turned = _orientation(image) in _SIDEWAYS
    width, height = (image.height, image.width) if turned else image.size
    # A camera's JPEG may hold more pictures behind the first and then calls itself MPO.
    form = {"MPO": "jpeg"}.get(str(image.format), str(image.format).lower())
    return Seen(form, width, height, image.has_transparency_data)


def decode(path: Path, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """Return the first frame of a picture, decoded to its end but not turned. Raises like ``look``."""
    maximum = min(max_pixels, MOST_PIXELS)
    with _plain_file(path) as file:
        head = file.read(WEBP_HEAD)
        if not is_picture(head):
            raise not_an_image()
        _check_webp(head, maximum)
        image = _opened(file)
        if image.width * image.height > maximum:
            raise over_limit(image.width * image.height, maximum)
        try:
            if image.format == "PNG":
                image.verify()  # of all its check sums, which takes the whole file
                image = _opened(file)
            image.load()
        except (*_BROKEN, MemoryError) as error:
            msg = "The picture is damaged: it cannot be decoded to its end."
            raise InputDamaged(msg) from error
    return image


@contextmanager
def _plain_file(path: Path) -> Iterator[BinaryIO]:
    """Open what has bytes and is no link to something else."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise InputDamaged("The picture cannot be read.") from error
    with os.fdopen(number, "rb") as file:
        if os.fstat(number).st_size == 0:
            raise EmptyFile("The file has no bytes.")
        yield file


def _check_webp(head: bytes, maximum: int) -> None:
    """Refuse a WebP that is too large by its header: its reader makes room before it can be asked."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < WEBP_HEAD:
        return
    if head[12:16] == b"VP8X":
        width = int.from_bytes(head[24:27], "little") + 1
        height = int.from_bytes(head[27:30], "little") + 1
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width = int.from_bytes(head[26:28], "little") & 0x3FFF
        height = int.from_bytes(head[28:30], "little") & 0x3FFF
    if width * height > maximum:
        raise over_limit(width * height, maximum)


def _opened(file: BinaryIO) -> Image.Image:
    # Our own limit holds, which is lower and tells the real number.
    Image.MAX_IMAGE_PIXELS = None
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(file, formats=FORMATS)
    except (*_BROKEN, MemoryError) as error:  # what is not recognised is an OSError
        raise InputDamaged("The picture is damaged: its header makes no sense.") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN:
        return 1  # what it says about itself is broken, the picture is not


def _upright(image: Image.Image) -> Image.Image:
    """Return a picture as it is to be shown, in the colours of a screen, as RGBA."""
    orientation = _orientation(image)
    upright = _plain(image)
    turn = _TURNS.get(orientation)
    return upright if turn is None else upright.transpose(turn)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in {"I;16", "I;16B", "I;16L", "I", "F"}:
        deep = image.convert("I")
        return deep.point(lambda value: value * (1 / 256)).convert("L").convert("RGBA")
    profile = image.info.get("icc_profile")
    if profile and image.mode in {"RGB", "RGBA", "CMYK"}:
        try:
            return _on_screen(image, profile)
        except (ImageCms.PyCMSError, *_BROKEN):
            pass  # a broken profile: its numbers are taken for those of a screen
    return image.convert("RGBA")


def _on_screen(image: Image.Image, profile: bytes) -> Image.Image:
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    source = image.convert("RGB") if alpha is not None else image
    shown = ImageCms.profileToProfile(
        source,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    if shown is None:
        return image.convert("RGBA")
    shown = shown.convert("RGBA")
    if alpha is not None:
        shown.putalpha(alpha)
    return shown


class Pictures:
    """The pictures of a scene, decoded once each, by their names in the job's folder."""

    def __init__(self, folder: Path, names: set[str]) -> None:
        self._images = {name: _upright(decode(folder / name)) for name in sorted(names)}

    @property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """The size of each as it is shown."""
        return {name: image.size for name, image in self._images.items()}

    def fitted(self, name: str, size: tuple[int, int], fit: Fit) -> Image.Image:
        """Return a picture of exactly ``size``: cut at its edges, or whole as it is."""
        image = self._images[name]
        if fit is Fit.COVER:
            return _resized(image, size, _window(image.size, size))
        return _resized(image, size, (0.0, 0.0, float(image.width), float(image.height)))

    def plate_color(self, plate: Plate) -> str:
        """Return the colour of a plate: of its two, that on which its picture is seen better."""
        child = plate.child
        if plate.color_other is None or not isinstance(child, Picture):
            return plate.color
        seen = _luminance(self._mean(child.source))
        ours, other = (_luminance(ImageColor.getrgb(c)) for c in (plate.color, plate.color_other))
        return plate.color if _contrast(seen, ours) >= _contrast(seen, other) else plate.color_other

    def _mean(self, name: str) -> tuple[int, ...]:
        """Return the mean colour of a picture, by how opaque each of its pixels is."""
        small = self._images[name].resize((32, 32), Image.Resampling.BOX, reducing_gap=3.0)
        alpha = small.getchannel("A")
        if alpha.getextrema()[1] == 0:
            return (0, 0, 0)
        stat = ImageStat.Stat(small.convert("RGBa"))
        opacity = max(stat.mean[3], 1 / 255)
        return tuple(min(255, round(value * 255 / opacity)) for value in stat.mean[:3])


def _luminance(color: tuple[int, ...]) -> float:
    """Return how bright the eye sees a colour of a screen, 0..1."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4  # noqa: PLR2004 - sRGB
        for part in (value / 255 for value in color[:3])
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: float, other: float) -> float:
    bright, dark = max(one, other), min(one, other)
    return (bright + 0.05) / (dark + 0.05)


def _window(full: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the part of a picture, in its middle, that has the shape of ``size``."""
    ratio = min(full[0] / size[0], full[1] / size[1])
    width, height = size[0] * ratio, size[1] * ratio
    left, top = (full[0] - width) / 2, (full[1] - height) / 2
    return (left, top, left + width, top + height)


def _resized(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    # Pillow weighs RGBA by its alpha while it resizes: no dark rims around what is transparent.
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
