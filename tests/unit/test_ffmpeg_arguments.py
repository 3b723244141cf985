"""The rule of FFmpeg's arguments: what our operations build passes, what lacks a lock fails."""

import sys
from pathlib import Path

import pytest

from app.infrastructure.media.process_runner import GUARD
from app.operations import ffmpeg
from app.operations.base import ClipInput
from app.operations.trim import Trim, TrimParams
from tests.fakes.ffmpeg_arguments import LOCKS, faults, kinds
from tests.fakes.media import make_media
from tests.fakes.media_bench import one_step
from tests.fakes.recorder import Reader, Started, judge

ID = "0123456789abcdef0123456789abcdef"
OUTPUT = (
    *("-map", "[v]", "-map", "0:a:0?", "-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1"),
    *("-c:v", "libx264", "-f", "mp4", "file:made.mp4.part"),
)
PICTURE = ("-protocol_whitelist", "file", "-f", "png_pipe", "-i", "file:title.png")
SOURCE = ("-f", "lavfi", "-i", "color=c=0x101820:s=640x360:r=30:d=2.5")
LIST = (
    *("-protocol_whitelist", "file", "-format_whitelist", "concat,mov", "-safe", "1"),
    *("-f", "concat", "-i", "file:list.ffconcat"),
)


def a_trim() -> list[str]:
    """What a trim really runs with."""
    plan = Trim().plan(TrimParams(start=1, end=2), [ClipInput(ID, make_media(), "my film.mp4")])
    completed = ffmpeg.complete(one_step(plan).arguments, threads=1, major=9)
    return ["-v", "error", "-progress", "pipe:1", "-y", *completed, "file:trimmed.mp4.part"]


def test_what_a_trim_runs_with_is_right() -> None:
    assert faults(a_trim()) == []
    assert kinds(a_trim()) == ["foreign"]


def test_each_of_the_three_kinds_of_input_is_right() -> None:
    overlay = "[0:v]fade=t=in:st=0:d=0.5:alpha=1[a];[1:v][a]overlay=x='if(lt(t,1),-w+t*w,0)':y=4[v]"
    ours = ["-nostdin", *PICTURE, *SOURCE, *LIST, "-filter_complex", overlay, *OUTPUT]
    assert faults(ours) == []
    assert kinds(ours) == ["picture", "source", "list"]


@pytest.mark.parametrize(
    "lock", [*LOCKS, "-nostdin", "-map_metadata", "-map_chapters", "-sn", "-dn"]
)
def test_a_lock_that_is_missing_is_found(lock: str) -> None:
    arguments = a_trim()
    at = arguments.index(lock)
    del arguments[at : at + (1 if lock in {"-nostdin", "-sn", "-dn"} else 2)]
    assert any(lock in fault for fault in faults(arguments))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_that_stands_behind_its_input_is_none(lock: str) -> None:
    arguments = a_trim()
    at = arguments.index(lock)
    moved = arguments[at : at + 2]
    del arguments[at : at + 2]
    behind = arguments.index("-i") + 2
    assert faults([*arguments[:behind], *moved, *arguments[behind:]]) != []


def test_the_locks_of_one_clip_do_not_guard_the_next() -> None:
    arguments = a_trim()
    behind = arguments.index("-i") + 2
    second = [*arguments[:behind], "-f", "mov", "-i", f"file:{ID[::-1]}", *arguments[behind:]]
    assert len(faults(second)) == len(LOCKS)


def swap(option: str, value: str) -> list[str]:
    """A trim with another value of one option."""
    arguments = a_trim()
    arguments[arguments.index(option) + 1] = value
    return arguments


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("-protocol_whitelist", "file,http,tcp"),
        ("-protocol_whitelist", "file,crypto,data"),
        ("-format_whitelist", "mov,dash"),
        ("-format_whitelist", "concat,mov"),
        ("-format_whitelist", ""),
        ("-f", "hls"),
        ("-f", "concat"),
        ("-f", "png_pipe"),
        ("-f", "lavfi"),
        ("-max_pixels", "99999999999"),
        ("-max_streams", "99999999"),
        ("-probesize", "5000000000"),
        ("-max_pixels", "many"),
        ("-i", "file:my film.mp4"),
        ("-i", "file:Holiday.mp4"),
        ("-i", "file:../uploads/x.mp4"),
        ("-i", f"file:/data/uploads/{ID}"),
        ("-i", ID),
        ("-i", f"concat:{ID}|{ID}"),
        ("-i", f"subfile,,start,0,end,0,,:{ID}"),
        ("-i", f"http://127.0.0.1/{ID}"),
        ("-i", "file:%03d.png"),
        ("-map_metadata", "0"),
        ("-map_chapters", "0"),
        ("-progress", "http://127.0.0.1/"),
        ("-filter:v", "movie=/etc/hostname"),
        ("-filter:v", "trim=start_pts=1,drawtext=text='Anna'"),
        ("-filter:v", "subtitles=x.srt"),
        ("-filter:v", "lut3d=a.cube"),
        ("-filter:v", "null,null@x,amovie=x"),
        ("-filter:v", "scale=640:360:textfile=x"),
        ("-filter:v", "fade=t=in\n;movie=x"),
        ("-filter:v", "fade=t=Zoë"),
    ],
)
def test_an_option_that_opens_a_way_out_is_found(option: str, value: str) -> None:
    assert faults(swap(option, value)) != []


