"""What is measured: an operation of ours, and the plain FFmpeg line that a person would write."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from app.operations.base import ClipInput, Plan
from benchmarks.media.workbench import Workbench

INTRO = {"team": "Harbour Engineering", "full_name": "Ada Lovelace", "role": "Analyst"}
PREVIEW_SECONDS, QUICK_SECONDS = 30, 8
"""How long the clip of a preview is, unless all clips are as short as this."""
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac", "-b:a", "192k", "-ar", "48000", "-ac", "2")


@dataclass(frozen=True, slots=True)
class Row:
    """One pair. ``must`` and ``stretch`` bound ours to the plain one's time; both run in seconds."""

    key: str
    title: str
    plain: str
    must: float
    stretch: float
    ours: Callable[[], Awaitable[float]]
    theirs: Callable[[], Awaitable[float]]


def _name(number: int) -> str:
    return f"{number:032x}"


async def make_clip(bench: Workbench, seconds: int) -> Path:
    """Make a 1080p clip of moving patterns, a little noise and a tone: some 7 Mbit a second."""
    path = bench.folder / f"clip-{seconds}.mp4"
    picture = f"testsrc2=s=1920x1080:r=30:d={seconds},noise=alls=2:allf=t"
    await bench.bare(
        *("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", f"sine=f=440:r=48000:d={seconds}"),
        *(*X264, "-crf", "20", "-g", "60", *AAC, "-shortest", "-movflags", "+faststart", path.name),
    )
    return path


async def rows(bench: Workbench, seconds: int) -> list[Row]:
    """Prepare the clips and return the rows. ``seconds``: how long the clips are."""
    clip = await make_clip(bench, seconds)
    source = await bench.source(clip, _name(1))
    threads = ("-threads", str(bench.threads))
    out = ("-threads", str(bench.threads), "-movflags", "+faststart", "plain.mp4")
    shown = await make_clip(bench, PREVIEW_SECONDS) if seconds > QUICK_SECONDS else clip
    shown_seconds = min(seconds, PREVIEW_SECONDS) if shown == clip else PREVIEW_SECONDS
    begin, length = seconds / 4, seconds / 2
    span = ("-ss", f"{begin}", "-i", clip.name, "-t", f"{length}")

    def ours(plan: Plan) -> Callable[[], Awaitable[float]]:
        return lambda: bench.run(plan)

    def plain(*arguments: str) -> Callable[[], Awaitable[float]]:
        return lambda: bench.bare(*arguments, *out)

    same = ("-i", clip.name, *X264, "-crf", "20", *AAC)
    cut = {"start": begin, "end": begin + length}
    return [
        Row(
            "template",
            f"intro over {seconds} s of 1080p, three elements",
            "re-encode of the clip, nothing drawn",
            1.25,
            1.1,
            ours(bench.plan("intro", INTRO, [source])),
            plain(*threads, *same),
        ),
        await _concatenation(bench, clip, out),
        Row(
            "preview",
            f"preview of {shown_seconds} s of 1080p",
            "re-encode of the same at full size",
            1 / 3,
            0.1,
            ours(
                bench.plan(
                    "trim-preview",
                    {"start": 0, "end": shown_seconds},
                    [await bench.source(shown, _name(2))],
                )
            ),
            plain(*threads, "-i", shown.name, *X264, "-crf", "20", *AAC),
        ),
        Row(
            "exact trim",
            f"exact trim of {length:g} s out of {seconds} s",
            "`-ss` and `-t` with the same encoder settings",
            1.1,
            0.3,
            ours(bench.plan("trim", cut, [source])),
            plain(*threads, *span, *X264, "-crf", "18", *AAC),
        ),
        await _own_trim(bench, clip, seconds, out),
        Row(
            "copy trim",
            f"the same trim as a copy from the keyframe before ({length:g} s)",
            "`-ss` and `-t` with the same encoder settings",
            1.1,
            0.3,
            ours(bench.plan("trim", {**cut, "mode": "copy"}, [source])),
            plain(*threads, *span, *X264, "-crf", "18", *AAC),
        ),
    ]


async def _own(bench: Workbench, clip: Path, name: str) -> tuple[ClipInput, str]:
    """Render an own output, which has the house profile; return it as an input, and its file."""
    plan = bench.plan("intro", INTRO, [await bench.source(clip, _name(1))])
    await bench.run(plan)
    made = bench.folder / plan.outputs[0].file
    own = bench.folder / f"own-{name}.mp4"
    await asyncio.to_thread(made.rename, own)
    return await bench.source(own, name), own.name


async def _own_trim(bench: Workbench, clip: Path, seconds: int, out: tuple[str, ...]) -> Row:
    """An exact cut of an own output, both ends between keyframes: little has to be encoded."""
    source, file = await _own(bench, clip, _name(3))
    begin, length = seconds / 10 + 0.3, seconds * 0.8
    span = ("-ss", f"{begin}", "-i", file, "-t", f"{length}")
    cut = bench.plan("trim", {"start": begin, "end": begin + length}, [source])
    return Row(
        "own trim",
        f"exact trim of {length:g} s out of {seconds} s of an own output",
        "`-ss` and `-t` with the same encoder settings",
        1.1,
        0.3,
        lambda: bench.run(cut),
        lambda: bench.bare("-threads", str(bench.threads), *span, *X264, "-crf", "18", *AAC, *out),
    )


async def _concatenation(bench: Workbench, clip: Path, out: tuple[str, ...]) -> Row:
    """Five of our own outputs joined; the plain line encodes anew."""
    names, sources = [_name(10 + n) for n in range(5)], []
    for name in names:
        source, _ = await _own(bench, clip, name)
        sources.append(source)
    inputs = [word for name in names for word in ("-i", f"own-{name}.mp4")]
    pads = "".join(f"[{n}:v][{n}:a]" for n in range(5))
    graph = ("-filter_complex", f"{pads}concat=n=5:v=1:a=1[v][a]", "-map", "[v]", "-map", "[a]")
    joined = bench.plan("concatenate", {}, sources)
    return Row(
        "concatenation",
        "five own outputs concatenated",
        "concat filter, everything encoded anew",
        1 / 50,
        1 / 100,
        lambda: bench.run(joined),
        lambda: bench.bare(*inputs, *graph, *X264, "-crf", "20", *AAC, *out),
    )
