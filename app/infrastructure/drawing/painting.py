"""Paints shapes, plates, pictures and lines of text onto a canvas, with soft edges and shadows."""

import math
from functools import cache

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageMath

from app.infrastructure.drawing.layout import Mark
from app.infrastructure.drawing.pictures import Pictures
from app.infrastructure.drawing.typesetting import draw_line
from app.operations.templates.scene import Glow, Picture, Plate, Ripples, Shadow, Shape, Text

Box = tuple[int, int, int, int]
CORNER_SCALE = 8
STOPS = 1024
"""Samples along a gradient."""
GRAIN = 64
"""Pixels: the side of the pattern that keeps gradients from showing bands."""
SPREAD = 1.5
"""How far a shadow reaches beyond what throws it, in times of its blur."""


def extent(mark: Mark) -> Box:
    """Return the pixels that a mark touches, its shadow among them."""
    if mark.lines:
        left, top = math.floor(mark.x) - 1, math.floor(mark.y) - 1
        right, bottom = math.ceil(mark.x + mark.width) + 1, math.ceil(mark.y + mark.height) + 1
    else:
        left, top = round(mark.x), round(mark.y)
        right, bottom = left + max(1, round(mark.width)), top + max(1, round(mark.height))
    shadow = None if isinstance(mark.node, Shape | Glow | Ripples) else mark.node.shadow
    if shadow is None:
        return (left, top, right, bottom)
    reach = math.ceil(shadow.blur * SPREAD) + 1
    return (
        left - reach,
        min(top, top + shadow.dy - reach),
        right + reach,
        max(bottom, bottom + shadow.dy + reach),
    )


def rim(mark: Mark) -> str:
    """Return the colour at the outermost edge of a mark."""
    node = mark.node
    shadow = None if isinstance(node, Shape | Glow | Ripples) else node.shadow
    if shadow is not None:
        return shadow.color
    return "#000000" if isinstance(node, Picture) else node.color


OPAQUE = 255
_IS_CLEAR = [255] + [0] * 255


class Canvas:
    """A transparent picture of a part of the frame, whose ``box`` is in pixels of the frame.

    ``rim``: the colour of what stays clear.
    """

    def __init__(self, box: Box, pictures: Pictures, *, rim: str, is_rtl: bool) -> None:
        self._box = box
        self._is_rtl = is_rtl
        self._is_clear = True
        self._pictures = pictures
        clear = (*ImageColor.getrgb(rim)[:3], 0)
        self.image = Image.new("RGBA", (box[2] - box[0], box[3] - box[1]), clear)

    def paint(self, mark: Mark) -> None:
        """Paint a mark over what is there."""
        node = mark.node
        place = (round(mark.x), round(mark.y))
        size = (max(1, round(mark.width)), max(1, round(mark.height)))
        match node:
            case Text():
                self._text(node, mark)
            case Shape():
                self._lay(_shape(node, size), place)
            case Glow():
                self._lay(glow(node, size), place)
            case Ripples():
                self._lay(ripples(node, size), place)
            case Picture():
                fitted = self._pictures.fitted(node.source, size, node.fit)
                if node.radius:
                    rounded = ImageChops.multiply(
                        fitted.getchannel("A"), coverage(size, node.radius)
                    )
                    fitted.putalpha(rounded)
                self._shadow(node.shadow, fitted.getchannel("A"), place)
                self._lay(fitted, place)
            case Plate():
                self._plate(node, size, place)

    def _plate(self, node: Plate, size: tuple[int, int], place: tuple[int, int]) -> None:
        mask = coverage(size, node.radius)
        self._shadow(node.shadow, mask, place)
        self._lay(_filled(self._pictures.plate_color(node), mask, node.opacity), place)
        if node.stripe and node.stripe_color:
            start = size[0] - node.stripe if self._is_rtl else 0
            side = mask.crop((start, 0, start + node.stripe, size[1]))
            self._lay(_filled(node.stripe_color, side, 1.0), (place[0] + start, place[1]))

    def _text(self, node: Text, mark: Mark) -> None:
        lines = []
        for line, x, baseline in mark.lines:
            mask, origin = draw_line(line.runs, line.style)
            lines.append((mask, (round(x) - origin[0], round(baseline) - origin[1])))
        for mask, place in lines:
            self._shadow(node.shadow, mask, place)
        for mask, place in lines:
            self._lay(_filled(node.color, mask, 1.0), place)

    def _shadow(self, shadow: Shadow | None, mask: Image.Image, place: tuple[int, int]) -> None:
        if shadow is None or not shadow.opacity:
            return
        reach = math.ceil(shadow.blur * SPREAD)
        wide = Image.new("L", (mask.width + 2 * reach, mask.height + 2 * reach))
        wide.paste(mask, (reach, reach))
        soft = wide.filter(ImageFilter.GaussianBlur(shadow.blur / 2))
        where = (place[0] - reach, place[1] - reach + shadow.dy)
        self._lay(_filled(shadow.color, soft, shadow.opacity), where)

    def _lay(self, layer: Image.Image, place: tuple[int, int]) -> None:
        """Put a layer over the canvas; what lies beyond its edges is left out."""
        x, y = place[0] - self._box[0], place[1] - self._box[1]
        left, top = max(0, -x), max(0, -y)
        right = min(layer.width, self.image.width - x)
        bottom = min(layer.height, self.image.height - y)
        if right <= left or bottom <= top:
            return
        if self._is_clear or layer.getchannel("A").getextrema()[0] == OPAQUE:
            self.image.paste(layer, (x, y))
            self._is_clear = False
            return
        part = layer.crop((left, top, right, bottom))
        where = (x + left, y + top, x + right, y + bottom)
        under = self.image.crop(where)
        # What stays clear gets the colour beside it: video halves the resolution of colour.
        clear = under.getchannel("A").point(_IS_CLEAR)
        unseen = part.copy()
        unseen.putalpha(0)
        under.paste(unseen, mask=clear)
        under.alpha_composite(part)
        self.image.paste(under, where)


