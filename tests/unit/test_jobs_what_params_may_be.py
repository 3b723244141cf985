"""What a refusal of parameters says: what is wrong in plain words, once, and what is allowed."""

import json
from typing import Any

import pytest

from app.domain.errors import InvalidParams
from app.infrastructure.drawing.fonts import FontAlphabet
from app.operations.registry import default_registry
from app.services.job_requests import check_params

REGISTRY = default_registry(FontAlphabet())
CAPTION = {"text": "Here", "start": 1, "end": 2}


def refusal(name: str, params: dict[str, Any]) -> InvalidParams:
    with pytest.raises(InvalidParams) as caught:
        check_params(REGISTRY.get(name), params)
    return caught.value


@pytest.mark.parametrize(
    ("operation", "params", "said", "allowed"),
    [
        (
            "trim",
            {"start": 1, "mode": "fast"},
            "mode: is none of the values allowed",
            "'exact', 'copy' or 'auto'",
        ),
        ("closing", {"message": "x" * 999}, "message: is too long", "at most 120 characters"),
        (
            "how-it-works",
            {"title": "T", "steps": ["one"]},
            "steps: has too few entries",
            "at least 2",
        ),
        (
            "how-it-works",
            {"title": "T", "steps": list("123456789")},
            "steps: has too many entries",
            "at most 8",
        ),
        ("how-it-works", {"title": "T", "steps": [1, "two"]}, "steps.0: must be text", "such as "),
        ("how-it-works", {"title": "T", "steps": "one"}, "steps: must be a list", "such as "),
        (
            "concatenate",
            {"crossfade_seconds": 9},
            "crossfade_seconds: is out of range",
            "at most 2.0",
        ),
        (
            "concatenate",
            {"crossfade_seconds": "long"},
            "crossfade_seconds: must be a number",
            "such as ",
        ),
        ("demo", {"title": "T", "captions": ["Here"]}, "captions.0: must be an object", "such as "),
        ("moodle-log", {"anonymise": "maybe"}, "anonymise: must be true or false", ""),
        (
            "moodle-log",
            {"case": "all"},
            "case: is none of the values allowed",
            "'user', 'course' or 'user-course'",
        ),
        ("closing", {"message": "Bye", "url": ""}, "url: is too short", "at least 1 character"),
    ],
)
def test_a_refusal_says_in_plain_words_what_is_wrong_and_what_is_allowed(
    operation: str, params: dict[str, Any], said: str, allowed: str
) -> None:
    detail = refusal(operation, params).detail
    assert detail is not None
    # Where there are no examples either, nothing more can be said.
    assert detail.startswith(f"{said} (allowed: {allowed}" if allowed else f"{said}.")
    for jargon in ("Tuple", "String", "valid", "should"):
        assert jargon not in detail


def test_a_parameter_that_is_missing_comes_with_an_example() -> None:
    error = refusal("closing", {})
    assert error.detail is not None
    assert error.detail.startswith("message: is missing (allowed: such as ")


def test_what_an_entry_of_a_list_may_have_is_not_what_the_whole_may_have() -> None:
    error = refusal("demo", {"title": "T", "captions": [CAPTION | {"from": 1}]})
    (one,) = error.extra["errors"]
    assert one["loc"] == "captions.0.from"
    assert one["allowed"] == "text, start, end"


def test_an_example_of_a_list_is_json_as_a_client_would_send_it() -> None:
    for name, params in (("demo", {"title": "T", "captions": 1}), ("how-it-works", {"title": "T"})):
        (one,) = refusal(name, params).extra["errors"]
        assert isinstance(json.loads(one["allowed"].removeprefix("such as ")), list)
