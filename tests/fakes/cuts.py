"""Comparing what a cut holds with the clip that it was cut from: pictures, their times, the sound."""

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from tests.fakes.clips import SAMPLE_RATE, Shown, difference, lag_seconds, read_frames, read_sound

LIKE = 9.0
"""Mean difference of brightness between a picture and its re-encoding; unlike ones have 40."""
TEN_MILLISECONDS = 0.010


def wanted(source: list[Shown], start: Fraction, end: Fraction) -> list[Shown]:
    """Return the source's pictures with start <= time < end, times from its first picture."""
    begin = source[0].time
    half_a_millisecond = Fraction(1, 2000)
    return [s for s in source if start <= s.time - begin + half_a_millisecond < end]


@lru_cache(maxsize=4)
def source_frames(clip: Path) -> list[Shown]:
    """Return the pictures of a source, decoded once for the tests that share it."""
    return read_frames(clip)


def assert_same_pictures(
    result: list[Shown], source: list[Shown], start: Fraction, end: Fraction
) -> None:
    expected = wanted(source, start, end)
    assert [s.number for s in result] == [s.number for s in expected]
    for shown, original in zip(result, expected, strict=True):
        assert difference(shown.luma, original.luma) < LIKE
        off = shown.time - (original.time - source[0].time - start)
        assert abs(off) <= Fraction(1, 1000)


def sound_lag(result: Path, source: Path, start: float, end: float) -> float:
    """Return how much later the result's sound is than the same stretch of the source's."""
    heard, begins = read_sound(result)
    original, original_begins = read_sound(source)
    with av.open(str(source)) as container:
        first = next(container.decode(video=0)).time or 0.0
    timeline = np.zeros(int((end + 2) * SAMPLE_RATE), np.float32)
    offset = round((original_begins - first) * SAMPLE_RATE)
    placed = original[max(-offset, 0) :]
    at = max(offset, 0)
    timeline[at : at + len(placed)] = placed[: len(timeline) - at]
    stretch = timeline[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    return lag_seconds(heard, stretch) + begins
