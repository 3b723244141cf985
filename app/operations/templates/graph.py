"""The one run of FFmpeg that shows drawn elements over footage or a drawn ground.

Everything here is made of numbers and of our own names. No text that anybody gave comes near it.
"""

from dataclasses import dataclass, field
from fractions import Fraction

from app.domain.media import AudioInfo, MediaInfo
from app.operations import ffmpeg, house_profile
from app.operations.base import ClipInput
from app.operations.templates.composition import Composition, Dim, Footage, Zoom
from app.operations.templates.motion import (
    FADE_SHARE,
    Cue,
    Drift,
    Entrance,
    gone,
    number,
    to_come,
)
from app.operations.templates.style import Box, Style

NEARLY = Fraction(1, 25)
"""A clip whose shape differs by no more than this is cut to the frame instead of framed."""
DROPPED_SECONDS = Fraction(1, 5)
"""An evenly spaced clip may lack a few pictures at its end: its last one stays for so long."""
BLUR_SHARE = 8
"""A clip's own blurred copy is made at an eighth of its size, where blurring costs nothing."""
BLUR_SIGMA = 12
BLUR_LEFT = 0.5
HANG_UPRIGHT, HANG_SQUARE = 0.32, 0.0
"""Where a clip that is lower than its frame hangs, 0.5 would be its middle: text goes below. In a square
it stands at the top, so that what is left is one field for text instead of two strips.
"""
NEARER = 0.09
"""How much nearer a still comes, from its first moment to its last."""
BLACK_LEVEL = 16 / 255 - 0.5
"""Of TV range, as the filter ``eq`` counts: what darkens must leave black where it is."""
SOUND_TOLERANCE = 0.015
"""Seconds: gaps of the sound up to this long are closed, longer ones become silence."""
PARTING = 0.25
"""Of a cue's travel: how far it goes on while it leaves."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a render is: ``frames`` pictures at ``rate`` a second."""

    frames: int
    rate: int

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.frames, self.rate)


@dataclass
class GraphBuilder:
    """Puts chains of filters together; each step takes the picture so far and leaves a new one."""

    style: Style
    timing: Timing
    is_rtl: bool
    inputs: list[str] = field(default_factory=list)
    chains: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    first_picture: int = 0

    def picture(self, name: str) -> str:
        """Return the label of a drawn picture, which becomes an input."""
        self.inputs += ffmpeg.drawn_picture(name)
        self.names.append(name)
        return f"[{self.first_picture + len(self.names) - 1}:v]"

    def chain(self, source: str, filters: list[str], target: str) -> str:
        self.chains.append(f"{source}{','.join(filters)}{target}")
        return target

    def over(self, below: str, above: str, x: str, y: str, target: str) -> str:
        """Lay one picture over another; where it is not there, nothing is done."""
        where = f"overlay=x='{x}':y='{y}':eof_action=pass:format=yuv420"
        return self.chain(f"{below}{above}", [where], target)

    def shown(self, pixel_format: str) -> list[str]:
        """Return filters that show a drawn picture from the first frame to the last."""
        return [*_drawn(pixel_format), *self.held(self.timing.frames, 0)]

    def held(self, frames: int, first: int) -> list[str]:
        return [
            f"loop=loop={max(frames - 1, 0)}:size=1",
            f"settb=1/{self.timing.rate}",
            f"setpts=N+{first}",
        ]


def _drawn(pixel_format: str) -> list[str]:
    """Return filters that bring what we drew into the colours of the house profile."""
    return [
        "scale=out_color_matrix=bt709:out_range=tv",
        f"format={pixel_format}",
        house_profile.TAGS,
    ]


