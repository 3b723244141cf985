"""Decides where everything of a scene stands and how large its text is. Draws nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from app.infrastructure.drawing.typesetting import (
    CAP_HEIGHT,
    CLEARANCE,
    DESCENT,
    STEP,
    Line,
    Looks,
    Setting,
    Typesetter,
)
from app.operations.templates.scene import (
    Anchor,
    Column,
    Element,
    Fit,
    Glow,
    Node,
    Picture,
    Plate,
    Region,
    Ripples,
    Row,
    Scene,
    Shape,
    Text,
)

TINIEST = 6
"""Pixels: below this no text gets, whatever does not fit."""
LEAST_WIDTH = 4.0
DESPERATE_STEP = 0.85

Size = tuple[int, int]
Role = tuple[int, int, int]
"""Texts of the same size, smallest size and weight are of the same role and stay equally large."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something to be painted at ``x``, ``y`` (its top left corner) in ``width`` x ``height``.

    ``lines``: of a text, each with the place on the baseline where it starts. ``is_cut``: its end
    is missing.
    """

    node: Text | Shape | Glow | Ripples | Picture | Plate
    x: float
    y: float
    width: float
    height: float
    lines: tuple[tuple[Line, float, float], ...] = ()
    is_cut: bool = False

    def moved(self, dx: float, dy: float) -> "Mark":
        lines = tuple((line, x + dx, y + dy) for line, x, y in self.lines)
        return replace(self, x=self.x + dx, y=self.y + dy, lines=lines)


@dataclass(frozen=True, slots=True)
class Block:
    """Marks in a box of their own. ``top`` and ``bottom``: between which the eye sees its body,
    which for text is from the top of its capitals to its last baseline.
    """

    width: float
    height: float
    top: float
    bottom: float
    marks: tuple[Mark, ...]

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2

    def marks_at(self, dx: float, dy: float) -> tuple[Mark, ...]:
        return tuple(mark.moved(dx, dy) for mark in self.marks)


@dataclass
class Sizes:
    """What the texts of a region are made smaller to: by role, and how many lines each may have."""

    most: dict[Role, int] = field(default_factory=dict)
    lines: dict[int, int] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)
    is_desperate: bool = False

    def size(self, text: Text) -> int:
        return min(text.size, self.most.get(_role(text), text.size))

    def smallest(self, text: Text) -> int:
        return min(self.size(text), TINIEST if self.is_desperate else text.smallest)


def _role(text: Text) -> Role:
    return (text.size, text.smallest, text.weight)


class Layout:
    """Lays out one scene. ``pictures``: the size of each picture, by its source."""

    def __init__(self, scene: Scene, pictures: Mapping[str, Size]) -> None:
        self._scene = scene
        self._pictures = pictures
        self._setters: dict[int, Typesetter] = {}
        self._sizes = Sizes()

    def place(self) -> dict[str, tuple[Mark, ...]]:
        """Return what each element consists of, at its place in the frame."""
        placed: dict[str, tuple[Mark, ...]] = {}
        for region in self._scene.regions:
            placed |= self._region(region)
        return placed

    def _region(self, region: Region) -> dict[str, tuple[Mark, ...]]:
        blocks, gaps = self._fitting(region)
        if region.overlay:
            heights = [block.height for block in blocks]
            tops = [_along(region.down, region.height - height) for height in heights]
        else:
            total = sum(block.height for block in blocks) + sum(gaps)
            top = _along(region.down, region.height - total)
            tops = []
            for block, gap in zip(blocks, gaps, strict=True):
                tops.append(top + gap)
                top += gap + block.height
        return {
            element.name: block.marks_at(
                region.x + self._across(region.across, region.width - block.width), region.y + top
            )
            for element, block, top in zip(region.elements, blocks, tops, strict=True)
        }

    def _fitting(self, region: Region) -> tuple[list[Block], list[float]]:
        """Return blocks that fit into the region, and the gap above each: smaller, then fewer lines."""
        gaps = _gaps(region)
        texts = [text for element in region.elements for text in _texts(element.node)]
        attempts = list(_attempts(texts))
        blocks, room = self._attempt(region, texts, attempts[0])
        # Ever smaller: the first that fits is found by halving.
        too_large, fits = 0, len(attempts) - 1
        if room >= 0:
            return blocks, gaps
        if fits > 0:
            blocks, room = self._attempt(region, texts, attempts[fits])
        while fits - too_large > 1 and room >= 0:
            middle = (too_large + fits) // 2
            tried, left = self._attempt(region, texts, attempts[middle])
            if left >= 0:
                fits, blocks, room = middle, tried, left
            else:
                too_large = middle
        if room < 0 and sum(gaps) > 0:
            left = max(0.0, 1 + room / sum(gaps))
            return blocks, [gap * left for gap in gaps]
        return blocks, gaps

    def _attempt(
        self, region: Region, texts: Sequence[Text], sizes: Sizes
    ) -> tuple[list[Block], float]:
        """Return blocks at certain sizes, and how much height they leave (below 0: lack)."""
        self._sizes = sizes
        blocks = self._even(region.elements, region.width, texts)
        return blocks, region.height - _needed(blocks, region)

    def _even(
        self, elements: Sequence[Element], width: float, texts: Sequence[Text]
    ) -> list[Block]:
        """Lay out, and again while one text of a role had to be smaller than others of it."""
        while True:
            blocks = [self._block(element.node, width) for element in elements]
            changed = False
            for text in texts:
                used = self._sizes.used.get(id(text), text.size)
                if used < self._sizes.size(text):
                    self._sizes.most[_role(text)] = used
                    changed = True
            if not changed:
                return blocks

    def _block(self, node: Node, width: float) -> Block:
        width = max(width, LEAST_WIDTH)
        if isinstance(node, Text):
            return self._text(node, width)
        if isinstance(node, Plate):
            return self._plate(node, width)
        if isinstance(node, Row):
            return self._row(node, width)
        if isinstance(node, Column):
            return self._column(node, width)
        size = (
            self._picture_size(node)
            if isinstance(node, Picture)
            else (node.width or width, node.height)
        )
        return _solid(node, *size)

    def _picture_size(self, node: Picture) -> tuple[float, float]:
        if node.fit is Fit.COVER:
            return node.width, node.height
        width, height = self._pictures[node.source]
        ratio = min(node.width / width, node.height / height)
        return max(1, round(width * ratio)), max(1, round(height * ratio))

    def _text(self, node: Text, width: float) -> Block:
        sizes = self._sizes
        setter = self._setters.get(id(node))
        if setter is None:
            setter = Typesetter(
                node.text,
                Looks(node.weight, node.tracking, self._scene.language),
                is_rtl=self._scene.is_rtl,
            )
            self._setters[id(node)] = setter
        setting = setter.fit(
            width,
            lines=sizes.lines.get(id(node), node.lines),
            size=sizes.size(node),
            smallest=sizes.smallest(node),
        )
        sizes.used[id(node)] = setting.style.size
        return self._stacked(node, setting)

    def _stacked(self, node: Text, setting: Setting) -> Block:
        """Put lines below each other, evenly unless the ink of two would meet."""
        lines, size = setting.lines, setting.style.size
        cap = CAP_HEIGHT * size
        if not lines:
            return Block(0, 0, 0, 0, ())
        baselines = [round(max(cap, -lines[0].top))]
        pitch = node.leading * size
        for above, below in pairwise(lines):
            pitch = max(pitch, above.bottom - below.top + CLEARANCE * size)
        baselines += [round(baselines[0] + pitch * index) for index in range(1, len(lines))]
        width = max(line.width for line in lines)
        height = baselines[-1] + max(round(DESCENT * size), lines[-1].bottom)
        set_lines = tuple(
            (line, self._across(node.anchor, width - line.width) - line.left, float(baseline))
            for line, baseline in zip(lines, baselines, strict=True)
        )
        mark = Mark(node, 0, 0, width, height, set_lines, setting.is_cut)
        return Block(width, height, baselines[0] - cap, baselines[-1], (mark,))

    def _plate(self, node: Plate, width: float) -> Block:
        """Put a plate around its child, whose body stands in the plate's middle."""
        child = self._block(node.child, width - 2 * node.padding_x)
        across = max(node.width, round(child.width + 2 * node.padding_x))
        body = child.bottom - child.top + 2 * node.padding_y
        reach = 2 * max(child.middle, child.height - child.middle)
        down = max(node.height, round(max(body, reach)))
        plate = Mark(node, 0, 0, across, down)
        marks = child.marks_at(round((across - child.width) / 2), round(down / 2 - child.middle))
        return Block(across, down, 0, down, (plate, *marks))

    def _column(self, node: Column, width: float) -> Block:
        blocks = [self._block(child, width) for child in node.children]
        across = max((block.width for block in blocks), default=0)
        marks: list[Mark] = []
        top = 0.0
        for block in blocks:
            marks += block.marks_at(self._across(node.align, across - block.width), top)
            top += block.height + node.gap
        height = max(0.0, top - node.gap)
        if not blocks:
            return Block(0, 0, 0, 0, ())
        last = height - blocks[-1].height + blocks[-1].bottom
        return Block(across, height, blocks[0].top, last, tuple(marks))

    def _row(self, node: Row, width: float) -> Block:
        blocks = self._side_by_side(node, width)
        if not blocks:
            return Block(0, 0, 0, 0, ())
        tops = [0.0 for _ in blocks]
        if node.align is Anchor.CENTER:
            tops = [-block.middle for block in blocks]
        elif node.align is Anchor.END:
            tops = [-block.height for block in blocks]
        tops = [round(top - min(tops)) for top in tops]
        x = 0.0
        marks: list[Mark] = []
        for block, top in _mirrored(list(zip(blocks, tops, strict=True)), self._scene.is_rtl):
            marks += block.marks_at(x, top)
            x += block.width + node.gap
        height = max(top + block.height for block, top in zip(blocks, tops, strict=True))
        highest = min(top + block.top for block, top in zip(blocks, tops, strict=True))
        lowest = max(top + block.bottom for block, top in zip(blocks, tops, strict=True))
        return Block(x - node.gap, height, highest, lowest, tuple(marks))

    def _side_by_side(self, node: Row, width: float) -> list[Block]:
        """Give what cannot shrink its width, and share the rest among what can, fairly."""
        room = width - node.gap * (len(node.children) - 1)
        blocks: dict[int, Block] = {}
        waiting = list(range(len(node.children)))
        for index in waiting[:]:
            if not _is_flexible(node.children[index]):
                blocks[index] = self._block(node.children[index], room)
                room -= blocks[index].width
                waiting.remove(index)
        while waiting:
            share = room / len(waiting)
            tried = {index: self._block(node.children[index], room) for index in waiting}
            modest = [index for index in waiting if tried[index].width <= share]
            for index in modest or waiting:
                fits = tried[index].width <= share
                blocks[index] = tried[index] if fits else self._block(node.children[index], share)
                room -= blocks[index].width
                waiting = [each for each in waiting if each != index]
        return [blocks[index] for index in range(len(node.children))]

    def _across(self, anchor: Anchor, room: float) -> float:
        """Return how far from the left something stands that leaves ``room`` beside it."""
        if self._scene.is_rtl and anchor is not Anchor.CENTER:
            anchor = Anchor.END if anchor is Anchor.START else Anchor.START
        return _along(anchor, room)


