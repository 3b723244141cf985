"""The operation ``concatenate`` without FFmpeg: what is copied, what is encoded, and what is told."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from app.domain.errors import InvalidInputs, InvalidParams, MediaOverLimits
from app.domain.jobs import InputRole, JobInput
from app.domain.media import AudioInfo, MediaInfo, VideoInfo, media_from_json
from app.operations import concatenate_graph as graph
from app.operations import house_parts, house_profile
from app.operations.base import ClipInput, FFmpegStep, Plan, PythonStep
from app.operations.concatenate import Concatenate, ConcatenateParams
from app.operations.house_headers import SOUND_HEADERS, headers_for
from app.operations.house_profile import Frame
from app.services.job_requests import check_roles

A, B, C = ("a" * 32, "b" * 32, "c" * 32)
FADE = ConcatenateParams(transition="crossfade")


def house(seconds: float = 10.0, size: tuple[int, int] = (1920, 1080), rate: int = 30) -> MediaInfo:
    """A clip of the house profile with a keyframe every two seconds."""
    keyframes = tuple(range(0, round(seconds * 30_000), 60_000))
    return MediaInfo(
        container="mov",
        duration_seconds=seconds,
        size_bytes=10**6,
        stream_count=2,
        video=VideoInfo(
            codec="h264",
            profile="High",
            width=size[0],
            height=size[1],
            pixel_format="yuv420p",
            rotation=0,
            sample_aspect="1/1",
            frame_rate=f"{rate}/1",
            time_base="1/30000",
            start_pts=0,
            color_primaries="bt709",
            color_transfer="bt709",
            color_space="bt709",
            color_range="tv",
            headers=headers_for(*size, rate),
            keyframes=keyframes,
        ),
        audio=AudioInfo(
            codec="aac",
            sample_rate=48_000,
            channels=2,
            layout="stereo",
            start_seconds=0.0,
            end_seconds=seconds,
            profile="LC",
            headers=min(SOUND_HEADERS),
        ),
    )


def video(media: MediaInfo, **changes: Any) -> MediaInfo:
    return replace(media, video=replace(media.video, **changes))


def audio(media: MediaInfo, **changes: Any) -> MediaInfo:
    assert media.audio is not None
    return replace(media, audio=replace(media.audio, **changes))


def phone(seconds: float = 4.0) -> MediaInfo:
    """An upright clip as a phone makes it: not ours in any way."""
    return video(
        house(seconds),
        rotation=90,
        time_base="1/600",
        profile="Main",
        headers="0" * 32,
        keyframes=None,
    )


def plan(*medias: MediaInfo, params: ConcatenateParams | None = None) -> Plan:
    names = (A, B, C, *(f"{n:032x}" for n in range(20)))
    clips = [ClipInput(n, m, f"{n[0]}.mp4", n * 2) for n, m in zip(names, medias, strict=False)]
    return Concatenate().plan(params or ConcatenateParams(), clips)


def modes(made: Plan) -> list[str]:
    return [clip["mode"] for clip in made.result["clips"]]


def joined(made: Plan) -> dict[str, Any]:
    last = made.steps[-1]
    assert isinstance(last, PythonStep)
    return dict(last.arguments)


def encoded(made: Plan) -> list[FFmpegStep]:
    return [step for step in made.steps if isinstance(step, FFmpegStep)]


# --- what is copied -----------------------------------------------------------------------------


def test_clips_of_the_house_profile_are_joined_without_encoding_anything() -> None:
    made = plan(house(10), house(4), house(6))
    assert modes(made) == ["copied"] * 3
    assert [step.name for step in made.steps] == ["joining"]
    assert made.effort == 0
    assert made.result["duration_seconds"] == 20
    assert [clip["start_seconds"] for clip in made.result["clips"]] == [0, 10, 14]
    assert joined(made)["pictures"] == [
        {"file": A, "first": 0, "count": 300},
        {"file": B, "first": 0, "count": 120},
        {"file": C, "first": 0, "count": 180},
    ]
    assert sum(part["samples"] for part in joined(made)["sounds"]) == 20 * 48_000


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (replace(house(), container="matroska"), "not an MP4"),
        (replace(house(), stream_count=3), "more than one"),
        (replace(house(), stream_count=1, audio=None), "no sound"),
        (video(house(), codec="hevc"), "not H.264"),
        (video(house(), profile="Main"), "not H.264 High"),
        (video(house(), rotation=90), "rotated"),
        (house(size=(1280, 720)), "1280x720"),
        (video(house(), pixel_format="yuv420p10le"), "yuv420p10le"),
        (video(house(), sample_aspect="4/3"), "not square"),
        (video(house(), color_space="smpte170m"), "BT.709"),
        (video(house(), color_range="pc"), "BT.709"),
        (video(house(), variable_rate=True), "variable"),
        (house(rate=25), "frame rate is 25"),
        (video(house(), time_base="1/15360"), "clock"),
        (video(house(), start_pts=1000), "late"),
        (video(house(), headers=None), "not known"),
        (video(house(), headers="0" * 32), "other headers"),
        (audio(house(), codec="mp3"), "AAC"),
        (audio(house(), profile="HE-AAC"), "AAC"),
        (audio(house(), sample_rate=44_100), "44100"),
        (audio(house(), layout="mono"), "mono"),
        (audio(house(), headers="0" * 32), "headers of its sound"),
        (audio(house(), start_seconds=0.5), "another time"),
        (audio(house(), end_seconds=12.0), "longer"),
    ],
)
def test_a_clip_that_differs_in_anything_is_normalised_and_the_job_says_why(
    odd: MediaInfo, why: str
) -> None:
    made = plan(house(), odd, house())
    assert modes(made) == ["copied", "normalised", "copied"]
    assert why in made.result["clips"][1]["reason"]
    assert [step.name for step in made.steps] == ["normalising", "joining"]


def test_clips_of_another_encoder_are_never_copied_even_when_they_are_all_alike() -> None:
    other = video(house(), headers="f" * 32)
    assert modes(plan(other, other)) == ["normalised", "normalised"]
    assert modes(plan(other, house())) == ["normalised", "copied"]


def test_a_clip_that_was_probed_before_headers_were_known_is_normalised() -> None:
    stored = house().as_json()
    del stored["video"]["headers"], stored["video"]["keyframes"], stored["audio"]["headers"]
    assert modes(plan(media_from_json(stored), house())) == ["normalised", "copied"]


def test_a_clip_that_comes_twice_is_normalised_once() -> None:
    clip = ClipInput(A, phone(), "a.mp4", "1" * 64)
    made = Concatenate().plan(ConcatenateParams(), [clip, clip, clip])
    assert [step.name for step in made.steps] == ["normalising", "joining"]
    assert [part["file"] for part in joined(made)["pictures"]] == ["normal0"] * 3
    assert made.result["duration_seconds"] == 12


# --- the target ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "params", "size"),
    [
        (house(), {}, (1920, 1080)),
        (house(size=(3840, 2160)), {}, (1920, 1080)),
        (video(house(size=(3840, 2160)), rotation=270), {}, (1080, 1920)),
        (house(size=(853, 481)), {}, (852, 480)),
        (video(house(size=(720, 576)), sample_aspect="64/45"), {}, (1024, 576)),
        (house(size=(1440, 1440)), {}, (1080, 1080)),
        (house(size=(640, 360)), {"aspect": "9:16"}, (1080, 1920)),
        (house(size=(640, 360)), {"aspect": "1:1"}, (1080, 1080)),
    ],
)
def test_the_size_is_the_one_asked_for_else_the_first_clips(
    first: MediaInfo, params: dict[str, Any], size: tuple[int, int]
) -> None:
    result = plan(first, house(), params=ConcatenateParams(**params)).result
    assert (result["width"], result["height"]) == size
    assert ("aspect" if params else "first clip") in result["size_from"]


@pytest.mark.parametrize(
    ("told", "rate"),
    [
        *[("30/1", 30), ("30000/1001", 30), ("60/1", 30), ("25/1", 25), ("50/1", 25), ("24/1", 24)],
        *[("24000/1001", 24), ("120/1", 30), ("15/1", 30), ("23/2", 30), (None, 30)],
    ],
)
def test_the_rate_is_the_first_clips_or_its_half(told: str | None, rate: int) -> None:
    assert plan(video(phone(), frame_rate=told)).result["frame_rate"] == rate


def test_the_rate_is_that_of_most_that_can_be_copied() -> None:
    made = plan(house(3, rate=30), house(10, rate=25), house(10, rate=25))
    assert made.result["frame_rate"] == 25
    assert modes(made) == ["normalised", "copied", "copied"]


@pytest.mark.parametrize(
    ("size", "rotation", "fitted"),
    [
        ((1280, 720), 0, (320, 180)),
        ((720, 1280), 0, (102, 180)),
        ((1280, 720), 90, (102, 180)),
        ((321, 181), 0, (320, 180)),
        ((100, 2000), 0, (8, 180)),
        ((4000, 2), 0, (320, 2)),
    ],
)
def test_a_clip_is_fitted_as_a_whole_in_even_pixels(
    size: tuple[int, int], rotation: int, fitted: tuple[int, int]
) -> None:
    clip = video(house(size=size), rotation=rotation)
    assert graph.fit(clip.video, Frame(320, 180)) == fitted


def test_lengths_are_rounded_up_to_whole_pictures_but_not_for_nothing() -> None:
    lengths = [(10.0, 300), (10.01, 301), (9.999999, 300), (10.000001, 300), (0.001, 1)]
    for seconds, frames in lengths:
        assert house_parts.frames_of(house(seconds), 30) == frames
        assert house_parts.samples_of(frames, 30) == frames * 1600


# --- limits -------------------------------------------------------------------------------------


def test_more_than_an_hour_of_clips_is_refused_with_both_figures() -> None:
    with pytest.raises(
        MediaOverLimits, match="3601 s long together; the limit is 3600 s"
    ) as caught:
        plan(house(1800), house(1801))
    assert caught.value.extra == {"limit": "total_seconds", "value": 3601, "maximum": 3600}
    plan(house(1800), house(1800))


def test_more_clips_than_the_limit_are_refused_before_any_is_looked_at() -> None:
    operation = Concatenate(3)
    clips = [JobInput(InputRole.CLIP, upload_id=A)] * 4
    with pytest.raises(InvalidInputs, match="takes 1 to 3 clips, and 4 were given"):
        check_roles(operation, clips)
    check_roles(operation, clips[:3])
    check_roles(operation, clips[:1])


def test_a_crossfade_must_be_shorter_than_half_of_each_clip_and_the_refusal_names_the_one() -> None:
    params = ConcatenateParams(transition="crossfade", crossfade_seconds=1)
    plan(house(10), house(2.1), params=params)
    with pytest.raises(
        InvalidParams, match=r"half of clip 2 \(b\.mp4\), which is 2\.000 s"
    ) as caught:
        plan(house(10), house(2), params=params)
    assert caught.value.extra["clip"] == B
    assert caught.value.extra["errors"][0]["allowed"] == "less than 1.000 s"
    plan(house(1), params=params)  # A single clip has no neighbour to be mixed with.


@pytest.mark.parametrize(
    "wrong",
    [
        {"transition": "wipe"},
        {"crossfade_seconds": 1},
        {"transition": "crossfade", "crossfade_seconds": 0.05},
        {"transition": "crossfade", "crossfade_seconds": 2.5},
        {"aspect": "4:3"},
        {"colour": "red"},
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConcatenateParams.model_validate(wrong)


# --- crossfades ---------------------------------------------------------------------------------


def test_a_crossfade_encodes_the_pictures_around_its_joins_and_copies_the_rest() -> None:
    made = plan(house(10), house(10), house(10), params=FADE)
    assert [step.name for step in made.steps] == [
        *("crossfading", "crossfading", "blending the sound", "joining")
    ]
    pictures = joined(made)["pictures"]
    assert pictures == [
        {"file": A, "first": 0, "count": 240},
        {"file": "fade1", "first": 0, "count": 60 + 60 - 15},
        {"file": B, "first": 60, "count": 180},
        {"file": "fade2", "first": 0, "count": 60 + 60 - 15},
        {"file": C, "first": 60, "count": 240},
    ]
    assert sum(part["count"] for part in pictures) == 900 - 2 * 15
    assert made.result["duration_seconds"] == 29
    assert [clip["start_seconds"] for clip in made.result["clips"]] == [0, 9.5, 19]
    assert modes(made) == ["copied"] * 3


def test_clips_without_a_keyframe_between_their_crossfades_are_mixed_as_a_whole() -> None:
    one_key = (video(house(1.8), keyframes=(0,)), video(house(1.8), keyframes=None))
    made = plan(*one_key, one_key[0], params=FADE)
    assert modes(made) == ["normalised"] * 3
    counts = [part["count"] for part in joined(made)["pictures"]]
    assert sum(counts) == 3 * 54 - 2 * 15
    assert all(part["file"].startswith("fade") for part in joined(made)["pictures"])


def test_normalised_clips_get_keyframes_where_their_crossfades_end_and_begin() -> None:
    """They are asked for a quarter of a picture early, so that no rounding makes it the next one."""
    made = plan(phone(), phone(), phone(), params=FADE)
    marks = [step.arguments for step in encoded(made) if step.name == "normalising"]
    told = [each[each.index("-force_key_frames") + 1] for each in marks]
    assert told == ["3.491667", "0.491667,3.491667", "0.491667"]


# --- keys of results that may be kept -----------------------------------------------------------


def key(
    clip: ClipInput, params: ConcatenateParams | None = None, first: MediaInfo | None = None
) -> Any:
    others = [ClipInput(C, first, "c.mp4", None)] if first else []
    made = Concatenate().plan(params or ConcatenateParams(), [*others, clip])
    return encoded(made)[-1].cache_key if not params else encoded(made)[0].cache_key


def test_a_normalised_clip_is_known_by_its_bytes_and_its_target_and_nothing_else() -> None:
    clip = ClipInput(A, phone(), "a.mp4", "1" * 64)
    same = ClipInput(B, phone(), "another.mp4", "1" * 64)
    assert key(clip) == key(same)
    assert len(key(clip)) == 64
    assert key(clip) != key(replace(clip, sha256="2" * 64))
    assert key(clip) != key(clip, first=house())
    assert key(clip) != key(clip, params=ConcatenateParams(aspect="1:1"))
    assert key(replace(clip, sha256=None)) is None


def test_steps_of_one_result_only_are_never_kept() -> None:
    made = plan(house(), house(), params=FADE)
    assert [step.cache_key for step in encoded(made)] == [None] * 2


# --- what is told -------------------------------------------------------------------------------


def test_what_is_lost_of_a_clip_is_said_and_by_which() -> None:
    hdr = video(phone(), color_transfer="smpte2084", color_primaries="bt2020")
    surround = audio(phone(), channels=6, layout="5.1", end_seconds=6.5)
    silent = replace(phone(), audio=None, stream_count=3)
    warnings = plan(hdr, surround, silent).warnings
    assert [each.partition(":")[0] for each in warnings] == [
        *("Clip 1 (a.mp4)", "Clip 2 (b.mp4)", "Clip 2 (b.mp4)"),
        *("Clip 3 (c.mp4)", "Clip 3 (c.mp4)"),
    ]
    said = " ".join(warnings)
    for words in ("dynamic range", "6 channels", "2.5 s after", "no sound", "2 more left out"):
        assert words in said


def test_the_output_is_named_after_the_first_clip() -> None:
    (output,) = plan(phone(), house()).outputs
    assert (output.filename, output.media_type) == ("a-joined.mp4", "video/mp4")


def test_every_own_file_has_a_name_that_needs_no_quoting() -> None:
    made = plan(phone(), house(), params=FADE)
    for step in encoded(made):
        assert step.output.isalnum()
    assert house_profile.output()[-1] == "mp4"
