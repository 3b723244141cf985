"""Trim as a plan: which ticks are kept, which requests are refused, what is said and named."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.errors import TrimOutOfRange, UnknownOperation
from app.domain.media import AudioInfo, MediaInfo, VideoInfo
from app.infrastructure.drawing.fonts import FontAlphabet
from app.operations.base import ClipInput, FFmpegStep, Plan
from app.operations.ffmpeg import seek_margin
from app.operations.filenames import output_name
from app.operations.registry import default_registry
from app.operations.timecode import to_seconds
from app.operations.trim import Trim, TrimParams
from app.operations.trim_cut import find_cut
from app.operations.trim_exact import kept_format

VIDEO = VideoInfo(
    codec="h264",
    profile="High",
    width=320,
    height=180,
    pixel_format="yuv420p",
    rotation=0,
    sample_aspect="1/1",
    frame_rate="30/1",
    time_base="1/15360",
    start_pts=0,
    color_primaries=None,
    color_transfer=None,
    color_space=None,
    color_range=None,
)
AUDIO = AudioInfo("aac", 48000, 2, "stereo", start_seconds=0.0, end_seconds=10.0)
CLIP = MediaInfo(
    container="mov",
    duration_seconds=10.0,
    size_bytes=1000,
    stream_count=2,
    video=VIDEO,
    audio=AUDIO,
)
NAME = "0123456789abcdef0123456789abcdef"


def plan(media: MediaInfo = CLIP, **params: Any) -> Plan:
    return Trim().plan(TrimParams.model_validate(params), [ClipInput(NAME, media, "My clip.mov")])


def step_of(planned: Plan) -> FFmpegStep:
    (step,) = planned.steps
    assert isinstance(step, FFmpegStep)
    return step


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"start": 5, "end": 5}, "before end"),
        ({"start": 6, "end": 5}, "before end"),
        ({"start": -1, "end": 5}, "negative"),
        ({"end": -0.5}, "negative"),
        ({"end": 0}, "before end"),
        ({"end": 10.5}, "beyond"),
        ({"start": "00:00:12.000"}, "beyond"),
        ({"start": 10}, "beyond"),
        ({"start": 2.001, "end": 2.002}, "No frame"),
    ],
)
def test_a_cut_outside_the_clip_is_refused_naming_its_length(
    params: dict[str, Any], why: str
) -> None:
    with pytest.raises(TrimOutOfRange) as refused:
        plan(**params)
    assert why in refused.value.detail
    assert "10.000 s" in refused.value.detail
    assert refused.value.extra == {"duration_seconds": 10.0}


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"start": 5, "end": 2}, "before end"),
        ({"start": 5, "end": 5}, "before end"),
        ({"start": "00:00:05", "end": 4.999}, "before end"),
        ({"end": 0}, "before end"),
        ({"start": -1}, "negative"),
        ({"start": 1, "end": -2}, "negative"),
    ],
)
def test_a_cut_that_fits_no_clip_at_all_is_known_without_one(
    params: dict[str, Any], why: str
) -> None:
    with pytest.raises(TrimOutOfRange, match=why) as refused:
        TrimParams.model_validate(params).check()
    assert refused.value.extra == {}


@pytest.mark.parametrize("params", [{"start": 5}, {"end": 0.001}, {"start": 1, "end": "1:00:00"}])
def test_a_cut_that_may_fit_some_clip_passes_the_check_without_one(params: dict[str, Any]) -> None:
    TrimParams.model_validate(params).check()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"mode": "exact"},
        {"mode": "auto"},
        {"start": 1, "mode": "smart"},
        {"start": 1, "speed": 2},
        {"start": "1:2:3:4"},
        {"start": "00:75"},
        {"start": "one"},
        {"start": "-1"},
        {"start": True},
        {"start": [1]},
        {"start": float("nan")},
        {"end": float("inf")},
        {"start": ""},
        {"start": "2\n"},
    ],
)
def test_parameters_that_do_not_fit_the_schema_are_invalid(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrimParams.model_validate(params)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:02.500", Fraction(5, 2)),
        ("01:00:00", Fraction(3600)),
        ("1:02.25", Fraction(249, 4)),
        ("100:00:00.001", Fraction(360000001, 1000)),
        ("7", Fraction(7)),
        (0.1, Fraction(1, 10)),
        (2, Fraction(2)),
    ],
)
def test_times_are_read_exactly(text: float | str, seconds: Fraction) -> None:
    assert to_seconds(text) == seconds


def test_the_schema_lists_only_what_works() -> None:
    schema = TrimParams.model_json_schema()
    assert set(schema["properties"]) == {"start", "end", "mode"}
    assert schema["properties"]["mode"]["enum"] == ["exact", "copy", "auto"]
    assert schema["properties"]["mode"]["default"] == "exact"
    assert schema["additionalProperties"] is False


def test_ticks_count_from_the_first_video_frame() -> None:
    shifted = replace(CLIP, video=replace(VIDEO, start_pts=7000))
    cut = find_cut(TrimParams(start=2, end=5), shifted)
    assert (cut.first, cut.stop) == (7000 + 30720, 7000 + 76800)
    assert "trim=start_pts=37720:end_pts=83800" in " ".join(
        step_of(plan(shifted, start=2, end=5)).arguments
    )


@given(
    cut=st.decimals(min_value=1, max_value=9, places=4),
    base=st.sampled_from(["1/15360", "1/1000", "1/90000", "1001/30000", "1/30"]),
)
def test_what_one_cut_leaves_off_the_next_one_begins_with(cut: object, base: str) -> None:
    media = replace(CLIP, video=replace(VIDEO, time_base=base))
    before = find_cut(TrimParams(end=str(cut)), media)
    after = find_cut(TrimParams(start=str(cut)), media)
    assert before.stop == after.first
    assert abs(after.start - Fraction(str(cut))) <= Fraction(base) / 2


def test_an_end_told_a_little_too_late_is_the_clips_end() -> None:
    media = replace(CLIP, duration_seconds=10.026667)
    cut = find_cut(TrimParams(start=1, end=10.027), media)
    assert (cut.stop, float(cut.end)) == (None, 10.026667)


def test_the_result_says_what_was_done_and_what_was_changed() -> None:
    odd = replace(VIDEO, rotation=90, width=321, pixel_format="gbrp12le", codec="vp9")
    sound = replace(AUDIO, codec="opus", channels=10, sample_rate=192000)
    planned = plan(replace(CLIP, video=odd, audio=sound, stream_count=4), start=2, end=5)
    assert planned.result["mode"] == "exact"
    assert (planned.result["start_seconds"], planned.result["end_seconds"]) == (2.0, 5.0)
    assert "2.000 s up to 5.000 s" in planned.result["reason"]
    assert list(planned.warnings) == [
        "The rotation of 90 degrees was applied to the picture.",
        "The video was re-encoded from vp9 to h264.",
        "The pixel format gbrp12le became yuv444p10le.",
        "The sound was re-encoded from opus to aac.",
        "10 channels became 8.",
        "The sample rate 192000 Hz became 48000 Hz.",
        "Only the first video and sound were kept; 2 more left out.",
    ]
    assert plan(start=2, end=5).warnings == ()


def test_the_effort_is_what_is_to_be_encoded_where_the_frames_are_counted() -> None:
    assert plan(start=2, end=7).effort == pytest.approx(5 * 30 * 320 * 180 / 1e6)
    assert plan(start=9).effort == pytest.approx(1 * 30 * 320 * 180 / 1e6)
    # A rate that is only told, or none: there may be far fewer frames than it says.
    uneven = replace(CLIP, video=replace(VIDEO, variable_rate=True))
    unknown = replace(CLIP, video=replace(VIDEO, frame_rate=None))
    for media in (uneven, unknown, replace(CLIP, container="matroska")):
        assert plan(media, start=2, end=7).effort == 0


def test_sound_outside_the_kept_part_is_not_expected() -> None:
    late = replace(CLIP, audio=replace(AUDIO, start_seconds=6.0))
    assert not step_of(plan(late, start=2, end=5)).expected.has_audio
    assert step_of(plan(late, start=2, end=7)).expected.has_audio
    assert not step_of(plan(replace(CLIP, audio=None), start=2, end=5)).expected.has_audio


def test_reading_begins_near_the_cut_only_where_the_container_has_an_index() -> None:
    listed = step_of(plan(start=5, end=6)).arguments
    assert listed[listed.index("-ss") + 1] == "3.990000"  # a second, and what may be dropped
    listed = step_of(plan(replace(CLIP, container="matroska"), start=5, end=6)).arguments
    assert listed[listed.index("-ss") + 1] == "4.000000"
    assert "-ss" not in step_of(plan(start=1, end=6)).arguments
    assert "-ss" not in step_of(plan(replace(CLIP, container="mpegts"), start=5, end=6)).arguments


@pytest.mark.parametrize(
    ("changes", "margin"),
    [
        ({"reordered": False}, 1),
        ({"reordered": False, "variable_rate": True}, 1),
        ({}, 1 + Fraction(1, 10)),
        ({"frame_rate": "1/2"}, 40 + Fraction(1, 10)),
        ({"variable_rate": True}, 60),
        ({"frame_rate": None}, 60),
    ],
)
def test_reading_begins_early_enough_for_pictures_stored_out_of_their_order(
    changes: dict[str, Any], margin: Fraction
) -> None:
    media = replace(CLIP, duration_seconds=100.0, video=replace(VIDEO, **changes))
    assert seek_margin(media) == margin


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("yuv420p", "yuv420p"),
        ("yuv422p10le", "yuv422p10le"),
        ("p010le", "yuv420p10le"),
        ("yuv444p12le", "yuv444p10le"),
        ("yuva420p", "yuv420p"),
        ("rgb24", "yuv444p"),
        ("yuvj420p", "yuvj420p"),
    ],
)
def test_the_nearest_pixel_format_is_kept(source: str, kept: str) -> None:
    assert kept_format(source) == kept


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("clip.mp4", "clip-trim.mp4"),
        ("../../etc/passwd", "passwd-trim.mp4"),
        ("C:\\videos\\a b.mov", "a b-trim.mp4"),
        ("", "clip-trim.mp4"),
        ("...", "clip-trim.mp4"),
        ("a\r\nSet-Cookie: x.mp4", "aSet-Cookie_ x-trim.mp4"),
        ("über.mkv", "über-trim.mp4"),
        ("x" * 500 + ".mp4", "x" * 120 + "-trim.mp4"),
    ],
)
def test_the_outputs_name_comes_from_the_clips_and_is_safe(given: str, named: str) -> None:
    assert output_name(given, "trim") == named


def test_a_name_that_is_no_id_never_reaches_ffmpeg() -> None:
    for name in ("../x", "a%d.png", "concat:x", "a b", "", "x" * 65, "a\n", "-y"):
        with pytest.raises(ValueError, match="not the name of an input"):
            Trim().plan(TrimParams(start=1), [ClipInput(name, CLIP, "x.mp4")])


def test_the_registry_knows_trim_and_names_what_it_knows() -> None:
    registry = default_registry(FontAlphabet())
    names = [operation.name for operation in registry.all()]
    assert {"trim", "trim-preview", "moodle-log"} < set(names)
    assert registry.get("trim").params_model is TrimParams
    with pytest.raises(UnknownOperation, match="trim, trim-preview"):
        registry.get("explode")