def _attempts(texts: Sequence[Text]) -> Iterator[Sizes]:
    """Return ever smaller sizes: all together down to the smallest, then fewer lines, then less."""
    yield Sizes()
    if not texts:
        return
    factor = 1.0
    while any(text.size * factor > text.smallest for text in texts):
        factor *= STEP
        yield Sizes(most=_scaled(texts, factor))
    lines = {id(text): text.lines for text in texts}
    while any(count > 1 for count in lines.values()):
        # The one with the most lines gives one away; of several, the last, which says the least.
        longest = max(reversed(texts), key=lambda text: lines[id(text)])
        lines[id(longest)] -= 1
        yield Sizes(most=_scaled(texts, factor), lines=dict(lines))
    while any(text.size * factor > TINIEST for text in texts):
        factor *= DESPERATE_STEP
        most = {_role(t): max(TINIEST, round(t.size * factor)) for t in texts}
        yield Sizes(most=most, lines=dict(lines), is_desperate=True)


def _scaled(texts: Sequence[Text], factor: float) -> dict[Role, int]:
    return {_role(text): max(text.smallest, round(text.size * factor)) for text in texts}


def _needed(blocks: Sequence[Block], region: Region) -> float:
    heights = [block.height for block in blocks]
    if region.overlay:
        return max(heights, default=0)
    return sum(heights) + sum(_gaps(region))


