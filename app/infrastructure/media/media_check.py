"""Examines FFmpeg and the sandbox for ``tidemill doctor``, by really using them."""

from pathlib import Path
from typing import Literal

from app.infrastructure.media.ffmpeg_locator import (
    FFmpeg,
    FFmpegUnusableError,
    list_missing,
    locate_ffmpeg,
)
from app.infrastructure.media.process_runner import Command, guarded, run_briefly
from app.infrastructure.media.sandbox import (
    Sandbox,
    SandboxLevel,
    SandboxUnavailableError,
    detect_sandbox,
)
from app.services.diagnosis import Finding, failure, note, ok, warning

FFMPEG, SANDBOX = "ffmpeg", "sandbox"

DECODERS: tuple[tuple[str, ...], ...] = (
    ("h264",),
    ("hevc",),
    ("vp8", "libvpx"),
    ("vp9", "libvpx-vp9"),
    ("av1", "libdav1d", "libaom-av1"),
    ("mpeg4",),
    ("mpeg2video",),
    ("prores",),
    ("aac",),
    ("mp3", "mp3float"),
    ("opus", "libopus"),
    ("vorbis", "libvorbis"),
    ("flac",),
    ("ac3",),
    ("pcm_s16le",),
)
"""What uploads often hold; any decoder of a group does."""
FILTERS = (
    "trim",
    "setpts",
    "crop",
    "fps",
    "scale",
    "setsar",
    "atrim",
    "asetpts",
    "aresample",
    "apad",
    "pad",
    "setparams",
    "format",
    "tpad",
    "zscale",
    "tonemap",
    "pan",
    "aformat",
    "acrossfade",
    "anullsrc",
)
"""What operations use beyond what a usable FFmpeg must have."""
TRIAL_SECONDS = 30.0

SandboxMode = Literal["auto", "require", "off"]


def examine_media(ffmpeg_path: Path | None, mode: SandboxMode) -> list[Finding]:
    """Look for FFmpeg and the sandbox, and encode a moment of video in it. Takes about a second."""
    try:
        sandbox = detect_sandbox(mode)
    except SandboxUnavailableError as error:
        todo = "install bubblewrap, or set TIDEMILL_SANDBOX=auto"
        return [failure(SANDBOX, str(error), todo)]
    findings = [_examine_sandbox(sandbox, mode)]
    try:
        ffmpeg = locate_ffmpeg(str(ffmpeg_path) if ffmpeg_path else None)
    except FFmpegUnusableError as error:
        todo = "install FFmpeg, or correct TIDEMILL_FFMPEG_PATH; until then jobs wait in the queue"
        findings.append(failure(FFMPEG, str(error), todo))
    else:
        findings += [_examine_abilities(ffmpeg), _encode(ffmpeg, sandbox)]
    return findings


def _examine_sandbox(sandbox: Sandbox, mode: SandboxMode) -> Finding:
    if mode == "off":
        todo = "unset TIDEMILL_SANDBOX, unless the whole service is shut in by other means"
        return note(SANDBOX, "turned off: FFmpeg runs under resource limits alone", todo)
    if sandbox.level is SandboxLevel.LIMITS:
        what = (
            "FFmpeg runs under resource limits alone: neither bubblewrap nor namespaces work here"
        )
        todo = (
            "install bubblewrap (apt-get install bubblewrap) or allow unprivileged user namespaces; "
            "TIDEMILL_SANDBOX=off accepts it"
        )
        return warning(SANDBOX, what, todo)
    if sandbox.level is SandboxLevel.NO_NETWORK:
        what = "FFmpeg has no network, but sees the file system as the service does"
        return note(SANDBOX, what, "for more: install bubblewrap (apt-get install bubblewrap)")
    return ok(SANDBOX, f"{sandbox.level.value}: FFmpeg sees its job's folder and nothing else")


def _examine_abilities(ffmpeg: FFmpeg) -> Finding:
    there = f"{ffmpeg.version} at {ffmpeg.path} ({ffmpeg.source})"
    if missing := list_missing(ffmpeg.path, "-filters", FILTERS):
        what = f"{there} lacks the filters {', '.join(missing)}: jobs will fail"
        return failure(FFMPEG, what, "install a complete FFmpeg (apt-get install ffmpeg)")
    every = tuple(name for group in DECODERS for name in group)
    absent = set(list_missing(ffmpeg.path, "-decoders", every))
    lacking = [group[0] for group in DECODERS if set(group) <= absent]
    if lacking:
        what = f"{there} cannot read {', '.join(lacking)}: jobs on such clips will fail"
        return warning(FFMPEG, what, "install a complete FFmpeg (apt-get install ffmpeg)")
    return ok(FFMPEG, f"{there}, with all encoders, decoders and filters that are used")


def _encode(ffmpeg: FFmpeg, sandbox: Sandbox) -> Finding:
    """Encode half a second of black and silence, as a job does: under the guard, in the sandbox."""
    arguments = (
        *(str(ffmpeg.path), "-v", "error", "-nostdin"),
        *("-f", "lavfi", "-i", "color=c=black:s=64x64:r=10:d=0.5"),
        *("-f", "lavfi", "-t", "0.5", "-i", "anullsrc=r=48000:cl=mono"),
        *("-map", "0:v", "-map", "1:a", "-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1"),
        *("-pix_fmt", "yuv420p", "-c:v", "libx264", "-c:a", "aac", "-threads", "1"),
        *("-movflags", "frag_keyframe+empty_moov", "-f", "mp4", "pipe:1"),
    )
    command = Command(arguments, Path("/usr"), readable=(ffmpeg.path,), writable=False)
    done = run_briefly(guarded(command, sandbox), timeout_seconds=TRIAL_SECONDS)
    if done.succeeded and "ftyp" in done.stdout[:16]:
        return ok(FFMPEG, f"it encoded a moment of video in the sandbox ({sandbox.level.value})")
    why = done.stderr.strip().rpartition("\n")[2][:200] or "it wrote nothing"
    what = f"it could not encode a moment of video in the sandbox ({sandbox.level.value}): {why}"
    todo = "use a self-contained FFmpeg or the system's, or set TIDEMILL_SANDBOX=off"
    return failure(FFMPEG, what, todo)
