"""Copied cuts on real clips: what is shown, what is stored, what is said; compared with the source."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from app.domain.errors import CannotCopy, RenderFailed
from app.operations.base import PythonStep
from app.operations.trim import TrimParams
from tests.fakes.clips import ClipSpec, Shown, difference, make_clip, read_frames, read_sound
from tests.fakes.media_bench import MediaBench, Mode, open_bench

ONE_PACKET = 0.025
"""Seconds: sound is kept by whole packets, of 1024 samples or 20 ms."""
CASES: dict[str, ClipSpec] = {
    "open groups of pictures": ClipSpec(seconds=3, gop=20),
    "closed groups of pictures": ClipSpec(seconds=3, gop=20, open_gop=False),
    "hevc, open groups of pictures": ClipSpec(seconds=3, gop=20, codec="libx265"),
    "matroska that begins at 5 s": ClipSpec(seconds=3, gop=20, container="mkv", shift_seconds=5),
    "hevc in matroska": ClipSpec(seconds=3, gop=20, container="mkv", codec="libx265"),
    "variable rate": ClipSpec(seconds=3, gop=10, variable=True),
    "variable rate in matroska": ClipSpec(seconds=3, gop=10, variable=True, container="mkv"),
    "no b-frames": ClipSpec(seconds=3, gop=20, b_frames=0, audio="libmp3lame"),
    "vp9 and opus": ClipSpec(
        seconds=3, gop=20, codec="libvpx-vp9", container="webm", audio="libopus"
    ),
    "29.97 frames a second": ClipSpec(seconds=3, gop=20, rate="30000/1001"),
    "ten bits, no sound": ClipSpec(seconds=3, gop=20, ten_bit=True, audio=None),
    "every third picture a keyframe": ClipSpec(seconds=3, gop=3, b_frames=2, open_gop=False),
}


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "clips"


@pytest.fixture
async def bench(tmp_path: Path, clips: Path) -> AsyncIterator[MediaBench]:
    # Beside the clips, since inputs are hard links.
    async with open_bench(clips.parent / f"job-{tmp_path.name}") as opened:
        yield opened


def boxes(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of the boxes of an MP4, one after the other."""
    end = len(data) if end is None else end
    while at + 8 <= end:
        size, name = struct.unpack(">I4s", data[at : at + 8])
        yield name, data[at + 8 : at + size]
        at += size


def inside(data: bytes, *path: bytes) -> list[bytes]:
    """Return the contents of all boxes at a path of names."""
    found = [data]
    for wanted in path:
        found = [content for outer in found for name, content in boxes(outer) if name == wanted]
    return found


def edits(data: bytes) -> list[list[int]]:
    """Return, for each track, where in what is stored each stretch of what is played begins."""
    tracks = []
    for track in inside(data, b"moov", b"trak"):
        starts: list[int] = []
        for listed in inside(track, b"edts", b"elst"):
            version, count = listed[0], struct.unpack(">I", listed[4:8])[0]
            form = ">Iii" if version == 0 else ">Qqi"
            size = struct.calcsize(form)
            entries = (listed[8 + n * size : 8 + (n + 1) * size] for n in range(count))
            starts += [struct.unpack(form, entry)[1] for entry in entries]
        tracks.append(starts)
    return tracks


def composition_offset(track: bytes) -> int:
    """Return how much later than its decoding the first picture is shown, 0 without reordering."""
    for listed in inside(track, b"mdia", b"minf", b"stbl", b"ctts"):
        return int(struct.unpack(">i", listed[12:16])[0])
    return 0


def assert_hides_nothing(content: bytes) -> None:
    """The only edits: the delay that reordered pictures need, and sound that begins a bit later."""
    for track, starts in zip(inside(content, b"moov", b"trak"), edits(content), strict=True):
        offset = composition_offset(track)
        assert [start for start in starts if start != -1] in ([], [offset])
    assert content.index(b"moov") < content.index(b"mdat")
    assert all(told.endswith(b"\0\0\0\x08ilst") for told in inside(content, b"moov", b"udta"))
    for word in (b"secret", b"+48.2", b"Lavf"):
        assert word not in content


def assert_nothing_of_the_rest(
    content: bytes, source: Path, shown: list[Fraction], end: Fraction
) -> None:
    """No packet that is not shown, picture or sound, is in the result; times on the file's clock."""
    tremble = Fraction(1, 500)
    rest: list[bytes] = []
    kept: set[bytes] = set()
    with av.open(str(source)) as container:
        for packet in container.demux():
            data = bytes(packet)
            if packet.pts is None or len(data) < 100:
                continue
            at = packet.pts * packet.time_base
            if packet.stream.type == "video":
                inside = any(abs(at - moment) < tremble for moment in shown)
                assert (data in content) == inside, f"picture of {float(at)} s"
            else:
                inside = shown[0] - tremble <= at < end
            if inside:
                kept.add(data)
            else:
                rest.append(data)
    # A tone repeats itself: what sounds alike inside and outside tells nothing.
    assert rest
    assert not [data for data in rest if data not in kept and data in content]


