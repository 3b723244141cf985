"""The operation ``concatenate``: clips of any shape, one behind the other, in the order asked for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from app.domain.errors import InvalidParams, MediaOverLimits
from app.domain.jobs import InputRole
from app.domain.media import MediaInfo
from app.operations import concatenate_graph as graph
from app.operations import house_parts, house_profile
from app.operations.base import (
    ClipInput,
    FFmpegStep,
    InputRule,
    Params,
    Plan,
    PlannedOutput,
)
from app.operations.concatenate_graph import Piece
from app.operations.filenames import output_name
from app.operations.house_profile import Frame

OUTPUT_FILE = "joined.mp4"
SOUND_FILE = "sound"
MOST_CLIPS = 20
MOST_SECONDS = 3600
"""Of the clips together."""
FADE_SECONDS = 0.5
ENDS = "only the pictures around its crossfades, and the sound, were encoded"
UNLIKE_ITS_LOOKS = "read in full, a clip is stored otherwise than it seemed"
LEAST_PIXELS = 16
STEREO = 2
SOUND_LOST_SECONDS = 0.1
"""Sound that goes on after the last picture for longer than this is worth a warning."""

Parts = list[dict[str, Any]]
"""What the join is told, as ``house_parts`` makes it."""


class ConcatenateParams(Params):
    """How the clips follow each other, and the shape of the result."""

    transition: Literal["none", "crossfade"] = Field(
        default="none",
        description="What happens between two clips: none is a hard cut; crossfade mixes the end of one"
        " with the beginning of the next, pictures and sound, so that the result is shorter by as much.",
    )
    crossfade_seconds: float | None = Field(
        default=None,
        ge=0.1,
        le=2,
        description=f"How long a crossfade takes; {FADE_SECONDS} when left out. Less than half of each"
        " clip. Only with transition crossfade.",
        examples=[0.5],
    )
    aspect: Literal["16:9", "9:16", "1:1"] | None = Field(
        default=None,
        description="Shape of the result: 1920x1080, 1080x1920 or 1080x1080. Left out: the size of the"
        " first clip, at most that of 1080p. Other clips get bars.",
        examples=["16:9"],
    )

    @model_validator(mode="after")
    def _fades_or_not(self) -> Self:
        if self.transition == "none" and self.crossfade_seconds is not None:
            msg = "crossfade_seconds needs transition crossfade"
            raise ValueError(msg)
        return self


@dataclass(frozen=True, slots=True)
class Target:
    """What the result is like, and whom it takes after."""

    frame: Frame
    because: str
    overlap: int
    """Frames that neighbours share."""


class Concatenate:
    """Joins clips: those of the house profile are copied, only the others are encoded."""

    name: ClassVar[str] = "concatenate"
    description: ClassVar[str] = (
        "Put clips of any shape one behind the other, in the order of the inputs. Clips that this "
        "service rendered are copied when size and frame rate agree, which takes no time to speak of; "
        "all others are brought to the same size and rate first, with silence where they have no "
        "sound. Answers an MP4 with H.264 and AAC."
    )
    params_model: ClassVar[type[Params]] = ConcatenateParams
    work_factor: ClassVar[float] = 4.0
    releases_inputs: ClassVar[bool] = False

    def __init__(self, most_clips: int = MOST_CLIPS) -> None:
        self._rule = InputRule(InputRole.CLIP, 1, most_clips, wants_digest=True)

    @property
    def inputs(self) -> tuple[InputRule, ...]:
        return (self._rule,)

    def plan(self, params: ConcatenateParams, sources: Sequence[ClipInput]) -> Plan:
        """Return the steps. Raises MediaOverLimits (60 min in all), InvalidParams for crossfades that
        are too long for a clip, naming it.
        """
        _check_length(sources)
        target = find_target(params, sources)
        pieces = arrange(sources, target)
        _check_fades(params, pieces, target)
        if all(not piece.is_copied for piece in pieces):
            return _plan(pieces, target)
        encoded = _plan(arrange(sources, target, copies=False), target)
        return _plan(pieces, target, encoded)


def _plan(pieces: Sequence[Piece], target: Target, otherwise: Plan | None = None) -> Plan:
    """Return the plan of these pieces; ``otherwise``: where those that are copied do not fit."""
    steps, pictures, sounds = _steps(pieces, target)
    frames = sum(piece.frames for piece in pieces) - target.overlap * (len(pieces) - 1)
    copies = otherwise is not None
    joining = house_parts.join_step(pictures, sounds, target.frame.rate, OUTPUT_FILE, copies=copies)
    name = output_name(pieces[0].clip.filename, "joined")
    return Plan(
        steps=(*steps, joining),
        outputs=(PlannedOutput(OUTPUT_FILE, name, "video/mp4"),),
        result=_result(pieces, target, frames),
        warnings=tuple(_warnings(pieces)),
        effort=sum(step.weight for step in steps),
        otherwise=otherwise,
    )


def find_target(params: ConcatenateParams, clips: Sequence[ClipInput]) -> Target:
    """Return size, rate and overlap of the result.

    The size is the one asked for, else the first clip's. The rate is the one at which most seconds can
    be copied, else the first clip's.
    """
    if params.aspect is not None:
        size, because = house_profile.SIZES[params.aspect], f"aspect {params.aspect} was asked for"
    else:
        size = _size_like(clips[0].media)
        because = "the first clip's shape"
    copied: Counter[int] = Counter()
    for clip in clips:
        for rate in house_profile.RATES:
            if house_profile.why_not(clip.media, Frame(*size, rate)) is None:
                copied[rate] += round(clip.media.duration_seconds * 1000)
    rate = copied.most_common(1)[0][0] if copied else house_profile.rate_for(clips[0].media.video)
    seconds = params.crossfade_seconds or FADE_SECONDS
    fades = params.transition == "crossfade" and len(clips) > 1
    return Target(Frame(*size, rate), because, max(round(seconds * rate), 1) if fades else 0)


def _size_like(media: MediaInfo) -> tuple[int, int]:
    """Return a clip's upright size in even pixels, made smaller to fit into 1080p, lying or standing."""
    width, height = house_profile.upright_size(media.video)
    long, short = house_profile.SIZES["16:9"]
    most = (long, short) if width >= height else (short, long)
    scale = min(most[0] / width, most[1] / height, 1.0)
    return _even(width * scale), _even(height * scale)


