"""Problem documents, their statuses, cursors, and the guide that explains every code."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.api.error_guide import GUIDE, as_markdown, catalogue
from app.api.errors import STATUS, invalid_request, problem, problem_response
from app.api.pagination import decode_cursor, encode_cursor
from app.api.schemas.base import absolute_below
from app.api.schemas.batches import NewBatch
from app.domain import errors
from app.domain.errors import (
    AppError,
    CredentialsInvalid,
    InvalidRequest,
    Kind,
    MethodNotAllowed,
    QueueFull,
    UploadGone,
    UploadLocked,
)
from app.domain.ids import new_id
from app.services.ports import Cursor

ROOT = Path(__file__).parents[2]


def test_every_kind_has_its_one_status() -> None:
    assert set(STATUS) == set(Kind)
    assert all(400 <= status < 600 for status in STATUS.values())


def test_every_error_is_in_the_catalogue_once_and_explained() -> None:
    declared = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, AppError) and value is not AppError
    }
    found = catalogue()
    assert set(found) == declared
    assert len({error.code for error in found}) == len(found)
    assert set(GUIDE) == {error.code for error in found}


def test_the_error_page_is_what_the_catalogue_says() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == as_markdown()


def test_a_problem_has_its_members_and_those_of_its_error() -> None:
    found = problem(UploadGone("It went.", extra={"reason": "spent"}), "r1")
    assert found.status == 410
    assert ("content-type", "application/problem+json") in found.headers
    assert json.loads(found.body) == {
        "type": "/docs/errors#upload_gone",
        "title": "The upload is gone",
        "status": 410,
        "code": "upload_gone",
        "detail": "It went.",
        "request_id": "r1",
        "reason": "spent",
    }


def test_what_an_error_adds_cannot_pass_for_the_problem_itself() -> None:
    found = json.loads(problem(InvalidRequest(extra={"status": 200, "code": "ok"}), None).body)
    assert (found["status"], found["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("body", "detail", "allowed"),
    [
        ([], "body: Must be a JSON object.", None),
        ({}, "session_id: Is missing.", None),
        (
            {"session": "x"},
            "session: There is no such field. Allowed: only_completed, session_id.",
            "only_completed, session_id",
        ),
    ],
)
def test_a_wrong_body_is_told_in_words_a_person_understands(
    body: Any, detail: str, allowed: str | None
) -> None:
    with pytest.raises(ValidationError) as caught:
        NewBatch.model_validate(body)
    found = [{**each, "loc": ("body", *each["loc"])} for each in caught.value.errors()]
    told = json.loads(problem(invalid_request(found), None).body)
    assert told["detail"] == detail
    assert told["errors"][0].get("allowed") == allowed


def test_headers_follow_the_error() -> None:
    assert ("retry-after", "10") in problem(QueueFull(retry_after_seconds=10), None).headers
    assert any(name == "retry-after" for name, _ in problem(UploadLocked(), None).headers)
    challenge = dict(problem(CredentialsInvalid(), None).headers)["www-authenticate"]
    assert challenge.startswith("Bearer ")
    allow = MethodNotAllowed(extra={"allow": ["GET", "POST"]})
    assert ("allow", "GET, POST") in problem(allow, None).headers


def test_a_head_gets_the_status_without_the_body() -> None:
    scope = {"type": "http", "method": "HEAD", "state": {"request_id": "r1"}}
    response = problem_response(UploadGone(), scope)
    assert (response.status_code, response.body) == (410, b"")


def test_text_that_is_no_unicode_does_not_break_a_problem() -> None:
    body = problem(InvalidRequest("a \ud800 b"), None).body
    assert json.loads(body)["detail"] == "a ? b"


@pytest.mark.parametrize(
    ("public_url", "root_path", "address"),
    [
        (None, "", "/files/"),
        (None, "/tide", "/tide/files/"),
        ("https://t.example/", "", "https://t.example/files/"),
        ("https://t.example", "/tide", "https://t.example/tide/files/"),
        ("https://t.example/tide", "/tide", "https://t.example/tide/files/"),
    ],
)
def test_an_address_is_absolute_where_the_public_one_is_known(
    public_url: str | None, root_path: str, address: str
) -> None:
    assert absolute_below(public_url, root_path, "/files/") == address


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_cursor_comes_back_as_it_went(created_at: datetime) -> None:
    cursor = Cursor(created_at, new_id())
    assert decode_cursor(encode_cursor(cursor)) == cursor


@given(st.text(max_size=120))
def test_made_up_cursors_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        decode_cursor(text)


def test_every_changed_character_of_a_cursor_is_noticed() -> None:
    cursor = Cursor(datetime(2026, 11, 21, tzinfo=UTC), new_id())
    good = encode_cursor(cursor)
    for place, letter in enumerate(good):
        changed = good[:place] + ("B" if letter == "A" else "A") + good[place + 1 :]
        try:
            assert decode_cursor(changed) == cursor  # the padding bits of the last character
        except InvalidRequest:
            continue
        assert place == len(good) - 1