async def cut_and_compare(
    bench: MediaBench, clip: Path, times: tuple[float | None, float | None], mode: Mode
) -> tuple[list[Shown], dict[str, object]]:
    """Cut, check the result against source and told times, and return it."""
    result, plan = await bench.trim(clip, *times, mode)
    assert plan.result["mode"] == "copy"
    content = await asyncio.to_thread(result.read_bytes)
    made, source = read_frames(result), read_frames(clip)
    start, end = plan.result["start_seconds"], plan.result["end_seconds"]
    begin = source[0].time
    of_source = [s for s in source if start - 0.001 <= float(s.time - begin) < end - 0.001]
    assert [s.number for s in made] == [s.number for s in of_source]
    for picture, original in zip(made, of_source, strict=True):
        assert difference(picture.luma, original.luma) == 0
        late = picture.time - (original.time - begin - Fraction(str(start)))
        assert abs(late) < Fraction(1, 500)
    assert made[0].time == 0
    with av.open(str(result)) as container:
        stored = [p for p in container.demux(video=0) if p.size]
        assert stored[0].is_keyframe
        assert len(stored) == len(made)
    assert_hides_nothing(content)
    times_shown = [original.time for original in of_source]
    assert_nothing_of_the_rest(content, clip, times_shown, begin + Fraction(str(end)))
    return made, plan.result


@pytest.mark.parametrize("case", CASES)
async def test_a_copy_shows_the_sources_own_pictures_from_a_keyframe_on_and_holds_no_others(
    bench: MediaBench, clips: Path, case: str
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES[case])
    made, told = await cut_and_compare(bench, clip, (1.1, 2.3), "copy")
    keyframe = (await bench.look(clip)).video.keyframes
    assert keyframe is not None
    numbers = [s.number for s in made]
    start, end = told["start_seconds"], told["end_seconds"]
    assert isinstance(start, float)
    assert isinstance(end, float)
    assert 1.1 - 0.7 < start <= 1.1
    assert 2.3 - 0.3 < end <= 2.3
    # The sound begins and ends with the pictures, as well as packets allow, and is not moved.
    if CASES[case].audio is None:
        return
    result = bench.folder / "trimmed.mp4"
    heard, begins = read_sound(result)
    assert 0 <= begins <= ONE_PACKET
    assert end - start - 2 * ONE_PACKET - 0.002 <= begins + len(heard) / 48000 <= end - start + 0.03
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    "case",
    ["open groups of pictures", "vp9 and opus", "variable rate", "variable rate in matroska"],
)
async def test_auto_copies_from_a_keyframe_to_the_end(
    bench: MediaBench, clips: Path, case: str
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES[case])
    media = await bench.look(clip)
    assert media.video.keyframes is not None
    tick = Fraction(media.video.time_base)
    start = round(float((media.video.keyframes[1] - media.video.start_pts) * tick), 2)
    made, told = await cut_and_compare(bench, clip, (start, None), "auto")
    assert told["start_seconds"] == pytest.approx(start, abs=0.01)
    assert told["end_seconds"] == pytest.approx(media.duration_seconds, abs=0.002)
    assert made[-1].number == read_frames(clip)[-1].number


@pytest.mark.parametrize(
    ("case", "start", "end", "why"),
    [
        ("open groups of pictures", 0.5, None, "the last one before it is at 0.000 s"),
        ("open groups of pictures", 0.6666, 2, "may end a few frames early"),
    ],
)
async def test_auto_is_exact_where_a_copy_is_not_what_was_asked_for(
    bench: MediaBench, clips: Path, case: str, start: float, end: float | None, why: str
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES[case])
    result, plan = await bench.trim(clip, start, end, "auto")
    assert plan.result["mode"] == "exact"
    assert why in plan.result["reason"]
    first, last = round(start * 30), round((end or 3) * 30)
    assert [s.number for s in read_frames(result)] == list(range(first, last))


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (ClipSpec(seconds=2, container="ts"), "no index"),
        (ClipSpec(seconds=2, container="mov", audio="pcm_s16le"), "its sound (pcm_s16le)"),
        (
            ClipSpec(seconds=2, container="mkv", codec="mpeg4", b_frames=0, audio=None),
            "its video (mpeg4)",
        ),
    ],
)
async def test_what_an_mp4_does_not_hold_is_refused_naming_the_other_mode_and_exact_in_auto(
    bench: MediaBench, clips: Path, spec: ClipSpec, why: str
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, spec)
    with pytest.raises(CannotCopy) as refused:
        await bench.plan(clip, TrimParams(start=0, end=1, mode="copy"))
    assert why in refused.value.detail
    assert "exact" in refused.value.detail
    plan = await bench.plan(clip, TrimParams(start=0, mode="auto"))
    assert plan.result["mode"] == "exact"
    assert why in plan.result["reason"]


