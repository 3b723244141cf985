"""Clips in the house profile, encoded as the service does: numbered pictures, a beep each second."""

import subprocess
from pathlib import Path

from app.operations import house_profile
from app.operations.ffmpeg import complete
from tests.fakes.clips import SAMPLE_RATE

SECONDS = 12
SIZE = (320, 180)
CLOSED, OPEN = "stitchable=1:open-gop=0", "stitchable=1:open-gop=1:b-adapt=0"
"""Groups of pictures as we encode them, and such that lean on each other, with the same headers."""
PROMISING = "stitchable=1:open-gop=1:b-adapt=2"
"""Such whose keyframes have nothing shown before them, and yet do not reset the decoder."""
NUMBER = "if(mod(floor(N/pow(2,floor(X/16))),2),220,30)"
"""Of the brightness of a strip over each picture: its number, as ``read_number`` reads it."""
BEEP = "if(lt(mod(t,1),0.06),0.6,0.01)*sin(2*PI*(500+90*mod(floor(t),20))*t)"


def make_house_clip(folder: Path, ffmpeg: str | Path, rate: int = 30, x264: str = CLOSED) -> Path:
    """Return a clip, made on the first call for ``folder``. ``x264``: parameters in place of ours."""
    clip = folder / f"house-{rate}-{x264.replace(':', '-')}.mp4"
    if clip.exists():
        return clip
    width, height = SIZE
    samples = SECONDS * SAMPLE_RATE
    graph = (
        f"testsrc2=s={width}x{height}:r={rate}:d={SECONDS}[b];"
        f"color=s=256x16:r={rate}:d={SECONDS},format=gray,geq=lum='{NUMBER}'[n];"
        f"[b][n]overlay=0:0,{house_profile.last_filters(rate)}[v];"
        f"aevalsrc='{BEEP}|{BEEP}':s={SAMPLE_RATE}:c=stereo:d={SECONDS},"
        f"{house_profile.SOUND_FILTERS},apad=whole_len={samples},atrim=end_sample={samples}[a]"
    )
    options = ("-filter_complex", graph, "-map", "[v]", "-map", "[a]")
    part = clip.with_suffix(".part")
    output = [x264 if option == CLOSED else option for option in house_profile.output(rate)]
    assert x264 in output
    command = complete([*options, *output], threads=2, major=9)
    subprocess.run([str(ffmpeg), "-v", "error", "-nostdin", "-y", *command, str(part)], check=True)
    return part.rename(clip)