def render_arguments(
    composition: Composition,
    style: Style,
    timing: Timing,
    clip: ClipInput | None,
    *,
    is_rtl: bool,
) -> tuple[str, ...]:
    """Return the arguments of the run, with ``{<element>_x}`` and the like to be put in."""
    build = GraphBuilder(style, timing, is_rtl, first_picture=1 if clip else 0)
    below = _ground(build, composition)
    if clip is not None and composition.footage is not None:
        below = _footage(build, composition.footage, clip, below)
    if composition.zoom is not None:
        below = _zoom(build, composition.zoom, below)
    for cue in composition.cues:
        below = _cue(build, cue, below)
    build.chain(below, [house_profile.last_filters(timing.rate, timing.frames)], "[picture]")
    build.chain(*_sound(clip.media if clip else None, timing), "[sound]")
    return (
        *("-nostdin", "-xerror", "-copyts", "-filter_complex_threads", ffmpeg.THREADS),
        *(ffmpeg.foreign_clip(clip.name, clip.media) if clip else ()),
        *build.inputs,
        *("-filter_complex", ";".join(build.chains)),
        *("-map", "[picture]", "-map", "[sound]"),
        *house_profile.output(timing.rate),
    )


def _ground(build: GraphBuilder, composition: Composition) -> str:
    ground = composition.ground
    if ground is None:
        return ""
    source = build.picture(ground.name)
    below = build.chain(source, build.shown("yuv420p"), "[ground]")
    for drift in ground.drifts:
        above = build.chain(
            build.picture(drift.name),
            build.shown("yuva420p"),
            f"[{drift.name}]",
        )
        x, y = _drifting(drift)
        below = build.over(below, above, x, y, f"[on_{drift.name}]")
    return below


def _drifting(drift: Drift) -> tuple[str, str]:
    turn = f"2*PI*t/{number(drift.period)}+{number(drift.phase)}"
    return (
        f"({{{drift.name}_x}})+{drift.across}*sin({turn})",
        f"({{{drift.name}_y}})+{drift.down}*cos({turn})",
    )


def _footage(build: GraphBuilder, footage: Footage, clip: ClipInput, below: str) -> str:
    media, timing, box = clip.media, build.timing, footage.box
    begin = [f"setpts=PTS-({media.video.start_pts})", f"fps={timing.rate}:start_time=0"]
    if footage.is_cut or _is_nearly(media, box):
        build.chain("[0:V:0]", [*begin, *_cut_to(media, box), *_colors(media)], "[clip]")
    else:
        build.chain("[0:V:0]", begin, "[whole]")
        _framed(build, media, footage)
    end = [
        f"tpad=stop_mode=clone:stop={_padding(media, timing)}",
        f"trim=end_frame={timing.frames}",
    ]
    darkened = [_dimming(footage.dim)] if footage.dim else []
    shown = build.chain("[clip]", [*end, *darkened], "[footage]")
    if not below:
        return shown
    return build.over(below, shown, str(box.x), str(box.y), "[staged]")


def _is_nearly(media: MediaInfo, box: Box) -> bool:
    width, height = house_profile.upright_size(media.video)
    return abs(Fraction(width, height) / Fraction(box.width, box.height) - 1) <= NEARLY


def _cut_to(media: MediaInfo, box: Box) -> list[str]:
    """Return filters that fill a box with a clip, cut at its edges; none where it has that size."""
    width, height = house_profile.upright_size(media.video)
    scale = max(Fraction(box.width, width), Fraction(box.height, height))
    wide, high = _even(width * scale, box.width), _even(height * scale, box.height)
    if (width, height) == (box.width, box.height) and media.video.sample_aspect in {"1/1", "0/1"}:
        return []
    filters = [f"scale={wide}:{high}", "setsar=1"]
    if (wide, high) != (box.width, box.height):
        filters.append(f"crop={box.width}:{box.height}")
    return filters


def _even(length: Fraction, least: int) -> int:
    return max(round(length / 2) * 2, least)


def _colors(media: MediaInfo) -> list[str]:
    """Return filters for a foreign clip's colours; none where they are the house's already."""
    video = media.video
    told = (video.pixel_format, video.color_space, video.color_range)
    plain = video.color_transfer in {None, "bt709"} and video.color_primaries in {None, "bt709"}
    if plain and told in {("yuv420p", "bt709", "tv"), ("yuv420p", "bt709", None)}:
        return [house_profile.TAGS]
    if plain and video.color_space is None and video.pixel_format == "yuv420p":
        is_bt709 = video.height >= house_profile.HIGH_DEFINITION_LINES
        if is_bt709 and video.color_range in {None, "tv"}:
            return [house_profile.TAGS]
    return [house_profile.color_filters(video)]


