"""Who and where an event is, pseudonyms, cells that a spreadsheet would run, XES text."""

from xml.etree import ElementTree as ET  # our own text

import pytest

from app.operations.moodle import xes
from app.operations.moodle.identities import (
    NO_COURSE,
    CaseNotion,
    Mask,
    case_name,
    identify,
    plainly,
)
from app.operations.moodle.tables import safe_cell

ANNAS = ("Anna Ågren", "User: Anna Ågren", "The user with id '5' viewed the course with id '2'.")


@pytest.mark.parametrize(
    ("context", "course"),
    [
        *[
            ("Course: Algebra", "Algebra"),
            ("Kurs: Algebra", "Algebra"),
            ("Μάθημα: Άλγεβρα", "Άλγεβρα"),
        ],
        *[("Disciplina: A: B", "A: B"), ("Quiz: Algebra", ""), ("System", ""), ("", "")],
    ],
)
def test_a_course_is_named_by_its_context(context: str, course: str) -> None:
    assert identify("A", context, "", plainly).course == course


def test_ids_are_of_the_one_who_did_it_and_of_the_course() -> None:
    found = identify(
        "Anna", "Course: X", "The user with id '5' graded the user with id '7'.", plainly
    )
    assert (found.user_id, found.course_id) == ("5", "")
    found = identify("-", "Course: X", ANNAS[2], plainly)
    assert (found.user, found.user_id, found.course_id) == ("", "", "2")


def test_a_pseudonym_is_the_same_for_the_same_and_tells_nothing() -> None:
    mask, other = Mask(b"k" * 32), Mask(b"o" * 32)
    one, again = identify(*ANNAS, mask), identify(*ANNAS, mask)
    assert one == again
    # She is known again where she is the context of an event.
    assert one.context == f"User: {one.user}"
    text = repr(one)
    assert "Anna" not in text
    assert "'5'" not in text
    assert "'2'" not in text
    assert one.user != identify(*ANNAS, other).user
    assert mask("user", "5") != mask("id", "5")
    assert mask("user", "") == ""


def test_without_a_colon_a_context_may_be_a_name_and_is_hidden() -> None:
    assert "Anna" not in identify("-", "Anna Ågren", "", Mask(b"k" * 32)).context


@pytest.mark.parametrize(
    ("notion", "name"),
    [
        (CaseNotion.USER, "Anna"),
        (CaseNotion.COURSE, "Algebra"),
        (CaseNotion.USER_COURSE, "Anna / Algebra"),
    ],
)
def test_a_case_is_named_by_what_it_is(notion: CaseNotion, name: str) -> None:
    assert case_name(notion, "Anna", "Algebra") == name
    assert NO_COURSE in case_name(CaseNotion.USER_COURSE, "Anna", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_a_cell_that_could_begin_a_formula_begins_with_a_quote(start: str) -> None:
    cell = f"{start}HYPERLINK(1)"
    assert safe_cell(cell) == f"'{cell}"
    assert safe_cell("plain") == "plain"


def test_xes_holds_any_text() -> None:
    nasty = "<a href=\"x\">&amp;\x00\x0b\ud800\ufffe\U0001f600 'q'\r\n\t"
    text = (
        xes.HEAD
        + xes.trace_start(nasty)
        + xes.event(nasty, "2026-03-05T10:15:00Z", (("org:resource", nasty), ("origin", "")))
        + xes.TRACE_END
        + xes.TAIL
    )
    root = ET.fromstring(text.encode())  # noqa: S314
    names = [each.get("value") for each in root.iter() if each.get("key") == "org:resource"]
    assert names == ["<a href=\"x\">&amp;\U0001f600 'q'\r\n\t"]
    assert "origin" not in text
