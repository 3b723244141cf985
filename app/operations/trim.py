"""The operation ``trim``: keep one part of a clip, exact to the frame or as it is stored."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from app.domain.jobs import InputRole
from app.operations.base import ClipInput, InputRule, Params, Plan
from app.operations.trim_copy import copy_plan, find_start, why_no_copy
from app.operations.trim_cut import Cut, SpanParams, find_cut
from app.operations.trim_edges import edges_plan, find_edges
from app.operations.trim_exact import exact_plan

NOT_AS_IT_SEEMS = "Not copied: read in full, the clip is stored otherwise than it seemed. "
"""Said of a cut for which copying was tried."""


class TrimParams(SpanParams):
    """Which part to keep, and how. Times count from the first frame."""

    mode: Literal["exact", "copy", "auto"] = Field(
        default="exact",
        description=(
            "exact: re-encoded, so that both ends are right to the frame. copy: as it is stored, at "
            "once and without loss, but only from a keyframe at or before start on, and up to a few "
            "frames before end. auto: copy where that is what was asked for, else exact."
        ),
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.start is None and self.end is None:
            msg = "give start or end, or both"
            raise ValueError(msg)
        return self


class Trim:
    """Keeps the frames with start <= time < end, and the sound of the same stretch."""

    name: ClassVar[str] = "trim"
    description: ClassVar[str] = (
        "Keep one part of a clip. Exact to the frame at both ends: the kept frames have their own "
        "times, size, colours and bit depth; rotation is applied to the picture; answers an MP4 with "
        "H.264 and AAC. Or copied as it is stored, where `mode` allows it. The job's result says "
        "which mode ran, the real start and end, and why."
    )
    inputs: ClassVar[tuple[InputRule, ...]] = (InputRule(InputRole.CLIP, 1, 1),)
    params_model: ClassVar[type[Params]] = TrimParams
    work_factor: ClassVar[float] = 2.0
    releases_inputs: ClassVar[bool] = False

    def plan(self, params: TrimParams, sources: Sequence[ClipInput]) -> Plan:
        """Return the steps of a cut.

        Raises ``TrimOutOfRange`` naming the clip's length; ``CannotCopy`` in the mode copy.
        """
        (clip,) = sources
        cut = find_cut(params, clip.media)
        if params.mode == "exact":
            return _exact(clip, cut)
        if params.mode == "copy":
            return copy_plan(clip, cut, find_start(clip.media, cut))
        why = why_no_copy(clip.media, cut)
        if why:
            return _exact(clip, cut, f"Not copied: {why} ")
        start = find_start(clip.media, cut)
        return copy_plan(clip, cut, start, exact_plan(clip, cut, NOT_AS_IT_SEEMS))


def _exact(clip: ClipInput, cut: Cut, why: str = "") -> Plan:
    edges = find_edges(clip.media, cut)
    if edges is None:
        return exact_plan(clip, cut, why)
    return edges_plan(clip, edges, exact_plan(clip, cut, f"{why}{NOT_AS_IT_SEEMS}"), why)