def _even(exact: float) -> int:
    return max(2 * round(exact / 2), LEAST_PIXELS)


def arrange(clips: Sequence[ClipInput], target: Target, *, copies: bool = True) -> list[Piece]:
    """Return the pieces of the result in their order: which are copied, and why the others are not.

    Without ``copies`` none is.
    """
    frame = target.frame
    pieces = []
    files: dict[str, str] = {}
    for place, clip in enumerate(clips):
        reason = house_parts.why_not_ours(clip.media, frame)
        if not copies:
            reason = reason or UNLIKE_ITS_LOOKS
        piece = Piece(clip, house_parts.frames_of(clip.media, frame.rate), clip.name, reason, 0, 0)
        piece = _marked(piece, target, is_first=place == 0, is_last=place == len(clips) - 1)
        if reason is not None:
            key = f"{clip.name} {piece.head} {piece.tail}"
            piece = replace(piece, file=files.setdefault(key, f"normal{len(files)}"))
        pieces.append(piece)
    return pieces


def _marked(piece: Piece, target: Target, *, is_first: bool, is_last: bool) -> Piece:
    """Return the piece with the frames between which it is copied, next to its crossfades.

    Of a copied clip those are keyframes. Where it has none between its crossfades, all of it is drawn
    anew: head and tail are the same.
    """
    head = 0 if is_first else target.overlap
    tail = piece.frames if is_last else max(piece.frames - target.overlap, head)
    if target.overlap and piece.is_copied:
        keys = house_parts.key_frames(piece.clip.media, target.frame.rate)
        ends = (piece.frames,) if is_last else ()
        usable = [key for key in (*keys, *ends) if head <= key <= tail] or [head]
        head, tail = min(usable), max(usable)
    return replace(piece, head=head, tail=tail)


def _check_length(clips: Sequence[ClipInput]) -> None:
    total = sum(clip.media.duration_seconds for clip in clips)
    if total > MOST_SECONDS:
        msg = f"The clips are {total:.0f} s long together; the limit is {MOST_SECONDS} s."
        extra = {"limit": "total_seconds", "value": round(total, 3), "maximum": MOST_SECONDS}
        raise MediaOverLimits(msg, extra=extra)


def _check_fades(params: ConcatenateParams, pieces: Sequence[Piece], target: Target) -> None:
    """Raise InvalidParams for the first clip of which a crossfade would take half or more."""
    for number, piece in enumerate(pieces, 1):
        if 2 * target.overlap < piece.frames or not target.overlap:
            continue
        length = piece.clip.media.duration_seconds
        message = (
            f"{params.crossfade_seconds or FADE_SECONDS:g} s is not less than half of clip {number}"
            f" ({piece.clip.filename}), which is {length:.3f} s long"
        )
        allowed = f"less than {length / 2:.3f} s"
        sentence = f"crossfade_seconds: {message} (allowed: {allowed})."
        raise InvalidParams(
            sentence,
            extra={
                "errors": [{"loc": "crossfade_seconds", "message": message, "allowed": allowed}],
                "clip": piece.clip.name,
                "clip_number": number,
                "duration_seconds": length,
            },
        )