def _gaps(region: Region) -> list[float]:
    """Return the room above each element of a region: none above the first, nor in an overlay."""
    if region.overlay:
        return [0.0 for _ in region.elements]
    gaps = [region.gap if each.above is None else each.above for each in region.elements]
    return [0.0 if index == 0 else float(gap) for index, gap in enumerate(gaps)]


def _texts(node: Node) -> Iterator[Text]:
    match node:
        case Text():
            yield node
        case Plate():
            yield from _texts(node.child)
        case Row() | Column():
            for child in node.children:
                yield from _texts(child)


def _is_flexible(node: Node) -> bool:
    """Whether a node takes as much width as there is, and can do with less."""
    match node:
        case Shape():
            return node.width == 0
        case Picture() | Glow() | Ripples():
            return False
        case _:
            return any(True for _ in _texts(node))


def _solid(node: Shape | Glow | Ripples | Picture, width: float, height: float) -> Block:
    return Block(width, height, 0, height, (Mark(node, 0, 0, width, height),))


def _along(anchor: Anchor, room: float) -> float:
    if anchor is Anchor.START:
        return 0.0
    return float(room if anchor is Anchor.END else round(room / 2))


def _mirrored(pairs: list[tuple[Block, float]], is_rtl: bool) -> list[tuple[Block, float]]:
    return pairs[::-1] if is_rtl else pairs
