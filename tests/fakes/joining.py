"""Clips for concatenations, made with FFmpeg, and a reader of what came of them.

Each second begins with a flash of the whole picture and a beep, so that any result tells whether
sound and pictures are still together; the colour of a clip's picture tells which clip it is.
"""

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from app.operations import house_profile
from app.operations.base import ClipInput, Plan
from app.operations.concatenate import Concatenate, ConcatenateParams
from app.operations.ffmpeg import complete
from tests.fakes.clips import SAMPLE_RATE, read_sound
from tests.fakes.media_bench import MediaBench

FLASH_SECONDS = 0.12
LEVELS = {"black": 16, "dark": 60, "grey": 120, "flash": 235}


@dataclass(frozen=True)
class Mark:
    """A clip of one brightness with marks. ``level``: the luma of its picture between the flashes."""

    seconds: float = 2.0
    rate: str = "30"
    width: int = 320
    height: int = 180
    level: int = 60
    codec: str = "libx264"
    container: str = "mp4"
    audio: str | None = "aac"
    sound_seconds: float | None = None
    sound_rate: int = 48_000
    layout: str = "stereo"
    pixel_format: str = "yuv420p"
    sample_aspect: str = "1/1"
    rotation: int = 0
    variable: bool = False
    hdr: bool = False
    is_house: bool = False
    timescale: int = 0

    @property
    def name(self) -> str:
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return f"mark-{digest}.{self.container}"


def make_mark(folder: Path, ffmpeg: str | Path, mark: Mark) -> Path:
    """Return a clip as specified, made on the first call for ``folder``."""
    clip = folder / mark.name
    if clip.exists():
        return clip
    folder.mkdir(parents=True, exist_ok=True)
    part = clip.with_name(f"part-{clip.name}")
    command = [str(ffmpeg), "-v", "error", "-nostdin", "-y", *_sources(mark)]
    subprocess.run([*command, *_encoded(mark), str(part)], check=True)
    if mark.rotation:
        turned = clip.with_name(f"turned-{clip.name}")
        command = [str(ffmpeg), "-v", "error", "-nostdin", "-y"]
        command += ["-display_rotation", str(-mark.rotation), "-i", str(part), "-c", "copy"]
        subprocess.run([*command, str(turned)], check=True)
        part.unlink()
        part = turned
    part.rename(clip)
    return clip


def _sources(mark: Mark) -> list[str]:
    # A little texture, so that encoders have something to keep; the flash covers all of it.
    shade = f"color=c=black:s={mark.width}x{mark.height}:r={mark.rate}:d={mark.seconds}"
    luma = f"if(lt(mod(T,1),{FLASH_SECONDS}),235,{mark.level}+2*mod(X+Y,2))"
    pictures = f"{shade},geq=lum='{luma}':cb=128:cr=128"
    found = ["-f", "lavfi", "-i", pictures]
    if mark.audio:
        channels = "|".join([f"0.5*lt(mod(t,1),{FLASH_SECONDS})*sin(2*PI*880*t)"] * _channels(mark))
        length = mark.sound_seconds or mark.seconds
        sound = f"aevalsrc='{channels}':s={mark.sound_rate}:c={mark.layout}:d={length}"
        found += ["-f", "lavfi", "-i", sound]
    return found


def _channels(mark: Mark) -> int:
    return {"mono": 1, "stereo": 2, "5.1": 6}[mark.layout]


