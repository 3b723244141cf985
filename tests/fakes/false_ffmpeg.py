"""An FFmpeg that ends as a clip asks: a script before the real one that reads the clip's last bytes.

A clip says so itself, in a box that players skip, so that renders at the same time may each end in a
way of their own. Everything that says nothing goes to the real FFmpeg.
"""

import shlex
import struct
import subprocess
from enum import StrEnum
from pathlib import Path

MIB = 1024 * 1024
WORD = "tidemill-ending="
SAID_BYTES = 64
BEGUN = "begun"
"""What the script writes where it will never write more."""
BIG_BYTES = 24 * MIB
"""What the script adds to a result: more than all socket buffers between two programs hold."""
FILLER = "nal-hrd=cbr:bitrate=130000:vbv-maxrate=130000:vbv-bufsize=130000"
"""Has x264 write 16 MB a second, whatever the pictures."""


class Ending(StrEnum):
    """What the script does instead of the real FFmpeg, or after it.

    ``BIG`` adds a box of nothing to a result. What is joined loses such a box, so there the encoder
    fills up its packets.
    """

    REAL = "real"
    BIG = "big"
    SLEEPS = "sleeps"
    STALLS = "stalls"
    DEAF = "deaf"
    LEAVES_A_CHILD = "leaves-a-child"
    FAILS = "fails"
    HALF = "half"
    NOTHING = "nothing"
    NO_VIDEO = "no-video"


SCRIPT = r"""#!/bin/sh
# Every FFmpeg is asked three times what it is; jobs begin otherwise.
case "$*" in
-version) cat <<'ANSWER'
{version}
ANSWER
exit 0 ;;
*-encoders) cat <<'ANSWER'
{encoders}
ANSWER
exit 0 ;;
*-filters) cat <<'ANSWER'
{filters}
ANSWER
exit 0 ;;
esac
for last in "$@"; do :; done
part=${{last#file:}}
ending=$(tail -qc {said} ./* 2>/dev/null | tr '\0' '\n' | sed -n 's/^{word}//p' | head -n 1)
tell_progress() {{ printf 'out_time_us=%d\nprogress=continue\n' "$1"; }}
work_for_ever() {{
    done=1000
    while :; do tell_progress $done; done=$((done + 100)); sleep 0.1; done
}}
case "$ending" in
sleeps) tell_progress 1; printf {begun} >"$part"; work_for_ever ;;
stalls) tell_progress 1; printf {begun} >"$part"; exec sleep 600 ;;
deaf) trap '' TERM; printf {begun} >"$part"; work_for_ever ;;
leaves-a-child)
    printf {begun} >"$part"
    trap '' TERM
    setsid sleep 600 </dev/null >/dev/null 2>&1 &
    work_for_ever ;;
fails) echo 'the encoder broke' >&2; exit 1 ;;
half) head -c 100000 /dev/zero >"$part"; kill -9 $$ ;;
nothing) exit 0 ;;
no-video) head -c 100000 /dev/urandom >"$part"; exit 0 ;;
big)
    case "$part" in
    normal*)
        count=$#
        before=
        while [ $count -gt 0 ]; do
            this=$1
            shift
            [ "$before" = -x264-params ] && set -- "$@" "$this:{filler}" || set -- "$@" "$this"
            before=$this
            count=$((count - 1))
        done ;;
    esac
    {real} "$@" || exit $?
    printf '{size}free' >>"$part"; head -c {padding} /dev/zero >>"$part" ;;
*) exec {real} "$@" ;;
esac
"""


def put_false_ffmpeg(path: Path, real: str) -> Path:
    """Write the script in front of ``real`` to ``path`` and return it."""
    size = "".join(f"\\{byte:03o}" for byte in struct.pack(">I", BIG_BYTES))
    text = SCRIPT.format(
        version=_told(real, "-version"),
        encoders=_told(real, "-encoders"),
        filters=_told(real, "-filters"),
        real=shlex.quote(real),
        word=WORD,
        filler=FILLER,
        said=SAID_BYTES,
        begun=BEGUN,
        size=size,
        padding=BIG_BYTES - 8,
    )
    path.write_text(text)
    path.chmod(0o755)
    return path


def with_ending(clip: bytes, ending: Ending, *, at_least: int = 0) -> bytes:
    """Return an MP4 that is played as before and has FFmpeg end so; grown to ``at_least`` bytes."""
    told = say(ending)
    padding = bytes(max(0, at_least - len(clip) - len(told) - 8))
    return clip + struct.pack(">I4s", 8 + len(padding) + len(told), b"free") + padding + told


def say(ending: Ending) -> bytes:
    """Return the last bytes of a clip that has FFmpeg end so, as many for each."""
    return f"\0{WORD}{ending}".encode().ljust(SAID_BYTES, b"\0")


def _told(real: str, question: str) -> str:
    answer = subprocess.run(
        [real, "-hide_banner", question] if question != "-version" else [real, question],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return answer.stdout.rstrip("\n")
