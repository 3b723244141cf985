"""Text as it is set: shaped, in the right order, at the right size, and cut only when it must be."""

import unicodedata
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageStat, features

from app.domain.errors import UnsupportedCharacters
from app.infrastructure.drawing.bidi import embedding_levels, first_strong, in_visual_order
from app.infrastructure.drawing.clusters import clusters
from app.infrastructure.drawing.font_check import examine_fonts
from app.infrastructure.drawing.fonts import FACES, FontAlphabet, characters_of, face_for, path_of
from app.infrastructure.drawing.itemising import itemise
from app.infrastructure.drawing.typesetting import (
    ELLIPSIS,
    Line,
    Looks,
    Typesetter,
    draw_line,
    font_of,
    pieces,
    sizes,
)
from app.services.diagnosis import Level

LOOKS = Looks(600)
ARABIC, HEBREW, HINDI = "مرحبا", "שלום", "क्ष"
INTER = FACES[0]


def one_line(text: str, size: int = 60, looks: Looks = LOOKS) -> Line:
    setting = Typesetter(text, looks, is_rtl=False).fit(5000, lines=1, size=size, smallest=size)
    (line,) = setting.lines
    return line


def mask(text: str, size: int = 60) -> Image.Image:
    line = one_line(text, size)
    return draw_line(line.runs, line.style)[0]


def columns_of_ink(image: Image.Image) -> int:
    """How many separate pieces of ink stand beside each other."""
    row = (
        image.convert("L")
        .point([0] * 32 + [255] * 224)
        .resize((image.width, 1), Image.Resampling.BOX)
    )
    seen = [value > 0 for value in row.tobytes()]
    return sum(now and not before for before, now in zip([False, *seen], seen, strict=False))


# --- shaping ------------------------------------------------------------------------------------


def test_arabic_letters_join_and_so_stand_closer_than_alone() -> None:
    joined = one_line("ببب")
    alone = one_line("ب\u200cب\u200cب")
    assert joined.width < 0.8 * alone.width
    assert columns_of_ink(mask("ببب")) == 1
    assert columns_of_ink(mask("ب\u200cب\u200cب")) == 3


def test_two_consonants_of_devanagari_become_one_that_is_narrower() -> None:
    conjunct = one_line("क्ष").width
    apart = one_line("क").width + one_line("ष").width
    assert conjunct < 0.8 * apart
    assert clusters("क्षत्रिय") == ["क्ष", "त्रि", "य"]


def test_marks_stand_on_their_letters_and_take_no_room() -> None:
    plain, marked = one_line("שלום"), one_line("שָׁלוֹם")
    assert abs(marked.width - plain.width) <= 3
    accented = one_line("n̈")
    assert abs(accented.width - one_line("n").width) <= 3
    assert accented.top < one_line("n").top - 4


def test_a_cluster_is_never_split_between_two_faces() -> None:
    for text in ("x\u0301ש\u05b8 क्\u200dष", "سلام\u0651 שלום नमस्ते Hello"):
        runs = itemise(text, is_rtl=False, whole=face_for(text))
        assert sorted("".join(run.text for run in runs)) == sorted(text)
        starts = {run.text[0] for run in runs}
        assert not any(unicodedata.category(start).startswith("M") for start in starts)
        assert all(
            set(map(ord, run.text)) - {0x20, 0x200D} <= characters_of(run.face) for run in runs
        )


def test_one_face_draws_all_where_one_has_all_letters() -> None:
    assert face_for("Grüße, Ελλάδα и Київ") is INTER
    assert {
        run.face.name for run in itemise("שלום world", is_rtl=True, whole=face_for("שלום world"))
    } == {"Open Sans"}


def test_what_no_face_has_is_refused_and_named() -> None:
    with pytest.raises(UnsupportedCharacters) as refused:
        one_line("abc 中")
    assert refused.value.extra["characters"] == {"text": ["中"]}


# --- directions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_rtl", "levels"),
    [
        ("abc 123", False, "0000000"),
        ("abאב 12", False, "0011122"),
        ("אב 12,5 ג", True, "111222211"),
        ("אב (ab) ג", True, "111122111"),
        ("a (אב) b", False, "00011000"),
        ("ب 12%", True, "11221"),
        ("א -5.", True, "11121"),
        ("אב  ", False, "1100"),
        ("ab c ", True, "22221"),
    ],
)
def test_levels_are_those_of_the_unicode_algorithm(text: str, is_rtl: bool, levels: str) -> None:
    assert embedding_levels(text, is_rtl=is_rtl) == [int(level) for level in levels]


