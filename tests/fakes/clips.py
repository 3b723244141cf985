"""Real clips for tests, made with FFmpeg: every picture carries its number, every second a beep.

Picture ``n`` of a clip at rate ``r`` was drawn for the moment n/r; the number is burnt in as black
and white blocks along the upper edge, below it lies a pattern that no other picture has. Beep ``k``
sounds at second k, each at its own pitch. So a test can say of any result which pictures of the
source it holds, at which times, and where its sound was cut.
"""

import hashlib
import subprocess
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

BITS = 16
BLOCK = 16
"""Side of a block of the burnt-in number, in pixels; the number is BITS * BLOCK wide."""
SAMPLE_RATE = 48_000
BEEP_SECONDS = 0.06

BT709 = "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"

Plane = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ClipSpec:
    """What a clip is like. ``shift_seconds`` moves all its timestamps (matroska and mpegts);
    ``audio_delay_seconds`` lets the sound begin later, or earlier when negative.
    """

    seconds: float = 10.0
    rate: str = "30"
    width: int = 320
    height: int = 180
    codec: str = "libx264"
    container: str = "mp4"
    audio: str | None = "aac"
    channels: int = 2
    gop: int = 60
    b_frames: int = 3
    open_gop: bool = True
    variable: bool = False
    rotation: int = 0
    ten_bit: bool = False
    moov_at_end: bool = False
    shift_seconds: float = 0.0
    audio_delay_seconds: float = 0.0
    color: bool = True

    @property
    def name(self) -> str:
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return f"clip-{digest}.{self.container}"

    @property
    def frame_count(self) -> int:
        return round(self.seconds * Fraction(self.rate))

    def shows(self, number: int) -> bool:
        """Whether picture ``number`` is in the clip: variable ones leave out some."""
        return not self.variable or (number % 7 in {0, 1, 4} and not 33 <= number < 48)


