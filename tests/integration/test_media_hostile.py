"""Hostile files and FFmpeg itself: what it opens by default, and what it opens with our options.

A refusal alone proves nothing. So each file is first shown to lure FFmpeg (its control run opens the
bait), and then that it does not with our options alone: no sniffing, no probe, no sandbox.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.api.error_guide import GUIDE
from app.domain.media import MediaInfo
from app.infrastructure.media import probe_child
from app.infrastructure.media.ffmpeg_locator import FFmpeg, locate_ffmpeg
from app.operations import ffmpeg as arguments
from app.operations.base import ClipInput, FFmpegStep
from app.operations.trim import Trim, TrimParams
from tests.fakes import lured_plans
from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.hostile import LURES, Reader
from tests.fakes.lure_runs import CLIP_NAME, Laid, Loopback, connections, lay, loopback, traced
from tests.fakes.media import make_media

ROOT = Path(__file__).parents[2]
SINK = ("-t", "0.1", "-f", "null", "-")
BY_TITLE = {lure.title: lure for lure in LURES}
FOLLOWED = [lure for lure in LURES if lure.reader is not Reader.NOBODY]


@pytest.fixture(scope="module")
def ffmpeg() -> FFmpeg:
    return locate_ffmpeg(None)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, ffmpeg: FFmpeg) -> bytes:
    spec = ClipSpec(seconds=1, width=256, height=144)
    return make_clip(tmp_path_factory.mktemp("bait"), ffmpeg.path, spec).read_bytes()


@pytest.fixture(scope="module")
def server(clip: bytes) -> Iterator[Loopback]:
    with loopback(clip) as serving:
        yield serving


def taken(laid: Sequence[Laid], trace: str, asked: Sequence[str]) -> list[str]:
    """The titles of those whose bait was taken."""
    return [each.lure.title for each in laid if each.bait.taken(trace, asked)]


def test_every_file_that_ffmpeg_follows_takes_its_bait_without_our_options(
    tmp_path: Path, ffmpeg: FFmpeg, clip: bytes, server: Loopback
) -> None:
    laid = lay(tmp_path, clip, server.server_port, FOLLOWED)
    commands = []
    for each in laid:
        lure = each.lure
        address = lure.address(each.bait) if lure.address else CLIP_NAME
        control = [str(ffmpeg.path), "-nostdin", *lure.control, "-i", address, *SINK]
        commands.append((each.folder, control))
    trace = traced(tmp_path, commands)
    assert taken(laid, trace, server.asked) == [lure.title for lure in FOLLOWED]


def trim_with(media: MediaInfo, ffmpeg: FFmpeg) -> list[str]:
    """What a trim runs of a clip that the probe was fooled about."""
    clip = ClipInput(CLIP_NAME, media, "x.mp4")
    (step,) = Trim().plan(TrimParams(start=0, end=0.5), [clip]).steps
    assert isinstance(step, FFmpegStep)
    ours = arguments.complete(step.arguments, threads=1, major=ffmpeg.major)
    return [str(ffmpeg.path), "-y", *ours, "file:out.mp4"]


def without(listed: Sequence[str], option: str) -> list[str]:
    at = listed.index(option)
    return [*listed[:at], *listed[at + 2 :]]


def test_no_file_takes_its_bait_with_our_options_alone(
    tmp_path: Path, ffmpeg: FFmpeg, clip: bytes, server: Loopback
) -> None:
    before = server.connections
    laid = lay(tmp_path, clip, server.server_port)
    fixed = trim_with(make_media(), ffmpeg)
    listed = without(fixed, "-f")
    assert "-format_whitelist" in listed
    commands = [(each.folder, ours) for each in laid for ours in (fixed, listed)]
    # The worst of them as each of the containers that a probe may have taken it for.
    for each in laid:
        if each.lure.title in {"DASH, absolute path", "ffconcat, sibling"}:
            for name in arguments.DEMUXERS:
                media = replace(make_media(), container=name)
                commands.append((each.folder, trim_with(media, ffmpeg)))
    trace = traced(tmp_path, commands)
    assert trace.count(f'"{CLIP_NAME}"') >= len(commands), "each was opened itself"
    assert taken(laid, trace, ()) == []
    assert connections(trace) == []
    assert server.connections == before


def test_a_manifest_inside_our_own_list_is_followed_only_without_our_options(
    tmp_path: Path, ffmpeg: FFmpeg, clip: bytes, server: Loopback
) -> None:
    names = ("DASH, absolute path", "DASH behind a byte order mark", "ffconcat, sibling")
    (control, locked) = (
        lay(tmp_path / kind, clip, server.server_port, [BY_TITLE[name] for name in names])
        for kind in ("control", "locked")
    )
    for each in (*control, *locked):
        (each.folder / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile {CLIP_NAME}\n")
    binary = str(ffmpeg.path)
    reading = ("-f", "concat", "-safe", "1", "-i", "file:list.ffconcat")
    ours = ("-protocol_whitelist", "file", "-format_whitelist", "concat,mov")
    plain = traced(tmp_path, [(e.folder, [binary, "-nostdin", *reading, *SINK]) for e in control])
    assert taken(control, plain, ()) == list(names)
    shut = traced(
        tmp_path, [(e.folder, [binary, "-nostdin", *ours, *reading, *SINK]) for e in locked]
    )
    assert shut.count(f'"{CLIP_NAME}"') >= len(names), "each was opened itself"
    # The list's own format has to be let in, and so is a list in the list: nothing goes into one of
    # ours but what is no list by its first bytes.
    assert taken(locked, shut, ()) == ["ffconcat, sibling"]


PROBES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import probe_child
asked = json.loads(sys.argv[2])
for path in sys.argv[3:]:
    print(json.dumps(probe_child.main(path, asked)))
"""
OPENS = """
import sys, av
for path in sys.argv[1:]:
    try:
        with av.open(path) as container:
            next(container.decode(video=0))
    except Exception as error:
        print(error)
"""