@pytest.mark.parametrize(
    "more",
    [
        ("-report",),
        ("-attach", "x"),
        ("-dump_attachment", "x"),
        ("-passlogfile", "x"),
        ("-filter_complex_script", "x"),
        ("-/filter_complex", "x"),
        ("-enable_drefs", "1"),
        ("-use_absolute_path", "1"),
        ("-metadata", "title=Anna"),
        ("file:other.mp4.part",),
        ("-f", "concat", "-i", "file:list.ffconcat"),
        (
            "-f",
            "concat",
            "-format_whitelist",
            "concat,mov",
            "-safe",
            "0",
            "-i",
            "file:list.ffconcat",
        ),
        ("-f", "png_pipe", "-i", "file:title.png"),
        ("-protocol_whitelist", "file", "-f", "png_pipe", "-i", f"file:{ID}"),
        ("-protocol_whitelist", "file", "-f", "image2", "-i", "file:title.png"),
        ("-f", "lavfi", "-i", "movie=x.mp4"),
        ("-f", "lavfi", "-i", "color=c=red,movie=x"),
        ("-f", "lavfi", "-i", "color=c='red'"),
        ("-f", "lavfi", "-i", "testsrc2=s=640x360,drawtext=textfile=/etc/hostname"),
        ("-i", "file:title.png"),
        ("-i", "logo.svg"),
    ],
)
def test_an_option_or_input_that_is_not_known_is_found(more: tuple[str, ...]) -> None:
    arguments = a_trim()
    at = arguments.index("-map")
    assert faults([*arguments[:at], *more, *arguments[at:]]) != []


def test_an_output_with_somebodys_name_is_found() -> None:
    for name in ("file:my film.mp4.part", "file:../x.mp4.part", "made.mp4", "file:made.mp4", "/x"):
        assert faults([*a_trim()[:-1], name]) != []


# --- what the recorder makes of the processes that were started -------------------------------------


def started(*command: str, guarded: bool = True, by: str = "app/infrastructure/x.py") -> Started:
    guard = ("python", "-I", "-S", str(GUARD), "1", "limits", "0", "0", "0", "0", "--")
    return Started(by, 1, (*guard, *command) if guarded else command)


def test_a_recorded_run_is_judged_behind_guard_and_sandbox() -> None:
    bubblewrap = ("/usr/bin/bwrap", "--unshare-all", "--chdir", "/x", "--")
    assert judge([started(*bubblewrap, "/opt/ffmpeg", *a_trim())]) == []
    assert judge([started("/opt/ffmpeg", *a_trim(), guarded=False)]) != []
    assert judge([started(*bubblewrap, "/opt/ffmpeg", "-i", "x", "y")]) != []
    assert judge([started("/opt/tool", "-i", "x", "y")]) != []


def test_asking_ffmpeg_what_it_can_is_right_without_a_guard() -> None:
    assert judge([started("/opt/ffmpeg", "-hide_banner", "-encoders", guarded=False)]) == []


def test_only_programs_of_the_service_may_be_started_beside_ffmpeg() -> None:
    probe = str(Path(GUARD).with_name("probe_child.py"))
    assert judge([started(sys.executable, "-I", probe, "{}")]) == []
    assert judge([started("/bin/sh", "-c", "true")]) != []
    assert judge([started("/bin/sh", "-c", "true")], own_commands=True) == []
    assert judge([started(sys.executable, "-c", "print()")]) != []


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet"
    line = '{"by": "app/x.py", "pid": 1, "arguments": ["ffmpeg", "-version"]}\n'
    sheet.write_text(line + line[:20])
    reader = Reader(sheet)
    assert len(reader.read()) == 1
    assert reader.read() == []
    sheet.write_text(line + line)
    assert len(reader.read()) == 1
    assert reader.read() == []
