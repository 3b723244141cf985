"""Scenes as they are laid out and painted, measured in pixels: places, edges, shadows, gradients."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageStat

from app.infrastructure.drawing.scene_reading import scene_from_json
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
    Shadow,
    Shape,
    Text,
)
from tests.fakes.scenes import WHITE, draw_node, draw_scene, text

FRAME = (640, 360)
DISC = Plate(text("2", 24), "#FF0000", 1.0, 24, 8, 8, 48, 48)
LONG = "Words that go on and on until nobody can tell any more what they wanted to say"


def scene(*regions: Region, is_rtl: bool = False) -> Scene:
    return Scene(*FRAME, regions, is_rtl)


def region(
    *nodes: Node, box: tuple[int, int, int, int] = (40, 30, 300, 200), **wish: object
) -> Region:
    elements = tuple(Element(f"e{index}", node) for index, node in enumerate(nodes))
    return Region(*box, elements, **wish)  # type: ignore[arg-type]


def inside(ink: tuple[int, int, int, int], box: tuple[int, int, int, int]) -> bool:
    """Whether ink lies in a region; a pixel of softness at its edges is no overflow."""
    x, y, width, height = box
    return (
        ink[0] >= x - 1 and ink[1] >= y - 1 and ink[2] <= x + width + 1 and ink[3] <= y + height + 1
    )


def test_a_scene_survives_its_journey_as_json() -> None:
    shadow = Shadow(2, 8, 0.5)
    plate = Plate(Picture("a", 20, 20, Fit.CONTAIN, 0, shadow), "#000000", 1, 2, 3, 4, 5, 6, shadow)
    whole = scene(
        region(Row((DISC, Column((text("a"), Shape(0, 3, WHITE)), 4)), 5, Anchor.END), plate),
        region(Glow(4, 4, WHITE, 0.5), across=Anchor.CENTER, overlay=True),
        region(Ripples(4, 4, WHITE, "#000000", 90, WHITE, 0.1, 2, 2, (1, 2))),
        Region(0, 0, 9, 9, (Element("a", DISC), Element("b", DISC, above=7))),
        is_rtl=True,
    )
    assert scene_from_json(whole.as_json()) == whole
    assert scene_from_json(json.loads(json.dumps(whole.as_json()))) == whole


# --- places -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_rtl", [False, True])
@pytest.mark.parametrize("across", list(Anchor))
@pytest.mark.parametrize("down", list(Anchor))
def test_things_gather_where_a_region_says(
    tmp_path: Path, across: Anchor, down: Anchor, is_rtl: bool
) -> None:
    box = (40, 30, 300, 200)
    there = draw_scene(
        tmp_path,
        scene(region(Shape(60, 40, WHITE), box=box, across=across, down=down), is_rtl=is_rtl),
    )
    order = [Anchor.START, Anchor.CENTER, Anchor.END]
    side = order.index(across)
    side = 2 - side if is_rtl else side
    x, y = 40 + (0, 120, 240)[side], 30 + (0, 80, 160)[order.index(down)]
    assert there.ink("e0") == (x, y, x + 60, y + 40)
    assert all(value % 2 == 0 for value in there.numbers.values())


def test_a_stack_keeps_its_gap_and_an_overlay_has_none(tmp_path: Path) -> None:
    bars = (Shape(60, 40, WHITE), Shape(100, 20, WHITE))
    stacked = draw_scene(tmp_path, scene(region(*bars, gap=10)))
    assert (stacked.ink("e0")[1], stacked.ink("e1")[1]) == (30, 80)
    over = draw_scene(tmp_path, scene(region(*bars, gap=10, overlay=True)))
    assert (over.ink("e0")[1], over.ink("e1")[1]) == (30, 30)


def test_an_element_may_stand_at_a_distance_of_its_own(tmp_path: Path) -> None:
    bar = Shape(60, 20, WHITE)
    near, far = Element("near", bar, above=4), Element("far", bar, above=30)
    stack = (Element("first", bar, above=50), near, far, Element("last", bar))
    for height, gaps in ((200, (4, 30, 10)), (102, (2, 15, 5))):
        drawn = draw_scene(tmp_path, scene(Region(40, 30, 300, height, stack, gap=10)))
        boxes = [drawn.place(each.name) for each in stack]
        assert boxes[0][1] == 30
        assert [b[1] - a[3] for a, b in pairwise(boxes)] == pytest.approx(gaps, abs=1)


def test_a_row_runs_leftwards_where_the_scene_does(tmp_path: Path) -> None:
    row = Row((Shape(20, 20, "#FF0000"), Shape(40, 20, "#0000FF")), 10)
    for is_rtl, first in ((False, 40), (True, 320)):
        drawn = draw_scene(tmp_path, scene(region(row), is_rtl=is_rtl))
        left, top, right, _ = drawn.ink("e0")
        assert (left, right) == ((40, 110) if not is_rtl else (270, 340))
        x, y = drawn.place("e0")[:2]
        assert drawn.images["e0"].getpixel((first - x + 5, top - y + 5)) == (255, 0, 0, 255)


def test_a_number_stands_in_the_middle_of_its_disc(tmp_path: Path) -> None:
    for digit in "1238":
        disc = Plate(text(digit, 60, 20), "#FF0000", 1.0, 50, 8, 8, 100, 100)
        drawn = draw_node(tmp_path, disc)
        assert drawn.place() == (0, 0, 100, 100)
        blue = drawn.images["it"].getchannel("B")
        left, top, right, bottom = blue.point([0] * 100 + [255] * 156).getbbox() or (0, 0, 0, 0)
        assert abs((left + right) / 2 - 50) <= 1.5
        assert abs((top + bottom) / 2 - 50) <= 1.5


def test_text_of_all_sizes_starts_at_the_same_edge(tmp_path: Path) -> None:
    drawn = draw_scene(tmp_path, scene(region(text("Big H", 90), text("small h", 20))))
    assert abs(drawn.ink("e0")[0] - drawn.ink("e1")[0]) <= 1


def test_text_beside_a_disc_gets_the_room_that_is_left(tmp_path: Path) -> None:
    drawn = draw_scene(tmp_path, scene(region(Row((DISC, text(LONG, 30, 10, 2)), 12))))
    assert inside(drawn.ink("e0"), (40, 30, 300, 200))


def test_what_lies_beyond_the_frame_is_told_with_its_real_place(tmp_path: Path) -> None:
    glow = Region(-50, -70, 100, 100, (Element("it", Glow(100, 100, WHITE, 1)),))
    assert draw_scene(tmp_path, scene(glow)).place() == (-50, -70, 50, 30)


def test_what_is_empty_still_gives_a_picture(tmp_path: Path) -> None:
    for node in (text(" "), Row((), 4), Shape(1, 1, WHITE, 0.0)):
        left, top, right, bottom = draw_node(tmp_path, node).place()
        assert right - left >= 2
        assert bottom - top >= 2


# --- room ---------------------------------------------------------------------------------------


def test_texts_of_one_role_shrink_together_and_others_stay(tmp_path: Path) -> None:
    drawn = draw_scene(
        tmp_path,
        scene(
            region(
                text("Unbreakablelongwordhere", 40, 10, 1), text("Hx", 40, 10, 1), text("Hx", 30)
            )
        ),
    )
    told = {each["element"]: each["shrunk_to"] for each in drawn.fitted}
    assert told["e0"] == told["e1"]
    assert "e2" not in told


def test_what_is_too_high_shrinks_and_then_loses_lines_but_never_overflows(tmp_path: Path) -> None:
    box = (40, 30, 300, 90)
    for smallest, is_cut in ((8, False), (24, True)):
        nodes = [Text(LONG, 32, smallest, 3, 500, WHITE) for _ in range(2)]
        drawn = draw_scene(tmp_path, scene(region(*nodes, box=box, gap=6)))
        assert all(inside(drawn.ink(name), box) for name in ("e0", "e1"))
        assert drawn.ink("e0")[3] <= drawn.ink("e1")[1]
        assert any(each["cut"] for each in drawn.fitted) is is_cut


def test_nothing_is_told_of_what_fits(tmp_path: Path) -> None:
    assert draw_node(tmp_path, text("Hello")).fitted == []


WORDS = ("Ångström", "gjpqy", "مرحبا", "שָׁלוֹם", "क्षत्रिय", "Ελλάδα", "(abc)", "12,5%", "ẪǺ", "x" * 40)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), min_size=1, max_size=3),
    st.integers(120, 400),
    st.integers(60, 240),
    st.booleans(),
)
def test_no_ink_is_ever_outside_its_region(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[list[str]],
    width: int,
    height: int,
    is_rtl: bool,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    nodes = [text(" ".join(words), 44, 9, 3) for words in texts]
    drawn = draw_scene(
        folder, scene(region(*nodes, box=(40, 30, width, height), gap=4), is_rtl=is_rtl)
    )
    for name in drawn.images:
        assert inside(drawn.ink(name), (40, 30, width, height))


# --- paint --------------------------------------------------------------------------------------


def test_round_corners_are_soft_and_alike(tmp_path: Path) -> None:
    image = draw_node(tmp_path, Shape(80, 60, WHITE, 1.0, 20)).images["it"].getchannel("A")
    assert image.getpixel((0, 0)) == image.getpixel((79, 59)) == 0
    assert image.getpixel((40, 0)) == image.getpixel((0, 30)) == 255
    assert len(set(image.crop((0, 0, 20, 20)).tobytes())) > 12
    assert image.tobytes() == image.transpose(Image.Transpose.ROTATE_180).tobytes()


def test_a_scrim_fades_evenly_to_nothing_without_bands(tmp_path: Path) -> None:
    scrim = Shape(0, 300, "#000000", 0.6, 0, None, 0.0, 90)
    alpha = draw_node(tmp_path, scrim, (640, 300)).images["it"].getchannel("A")
    rows = [ImageStat.Stat(alpha.crop((0, y, 640, y + 1))).mean[0] for y in range(300)]
    assert rows[0] == pytest.approx(153, abs=1)
    assert rows[-1] < 0.6
    assert all(below <= above + 0.05 for above, below in pairwise(rows))
    assert abs(rows[150] - 76.5) < 1.5
    # Dithered: a row between two levels has both, so that no edge of a band is seen.
    assert sum(len(set(alpha.crop((0, y, 640, y + 1)).tobytes())) > 1 for y in range(300)) > 200


def test_a_gradient_goes_from_one_colour_to_the_other(tmp_path: Path) -> None:
    shape = Shape(200, 40, "#102030", 1.0, 0, "#F0C090", None, 0)
    image = draw_node(tmp_path, shape).images["it"]
    for x, expected in ((1, (16, 32, 48)), (198, (240, 192, 144)), (100, (128, 112, 96))):
        mean = ImageStat.Stat(image.crop((x - 1, 0, x + 1, 40))).mean
        assert mean[:3] == pytest.approx(expected, abs=3)
        assert mean[3] == 255


def test_ripples_are_discs_upon_each_other_over_a_gradient(tmp_path: Path) -> None:
    water = Ripples(200, 100, "#202020", "#202020", 90, WHITE, 0.2, 0, 50, (40, 90))
    image = draw_node(tmp_path, water).images["it"]
    assert image.getchannel("A").getextrema() == (255, 255)
    red = image.getchannel("R")
    reds = [red.getpixel((x, 50)) for x in (10, 60, 150)]
    outer = 0x20 + 0.2 * (255 - 0x20)
    assert reds == pytest.approx([outer + 0.2 * (255 - outer), outer, 0x20], abs=2)
    # Slanting along an edge there are values between the two: it is soft.
    assert len(set(red.crop((70, 0, 95, 100)).tobytes())) > 8


def test_a_glow_is_bright_in_its_middle_and_nothing_at_its_edge(tmp_path: Path) -> None:
    alpha = draw_node(tmp_path, Glow(200, 100, "#FF8000", 0.5)).images["it"].getchannel("A")
    assert alpha.getpixel((100, 50)) == pytest.approx(127, abs=2)
    edge = [alpha.getpixel(place) for place in ((0, 50), (199, 50), (100, 0), (100, 99), (0, 0))]
    assert edge == [0] * 5


def test_a_shadow_lies_whole_within_the_picture_and_falls_down(tmp_path: Path) -> None:
    plate = Plate(text("x", 20), WHITE, 1.0, 8, 10, 10, 80, 60, Shadow(10, 24, 0.8))
    there = Region(100, 100, 80, 60, (Element("it", plate),))
    drawn = draw_scene(tmp_path, scene(there))
    alpha = drawn.images["it"].getchannel("A")
    edges = [
        max(alpha.crop(box).tobytes())
        for box in (
            (0, 0, alpha.width, 1),
            (0, alpha.height - 1, alpha.width, alpha.height),
            (0, 0, 1, alpha.height),
            (alpha.width - 1, 0, alpha.width, alpha.height),
        )
    ]
    assert max(edges) <= 1
    x, y = drawn.place()[:2]
    above, below = (
        alpha.crop((140 - x, line - y, 141 - x, line - y + 1)).tobytes()[0] for line in (94, 166)
    )
    assert below > above + 20


def test_what_is_clear_has_the_colour_of_what_is_beside_it(tmp_path: Path) -> None:
    words = Text("Soft edges", 60, 20, 1, 700, "#FF8800")
    image = draw_node(tmp_path, words).images["it"]
    colors = image.convert("RGB").getcolors(100)
    assert colors is not None
    assert {color for _, color in colors} == {(255, 136, 0)}


def test_a_stripe_stands_at_the_start_within_the_corners(tmp_path: Path) -> None:
    plate = Plate(
        Shape(40, 40, "#FFFFFF", 0.0), "#000000", 1.0, 12, 30, 10, stripe=6, stripe_color="#00FF00"
    )
    for is_rtl, x in ((False, 2), (True, 97)):
        drawn = draw_scene(tmp_path, scene(region(plate), is_rtl=is_rtl))
        image = drawn.images["e0"]
        assert image.size == (100, 60)
        assert image.getpixel((x, 30)) == (0, 255, 0, 255)
        assert image.getpixel((99 - x, 30)) == (0, 0, 0, 255)
        assert image.getchannel("A").getpixel((0, 0)) == 0