# --- steps ------------------------------------------------------------------------------------


def _steps(pieces: Sequence[Piece], target: Target) -> tuple[list[FFmpegStep], Parts, Parts]:
    """Return what is encoded, and the parts of pictures and of sound that are joined then."""
    frame = target.frame
    encoded = {
        piece.file: graph.normalise(piece, frame, _marks(piece, target))
        for piece in pieces
        if not piece.is_copied
    }
    steps = list(encoded.values())
    if not target.overlap:
        pictures = [house_parts.pictures_part(each.file, 0, each.frames) for each in pieces]
        sounds = [house_parts.sound_part(each.file, each.frames, frame.rate) for each in pieces]
        return steps, pictures, sounds
    pictures = []
    for place, piece in enumerate(pieces):
        if place:
            step = graph.fade(pieces[place - 1], piece, frame, target.overlap, f"fade{place}")
            steps.append(step)
            before = pieces[place - 1]
            length = before.frames - before.tail + piece.head - target.overlap
            pictures.append(house_parts.pictures_part(step.output, 0, length))
        if piece.tail > piece.head:
            count = piece.tail - piece.head
            pictures.append(house_parts.pictures_part(piece.file, piece.head, count))
    steps.append(graph.blend_sound(pieces, frame, target.overlap, SOUND_FILE))
    total = sum(part["count"] for part in pictures)
    return steps, pictures, [house_parts.sound_part(SOUND_FILE, total, frame.rate)]


def _marks(piece: Piece, target: Target) -> list[int]:
    """Return the frames at which a piece is taken apart."""
    if not target.overlap:
        return []
    return [mark for mark in (piece.head, piece.tail) if 0 < mark < piece.frames]


# --- what the job tells -----------------------------------------------------------------------


def _result(pieces: Sequence[Piece], target: Target, frames: int) -> dict[str, Any]:
    frame = target.frame
    told, start = [], 0
    for piece in pieces:
        reason = piece.why or "it has the size, rate and coding of the result"
        is_all_mixed = target.overlap and piece.head == piece.tail
        if piece.is_copied and target.overlap:
            reason = "its crossfades leave nothing to copy" if is_all_mixed else f"{reason}; {ENDS}"
        told.append(
            {
                "id": piece.clip.name,
                "filename": piece.clip.filename,
                "mode": "copied" if piece.is_copied and not is_all_mixed else "normalised",
                "reason": f"{reason[0].upper()}{reason[1:]}.",
                "start_seconds": round(start / frame.rate, 6),
                "duration_seconds": round(piece.frames / frame.rate, 6),
            }
        )
        start += piece.frames - target.overlap
    fades = {"crossfade_seconds": round(target.overlap / frame.rate, 6)} if target.overlap else {}
    return {
        "width": frame.width,
        "height": frame.height,
        "frame_rate": frame.rate,
        "size_from": target.because,
        "transition": "crossfade" if target.overlap else "none",
        **fades,
        "duration_seconds": round(frames / frame.rate, 6),
        "clips": told,
    }


def _warnings(pieces: Sequence[Piece]) -> list[str]:
    said: list[str] = []
    for number, piece in enumerate(pieces, 1):
        if not piece.is_copied:
            said += [f"Clip {number} ({piece.clip.filename}): {each}" for each in _lost(piece)]
    return said


def _lost(piece: Piece) -> list[str]:
    """Say what of a clip is not in the result, beyond its size, rate and coding."""
    video, audio = piece.clip.media.video, piece.clip.media.audio
    streams = piece.clip.media.stream_count - (1 if audio is None else 2)
    over = 0.0 if audio is None else (audio.end_seconds or 0.0) - piece.clip.media.duration_seconds
    said = {
        "it has no sound; there is silence.": audio is None,
        "its high dynamic range was compressed to the usual one.": (
            video.color_transfer in house_profile.HDR_TRANSFERS
        ),
        f"its {audio.channels if audio else 0} channels of sound became 2.": (
            audio is not None and audio.channels > STEREO
        ),
        f"its sound goes on for {over:.1f} s after its last picture; that is left out.": (
            over > SOUND_LOST_SECONDS
        ),
        f"only its first video and sound were taken; {streams} more left out.": streams > 0,
    }
    return [sentence for sentence, applies in said.items() if applies]
