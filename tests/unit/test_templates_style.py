"""The look of templates: colours keep their contrast whatever the accent, everything has its margin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.operations.templates.color import READABLE, color_of, contrast, look_of, mix, readable
from app.operations.templates.params import ASPECTS, Aspect
from app.operations.templates.style import (
    DIM,
    GLOW,
    PLATE,
    RIPPLE,
    SCRIM,
    SEEN,
    Step,
    make_palette,
    make_style,
)

COLORS = st.integers(0, 0xFFFFFF).map(lambda value: f"#{value:06X}")


@given(COLORS)
def test_text_is_readable_on_everything_it_may_stand_on_whatever_the_accent(accent: str) -> None:
    palette = make_palette(accent)
    assert contrast(palette.on_accent, palette.accent) >= READABLE
    grounds = [palette.base, palette.deep]
    grounds += [mix(palette.base, glow, GLOW) for glow in palette.glows]
    for picture in ("#FFFFFF", "#000000", "#808080"):
        grounds.append(mix(picture, palette.deep, SCRIM))
        grounds.append(mix(picture, palette.base, PLATE))
    discs = 4
    rippled = mix(palette.base, palette.glows[0], 1 - (1 - RIPPLE) ** discs)
    grounds += [mix(rippled, glow, GLOW) for glow in palette.glows]
    assert contrast(palette.accent, palette.base) >= SEEN - 0.01
    for ground in grounds:
        assert contrast(palette.mark, ground) >= SEEN - 0.01
        for ink in (palette.text, palette.muted, palette.bright):
            assert contrast(ink, ground) >= READABLE, (ink, ground)
    assert contrast(palette.text, mix("#000000", "#FFFFFF", DIM)) >= READABLE


@given(COLORS)
def test_a_colour_survives_the_way_there_and_back(color: str) -> None:
    assert color_of(look_of(color)) == color


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


@given(COLORS, COLORS)
def test_a_colour_is_moved_only_until_it_can_be_read(color: str, behind: str) -> None:
    moved = readable(color, behind)
    assert contrast(moved, behind) >= READABLE
    if contrast(color, behind) >= READABLE:
        assert moved == color


@pytest.mark.parametrize("aspect", ASPECTS)
def test_every_shape_has_margins_and_one_scale_of_type(aspect: Aspect) -> None:
    style = make_style(aspect, None)
    safe = style.safe
    assert min(safe.x, safe.y) >= 0.05 * min(style.width, style.height)
    assert safe.x * 2 + safe.width == style.width
    assert safe.y + safe.height <= style.height * 0.95
    sizes = [style.size(step) for step in Step]
    assert sizes == sorted(sizes, reverse=True)
    assert all(26 <= style.smallest(step) <= style.size(step) for step in Step)