def make_clip(folder: Path, ffmpeg: str | Path, spec: ClipSpec) -> Path:
    """Return a clip as specified, made on the first call for ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = folder / spec.name
    if clip.exists():
        return clip
    sound = folder / f"{spec.name}.wav"
    sound.write_bytes(b"")
    write_beeps(sound, spec.seconds, spec.channels)
    unturned = folder / f"unturned-{spec.name}" if spec.rotation else clip
    unfinished = unturned.with_name(f"part-{unturned.name}")
    command = [str(ffmpeg), "-v", "error", "-nostdin", "-y", *_inputs(spec, sound)]
    command += [*_video(spec), *_audio(spec), *_container(spec), str(unfinished)]
    _run(command, pictures=_pictures(spec))
    if spec.rotation:
        _turn(ffmpeg, unfinished, unfinished.with_name(f"part-{clip.name}"), spec.rotation)
        unfinished.unlink()
        unfinished = unfinished.with_name(f"part-{clip.name}")
    sound.unlink()
    unfinished.rename(clip)
    return clip


def _inputs(spec: ClipSpec, sound: Path) -> list[str]:
    pixel_format = "yuv420p10le" if spec.ten_bit else "yuv420p"
    pictures = ["-f", "rawvideo", "-pix_fmt", pixel_format, "-s", f"{spec.width}x{spec.height}"]
    pictures += ["-framerate", spec.rate, "-i", "pipe:0"]
    if spec.audio is None:
        return pictures
    return [*pictures, "-itsoffset", str(spec.audio_delay_seconds), "-i", str(sound)]


def _video(spec: ClipSpec) -> list[str]:
    options = ["-map", "0:v", "-c:v", spec.codec, "-g", str(spec.gop)]
    filters = [BT709] if spec.color else []
    if spec.variable:
        chosen = "(eq(mod(n,7),0)+eq(mod(n,7),1)+eq(mod(n,7),4))*not(between(n,33,47))"
        filters.append(f"select='{chosen}'")
    options += ["-vf", ",".join(filters) or "null", "-fps_mode", "passthrough"]
    if spec.codec == "libx264":
        options += ["-preset", "ultrafast", "-crf", "12", "-bf", str(spec.b_frames)]
        options += ["-x264-params", f"open-gop={int(spec.open_gop)}:scenecut=0"]
    elif spec.codec == "libx265":
        gop = f"open-gop={int(spec.open_gop)}:bframes={spec.b_frames}:keyint={spec.gop}"
        options += ["-preset", "ultrafast", "-crf", "14", "-tag:v", "hvc1"]
        options += ["-x265-params", f"{gop}:log-level=none"]
    elif spec.codec == "libvpx-vp9":
        options += ["-deadline", "realtime", "-cpu-used", "8", "-crf", "16", "-b:v", "0"]
    else:
        options += ["-q:v", "2"]
    return options


def _audio(spec: ClipSpec) -> list[str]:
    if spec.audio is None:
        return []
    return ["-map", "1:a", "-c:a", spec.audio, "-b:a", "160k"]


def _container(spec: ClipSpec) -> list[str]:
    options = ["-metadata", "title=A secret title", "-metadata", "location=+48.2+016.3/"]
    if spec.shift_seconds:
        options += ["-output_ts_offset", str(spec.shift_seconds)]
    if spec.container in {"mp4", "mov"} and not spec.moov_at_end:
        options += ["-movflags", "+faststart"]
    return options


def _turn(ffmpeg: str | Path, source: Path, target: Path, degrees: int) -> None:
    """Copy a clip with a display matrix that turns it clockwise by ``degrees``."""
    command = [str(ffmpeg), "-v", "error", "-nostdin", "-y", "-display_rotation", str(-degrees)]
    _run([*command, "-i", str(source), "-c", "copy", str(target)], pictures=iter(()))


def _run(command: list[str], *, pictures: Iterator[bytes]) -> None:
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for picture in pictures:
            process.stdin.write(picture)
        process.stdin.close()
    assert process.returncode == 0, command


def _pictures(spec: ClipSpec) -> Iterator[bytes]:
    depth, dtype = (4, np.uint16) if spec.ten_bit else (1, np.uint8)
    chroma_size = 2 * ((spec.width + 1) // 2) * ((spec.height + 1) // 2)
    chroma = np.full(chroma_size, 128 * depth, dtype)
    for number in range(spec.frame_count):
        luma = draw(number, spec.width, spec.height)
        yield (luma * depth).astype(dtype).tobytes() + chroma.tobytes()


def draw(number: int, width: int, height: int) -> Plane:
    """Return the brightness (8 bit) of picture ``number``."""
    random = np.random.default_rng(number)
    coarse = random.integers(60, 200, (height // 20 + 1, width // 20 + 1)).astype(np.float32)
    luma = np.kron(coarse, np.ones((20, 20), np.float32))[:height, :width].copy()
    for bit in range(BITS):
        luma[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 220 if number >> bit & 1 else 30
    return luma


def read_number(luma: Plane) -> int:
    """Return the number burnt into an upright picture."""
    centre = slice(BLOCK // 4, 3 * BLOCK // 4)
    number = 0
    for bit in range(BITS):
        block = luma[centre, bit * BLOCK + BLOCK // 4 : (bit + 1) * BLOCK - BLOCK // 4]
        number |= int(block.mean() > 125) << bit
    return number


def write_beeps(path: Path, seconds: float, channels: int) -> None:
    """Write a beep at each full second, and a faint tone so that nothing is mere silence."""
    moments = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    second = np.floor(moments)
    beeping = moments - second < BEEP_SECONDS
    tone = np.sin(2 * np.pi * (500 + 90 * (second % 20)) * moments)
    samples = (np.where(beeping, 0.6, 0.01) * tone * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.repeat(samples, channels).tobytes())


# --- reading results ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A decoded picture: its burnt-in number, its time on the file's clock, its brightness."""

    number: int
    time: Fraction
    luma: Plane


def read_frames(path: Path, *, quarter_turns: int = 0) -> list[Shown]:
    """Return every picture of a file, turned counter-clockwise to be upright again."""
    shown: list[Shown] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            luma = np.rot90(_luma(frame), quarter_turns)
            assert frame.pts is not None
            assert frame.time_base is not None
            shown.append(Shown(read_number(luma), frame.pts * frame.time_base, luma))
    return shown


def _luma(frame: Any) -> Plane:
    plane = frame.planes[0]
    ten_bit = "10" in frame.format.name
    raw = np.frombuffer(plane, np.uint16 if ten_bit else np.uint8)
    rows = raw.reshape(plane.height, plane.line_size // raw.itemsize)[:, : plane.width]
    return rows.astype(np.float32) / (4 if ten_bit else 1)


def difference(one: Plane, other: Plane) -> float:
    """Return the mean difference of brightness, 0..255; unlike pictures differ by about 40."""
    return float(np.abs(one - other).mean())


def read_sound(path: Path) -> tuple[NDArray[np.float32], float]:
    """Return the first channel at ``SAMPLE_RATE`` and when it begins, in seconds."""
    pieces: list[NDArray[np.float32]] = []
    begin: float | None = None
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
        for frame in container.decode(audio=0):
            begin = frame.time if begin is None else begin
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    return np.concatenate(pieces), begin or 0.0


def lag_seconds(heard: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return by how much ``heard`` is later than ``reference``, by cross-correlation."""
    size = 1 << (len(heard) + len(reference)).bit_length()
    product = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(reference, size))
    correlation = np.fft.irfft(product, size)
    peak = int(correlation.argmax())
    return (peak - size if peak > size // 2 else peak) / SAMPLE_RATE