async def recode(bench: MediaBench, source: Path, name: str, *options: str) -> Path:
    """Return ``source`` written again with options of FFmpeg."""
    target = bench.folder / name
    command = (str(bench.ffmpeg.path), "-v", "error", "-y", "-i", str(source), *options)
    process = await asyncio.create_subprocess_exec(*command, str(target))
    assert await process.wait() == 0
    return target


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("open groups of pictures", ("-use_editlist", "0")),
        ("hevc, open groups of pictures", ("-movflags", "+frag_keyframe+empty_moov")),
        ("variable rate", ("-movflags", "+negative_cts_offsets")),
        ("every third picture a keyframe", ("-use_editlist", "0", "-an")),
    ],
)
async def test_the_probe_finds_each_keyframe_however_the_file_keeps_its_times(
    bench: MediaBench, clips: Path, case: str, options: tuple[str, ...]
) -> None:
    source = make_clip(clips, bench.ffmpeg.path, CASES[case])
    clip = await recode(bench, source, "again.mp4", "-c", "copy", *options)
    with av.open(str(clip)) as container:
        keys = [p.pts for p in container.demux(video=0) if p.size and p.is_keyframe]
    assert len(keys) > 3
    assert (await bench.look(clip)).video.keyframes == tuple(keys)


async def test_pictures_that_are_refreshed_bit_by_bit_are_no_place_to_begin(
    bench: MediaBench, clips: Path
) -> None:
    source = make_clip(clips, bench.ffmpeg.path, CASES["no b-frames"])
    encode = ("-preset", "ultrafast", "-g", "20", "-x264-params", "intra-refresh=1", "-an")
    clip = await recode(bench, source, "refreshed.mp4", *encode)
    with av.open(str(clip)) as container:
        called = [p.pts for p in container.demux(video=0) if p.size and p.is_keyframe]
    assert len(called) > 2
    assert (await bench.look(clip)).video.keyframes == (called[0],)
    _, told = await cut_and_compare(bench, clip, (1.5, 2.5), "copy")
    assert told["start_seconds"] == 0


async def test_what_an_edit_list_hides_stays_out_of_a_copy(bench: MediaBench, clips: Path) -> None:
    source = make_clip(clips, bench.ffmpeg.path, CASES["closed groups of pictures"])
    # FFmpeg's own copy: the pictures from the keyframe up to the start are stored and not shown.
    hiding = bench.folder / "hiding.mp4"
    command = (str(bench.ffmpeg.path), "-v", "error", "-ss", "0.9", "-i", str(source))
    process = await asyncio.create_subprocess_exec(*command, "-c", "copy", str(hiding))
    assert await process.wait() == 0
    assert read_frames(hiding)[0].number == 27
    with pytest.raises(CannotCopy, match="no keyframe is at or before the start"):
        await bench.plan(hiding, TrimParams(start=0, end=1, mode="copy"))
    plan = await bench.plan(hiding, TrimParams(start=0, mode="auto"))
    assert plan.result["mode"] == "exact"
    made, _ = await cut_and_compare(bench, hiding, (0.8, None), "copy")
    assert made[0].number == 40


async def test_a_rotation_is_kept_as_a_note_and_said(bench: MediaBench, clips: Path) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=3, gop=20, rotation=90))
    result, plan = await bench.trim(clip, 1, None, "copy")
    assert (await bench.look(result)).video.rotation == 90
    assert "The rotation of 90 degrees is kept as a note for players to follow." in plan.warnings
    assert plan.warnings[0].startswith("It begins 0.333 s before")


async def test_progress_of_a_copy_begins_at_once_and_never_goes_back(
    bench: MediaBench, clips: Path
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES["closed groups of pictures"])
    _, plan = await bench.trim(clip, 1, 2, "copy")
    assert plan.steps[0].name == "copying"
    assert bench.reported[0] == 0
    assert bench.reported[-1] == 1
    assert bench.reported == sorted(bench.reported)


async def test_a_copy_that_is_not_what_was_planned_is_never_published(
    bench: MediaBench, clips: Path
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES["closed groups of pictures"])
    plan = await bench.plan(clip, TrimParams(start=1, end=2, mode="copy"))
    (step,) = plan.steps
    assert isinstance(step, PythonStep)
    assert step.expected is not None
    arguments = dict(step.arguments)
    wrong = (
        {**arguments, "stop": None},
        {**arguments, "first": 0},
        {**arguments, "sound": False},
    )
    for each in wrong:
        changed = PythonStep(
            step.name, 1.0, step.program, each, step.inputs, step.outputs, step.expected
        )
        with pytest.raises(RenderFailed):
            await bench.run(changed)
