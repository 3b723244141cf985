"""Playlists in disguise: traced, with a control run that does open the bait.

A refusal alone proves nothing: each case shows first that FFmpeg or PyAV on their default options
open another tenant's file from it, and then that with our options they do not.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.media import AudioInfo, MediaInfo, VideoInfo
from app.infrastructure.media import probe_child
from app.infrastructure.media.ffmpeg_locator import FFmpeg, locate_ffmpeg
from app.operations import ffmpeg as arguments
from app.operations.base import ClipInput, FFmpegStep
from app.operations.trim import Trim, TrimParams
from tests.fakes.clips import ClipSpec, make_clip

NAME = "0123456789abcdef0123456789abcdef"
FORGED = MediaInfo(
    container="mov",
    duration_seconds=2.0,
    size_bytes=1,
    stream_count=2,
    video=VideoInfo(
        codec="h264",
        profile=None,
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
    ),
    audio=AudioInfo("aac", 48000, 2, "stereo"),
)
"""What a probe that was fooled would say."""


@pytest.fixture(scope="module")
def ffmpeg() -> FFmpeg:
    return locate_ffmpeg(None)


@pytest.fixture
def bait(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, ffmpeg: FFmpeg) -> Path:
    clips = tmp_path_factory.getbasetemp() / "clips"
    bait = tmp_path / "another-tenants.mp4"
    bait.write_bytes(make_clip(clips, ffmpeg.path, ClipSpec(seconds=2)).read_bytes())
    return bait


def dash(bait: Path) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" '
        f'width="320" height="180"><BaseURL>{bait}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>"
    )


def ffconcat(bait: Path) -> str:
    return f"ffconcat version 1.0\nfile {bait.name}\n"


def opened(trace: Path, command: list[str], folder: Path) -> str:
    """Run a command and return what its processes opened."""
    tracing = ["strace", "-f", "-qq", "-e", "trace=open,openat,connect", "-o", str(trace)]
    subprocess.run([*tracing, *command], cwd=folder, check=False, capture_output=True, timeout=60)
    return trace.read_text()


@pytest.mark.parametrize("manifest", [dash, ffconcat])
@pytest.mark.parametrize("container", sorted(arguments.DEMUXERS))
def test_a_manifest_in_disguise_opens_its_bait_by_default_but_never_with_our_options(
    tmp_path: Path, ffmpeg: FFmpeg, bait: Path, manifest: object, container: str
) -> None:
    assert callable(manifest)
    (tmp_path / NAME).write_text(manifest(bait))
    sink = ["-t", "0.1", "-f", "null", "-"]
    control = [str(ffmpeg.path), "-nostdin", "-i", NAME, *sink]
    assert bait.name in opened(tmp_path / "trace", control, tmp_path)
    clip = ClipInput(NAME, replace(FORGED, container=container), "x.mp4")
    (step,) = Trim().plan(TrimParams(start=0, end=1), [clip]).steps
    assert isinstance(step, FFmpegStep)
    ours = arguments.complete(step.arguments, threads=1, major=ffmpeg.major)
    seen = opened(tmp_path / "trace", [str(ffmpeg.path), "-y", *ours, "file:out.mp4"], tmp_path)
    assert NAME in seen
    assert bait.name not in seen
    assert "connect(" not in seen


def test_the_whitelist_of_formats_alone_refuses_a_manifest(
    tmp_path: Path, ffmpeg: FFmpeg, bait: Path
) -> None:
    (tmp_path / NAME).write_text(dash(bait))
    ours = list(arguments.foreign_clip(NAME, FORGED))
    fixed = ours.index("-f")
    del ours[fixed : fixed + 2]
    completed = arguments.complete(ours, threads=1, major=ffmpeg.major)
    command = [str(ffmpeg.path), "-nostdin", *completed, "-t", "0.1", "-f", "null", "-"]
    seen = opened(tmp_path / "trace", command, tmp_path)
    assert NAME in seen
    assert bait.name not in seen


def test_the_probe_never_opens_what_a_list_names(tmp_path: Path, bait: Path) -> None:
    hostile = tmp_path / NAME
    hostile.write_text(ffconcat(bait))
    control = f"import av; next(av.open({str(hostile)!r}).decode(video=0))"
    assert bait.name in opened(tmp_path / "trace", [sys.executable, "-c", control], tmp_path)
    asked = {
        "format": None,
        "options": {
            "protocol_whitelist": arguments.PROTOCOLS,
            "format_whitelist": arguments.FORMATS,
        },
        "video_codecs": arguments.VIDEO_CODECS,
        "audio_codecs": arguments.AUDIO_CODECS,
        "max_pixels": 10**7,
    }
    child = [sys.executable, "-I", str(probe_child.__file__), str(hostile), json.dumps(asked)]
    seen = opened(tmp_path / "trace", child, tmp_path)
    assert NAME in seen
    assert bait.name not in seen


def test_every_input_has_every_lock_before_its_i() -> None:
    listed = arguments.foreign_clip(NAME, FORGED)
    assert listed[-2:] == ("-i", f"file:{NAME}")
    for option in (
        "-protocol_whitelist",
        "-format_whitelist",
        "-codec_whitelist",
        "-max_pixels",
        "-max_streams",
        "-probesize",
        "-analyzeduration",
    ):
        assert option in listed
    assert "-nostdin" in arguments.GLOBAL