def _encoded(mark: Mark) -> list[str]:
    if mark.is_house:
        rate = int(mark.rate)
        frames = round(mark.seconds * rate)
        samples = frames * SAMPLE_RATE // rate
        exact = f"{house_profile.SOUND_FILTERS},apad=whole_len={samples},atrim=end_sample={samples}"
        options = ["-filter:v", house_profile.last_filters(rate), "-filter:a", exact]
        return complete([*options, *house_profile.output(rate)], threads=2, major=9)
    filters = [f"setsar={mark.sample_aspect}", f"format={mark.pixel_format}"]
    if mark.variable:
        filters.append("select='eq(mod(n,7),0)+eq(mod(n,7),1)+eq(mod(n,7),4)+lt(mod(t,1),0.15)'")
    if mark.hdr:
        filters.append("setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc")
    options = ["-vf", ",".join(filters), "-fps_mode", "passthrough", "-c:v", mark.codec]
    if mark.codec in {"libx264", "libx265"}:
        options += ["-preset", "ultrafast", "-crf", "14"]
        options += ["-x265-params", "log-level=none"] if mark.codec == "libx265" else []
    else:
        options += ["-deadline", "realtime", "-cpu-used", "8", "-b:v", "400k"]
    options += ["-c:a", mark.audio] if mark.audio else []
    options += ["-video_track_timescale", str(mark.timescale)] if mark.timescale else []
    return options


async def plan_of(
    bench: MediaBench,
    clips: Sequence[Path],
    params: ConcatenateParams | None = None,
    most: int = 20,
) -> Plan:
    """Link clips into the bench's folder as a worker does, probe them and plan."""
    found = []
    for clip in clips:
        name = hashlib.sha256(str(clip).encode()).hexdigest()[:32]
        link = bench.folder / name
        if not link.exists():
            link.hardlink_to(clip)
        digest = hashlib.sha256(clip.read_bytes()).hexdigest()
        found.append(ClipInput(name, await bench.probe.probe(link), clip.name, digest))
    return Concatenate(most).plan(params or ConcatenateParams(), found)


async def concatenate(
    bench: MediaBench, clips: Sequence[Path], params: ConcatenateParams | None = None
) -> tuple[Path, Plan]:
    """Return the result in the bench's folder, and its plan."""
    plan = await plan_of(bench, clips, params)
    for step in plan.steps:
        await bench.run(step)
    (output,) = plan.outputs
    return bench.folder / output.file, plan


# --- reading results ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What a file shows and lets hear: per picture its time and the brightness of its middle."""

    times: list[float]
    levels: NDArray[np.float32]
    sound: NDArray[np.float32]
    sound_begin: float

    @property
    def flashes(self) -> list[float]:
        """When pictures turn bright, in seconds."""
        bright = self.levels > (LEVELS["flash"] + 120) / 2
        return [
            time
            for place, time in enumerate(self.times)
            if bright[place] and (place == 0 or not bright[place - 1])
        ]

    @property
    def beeps(self) -> list[float]:
        """When loud sound begins after at least 0.2 s without any, in seconds."""
        loud = np.flatnonzero(np.abs(self.sound) > 0.1)
        begins = loud[np.flatnonzero(np.diff(loud, prepend=-SAMPLE_RATE) > 0.2 * SAMPLE_RATE)]
        return [self.sound_begin + int(each) / SAMPLE_RATE for each in begins]


def read(path: Path) -> Heard:
    times, levels = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            plane = frame.planes[0]
            rows = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)
            high, wide = frame.height, frame.width
            levels.append(rows[high // 3 : 2 * high // 3, wide // 3 : 2 * wide // 3].mean())
            times.append(float(frame.time or 0))
    sound, begin = read_sound(path)
    return Heard(times, np.array(levels, np.float32), sound, begin)


def worst_gap(heard: Heard) -> float:
    """Return by how much the time between two pictures is off from the usual, at most, in seconds."""
    steps = np.diff(heard.times)
    return float(np.abs(steps - np.median(steps)).max())


def off_sync(heard: Heard) -> list[float]:
    """Return for each beep how far the nearest flash is from it, in seconds."""
    flashes = np.array(heard.flashes)
    return [float(np.abs(flashes - beep).min()) for beep in heard.beeps]


def stamps(path: Path) -> dict[str, list[tuple[Fraction, Fraction, Fraction]]]:
    """Return time of showing, of decoding and length of each packet, by kind of stream."""
    found: dict[str, list[tuple[Fraction, Fraction, Fraction]]] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size and packet.pts is not None and packet.dts is not None:
                tick = packet.time_base
                times = (packet.pts * tick, packet.dts * tick, (packet.duration or 0) * tick)
                found.setdefault(packet.stream.type, []).append(times)
    return found
