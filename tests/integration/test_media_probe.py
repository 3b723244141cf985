"""The probe on real, empty, textual, broken, boundless and hostile files."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.errors import (
    AppError,
    EmptyFile,
    InputDamaged,
    JobTimedOut,
    MediaOverLimits,
    NotMedia,
    NoVideoStream,
)
from app.domain.media import MediaLimits, media_from_json
from app.infrastructure.media import probe as probe_module
from app.infrastructure.media.probe import ProbeChild
from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.media_bench import MediaBench, open_bench


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "clips"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[MediaBench]:
    async with open_bench(tmp_path / "job") as opened:
        yield opened


async def test_a_probe_tells_what_a_clip_is(bench: MediaBench, clips: Path) -> None:
    clip = make_clip(
        clips, bench.ffmpeg.path, ClipSpec(seconds=6, container="mkv", shift_seconds=5)
    )
    media = await bench.look(clip)
    assert media.container == "matroska"
    assert media.duration_seconds == pytest.approx(6.0, abs=0.002)
    assert media.size_bytes == clip.stat().st_size
    assert media.stream_count == 2
    video = media.video
    assert (video.codec, video.width, video.height) == ("h264", 320, 180)
    assert (video.pixel_format, video.rotation, video.frame_rate) == ("yuv420p", 0, "30/1")
    assert (video.time_base, video.start_pts) == ("1/1000", 5000)
    assert (video.color_primaries, video.color_range) == ("bt709", "tv")
    assert not video.variable_rate
    audio = media.audio
    assert audio is not None
    assert (audio.codec, audio.sample_rate, audio.channels) == ("aac", 48000, 2)
    assert media_from_json(media.as_json()) == media


@pytest.mark.parametrize(
    ("spec", "container"),
    [
        (ClipSpec(seconds=2), "mov"),
        (ClipSpec(seconds=2, container="mov"), "mov"),
        (ClipSpec(seconds=2, container="mkv"), "matroska"),
        (
            ClipSpec(seconds=2, codec="libvpx-vp9", container="webm", audio="libopus"),
            "matroska",
        ),
        (ClipSpec(seconds=2, container="ts"), "mpegts"),
        (ClipSpec(seconds=2, container="flv"), "flv"),
        (ClipSpec(seconds=2, container="avi", codec="mpeg4", audio="libmp3lame"), "avi"),
    ],
    ids=lambda value: value.container if isinstance(value, ClipSpec) else value,
)
async def test_every_container_that_is_allowed_opens_and_ends_within_a_frame(
    bench: MediaBench, clips: Path, spec: ClipSpec, container: str
) -> None:
    media = await bench.look(make_clip(clips, bench.ffmpeg.path, spec))
    assert media.container == container
    assert media.duration_seconds == pytest.approx(2.0, abs=1 / 30)


@pytest.mark.parametrize("frames", [1, 2, 3, 40])
@pytest.mark.parametrize(
    "spec",
    [
        ClipSpec(container="mp4"),
        ClipSpec(container="mkv"),
        ClipSpec(container="ts"),
        ClipSpec(container="flv"),
        ClipSpec(container="avi", codec="mpeg4", audio="libmp3lame", b_frames=0),
    ],
    ids=lambda spec: spec.container,
)
async def test_clips_of_a_few_frames_open_and_are_as_long_as_their_frames(
    bench: MediaBench, clips: Path, spec: ClipSpec, frames: int
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, replace(spec, seconds=frames / 30))
    media = await bench.look(clip)
    assert media.duration_seconds == pytest.approx(frames / 30, abs=1 / 30 + 0.001)


async def test_a_clip_whose_first_picture_has_no_time_is_refused_with_that_reason(
    bench: MediaBench, clips: Path
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=2))
    early = bench.folder / "early.mkv"
    shift = ("-c", "copy", "-avoid_negative_ts", "disabled", "-output_ts_offset", "-0.5")
    command = (str(bench.ffmpeg.path), "-v", "error", "-i", str(clip), *shift, str(early))
    make = await asyncio.create_subprocess_exec(*command)
    assert await make.wait() == 0
    with pytest.raises(InputDamaged, match="first picture has no time"):
        await bench.look(early)


@pytest.mark.parametrize("container", ["mkv", "avi"])
async def test_a_title_in_another_encoding_than_utf8_is_no_damage(
    bench: MediaBench, clips: Path, container: str
) -> None:
    spec = ClipSpec(container=container, codec="mpeg4", audio="libmp3lame", b_frames=0, seconds=2)
    clip = make_clip(clips, bench.ffmpeg.path, spec)
    latin = bench.folder / clip.name
    content = clip.read_bytes()
    assert b"secret title" in content
    latin.write_bytes(content.replace(b"secret title", b"caf\xe9 \xfc\xdf \xfftle"))
    assert (await bench.look(latin)).duration_seconds == pytest.approx(2, abs=1 / 29)


async def test_variable_rates_are_noticed(bench: MediaBench, clips: Path) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, ClipSpec(variable=True, seconds=6))
    assert (await bench.look(clip)).video.variable_rate


@pytest.mark.parametrize(
    "head",
    [
        b"#EXTM3U\n#EXT-X-VERSION:3\n",
        b"\xef\xbb\xbf#EXTM3U\n",
        b"ffconcat version 1.0\n",
        b"<?xml version='1.0'?><MPD/>",
        b"<MPD></MPD>",
        b"[playlist]\nFile1=x",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
        b"This is a text file that somebody called clip.mp4.\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"ID3\x04" + bytes(100),
        b"G",
    ],
)
async def test_what_is_no_container_of_ours_is_refused_by_its_first_bytes(
    bench: MediaBench, head: bytes
) -> None:
    path = bench.folder / "file"
    path.write_bytes(head)
    with pytest.raises(NotMedia) as refused:
        await bench.look(path)
    assert "MP4/MOV" in refused.value.detail
    assert "WebM" in refused.value.extra["allowed"]


async def test_an_empty_file_is_called_empty(bench: MediaBench) -> None:
    (bench.folder / "file").touch()
    with pytest.raises(EmptyFile):
        await bench.look(bench.folder / "file")


def make(bench: MediaBench, name: str, *arguments: str) -> Path:
    """Make a file with FFmpeg from ``arguments``."""
    path = bench.folder / name
    subprocess.run(
        [str(bench.ffmpeg.path), "-v", "error", "-f", "lavfi", *arguments, str(path)], check=True
    )
    return path


async def test_sound_alone_is_no_video_and_neither_is_its_cover(bench: MediaBench) -> None:
    cover = ("-f", "lavfi", "-i", "color=s=64x64:d=0.04", "-map", "0", "-map", "1", "-c:v", "png")
    attached = ("-frames:v", "1", "-disposition:v:0", "attached_pic")
    for path in (
        make(bench, "plain.mp4", "-i", "sine=d=1", "-c:a", "aac"),
        make(bench, "covered.mp4", "-i", "sine=d=1", *cover, *attached),
    ):
        with pytest.raises(NoVideoStream):
            await bench.look(path)


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.93])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
async def test_a_truncated_file_is_damaged(
    bench: MediaBench, clips: Path, container: str, kept: float
) -> None:
    whole = make_clip(clips, bench.ffmpeg.path, ClipSpec(container=container)).read_bytes()
    path = bench.folder / "file"
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(InputDamaged):
        await bench.look(path)


async def test_a_file_without_its_index_is_damaged(bench: MediaBench, clips: Path) -> None:
    spec = ClipSpec(seconds=2, moov_at_end=True)
    whole = make_clip(clips, bench.ffmpeg.path, spec).read_bytes()
    path = bench.folder / "file"
    path.write_bytes(whole[: whole.rindex(b"moov") - 4])
    with pytest.raises(InputDamaged):
        await bench.look(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 40,
        b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 40,
        b"RIFF\xff\xff\xff\x7fAVI LIST" + bytes(4000),
        b"OggS" + b"\xff" * 4000,
        b"FLV\x01\x05" + bytes(4000),
        (b"\x47" + b"\xff" * 187) * 50,
    ],
)
async def test_garbage_behind_a_good_head_is_an_answer_and_not_a_crash(
    bench: MediaBench, content: bytes
) -> None:
    path = bench.folder / "file"
    path.write_bytes(content)
    with pytest.raises((InputDamaged, NotMedia, NoVideoStream)):
        await bench.look(path)


async def test_a_stream_that_only_appears_on_the_way_is_left_out_and_no_crash(
    bench: MediaBench, clips: Path
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=3, container="flv"))
    content = bytearray(clip.read_bytes())
    at = late_picture(content)
    content[at] ^= 5  # another codec: to the demuxer, another stream
    late = bench.folder / "late.flv"
    late.write_bytes(content)
    media = await bench.look(late)
    assert media.stream_count == 2
    assert media.duration_seconds == pytest.approx(3, abs=1 / 29)


def late_picture(flv: bytes | bytearray) -> int:
    """Return where one of the last pictures begins within a file."""
    at, found = 13, [0]
    while at < len(flv):
        if flv[at] == 9:
            found.append(at + 11)
        at += 11 + int.from_bytes(flv[at + 1 : at + 4], "big") + 4
    return found[-5]


@pytest.mark.parametrize(
    ("limits", "limit", "value"),
    [
        (MediaLimits(max_seconds=1.5, max_pixels=10**7, max_streams=16), "seconds", 2.0),
        (MediaLimits(max_seconds=60, max_pixels=57_599, max_streams=16), "pixels", 57_600),
        (MediaLimits(max_seconds=60, max_pixels=10**7, max_streams=1), "streams", 2),
        (MediaLimits(60, 10**7, 16, max_frame_rate=25), "frame_rate", 30),
    ],
)
async def test_a_clip_over_a_limit_is_told_the_limit_its_value_and_the_maximum(
    tmp_path: Path, clips: Path, limits: MediaLimits, limit: str, value: float
) -> None:
    async with open_bench(tmp_path / "job", limits=limits) as bench:
        clip = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=2))
        with pytest.raises(MediaOverLimits) as refused:
            await bench.look(clip)
    assert refused.value.extra["limit"] == limit
    assert refused.value.extra["value"] == pytest.approx(value, abs=0.01)
    assert refused.value.extra["maximum"] < value


async def test_a_codec_that_is_not_read_is_named(bench: MediaBench) -> None:
    path = make(bench, "clip.mkv", "-i", "testsrc=s=64x64:d=1", "-c:v", "ffv1")
    with pytest.raises(NotMedia, match="ffv1"):
        await bench.look(path)


def test_the_service_itself_never_loads_the_decoders() -> None:
    code = (
        "import sys, app.infrastructure.media.probe, app.infrastructure.media.step_runner;"
        "sys.exit('av' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", InputDamaged),
        ("x = bytearray(8 << 30)", InputDamaged),
        ("print('no json')", InputDamaged),
        ("while True: print('y' * 4096)", JobTimedOut),
        ("import time; time.sleep(600)", JobTimedOut),
    ],
    ids=["crash", "memory", "garbage", "endless", "hang"],
)
async def test_a_child_that_misbehaves_is_an_error_and_never_a_hang(
    bench: MediaBench,
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    error: type[AppError],
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=2))
    script = bench.folder / "child.py"
    script.write_text(body)
    monkeypatch.setattr(probe_module, "SCRIPT", script)
    probe = ProbeChild(bench.runner, MediaLimits(60, 10**7, 16), timeout_seconds=2)
    async with asyncio.timeout(10):
        with pytest.raises(error):
            await probe.probe(clip)


async def test_at_most_two_children_look_at_once(bench: MediaBench, clips: Path) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=2))
    most = 0

    async def count() -> None:
        nonlocal most
        while True:
            most = max(most, len(bench.runner._children))
            await asyncio.sleep(0.005)

    counting = asyncio.ensure_future(count())
    media = await asyncio.gather(*(bench.look(clip) for _ in range(5)))
    counting.cancel()
    assert len({m.duration_seconds for m in media}) == 1
    assert most == 2


async def test_a_picture_bomb_is_refused_before_it_is_decoded(bench: MediaBench) -> None:
    picture = ("-i", "color=s=8192x8192:r=1:d=1", "-c:v", "mjpeg", "-threads", "1")
    path = make(bench, "bomb.mp4", *picture)
    with pytest.raises(MediaOverLimits) as refused:
        await bench.look(path)
    assert refused.value.extra == {
        "limit": "pixels",
        "value": 8192 * 8192,
        "maximum": 16_777_216,
    }
