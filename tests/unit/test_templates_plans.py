"""Templates as plans: what is drawn, when it is there, what FFmpeg is told, what is refused."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import AppError, InvalidInputs, InvalidParams, UnsupportedCharacters
from app.domain.jobs import InputRole
from app.domain.media import AudioInfo, MediaInfo, StillInfo, VideoInfo
from app.infrastructure.drawing.fonts import FontAlphabet
from app.infrastructure.drawing.layout import Layout
from app.infrastructure.drawing.scene_reading import scene_from_json
from app.operations.base import ClipInput, FFmpegStep, Plan, PythonStep, StillInput
from app.operations.ffmpeg import drawn_picture, put_in
from app.operations.registry import default_registry
from app.operations.templates.params import ASPECTS, Aspect
from app.operations.templates.scene import Scene, Text
from app.operations.templates.style import Step, make_style
from app.operations.templates.template import Template

VIDEO = VideoInfo(
    codec="h264",
    profile="High",
    width=1920,
    height=1080,
    pixel_format="yuv420p",
    rotation=0,
    sample_aspect="1/1",
    frame_rate="30/1",
    time_base="1/15360",
    start_pts=0,
    color_primaries="bt709",
    color_transfer="bt709",
    color_space="bt709",
    color_range="tv",
)
MEDIA = MediaInfo(
    container="mov",
    duration_seconds=10.0,
    size_bytes=1000,
    stream_count=2,
    video=VIDEO,
    audio=AudioInfo("aac", 48000, 2, "stereo", start_seconds=0.0, end_seconds=10.0),
)
CLIP = ClipInput("c" * 32, MEDIA, "My harbour.mov")
STILL = StillInput(
    "d" * 32, InputRole.IMAGE, StillInfo("jpeg", 1200, 1500, has_alpha=False), "a.jpg"
)
LOGO = StillInput("e" * 32, InputRole.LOGO, StillInfo("png", 520, 150, has_alpha=True), "l.png")

WORDS: dict[str, dict[str, Any]] = {
    "intro": {"team": "Team", "full_name": "Ada", "role": "Engineer"},
    "announcement": {"title": "Title", "body": "Body", "date": "Today"},
    "how-it-works": {"title": "Title", "steps": ["One", "Two", "Three"]},
    "persona": {"full_name": "Ada", "role": "Role", "quote": "Words", "traits": ["a", "b"]},
    "demo": {"title": "Title", "captions": [{"text": "Said", "start": 1, "end": 3}]},
    "closing": {"message": "Bye", "contact": "me", "url": "example.org", "team": "Team"},
}
LONG: dict[str, dict[str, Any]] = {
    "intro": {"team": "W" * 120, "full_name": "Wolfeschlegel " * 8, "role": "W" * 120},
    "announcement": {"title": "W" * 80, "body": "Wasser " * 40, "date": "W" * 120},
    "how-it-works": {"title": "W" * 80, "steps": ["Wasser " * 17, *["W" * 120] * 7]},
    "persona": {
        "full_name": "W" * 120,
        "role": "Wasser " * 17,
        "quote": "Wasser " * 40,
        "traits": ["W" * 40] * 5,
    },
    "demo": {"title": "W" * 80, "captions": [{"text": "W" * 120, "start": 1, "end": 3}]},
    "closing": {"message": "W" * 120, "contact": "W" * 120, "url": "W" * 120, "team": "W" * 120},
}
NASTY = "%{pts}:'\"\\];movie=/etc/passwd\n{x}\U0001f389"


def plan(name: str, *sources: ClipInput | StillInput, **params: Any) -> Plan:
    operation = default_registry(FontAlphabet()).get(name)
    wish = operation.params_model.model_validate({**WORDS[name], **params})
    return operation.plan(wish, list(sources) or [CLIP])


def steps_of(planned: Plan) -> tuple[PythonStep, FFmpegStep]:
    drawing, rendering = planned.steps
    assert isinstance(drawing, PythonStep)
    assert isinstance(rendering, FFmpegStep)
    return drawing, rendering


def scene_of(planned: Plan) -> Scene:
    return scene_from_json(steps_of(planned)[0].arguments)


def graph_of(planned: Plan) -> str:
    arguments = steps_of(planned)[1].arguments
    return arguments[arguments.index("-filter_complex") + 1]


def with_text(value: Any, text: str) -> Any:
    """Return parameters with every text replaced."""
    if isinstance(value, str):
        return text
    if isinstance(value, list):
        return [with_text(each, text) for each in value]
    if isinstance(value, dict):
        return {key: with_text(each, text) for key, each in value.items()}
    return value


@pytest.mark.parametrize("name", WORDS)
def test_no_text_comes_near_ffmpeg(name: str) -> None:
    plain = plan(name)
    nasty = plan(name, **with_text(WORDS[name], NASTY))
    assert steps_of(nasty)[1] == steps_of(plain)[1]
    assert nasty.result == plain.result
    assert "passwd" not in " ".join(steps_of(nasty)[1].arguments)
    assert any("Emoji" in warning for warning in nasty.warnings)


@settings(max_examples=25)
@given(st.text(min_size=1, max_size=40))
def test_whatever_the_text_the_arguments_are_the_same_or_it_is_refused(text: str) -> None:
    operation = default_registry(FontAlphabet()).get("intro")
    try:
        wish = operation.params_model.model_validate(with_text(WORDS["intro"], text))
        planned = operation.plan(wish, [CLIP])
    except (ValueError, AppError):
        return
    assert steps_of(planned)[1] == steps_of(plan("intro"))[1]


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("aspect", ASPECTS)
def test_even_the_longest_text_stays_within_the_safe_area(name: str, aspect: Aspect) -> None:
    sources = [STILL, LOGO] if name == "persona" else [CLIP, LOGO]
    planned = plan(name, *sources, **LONG[name], aspect=aspect)
    safe = make_style(aspect, None).safe
    sizes = {STILL.name: (1200, 1500), LOGO.name: (520, 150)}
    placed = Layout(scene_of(planned), sizes).place()
    backs = {"ground", "light_a", "light_b", "light_c", "scrim", "still"}
    for element in placed.keys() - backs:
        for mark in placed[element]:
            assert mark.x >= safe.x - 1, element
            assert mark.y >= safe.y - 1, element
            assert mark.x + mark.width <= safe.x + safe.width + 1, element
            assert mark.y + mark.height <= safe.y + safe.height + 1, element


@pytest.mark.parametrize("name", WORDS)
def test_each_element_is_drawn_and_told_with_its_times(name: str) -> None:
    planned = plan(name, *([STILL] if name == "persona" else [CLIP]), LOGO)
    drawing, rendering = steps_of(planned)
    scene = scene_of(planned)
    assert drawing.outputs == tuple(f"{element}.png" for element in scene.element_names)
    assert len(set(scene.element_names)) == len(scene.element_names)
    asked = set(re.findall(r"\{([a-z0-9_]+)_[xy]\}", graph_of(planned)))
    assert asked <= set(scene.element_names)
    told = planned.result["elements"]
    assert {each["name"] for each in told} <= set(scene.element_names)
    length = planned.result["duration_seconds"]
    assert all(0 <= each["start_seconds"] < each["end_seconds"] <= length for each in told)
    assert rendering.expected.has_audio
    assert rendering.expected.duration_seconds == pytest.approx(length)
    numbers = {f"{e}_{side}": 10 for e in scene.element_names for side in "xywh"}
    assert "{" not in "".join(put_in(rendering.arguments, numbers)).replace(
        "{threads}", ""
    ).replace("{enhancements}", "")


def test_a_clip_keeps_its_length_and_a_short_one_has_everything_faster() -> None:
    assert plan("intro").result["duration_seconds"] == 10
    brief = replace(CLIP, media=replace(MEDIA, duration_seconds=1.2))
    planned = plan("intro", brief)
    assert planned.result["duration_seconds"] == pytest.approx(1.2)
    assert all(each["end_seconds"] <= 1.2 for each in planned.result["elements"])
    assert any("only 1.200 s" in warning for warning in planned.warnings)
    assert not plan("intro").warnings


@pytest.mark.parametrize("seconds", [0.04, 0.2, 0.9])
@pytest.mark.parametrize("name", sorted(WORDS.keys() - {"demo"}))
def test_no_clip_is_too_short(name: str, seconds: float) -> None:
    brief = replace(CLIP, media=replace(MEDIA, duration_seconds=seconds))
    planned = plan(name, brief)
    assert planned.result["duration_seconds"] == pytest.approx(seconds, abs=1 / 30)


def test_without_a_clip_long_steps_are_there_until_they_are_read() -> None:
    words = ["Short"] * 4
    operation = default_registry(FontAlphabet()).get("how-it-works")

    def seconds(steps: list[str]) -> float:
        wish = operation.params_model.model_validate({"title": "T", "steps": steps})
        return float(operation.plan(wish, []).result["duration_seconds"])

    assert seconds(words) == pytest.approx(2 + 2.2 * 4, abs=0.04)
    assert seconds([*words[:3], "A long step. " * 9]) > 14


def test_steps_come_one_after_the_other_and_fill_the_clip() -> None:
    told = {each["name"]: each for each in plan("how-it-works").result["elements"]}
    assert told["step_1"]["end_seconds"] == told["step_2"]["start_seconds"] == 4
    assert told["step_3"]["end_seconds"] == 10


def test_the_shape_is_the_one_nearest_to_the_clip_unless_asked_for() -> None:
    upright = replace(CLIP, media=replace(MEDIA, video=replace(VIDEO, rotation=90)))
    assert plan("intro").result["aspect"] == "16:9"
    assert plan("intro", upright).result["aspect"] == "9:16"
    assert plan("intro", upright, aspect="1:1").result["width"] == 1080
    assert plan("persona", STILL).result["aspect"] == "1:1"


def test_what_says_little_is_written_larger_and_steps_are_as_large_as_each_other() -> None:
    def size(name: str, element: str, **words: Any) -> int:
        operation = default_registry(FontAlphabet()).get(name)
        wish = operation.params_model.model_validate({**WORDS[name], **words})
        regions = scene_of(operation.plan(wish, [])).regions
        node = next(e.node for r in regions for e in r.elements if e.name == element)
        assert isinstance(node, Text)
        return node.size

    usual = make_style("16:9", None).size(Step.DISPLAY)
    for name, element in (("announcement", "title"), ("closing", "message")):
        assert size(name, element) == round(usual * 1.5)
        assert size(name, element, **{element: "W" * 20}) in range(usual + 1, round(usual * 1.5))
        assert size(name, element, **{element: "W" * 40}) == usual
    steps = ["One", "Two of them, and rather long at that"]
    assert size("how-it-works", "step_1", steps=steps) == size(
        "how-it-works", "step_2", steps=steps
    )
    assert size("how-it-works", "step_1") > size("how-it-works", "step_1", steps=steps)


def test_a_clip_of_another_shape_stands_where_it_leaves_room_for_text() -> None:
    upright = replace(CLIP, media=replace(MEDIA, video=replace(VIDEO, rotation=90)))

    def place(planned: Plan) -> tuple[int, int]:
        found = re.search(r"\[soft\]\[sharp\]overlay=x='(\d+)':y='(\d+)'", graph_of(planned))
        assert found is not None
        return int(found[1]), int(found[2])

    wide = round(1080 * 9 / 16 / 2) * 2
    assert place(plan("intro", upright, aspect="16:9")) == ((1920 - wide) // 4 * 2, 0)
    style = make_style("16:9", None)
    x, _ = place(plan("announcement", upright, aspect="16:9"))
    assert style.safe.x + style.units(72) < x <= 1920 - wide
    hebrew = "\u05e9\u05dc\u05d5\u05dd"
    mirrored, _ = place(plan("announcement", upright, aspect="16:9", title=hebrew))
    assert mirrored == pytest.approx(1920 - wide - x, abs=4)
    # In a square a wide clip stands at the top, in an upright frame there is room above, for a logo.
    assert place(plan("intro", aspect="1:1")) == (0, 0)
    assert place(plan("intro", aspect="9:16"))[1] > make_style("9:16", None).safe.y


def test_an_upright_portrait_gives_room_to_long_text() -> None:
    def height(**words: Any) -> int:
        regions = scene_of(plan("persona", STILL, aspect="9:16", **words)).regions
        return next(r.height for r in regions if r.elements[0].name == "still")

    assert height() == 84 * 12
    assert height(quote="Words " * 45, traits=["Curious"] * 5) == (84 - 22) * 12
    assert 62 * 12 < height(quote="Words " * 25) <= 84 * 12


def test_from_right_to_left_everything_is_mirrored() -> None:
    words = {"title": "\u05e9\u05dc\u05d5\u05dd", "body": "\u05e2\u05d5\u05dc\u05dd"}
    mirrored, plain = plan("announcement", **words), plan("announcement")
    assert scene_of(mirrored).is_rtl
    assert not scene_of(plain).is_rtl
    assert not scene_of(plan("announcement", **words, language="en")).is_rtl
    scrims = [
        next(r for r in scene_of(each).regions if r.elements[0].name == "scrim")
        for each in (plain, mirrored)
    ]
    assert scrims[0].x == 0
    assert scrims[1].x + scrims[1].width == 1920
    slides = plan("intro", full_name="\u05e9\u05dc\u05d5\u05dd")
    place = scene_of(slides).regions[0]
    assert place.x + place.width == 1920 - make_style("16:9", None).safe.x
    assert "({card_x})+" in graph_of(slides)
    assert "({card_x})-" in graph_of(plan("intro"))


@pytest.mark.parametrize(
    ("name", "sources", "why"),
    [
        ("announcement", (CLIP, STILL), "a clip or an image, not both, or neither"),
        ("persona", (CLIP, STILL), "one clip or one image"),
        ("persona", (LOGO,), "one clip or one image"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused_saying_what_does(
    name: str, sources: tuple[Any, ...], why: str
) -> None:
    with pytest.raises(InvalidInputs, match=why):
        plan(name, *sources)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("how-it-works", {"steps": ["one"]}),
        ("how-it-works", {"steps": ["one"] * 9}),
        ("persona", {"traits": ["one"] * 6}),
        ("announcement", {"title": "x" * 81}),
        ("announcement", {"body": "a\nb\nc\nd\ne\nf\ng"}),
        ("intro", {"accent_color": "red"}),
        ("intro", {"accent_color": "#12345G"}),
        ("intro", {"aspect": "4:3"}),
        ("intro", {"language": "not a language"}),
        ("intro", {"full_name": "\u202eevil"}),
        ("demo", {"captions": [{"text": "a", "start": 2, "end": 1}]}),
        ("demo", {"captions": [{"text": "a", "start": 0, "end": 2}] * 2}),
        ("demo", {"captions": [{"text": "a", "start": i, "end": i + 0.5} for i in range(25)]}),
    ],
)
def test_parameters_beyond_their_bounds_are_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        plan(name, **params)


def test_a_caption_beyond_the_clip_is_refused_naming_its_length() -> None:
    captions = [{"text": "a", "start": 1, "end": 2}, {"text": "b", "start": 9, "end": "00:00:10.5"}]
    with pytest.raises(InvalidParams, match=r"captions\.1\.end.*10\.000 s") as refused:
        plan("demo", captions=captions)
    assert refused.value.extra["duration_seconds"] == 10.0


@pytest.mark.parametrize("name", WORDS)
def test_characters_that_no_font_has_are_refused_when_planned(name: str) -> None:
    with pytest.raises(UnsupportedCharacters) as refused:
        plan(name, **with_text(WORDS[name], "\u6c34"))
    texts = fields_of(WORDS[name])
    assert set(refused.value.extra["characters"]) == texts


def fields_of(params: dict[str, Any]) -> set[str]:
    """Return the names of all texts of parameters, as a refusal calls them."""
    found = set()
    for key, value in params.items():
        if isinstance(value, list):
            found |= {f"{key}.{index}" for index in range(len(value))}
        else:
            found.add(key)
    return found


def test_what_a_render_is_called() -> None:
    assert plan("intro").outputs[0].filename == "My harbour-intro.mp4"
    assert plan("persona", STILL).outputs[0].filename == "persona.mp4"


@pytest.mark.parametrize("name", ["../x", "a b", "A", "x.png", "concat:x", "-y", "", "a\n", "a%d"])
def test_only_names_of_elements_become_pictures(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of an element"):
        drawn_picture(name)


def test_pictures_of_ours_are_read_as_one_png_and_nothing_else() -> None:
    options = drawn_picture("title")
    assert options[-2:] == ("-i", "file:title.png")
    for option, value in (
        ("-protocol_whitelist", "file"),
        ("-format_whitelist", "png_pipe"),
        ("-codec_whitelist", "png"),
    ):
        assert options[options.index(option) + 1] == value
    assert "-loop" not in options


def test_a_clip_of_the_right_size_and_colours_is_not_scaled() -> None:
    assert "scale=1920:1080" not in graph_of(plan("intro"))
    assert "[0:V:0]setpts" in graph_of(plan("intro"))
    small = replace(CLIP, media=replace(MEDIA, video=replace(VIDEO, width=1280, height=720)))
    assert "scale=1920:1080" in graph_of(plan("intro", small))
    assert "gblur" in graph_of(plan("intro", aspect="9:16"))
    assert "gblur" not in graph_of(plan("persona", aspect="9:16"))


def test_a_clip_without_sound_gets_silence_of_the_same_length() -> None:
    silent = replace(CLIP, media=replace(MEDIA, audio=None))
    assert "anullsrc=r=48000:cl=stereo,atrim=end_sample=480000" in graph_of(plan("intro", silent))
    assert "anullsrc" not in graph_of(plan("intro"))


@pytest.mark.parametrize("name", WORDS)
def test_such_characters_are_found_before_there_are_inputs(name: str) -> None:
    operation = default_registry(FontAlphabet()).get(name)
    assert isinstance(operation, Template)
    operation.check_text(operation.params_model.model_validate(WORDS[name]))
    lacking = operation.params_model.model_validate(with_text(WORDS[name], "\u6c34"))
    with pytest.raises(UnsupportedCharacters) as refused:
        operation.check_text(lacking)
    assert set(refused.value.extra["characters"]) == fields_of(WORDS[name])
