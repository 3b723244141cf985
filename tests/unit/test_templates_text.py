"""Text of templates: what is cleaned, what is refused, what is left out with a word about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.errors import UnsupportedCharacters
from app.infrastructure.drawing.fonts import FontAlphabet
from app.operations.templates.announcement import AnnouncementParams
from app.operations.templates.params import is_leftward
from app.operations.templates.text import (
    Wording,
    clean_line,
    clean_paragraph,
    is_visible,
    reads_leftwards,
    without_emoji,
)


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        ("Cafe\u0301", "Caf\u00e9"),
        ("  two\tblanks  \u00a0 here ", "two blanks here"),
        ("one\r\ntwo\nthree", "one two three"),
        ("%{pts} 'a' \"b\" \\ : , ; [x] movie=/etc/passwd", None),
        ("\u0646\u0627\u0645\u200c\u0647\u0627\u06cc", None),
    ],
)
def test_a_line_is_cleaned_and_otherwise_kept(given_text: str, kept: str | None) -> None:
    assert clean_line(given_text) == (given_text if kept is None else kept)


def test_a_paragraph_keeps_its_line_ends_but_not_many_empty_lines() -> None:
    assert clean_paragraph("one\r\n two \n\n\n\nthree") == "one\ntwo\n\nthree"
    with pytest.raises(ValueError, match="more than 6 lines"):
        clean_paragraph("\n".join("abcdefg"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\x00b", r"control character U\+0000"),
        ("a\x1bb", r"control character U\+001B"),
        ("safe \u202egnp.exe", r"U\+202E, which turns the direction"),
        ("\u2066hidden\u2069", r"U\+2066"),
        ("   \n ", "nothing that can be drawn"),
        ("\u200b\u200d", "nothing that can be drawn"),
        ("\U0001f389\U0001f389", "nothing that can be drawn"),
    ],
)
def test_text_that_is_dangerous_or_nothing_is_refused_naming_it(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        clean_line(text)
    with pytest.raises(ValidationError):
        AnnouncementParams(title=text, body="fine")


@pytest.mark.parametrize(
    ("text", "kept", "emoji"),
    [
        ("Hi \U0001f468\u200d\U0001f469\u200d\U0001f467 all", "Hi all", 1),
        ("\U0001f1e9\U0001f1ea Berlin", "Berlin", 1),
        ("1\ufe0f\u20e3 First", "First", 1),
        ("Good \U0001f44d\U0001f3fd\U0001f44d\U0001f3fd job", "Good job", 1),
        ("I \u2764\ufe0f it", "I it", 1),
        ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f Eng", "Eng", 1),
        ("\u00a9\ufe0f 2026", "\u00a9 2026", 0),
        ("No 1 # *", "No 1 # *", 0),
    ],
)
def test_emoji_are_left_out_with_a_warning_that_says_which(
    text: str, kept: str, emoji: int
) -> None:
    words = Wording(FontAlphabet())
    assert words.draw("title", text) == kept
    words.check()
    assert len(words.emoji.get("title", [])) == emoji
    assert len(words.warnings) == (1 if emoji else 0)
    assert all("title" in warning and "U+" in warning for warning in words.warnings)


def test_characters_that_no_font_has_are_refused_by_field() -> None:
    words = Wording(FontAlphabet())
    words.draw("title", "Tide \u6c34 mill")
    words.draw_all("steps", ["fine", "\u8eca\u8eca"])
    with pytest.raises(UnsupportedCharacters) as refused:
        words.check()
    assert refused.value.extra == {"characters": {"title": ["\u6c34"], "steps.1": ["\u8eca"]}}
    assert "U+6C34" in refused.value.detail
    assert "steps.1" in refused.value.detail


@given(st.text(max_size=40))
def test_whatever_comes_is_refused_or_can_be_drawn(text: str) -> None:
    try:
        cleaned = clean_line(text)
    except ValueError:
        return
    assert clean_line(cleaned) == cleaned
    assert is_visible(without_emoji(cleaned))
    assert not set(without_emoji(cleaned)) & set("\n\r\t\u202e\ufe0f")


@pytest.mark.parametrize(
    ("language", "leftward"),
    [
        ("ar", True),
        ("he-IL", True),
        ("en", False),
        ("az-Arab", True),
        ("ar-Latn", False),
        ("hi", 0),
    ],
)
def test_a_language_says_where_lines_begin(language: str, leftward: bool) -> None:
    assert is_leftward(language) is bool(leftward)


def test_without_a_language_the_first_letter_says_it() -> None:
    assert reads_leftwards(["12 - ", "\u05e9\u05dc\u05d5\u05dd abc"])
    assert not reads_leftwards(["12 abc \u05e9"])
    assert not reads_leftwards(["123"])
