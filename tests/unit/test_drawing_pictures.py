"""Pictures that people bring: decoded whole or refused, turned upright, fitted, put on their plates."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from app.domain.errors import AppError, EmptyFile, InputDamaged, MediaOverLimits, NotAnImage
from app.infrastructure.drawing.pictures import Seen, look
from app.operations.templates.scene import Element, Fit, Picture, Plate, Region, Scene, Shadow
from tests.fakes.scenes import draw_scene
from tests.fakes.stills import (
    BLUE,
    FORMATS,
    GREEN,
    RED,
    YELLOW,
    bomb,
    disguised,
    encoded,
    four_corners,
    still,
    webp_bomb,
)

LIMIT = 16_777_216


def seen(folder: Path, data: bytes, limit: int = LIMIT) -> Seen:
    path = folder / "still"
    path.write_bytes(data)
    return look(path, limit)


def shown(folder: Path, data: bytes, node: Picture | Plate) -> Image.Image:
    """An element that shows the picture ``data``, called ``still``."""
    (folder / "still").write_bytes(data)
    region = Region(0, 0, 400, 400, (Element("it", node),))
    return draw_scene(folder, Scene(400, 400, (region,))).images["it"]


def near(image: Image.Image, place: tuple[int, int], color: tuple[int, ...], by: int = 14) -> bool:
    found = image.getpixel(place)
    assert isinstance(found, tuple)
    return found[3] == 255 and all(
        abs(one - other) <= by for one, other in zip(found, color, strict=False)
    )


@pytest.mark.parametrize("form", FORMATS)
def test_a_sound_picture_is_known_and_one_without_its_end_is_damaged(
    tmp_path: Path, form: str
) -> None:
    whole = encoded(Image.effect_mandelbrot((160, 120), (-2, -1.5, 1, 1.5), 60), form)
    assert seen(tmp_path, whole) == Seen(form.lower(), 160, 120, has_alpha=False)
    for cut in (len(whole) - 20, len(whole) // 2, 40, 20):
        with pytest.raises(InputDamaged):
            seen(tmp_path, whole[:cut])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(FORMATS), st.data())
def test_flipped_bits_are_a_refusal_or_a_picture_and_never_anything_else(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    spoilt = bytearray(still(form))
    places = st.lists(st.integers(0, len(spoilt) * 8 - 1), min_size=1, max_size=6)
    for bit in data.draw(places):
        spoilt[bit // 8] ^= 1 << bit % 8
    try:
        found = seen(tmp_path_factory.getbasetemp(), bytes(spoilt))
    except (InputDamaged, NotAnImage, MediaOverLimits):
        return
    assert found.width * found.height <= LIMIT


def test_every_bit_of_a_png_is_checked(tmp_path: Path) -> None:
    whole = still("PNG")
    for place in range(40, len(whole) - 12, 37):
        spoilt = bytearray(whole)
        spoilt[place] ^= 0x10
        with pytest.raises(InputDamaged):
            seen(tmp_path, bytes(spoilt))


@pytest.mark.parametrize("kind", list(disguised()))
def test_what_is_no_picture_of_ours_is_refused_with_what_is(tmp_path: Path, kind: str) -> None:
    with pytest.raises(NotAnImage) as refused:
        seen(tmp_path, disguised()[kind])
    assert refused.value.extra == {"allowed": ["PNG", "JPEG", "WebP"]}


def test_an_empty_file_and_a_link_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyFile):
        seen(tmp_path, b"")
    (tmp_path / "other").write_bytes(still())
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(InputDamaged):
        look(tmp_path / "link", LIMIT)


def test_too_many_pixels_are_refused_by_the_header_alone(tmp_path: Path) -> None:
    for data, pixels in ((bomb(), 900_000_000), (webp_bomb(), 16_383**2)):
        assert len(data) < 120_000
        with pytest.raises(MediaOverLimits) as refused:
            seen(tmp_path, data)
        told = {"limit": "pixels", "value": pixels, "maximum": LIMIT}
        assert refused.value.extra == told
    with pytest.raises(MediaOverLimits):
        seen(tmp_path, still(), limit=80 * 60 - 1)
    assert seen(tmp_path, still(), limit=80 * 60).width == 80


def test_the_pixels_of_lossy_and_lossless_webps_are_counted(tmp_path: Path) -> None:
    for options in ({"lossless": True}, {"quality": 80}):
        data = encoded(four_corners((90, 50)), "WEBP", **options)
        with pytest.raises(MediaOverLimits) as refused:
            seen(tmp_path, data, limit=100)
        assert refused.value.extra["value"] == 90 * 50


@pytest.mark.parametrize(
    ("orientation", "corners"),
    [
        (1, (RED, GREEN, BLUE, YELLOW)),
        (2, (GREEN, RED, YELLOW, BLUE)),
        (3, (YELLOW, BLUE, GREEN, RED)),
        (4, (BLUE, YELLOW, RED, GREEN)),
        (5, (RED, BLUE, GREEN, YELLOW)),
        (6, (BLUE, RED, YELLOW, GREEN)),
        (7, (YELLOW, GREEN, BLUE, RED)),
        (8, (GREEN, YELLOW, RED, BLUE)),
    ],
)
def test_a_camera_held_sideways_is_turned_upright(
    tmp_path: Path, orientation: int, corners: tuple[tuple[int, int, int], ...]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(four_corners((80, 60)), "JPEG", exif=exif, quality=95)
    turned = orientation >= 5
    found = seen(tmp_path, data)
    assert (found.width, found.height) == ((60, 80) if turned else (80, 60))
    image = shown(tmp_path, data, Picture("still", 200, 200, Fit.CONTAIN))
    assert image.size == ((150, 200) if turned else (200, 150))
    right, below = image.width - 20, image.height - 20
    places = ((20, 20), (right, 20), (20, below), (right, below))
    assert all(near(image, place, color) for place, color in zip(places, corners, strict=True))


def test_cover_fills_its_box_from_the_middle_and_contain_shows_all(tmp_path: Path) -> None:
    wide = encoded(four_corners((200, 50)))
    covered = shown(tmp_path, wide, Picture("still", 100, 100, Fit.COVER))
    assert covered.size == (100, 100)
    assert covered.getchannel("A").getextrema() == (255, 255)
    for place, color in (((2, 2), RED), ((97, 2), GREEN), ((2, 97), BLUE), ((97, 97), YELLOW)):
        assert near(covered, place, color)
    contained = shown(tmp_path, wide, Picture("still", 100, 100, Fit.CONTAIN))
    assert contained.size == (100, 26)  # 25, on even pixels
    assert near(contained, (2, 2), RED)
    assert near(contained, (97, 22), YELLOW)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_kind_of_pixels_comes_out_in_its_colours(tmp_path: Path, mode: str) -> None:
    grey = (255, 255, 255) if mode == "1" else (200, 200, 200)
    if mode == "I;16":
        image = Image.new("I", (20, 20), 200 * 257).convert("I;16")
    else:
        image = Image.new("RGB", (20, 20), grey).convert(mode)
    drawn = shown(
        tmp_path,
        encoded(image, "JPEG" if mode == "CMYK" else "PNG"),
        Picture("still", 40, 40, Fit.COVER),
    )
    stat = drawn.resize((1, 1), Image.Resampling.BOX)
    assert near(stat, (0, 0), grey, by=6)


def test_a_profile_of_other_colours_is_brought_to_those_of_a_screen(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGB", (20, 20), (120, 60, 200))
    for profile in (lab, b"nonsense"):
        drawn = shown(
            tmp_path, encoded(image, icc_profile=profile), Picture("still", 20, 20, Fit.COVER)
        )
        assert near(drawn, (10, 10), (120, 60, 200), by=3)


def test_only_the_first_picture_of_an_animation_is_shown(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), color) for color in (RED, BLUE)]
    for form in ("WEBP", "PNG"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        assert near(shown(tmp_path, data, Picture("still", 40, 40, Fit.COVER)), (20, 20), RED)


def test_round_corners_and_a_shadow_of_a_logo_follow_its_shape(tmp_path: Path) -> None:
    logo = Image.new("RGBA", (60, 60))
    logo.paste((255, 0, 0, 255), (20, 0, 40, 60))
    data = encoded(logo)
    rounded = shown(tmp_path, encoded(four_corners()), Picture("still", 80, 60, Fit.COVER, 16))
    assert rounded.getchannel("A").crop((0, 0, 1, 1)).tobytes() == b"\0"
    node = Picture("still", 60, 60, Fit.CONTAIN, 0, Shadow(0, 4, 1.0))
    alpha = shown(tmp_path, data, node).getchannel("A")
    middle = alpha.crop((0, alpha.height // 2, alpha.width, alpha.height // 2 + 1)).tobytes()
    assert sum(value == 255 for value in middle) in range(18, 24)
    assert 20 < sum(value > 0 for value in middle) < 40


def test_a_plate_takes_the_colour_on_which_its_logo_is_seen_better(tmp_path: Path) -> None:
    for color, better in (((250, 250, 250, 255), (0, 0, 0)), ((10, 20, 60, 255), (255, 255, 255))):
        logo = Image.new("RGBA", (40, 40), (128, 128, 128, 0))
        logo.paste(color, (10, 10, 30, 30))
        plate = Plate(
            Picture("still", 40, 40, Fit.CONTAIN), "#FFFFFF", 1, 0, 10, 10, color_other="#000000"
        )
        assert near(shown(tmp_path, encoded(logo), plate), (3, 3), better, by=0)


def test_a_scene_with_a_damaged_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AppError) as refused:
        shown(tmp_path, still()[:60], Picture("still", 40, 40, Fit.COVER))
    assert refused.value.code == "input_damaged"