def whole_size(media: MediaInfo, box: Box) -> tuple[int, int]:
    """Return width and height of a clip that is shown whole in a box."""
    width, height = house_profile.upright_size(media.video)
    scale = min(Fraction(box.width, width), Fraction(box.height, height))
    return min(_even(width * scale, 2), box.width), min(_even(height * scale, 2), box.height)


def _framed(build: GraphBuilder, media: MediaInfo, footage: Footage) -> None:
    """Show the whole clip over a darkened, blurred copy of itself that fills the box."""
    box = footage.box
    wide, high = whole_size(media, box)
    small = Box(
        0, 0, _even(Fraction(box.width, BLUR_SHARE), 2), _even(Fraction(box.height, BLUR_SHARE), 2)
    )
    build.chain(
        "[whole]",
        [f"scale={wide}:{high}", "setsar=1", *_colors(media), "split"],
        "[sharp][copy]",
    )
    cover = max(Fraction(small.width, wide), Fraction(small.height, high))
    build.chain(
        "[copy]",
        [
            f"scale={_even(wide * cover, small.width)}:{_even(high * cover, small.height)}",
            f"crop={small.width}:{small.height}",
            f"gblur=sigma={BLUR_SIGMA}",
            _darker(number(BLUR_LEFT)),
            f"scale={box.width}:{box.height}:flags=bilinear",
            "setsar=1",
            house_profile.TAGS,
        ],
        "[soft]",
    )
    x = (box.width - wide) // 4 * 2 if footage.left is None else footage.left
    y = round((box.height - high) * hang_of(box) / 2) * 2
    build.over("[soft]", "[sharp]", str(x), str(y), "[clip]")


def hang_of(box: Box) -> float:
    """Return how much of the room that a clip leaves is above it."""
    if box.width == box.height:
        return HANG_SQUARE
    return HANG_UPRIGHT if box.width < box.height else 0.5


def _padding(media: MediaInfo, timing: Timing) -> int:
    """Return for how many frames the last picture may stay: beyond them a clip is damaged.

    Where the rate varies nobody knows how long the last picture is to be seen.
    """
    if not ffmpeg.is_even(media):
        return timing.frames
    return max(round(DROPPED_SECONDS * timing.rate), 1)


def _dimming(dim: Dim) -> str:
    share = f"clip((t-{number(dim.start)})/{number(max(dim.seconds, 0.001))},0,1)"
    eased = f"({share}*{share}*(3-2*{share}))"
    return _darker(f"1-{number(1 - dim.left)}*{eased}") + ":eval=frame"


def _darker(left: str) -> str:
    """Return a filter that leaves so much of the light, an expression of t."""
    brightness = f"{number(BLACK_LEVEL)}*(1-({left}))"
    return f"eq=contrast='{left}':brightness='{brightness}':saturation='{left}'"


def _zoom(build: GraphBuilder, zoom: Zoom, below: str) -> str:
    """Bring a still slowly nearer, to fractions of a pixel: in whole ones it would tremble."""
    frames = build.timing.frames
    share = f"(1-1/(1+{number(NEARER)}*on/{max(frames, 1)}))/2"
    left, top = f"W*{share}", f"H*{share}"
    corners = (
        f"x0='{left}':y0='{top}':x1='W-{left}':y1='{top}'"
        f":x2='{left}':y2='H-{top}':x3='W-{left}':y3='H-{top}'"
    )
    filters = [
        *build.shown("yuv420p"),
        f"perspective={corners}:interpolation=cubic:sense=source:eval=frame",
    ]
    shown = build.chain(build.picture(zoom.name), filters, f"[{zoom.name}]")
    if not below:
        return shown
    return build.over(below, shown, str(zoom.box.x), str(zoom.box.y), f"[on_{zoom.name}]")