def coverage(size: tuple[int, int], radius: int) -> Image.Image:
    """Return an ``L`` mask of a rectangle with round, soft corners."""
    mask = Image.new("L", size, 255)
    radius = min(radius, size[0] // 2, size[1] // 2)
    if radius > 0:
        corner = _corner(radius)
        right, bottom = size[0] - radius, size[1] - radius
        mask.paste(corner, (0, 0))
        mask.paste(corner.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (right, 0))
        mask.paste(corner.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (0, bottom))
        mask.paste(corner.transpose(Image.Transpose.ROTATE_180), (right, bottom))
    return mask


def _corner(radius: int) -> Image.Image:
    scale = CORNER_SCALE if radius <= 256 else 2  # noqa: PLR2004 - a corner as large as a frame
    large = Image.new("L", (radius * scale, radius * scale))
    reach = 2 * radius * scale - 1
    ImageDraw.Draw(large).ellipse((0, 0, reach, reach), fill=255)
    return large.reduce(scale)


def _filled(color: str, mask: Image.Image, opacity: float) -> Image.Image:
    red, green, blue = ImageColor.getrgb(color)[:3]
    layer = Image.new("RGBA", mask.size, (red, green, blue, 0))
    if opacity < 1:
        mask = mask.point([round(value * opacity) for value in range(256)])
    layer.putalpha(mask)
    return layer


def _shape(node: Shape, size: tuple[int, int]) -> Image.Image:
    mask = coverage(size, node.radius)
    if node.color_end is None and node.opacity_end is None:
        return _filled(node.color, mask, node.opacity)
    layer = gradient(node, size)
    if node.radius:
        layer.putalpha(ImageChops.multiply(layer.getchannel("A"), mask))
    return layer


def gradient(node: Shape, size: tuple[int, int]) -> Image.Image:
    """Return a rectangle whose colour and opacity change along ``angle``: 0 rightwards, 90 down."""
    width, height = size
    turn = math.radians(node.angle)
    across, down = math.cos(turn), math.sin(turn)
    length = abs(width * across) + abs(height * down)
    per_pixel = (STOPS - 1) / max(length, 1.0)
    middle = (STOPS - 1) / 2 - per_pixel * (across * width / 2 + down * height / 2)
    matrix = (per_pixel * across, per_pixel * down, middle + 0.5, 0.0, 0.0, 1.0)
    bands = []
    for index, values in enumerate(_stops(node)):
        if max(values) - min(values) < 1 / STOPS:
            bands.append(Image.new("L", size, round(values[0])))
            continue
        strip = Image.new("F", (STOPS, 3))
        strip.putdata(values * 3)
        band = strip.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        bands.append(_without_bands(band, shift=17 * index))
    return Image.merge("RGBA", bands)


def _stops(node: Shape) -> list[list[float]]:
    """Return red, green, blue and alpha (0..255) along a gradient.

    Opacity eases at both ends: the eye sees a sharp bend as a line. Colours are mixed by how opaque
    they are, so that what fades to nothing keeps its colour.
    """
    first = ImageColor.getrgb(node.color)[:3]
    last = ImageColor.getrgb(node.color_end or node.color)[:3]
    start = node.opacity
    end = node.opacity if node.opacity_end is None else node.opacity_end
    bands: list[list[float]] = [[], [], [], []]
    for index in range(STOPS):
        part = index / (STOPS - 1)
        eased = part * part * (3 - 2 * part)
        alpha = start + (end - start) * eased
        opaque = part * end + (1 - part) * start
        weight = part * end / opaque if opaque else part * (start == end)
        for band in range(3):
            bands[band].append(first[band] + (last[band] - first[band]) * weight)
        bands[3].append(alpha * 255)
    return bands


def glow(node: Glow, size: tuple[int, int]) -> Image.Image:
    """Return light in an ellipse: most in its middle, nothing from its edge on, flat at both."""
    width, height = size
    across, down = (_from_middle(side) for side in size)
    row = Image.new("F", (width, 1))
    row.putdata(across)
    column = Image.new("F", (1, height))
    column.putdata(down)
    light = ImageMath.lambda_eval(
        lambda of: of["max"](1 - of["x"] - of["y"], 0) ** 3 * (node.opacity * 255),
        x=row.resize(size, Image.Resampling.NEAREST),
        y=column.resize(size, Image.Resampling.NEAREST),
    )
    layer = Image.new("RGBA", size, ImageColor.getrgb(node.color))
    layer.putalpha(_without_bands(light, shift=0))
    return layer


def ripples(node: Ripples, size: tuple[int, int]) -> Image.Image:
    """Return a gradient with discs of light upon each other, whose edges are soft."""
    width, height = size
    ground = gradient(
        Shape(width, height, node.color, color_end=node.color_end, angle=node.angle), size
    )
    row = Image.new("F", (width, 1))
    row.putdata([(x + 0.5 - node.x) ** 2 for x in range(width)])
    column = Image.new("F", (1, height))
    column.putdata([(y + 0.5 - node.y) ** 2 for y in range(height)])
    away = ImageMath.lambda_eval(
        lambda of: (of["x"] + of["y"]) ** 0.5,
        x=row.resize(size, Image.Resampling.NEAREST),
        y=column.resize(size, Image.Resampling.NEAREST),
    )
    for radius in node.radii:
        # Upon each other, not added up: what is brightest in the middle is so however many there are.
        ground.alpha_composite(_filled(node.light, _disc(away, radius), node.opacity))
    return ground


def _disc(away: Image.Image, radius: int) -> Image.Image:
    """Return an ``L`` mask of what is no farther ``away`` than a radius; its edge is soft."""
    inside: Image.Image = ImageMath.lambda_eval(
        lambda of: of["min"](of["max"](radius + 0.5 - of["d"], 0), 1) * 255, d=away
    )
    return inside.convert("L")


def _from_middle(side: int) -> list[float]:
    """Return the square of each pixel's distance from the middle; 1 at the edge."""
    return [((2 * place + 1) / side - 1) ** 2 for place in range(side)]


def _without_bands(values: Image.Image, *, shift: int) -> Image.Image:
    """Round to whole steps, each pixel up or down by a fixed grain so that no band is seen."""
    grain = Image.new("F", values.size)
    tile = _grain(shift)
    for x in range(0, values.width, GRAIN):
        grain.paste(tile, (x, 0))
    filled = min(GRAIN, values.height)
    while filled < values.height:
        grain.paste(grain.crop((0, 0, values.width, filled)), (0, filled))
        filled *= 2
    added: Image.Image = ImageMath.lambda_eval(lambda of: of["v"] + of["g"], v=values, g=grain)
    return added.convert("L")


@cache
def _grain(shift: int) -> Image.Image:
    """Return a tile of numbers 0..1, evenly spread and never alike beside each other."""
    tile = Image.new("F", (GRAIN, GRAIN))
    tile.putdata(
        [
            (52.9829189 * ((0.06711056 * (x + shift) + 0.00583715 * (y + 2 * shift)) % 1.0)) % 1.0
            for y in range(GRAIN)
            for x in range(GRAIN)
        ]
    )
    return tile
