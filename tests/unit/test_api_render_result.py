"""What a synchronous answer tells of its result in a header: JSON in ASCII, and never too much."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.api.render_response import MOST_TOLD, told_besides
from app.services.sync_renders import Rendered
from tests.factories import make_output


def rendered(result: dict[str, Any], *warnings: str) -> Rendered:
    return Rendered(make_output(), Path("/nowhere"), result, warnings)


def test_the_result_and_its_warnings_are_told_in_ascii() -> None:
    said = told_besides(
        rendered({"mode": "copy", "clips": [{"id": "a"}]}, "Émoji: \U0001f642\r\nX: y")
    )
    assert said.isascii()
    assert said.isprintable()
    assert json.loads(said) == {
        "mode": "copy",
        "clips": [{"id": "a"}],
        "warnings": ["Émoji: \U0001f642\r\nX: y"],
    }


@pytest.mark.parametrize("count", [1, 30, 400])
def test_of_too_much_lists_go_first_and_then_the_last_warnings(count: int) -> None:
    clips = [{"filename": "x" * 40} for _ in range(count)]
    warnings = [f"Clip {number}: it has no sound; there is silence." for number in range(count)]
    said = told_besides(rendered({"width": 1920, "clips": clips}, *warnings))
    assert len(said) <= MOST_TOLD
    told = json.loads(said)
    assert told["width"] == 1920
    kept = told["warnings"]
    assert kept == warnings[: len(kept)]
    if count == 1:
        assert told["clips"] == clips
        assert "is_shortened" not in told
    else:
        assert told["is_shortened"] is True
        assert "clips" not in told
        assert (kept == warnings) is (count == 30)