def _cue(build: GraphBuilder, cue: Cue, below: str) -> str:
    rate, frames = build.timing.rate, build.timing.frames
    first = min(round(cue.start * rate), frames - 1)
    last = frames if cue.stays else min(max(round(cue.end * rate), first + 1), frames)
    filters = [
        *_drawn("yuva420p"),
        *_room(cue, build.is_rtl),
        *build.held(last - first, first),
        *_window(cue, build.is_rtl),
        *_fades(cue),
    ]
    above = build.chain(build.picture(cue.name), filters, f"[{cue.name}]")
    x, y = _place(cue, build.is_rtl)
    return build.over(below, above, x, y, f"[on_{cue.name}]")


EVEN_WIDTH, EVEN_HEIGHT = "ceil(iw/2)*2", "ceil(ih/2)*2"


def _room(cue: Cue, is_rtl: bool) -> list[str]:
    """Return a filter that makes the empty room an element comes out of, behind its edge."""
    if cue.entrance is Entrance.RISE:
        return [f"pad=w='{EVEN_WIDTH}':h='2*{EVEN_HEIGHT}':x=0:y='{EVEN_HEIGHT}':color=black@0"]
    if cue.entrance is Entrance.GROW:
        x = f"'{EVEN_WIDTH}'" if is_rtl else "0"
        return [f"pad=w='2*{EVEN_WIDTH}':h='{EVEN_HEIGHT}':x={x}:y=0:color=black@0"]
    return []


def _window(cue: Cue, is_rtl: bool) -> list[str]:
    """Return a filter that lets the element come into sight."""
    if cue.entrance is Entrance.RISE:
        return [f"crop=w=iw:h=ih/2:x=0:y='ih/2*(1-{to_come(cue)})'"]
    if cue.entrance is Entrance.GROW:
        share = f"(1-{to_come(cue)})" if is_rtl else to_come(cue)
        return [f"crop=w=iw/2:h=ih:x='iw/2*{share}':y=0"]
    return []


def _fades(cue: Cue) -> list[str]:
    filters = []
    if cue.entrance is not Entrance.AT_ONCE:
        seconds = cue.enter_seconds * FADE_SHARE
        filters.append(f"fade=t=in:st={number(cue.start)}:d={number(seconds)}:alpha=1")
    if not cue.stays:
        leaves = cue.end - cue.leave_seconds
        filters.append(f"fade=t=out:st={number(leaves)}:d={number(cue.leave_seconds)}:alpha=1")
    return filters


def _place(cue: Cue, is_rtl: bool) -> tuple[str, str]:
    """Return where an element is, as expressions of t; on its way it is a little off its place."""
    x, y = f"({{{cue.name}_x}})", f"({{{cue.name}_y}})"
    if not cue.travel:
        return x, y
    leaving = "" if cue.stays else f"-{round(cue.travel * PARTING)}*{gone(cue)}"
    if cue.entrance is Entrance.SLIDE:
        sign = "+" if is_rtl else "-"
        return f"{x}{sign}{cue.travel}*{to_come(cue)}", y
    coming = f"+{cue.travel}*{to_come(cue)}" if cue.entrance is Entrance.LIFT else ""
    return x, f"{y}{coming}{leaving}"


def _sound(media: MediaInfo | None, timing: Timing) -> tuple[str, list[str]]:
    """Return source and filters of the sound: the clip's own, or silence; exactly as long."""
    samples = timing.frames * house_profile.AUDIO_RATE // timing.rate
    if media is None or not _is_heard(media.audio, timing):
        return "", [ffmpeg.silence(samples, house_profile.AUDIO_RATE), house_profile.SOUND_FILTERS]
    origin = ffmpeg.seconds(ffmpeg.start_seconds(media.video))
    return "[0:a:0]", [
        f"atrim=start={origin}",
        f"asetpts=PTS-({origin})/TB",
        f"aresample=async=1:first_pts=0:min_hard_comp={SOUND_TOLERANCE}",
        house_profile.SOUND_FILTERS,
        f"apad=whole_len={samples}",
        f"atrim=end_sample={samples}",
    ]


def _is_heard(audio: AudioInfo | None, timing: Timing) -> bool:
    """Whether any of the sound lies within the render."""
    if audio is None:
        return False
    late = audio.start_seconds is not None and audio.start_seconds >= timing.seconds
    over = audio.end_seconds is not None and audio.end_seconds <= 0
    return not (late or over)
