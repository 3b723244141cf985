"""The modes of a trim as plans: where a copy begins, when auto copies, what is refused and said."""

from dataclasses import replace
from typing import Any

import pytest

from app.domain.errors import CannotCopy, TrimOutOfRange
from app.domain.media import AudioInfo, MediaInfo, VideoInfo, media_from_json
from app.operations.base import ClipInput, Plan, PythonStep
from app.operations.trim import Trim, TrimParams

TICK = 15360
VIDEO = VideoInfo(
    codec="h264",
    profile="High",
    width=320,
    height=180,
    pixel_format="yuv420p",
    rotation=0,
    sample_aspect="1/1",
    frame_rate="30/1",
    time_base=f"1/{TICK}",
    start_pts=0,
    color_primaries=None,
    color_transfer=None,
    color_space=None,
    color_range=None,
    keyframes=(0, 2 * TICK, 4 * TICK, 6 * TICK, 8 * TICK),
)
AUDIO = AudioInfo("aac", 48000, 2, "stereo", start_seconds=0.0, end_seconds=10.0)
CLIP = MediaInfo("mov", 10.0, 1000, 2, VIDEO, AUDIO)
NAME = "0123456789abcdef0123456789abcdef"


def plan(media: MediaInfo = CLIP, **params: Any) -> Plan:
    return Trim().plan(TrimParams.model_validate(params), [ClipInput(NAME, media, "My clip.mov")])


def step_of(planned: Plan) -> PythonStep:
    (step,) = planned.steps
    assert isinstance(step, PythonStep)
    return step


@pytest.mark.parametrize(
    ("params", "first", "stop"),
    [
        ({"start": 2}, 2, None),
        ({"start": 3.999, "end": 7}, 4, 7),  # a keyframe within half a frame is meant
        ({"start": 3.98, "end": 7}, 2, 7),
        ({"start": 5.5, "end": 10}, 4, None),
        ({"end": 1}, 0, 1),
        ({"start": 9.9}, 8, None),
    ],
)
def test_a_copy_begins_at_the_keyframe_at_or_before_the_start(
    params: dict[str, Any], first: int, stop: int | None
) -> None:
    planned = plan(**params, mode="copy")
    told = step_of(planned).arguments
    assert told["first"] == first * TICK
    assert told["stop"] == (None if stop is None else stop * TICK)
    assert planned.result["mode"] == "copy"
    assert planned.result["start_seconds"] == first
    assert planned.effort == 0


def test_a_copy_says_what_is_not_exact_about_it() -> None:
    turned = replace(CLIP, stream_count=3, video=replace(VIDEO, rotation=90))
    planned = plan(turned, start=5.5, end=7, mode="copy")
    assert list(planned.warnings) == [
        "It begins 1.500 s before the start that was asked for.",
        "It may end a few frames before the end that was asked for, never after it.",
        "The rotation of 90 degrees is kept as a note for players to follow.",
        "Only the first video and sound were kept; 1 more left out.",
    ]
    assert "from the keyframe at 4.000 s on" in planned.result["reason"]
    assert "whole packets" in planned.result["reason"]
    assert plan(start=2, mode="copy").warnings == ()


@pytest.mark.parametrize(
    ("params", "mode", "reason"),
    [
        ({"start": 2}, "copy", "Copied as it is stored"),
        ({"start": 2.01}, "copy", "Copied as it is stored"),
        ({"start": 6, "end": 10}, "copy", "Copied as it is stored"),
        ({"end": 10}, "copy", "Copied as it is stored"),
        ({"start": 2.1}, "exact", "the last one before it is at 2.000 s."),
        ({"start": 2, "end": 7}, "exact", "the end was asked for."),
        ({"end": 7}, "exact", "the end was asked for."),
    ],
)
def test_auto_copies_only_where_that_is_what_was_asked_for_and_says_why(
    params: dict[str, Any], mode: str, reason: str
) -> None:
    result = plan(**params, mode="auto").result
    assert result["mode"] == mode
    assert reason in result["reason"]
    if mode == "exact":
        assert result["reason"].startswith("Not copied: ")
        assert "Re-encoded, so that the cut is exact" in result["reason"]
    assert plan(**params).result["mode"] == "exact"


@pytest.mark.parametrize(
    ("media", "why"),
    [
        (replace(CLIP, container="mpegts"), "its container (mpegts) has no index"),
        (replace(CLIP, video=replace(VIDEO, codec="prores")), "its video (prores)"),
        (replace(CLIP, audio=replace(AUDIO, codec="vorbis")), "its sound (vorbis)"),
        (replace(CLIP, video=replace(VIDEO, keyframes=None)), "not known where its keyframes are"),
        (replace(CLIP, video=replace(VIDEO, keyframes=())), "no keyframe is at or before"),
        (replace(CLIP, video=replace(VIDEO, keyframes=(5 * TICK,))), "no keyframe is at or before"),
    ],
)
def test_what_cannot_be_copied_is_refused_naming_exact_or_encoded_in_auto(
    media: MediaInfo, why: str
) -> None:
    with pytest.raises(CannotCopy) as refused:
        plan(media, start=2, mode="copy")
    assert why in refused.value.detail
    assert refused.value.extra == {"mode": "exact"}
    result = plan(media, start=2, mode="auto").result
    assert result["mode"] == "exact"
    assert why in result["reason"]


@pytest.mark.parametrize("mode", ["copy", "auto"])
@pytest.mark.parametrize(
    "params", [{"start": 10}, {"end": 10.5}, {"start": 5, "end": 5}, {"start": 2.001, "end": 2.002}]
)
def test_a_cut_outside_the_clip_is_refused_in_every_mode_in_the_same_words(
    mode: str, params: dict[str, Any]
) -> None:
    with pytest.raises(TrimOutOfRange) as exact:
        plan(**params)
    with pytest.raises(TrimOutOfRange) as other:
        plan(**params, mode=mode)
    assert (other.value.detail, other.value.extra) == (exact.value.detail, exact.value.extra)


def test_sound_outside_the_kept_part_is_not_copied() -> None:
    late = replace(CLIP, audio=replace(AUDIO, start_seconds=6.0))
    planned = plan(late, start=2, end=5, mode="copy")
    assert step_of(planned).arguments["sound"] is False
    assert "The kept part has no sound." in planned.warnings


def test_a_probe_that_an_older_version_stored_knows_no_keyframes() -> None:
    stored = CLIP.as_json()
    assert media_from_json(stored) == CLIP
    del stored["video"]["keyframes"]
    older = media_from_json(stored)
    assert older.video.keyframes is None
    assert plan(older, start=2, mode="auto").result["mode"] == "exact"
