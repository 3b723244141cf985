"""The clips of the end-to-end tests, and the proof that a file is a certain cut of one of them."""

import subprocess
from pathlib import Path
from typing import Any

import av
import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray

from tests.fakes import clips

SAME_PICTURE = 4.0
"""Mean difference of brightness that an encoder may make; unlike pictures differ by about 40."""
EXACT_SECONDS = 0.010


def ffmpeg(*arguments: str | Path) -> None:
    """Run FFmpeg to its end."""
    command = [get_ffmpeg_exe(), "-y", "-v", "error", "-nostdin", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=120)


def make_clip(folder: Path, *, seconds: float, width: int, height: int) -> Path:
    """Make an H.264 + AAC clip of 30 fps with a number in every picture and a beep every second.

    Keyframes lie so that a cut at a whole second does not meet one by luck.
    """
    spec = clips.ClipSpec(seconds=seconds, width=width, height=height)
    smooth = clips.make_clip(folder, get_ffmpeg_exe(), spec)
    clip = folder / "clip.mp4"
    # Grain that no encoder can predict: a file that is small enough for socket buffers cannot be
    # cut off in the middle.
    encode = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "18", "-g", "37", "-c:a", "copy")
    ffmpeg("-i", smooth, "-vf", "noise=alls=8:allf=t", *encode, clip)
    smooth.unlink()
    return clip


def assert_is_cut(result: Path, source: Path, *, start: float, end: float) -> None:
    """Check that ``result`` is exactly the source's pictures and sound of that stretch."""
    made, original = clips.read_frames(result), clips.read_frames(source)
    assert [picture.number for picture in original] == list(range(len(original)))
    begin = float(original[0].time)
    wanted = [p for p in original if start - 1e-4 <= float(p.time) - begin < end - 1e-4]
    assert [picture.number for picture in made] == [picture.number for picture in wanted]
    zero = float(made[0].time)
    for picture, of_source in zip(made, wanted, strict=True):
        difference = clips.difference(picture.luma, of_source.luma)
        assert difference < SAME_PICTURE, f"picture {of_source.number} differs by {difference}"
        late = (float(picture.time) - zero) - (float(of_source.time) - begin - start)
        assert abs(late) < 0.002
    _assert_sound(result, source, start=start, end=end, zero=zero, begin=begin)


def _assert_sound(
    result: Path, source: Path, *, start: float, end: float, zero: float, begin: float
) -> None:
    length = end - start
    heard, heard_from = clips.read_sound(result)
    original, original_from = clips.read_sound(source)
    assert abs(heard_from - zero) <= EXACT_SECONDS
    assert abs(_end_of_sound(result) - zero - length) <= EXACT_SECONDS
    for first, last in ((0.0, length), (0.0, 1.0), (length - 1.0, length)):
        late = clips.lag_seconds(
            _stretch(heard, zero + first - heard_from, last - first),
            _stretch(original, begin + start + first - original_from, last - first),
        )
        assert abs(late) <= EXACT_SECONDS, f"{first}..{last} s is {late * 1000:.1f} ms late"


def _stretch(
    samples: NDArray[np.float32], start_seconds: float, seconds: float
) -> NDArray[np.float32]:
    """The samples of a stretch; silence where there are none."""
    rate = clips.SAMPLE_RATE
    places = np.arange(round(seconds * rate)) + round(start_seconds * rate)
    inside = (places >= 0) & (places < len(samples))
    found = np.zeros(len(places), np.float32)
    found[inside] = samples[places[inside]]
    return found


def _end_of_sound(path: Path) -> float:
    """When the sound ends, by the container: the last AAC frame is longer than what is played."""
    with av.open(str(path)) as container:
        return max(_end(packet) for packet in container.demux(audio=0) if packet.pts is not None)


def _end(packet: Any) -> float:
    return float((packet.pts + packet.duration) * packet.time_base)
