"""Every operation's plan: its FFmpeg steps keep the rule, and no word of a user's is in them."""

import json
from collections import defaultdict

import pytest

from app.infrastructure.drawing.fonts import FontAlphabet
from app.operations import ffmpeg
from app.operations.base import FFmpegStep, PythonStep
from app.operations.registry import default_registry
from tests.fakes.ffmpeg_arguments import faults
from tests.fakes.wishes import WISHES, WORD, Wish, sources

REGISTRY = default_registry(FontAlphabet())


def wish_name(wish: Wish) -> str:
    return f"{wish.operation}, {wish.clips} clips, {len(wish.pictures)} pictures"


def test_there_is_a_wish_for_every_operation_on_clips() -> None:
    assert {wish.operation for wish in WISHES} == {each.name for each in REGISTRY.all()} - {
        "moodle-log"
    }


@pytest.mark.parametrize("wish", WISHES, ids=wish_name)
@pytest.mark.parametrize("major", [5, 9])
def test_what_an_operation_runs_keeps_the_rule(wish: Wish, major: int) -> None:
    operation = REGISTRY.get(wish.operation)
    params = operation.params_model.model_validate(wish.params)
    plan = operation.plan(params, sources(wish))
    assert WORD in json.dumps([p.filename for p in plan.outputs]) or wish.clips == 0
    numbers: defaultdict[str, int] = defaultdict(lambda: 7)
    for step in plan.steps:
        if isinstance(step, FFmpegStep):
            told = ffmpeg.put_in(step.arguments, numbers)
            listed = ffmpeg.complete(told, threads=1, major=major)
            assert faults([*listed, f"file:{step.output}.part"]) == [], step.name
            assert not [argument for argument in listed if WORD in argument]
        else:
            assert isinstance(step, PythonStep)
            assert not [name for name in (*step.inputs, *step.outputs) if WORD in name]