def test_a_mixed_line_reads_from_the_right() -> None:
    order = in_visual_order("שלום world 12", is_rtl=True)
    assert ["שלום world 12"[each.start : each.end] for each in order] == ["world 12", "שלום "]
    assert first_strong("12 שלום") is True
    assert first_strong("12") is None


def test_the_first_hebrew_word_stands_at_the_right_end_of_its_line() -> None:
    first, both = mask("שלום"), mask("שלום abc")
    box = both.getbbox()
    assert box is not None
    ink = first.crop(first.getbbox())
    right = both.crop((box[2] - ink.width, 0, box[2], both.height))
    found = right.crop(right.getbbox())
    assert ImageStat.Stat(ImageChops.difference(found.resize(ink.size), ink)).mean[0] < 12


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="aא1 (-,.%)ب٣", max_size=14), st.booleans())
def test_every_character_of_a_line_is_drawn_once_in_whatever_order(text: str, is_rtl: bool) -> None:
    order = in_visual_order(text, is_rtl=is_rtl)
    assert sorted(i for each in order for i in range(each.start, each.end)) == [*range(len(text))]


# --- lines and sizes ----------------------------------------------------------------------------


def test_lines_end_at_spaces_and_behind_hyphens_and_never_begin_with_a_dash() -> None:
    assert pieces("A well-known fact \u2014 really") == [
        "A ",
        "well-",
        "known ",
        "fact \u2014 ",
        "really",
    ]
    assert pieces("10\u00a0km") == ["10\u00a0km"]


def fit(text: str, width: float, **wish: int) -> tuple[list[str], int, bool]:
    asked = {"lines": 2, "size": 60, "smallest": 30, **wish}
    setting = Typesetter(text, LOOKS, is_rtl=False).fit(width, **asked)
    assert all(line.width <= width for line in setting.lines)
    return [line.text for line in setting.lines], setting.style.size, setting.is_cut


def test_text_that_fits_keeps_its_size_and_its_end() -> None:
    assert fit("Hello world", 500) == (["Hello world"], 60, False)


def test_text_wraps_before_it_shrinks_and_its_lines_are_about_as_long() -> None:
    lines, size, is_cut = fit("The quick brown fox jumps over the lazy dog again", 900)
    assert (len(lines), size, is_cut) == (2, 60, False)
    assert 0.7 < len(lines[0]) / len(lines[1]) < 1.4


def test_the_last_word_of_a_paragraph_has_company_where_there_is_room_for_it() -> None:
    words = (
        "The water of the pond drives the wheel for hours after the gate has closed behind the tide"
    )
    # So wide that lines filled to their ends would leave a word of them over.
    for width, count in ((530, 6), (630, 5), (820, 4)):
        lines, size, _ = fit(words, width, lines=8)
        assert (" ".join(lines), size, len(lines)) == (words, 60, count)
        assert " " in lines[-1]


def test_a_long_word_shrinks_before_it_is_broken() -> None:
    assert fit("Donaudampfschifffahrt", 500)[1:] == (fit("Donaudampfschifffahrt", 500)[1], False)
    assert 30 < fit("Donaudampfschifffahrt", 500)[1] < 60
    lines, size, is_cut = fit("Donaudampfschifffahrt" * 2, 400)
    assert (len(lines), size, is_cut) == (2, 30, False) or is_cut
    assert size == 30


def test_only_what_does_not_fit_at_its_smallest_is_cut_with_an_ellipsis() -> None:
    whole = "one two three four five six seven eight nine"
    room = Typesetter(whole, LOOKS, is_rtl=False).fit(9999, lines=1, size=30, smallest=30)
    width = room.lines[0].width
    assert not fit(whole, width + 3, lines=1)[2]
    lines, size, is_cut = fit(whole, width - 12, lines=1)
    assert is_cut
    assert size == 30
    assert lines[0].endswith(ELLIPSIS)
    assert whole.startswith(lines[0].removesuffix(ELLIPSIS))
    assert len(lines[0]) > len(whole) - 8


def test_an_ellipsis_of_hebrew_stands_on_the_left() -> None:
    setting = Typesetter("שלום " * 20, LOOKS, is_rtl=False).fit(300, lines=1, size=40, smallest=30)
    assert setting.is_cut
    runs = setting.lines[0].runs
    assert runs[0].text.endswith(ELLIPSIS)