def test_the_probe_takes_no_bait_though_its_library_does(
    tmp_path: Path, clip: bytes, server: Loopback
) -> None:
    # Whatever it is taken for: as if no first bytes had been looked at.
    control = lay(tmp_path / "control", clip, server.server_port, FOLLOWED)
    files = [str(each.folder / CLIP_NAME) for each in control]
    trace = traced(tmp_path, [(tmp_path, [sys.executable, "-c", OPENS, *files])])
    assert "ffconcat, sibling" in taken(control, trace, ())
    laid = lay(tmp_path / "ours", clip, server.server_port)
    asked = {
        "format": None,
        "options": {
            "protocol_whitelist": arguments.PROTOCOLS,
            "format_whitelist": arguments.FORMATS,
            "codec_whitelist": arguments.CODECS,
        },
        "video_codecs": arguments.VIDEO_CODECS,
        "audio_codecs": arguments.AUDIO_CODECS,
        "max_pixels": 10**7,
    }
    files = [str(each.folder / CLIP_NAME) for each in laid]
    folder = str(Path(probe_child.__file__).parent)
    ours = [sys.executable, "-I", "-c", PROBES, folder, json.dumps(asked), *files]
    trace = traced(tmp_path, [(tmp_path, ours)])
    assert all(f'"{file}"' in trace for file in files)
    assert taken(laid, trace, ()) == []
    assert connections(trace) == []


WORST = ("DASH, absolute path", "ffconcat, absolute path", "MOV with its samples elsewhere")


@pytest.mark.parametrize(
    ("sandbox", "titles"),
    [
        ("off", WORST),
        pytest.param("off", tuple(BY_TITLE), marks=[pytest.mark.long, pytest.mark.timeout(900)]),
        pytest.param("auto", tuple(BY_TITLE), marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
    ids=["the worst", "all", "all in the sandbox"],
)
def test_no_operation_takes_a_bait_though_its_probe_was_fooled(
    sandbox: str, titles: Sequence[str], tmp_path: Path, clip: bytes, server: Loopback
) -> None:
    before = server.connections
    laid = lay(tmp_path, clip, server.server_port, [BY_TITLE[title] for title in titles])
    (tmp_path / "lures").mkdir()
    for number, each in enumerate(laid):
        (each.folder / CLIP_NAME).rename(tmp_path / "lures" / str(number))
        # Where the job works, a sibling is as near as can be.
        for place in lured_plans.CHOSEN:
            job = tmp_path / "jobs" / f"{number}-{place}"
            job.mkdir(parents=True)
            (job / each.bait.name).hardlink_to(each.bait.path)
    ours = [sys.executable, "-m", lured_plans.__name__, str(tmp_path), sandbox]
    trace = traced(tmp_path, [(ROOT, ours)], patience=800, out=tmp_path / "told")
    told = [
        json.loads(line) for line in (tmp_path / "told").read_text().splitlines() if line[0] == "{"
    ]
    assert len(told) == len(laid) * len(lured_plans.CHOSEN), (tmp_path / "told").read_text()[-3000:]
    assert {each["code"] for each in told} <= {*GUIDE, ""}
    assert taken(laid, trace, server.asked[:0]) == []
    assert f"htons({server.server_port})" not in trace
    assert server.connections == before
