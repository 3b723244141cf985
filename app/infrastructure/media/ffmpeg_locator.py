"""Finds the FFmpeg to use: the configured one, a capable one of the system, or the wheel's."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imageio_ffmpeg

from app.infrastructure.media.process_runner import run_briefly

ANSWER_SECONDS = 10.0
ENCODERS = ("libx264", "aac")
FILTERS = ("overlay", "fade", "xfade", "concat")

_VERSION = re.compile(r"^ffmpeg version n?([^\s]+)")


class FFmpegUnusableError(RuntimeError):
    """There is no FFmpeg that can do the work; the message says what to do."""


@dataclass(frozen=True, slots=True)
class FFmpeg:
    """A binary that passed the check. ``version`` as it prints it, without a leading n."""

    path: Path
    version: str
    source: Literal["configured", "system", "bundled"]

    @property
    def major(self) -> int:
        """The major version, 0 for builds that have none (a git snapshot)."""
        found = re.match(r"\d+(?=\.)", self.version)
        return int(found[0]) if found else 0


def locate_ffmpeg(configured: str | None) -> FFmpeg:
    """Return the FFmpeg to use. Blocking, for start-up; takes about a quarter of a second.

    A configured one is used or refused, never replaced. Raises ``FFmpegUnusableError``.
    """
    if configured:
        return _configured(configured)
    tried: list[str] = []
    on_path = shutil.which("ffmpeg")
    if on_path:
        version, missing = _examine(Path(on_path))
        if not missing:
            return FFmpeg(Path(on_path).resolve(), version, "system")
        tried.append(f"{on_path}: {missing}")
    bundled = _bundled()
    if bundled is None:
        tried.append("the one of the package imageio-ffmpeg: not there for this platform")
    else:
        version, missing = _examine(bundled)
        if not missing:
            return FFmpeg(bundled, version, "bundled")
        tried.append(f"{bundled}: {missing}")
    msg = (
        f"No usable FFmpeg was found ({'; '.join(tried)}). Install one with libx264 and AAC "
        "(apt-get install ffmpeg), or set TIDEMILL_FFMPEG_PATH to one."
    )
    raise FFmpegUnusableError(msg)


def _configured(configured: str) -> FFmpeg:
    found = shutil.which(configured)
    if found is None:
        trouble = "there is no executable file"
    else:
        version, trouble = _examine(Path(found))
        if not trouble:
            return FFmpeg(Path(found).resolve(), version, "configured")
    msg = (
        f"TIDEMILL_FFMPEG_PATH={configured} cannot be used: {trouble}. Point it at an FFmpeg with "
        "libx264 and AAC, or unset it to use the system's or the bundled one."
    )
    raise FFmpegUnusableError(msg)


def _bundled() -> Path | None:
    try:
        return Path(imageio_ffmpeg.get_ffmpeg_exe()).resolve()
    except RuntimeError:
        return None


def _examine(path: Path) -> tuple[str, str]:
    """Return the version and what is wrong with the binary, "" when nothing is."""
    about = run_briefly([str(path), "-version"], timeout_seconds=ANSWER_SECONDS)
    version = _VERSION.match(about.stdout)
    if not about.succeeded or version is None:
        return "", f"it does not answer to -version ({about.stderr.strip()[:200] or 'no version'})"
    missing = [
        *list_missing(path, "-encoders", ENCODERS),
        *list_missing(path, "-filters", FILTERS),
    ]
    return version[1], f"it lacks {', '.join(missing)}" if missing else ""


def list_missing(path: Path, listing: str, wanted: tuple[str, ...]) -> list[str]:
    """Return those of ``wanted`` that are not in what the binary lists for an option. Blocking."""
    listed = run_briefly(
        [str(path), "-hide_banner", listing], timeout_seconds=ANSWER_SECONDS
    ).stdout
    there = {line.split()[1] for line in listed.splitlines() if len(line.split()) > 1}
    return [name for name in wanted if name not in there]