def test_line_ends_that_somebody_wrote_are_kept() -> None:
    assert fit("one\ntwo", 900)[0] == ["one", "two"]
    assert fit("one\n\ntwo\n", 900, lines=3)[0] == ["one", "", "two"]
    assert fit("\n", 900)[0] == []


def test_sizes_go_down_to_the_smallest_in_small_steps() -> None:
    tried = list(sizes(100, 40))
    assert (tried[0], tried[-1]) == (100, 40)
    assert all(0.93 <= after / before < 1 for before, after in pairwise(tried))
    assert list(sizes(20, 40)) == [20]


def test_tracking_spreads_latin_and_leaves_what_is_joined() -> None:
    wide = Looks(600, tracking=0.1)
    assert one_line("HELLO", 60, wide).width == pytest.approx(one_line("HELLO").width + 24, abs=2)
    assert one_line(ARABIC, 60, wide).width == one_line(ARABIC).width
    tight = Looks(600, tracking=-0.03)
    assert one_line("HELLO", 60, tight).width < one_line("HELLO").width


def test_a_variable_font_takes_its_weight_whatever_the_order_of_its_axes() -> None:
    for face, letters in zip(FACES, ("Hamburg", "Hamburg", "بببب", "שלום"), strict=True):
        inks = []
        for weight in (400, 800):
            image = Image.new("L", (600, 200))
            font = font_of(face, 24, weight)
            ImageDraw.Draw(image).text((20, 20), letters, fill=255, font=font)
            inks.append(ImageStat.Stat(image).sum[0])
        assert inks[1] > 1.15 * inks[0], face.name


PRINTABLE = sorted(
    {point for face in FACES for point in characters_of(face)}
    - {*range(0x20), *range(0xE000, 0xF900)}
)


@settings(deadline=None, max_examples=30)
@given(
    st.text(st.sampled_from([*map(chr, PRINTABLE), *"  abcé"]), min_size=1, max_size=30),
    st.integers(60, 400),
    st.integers(1, 3),
)
def test_no_text_of_any_script_is_ever_wider_than_its_room(
    text: str, width: int, lines: int
) -> None:
    text = unicodedata.normalize("NFC", text)
    assume(not FontAlphabet().lacking(text))
    setting = Typesetter(text, LOOKS, is_rtl=False).fit(width, lines=lines, size=48, smallest=16)
    assert len(setting.lines) <= lines
    # One cluster may be wider than a narrow room; nothing can be done for it.
    wide = [line for line in setting.lines if line.width > width]
    assert all(len(clusters(line.text.replace(ELLIPSIS, ""))) <= 1 for line in wide)


# --- what can be drawn --------------------------------------------------------------------------


def test_without_fribidi_what_needs_shaping_is_lacking_and_latin_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert FontAlphabet().lacking(f"Grüße {ARABIC} {HEBREW} {HINDI} n̈ — 12") == ()
    monkeypatch.setattr(features, "check", lambda name: name not in {"raqm", "fribidi"})
    assert FontAlphabet().lacking("Grüße, Ελλάδα и Київ — “12”") == ()
    with pytest.raises(UnsupportedCharacters):
        one_line(ARABIC)
    assert one_line("Grüße").width > 0
    assert FontAlphabet().lacking(ARABIC) == tuple(dict.fromkeys(ARABIC))
    assert FontAlphabet().lacking(f"a {HEBREW} n̈") == (*HEBREW, "\u0308")
    assert "क" in FontAlphabet().lacking(HINDI)


def test_every_font_is_there_and_what_they_lack_is_told_once() -> None:
    assert all(path_of(face).stat().st_size > 10_000 for face in FACES)
    assert FontAlphabet().lacking("中a中\u200d 🙂") == ("中", "🙂")
    assert FontAlphabet().lacking("ب\u0902") == ("\u0902",)  # of another script
    assert Path(path_of(INTER)).name == INTER.file


def test_the_doctor_says_which_fonts_there_are_and_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (sound,) = examine_fonts()
    assert (sound.check, sound.level) == ("fonts", Level.OK)
    monkeypatch.setattr(features, "check", lambda name: name not in {"raqm", "fribidi"})
    (poor,) = examine_fonts()
    assert poor.level is Level.WARNING
    assert "libfribidi0" in poor.todo
    lost = replace(INTER, name="Lost", file="lost.ttf")
    monkeypatch.setattr("app.infrastructure.drawing.font_check.FACES", (INTER, lost))
    (broken,) = examine_fonts()
    assert broken.level is Level.FAILURE
    assert "Lost (of fontpkg-inter)" in broken.what
