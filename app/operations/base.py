"""The contract of an operation: parameters with a schema, inputs with roles, and a plan of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from app.domain.errors import AppError, CannotCopy
from app.domain.jobs import InputRole
from app.domain.media import MediaInfo, StillInfo
from app.operations.moodle.export_head import ExportHead


class Params(BaseModel):
    """Base of every operation's parameters: unknown fields refuse, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def check(self) -> None:
        """Raise an ``AppError`` of the media section for parameters that fit no input at all.

        Called where the inputs are not known yet, such as for a session's ``then``; where they are,
        ``plan`` says the same and names the clip's facts. Does nothing unless overridden.
        """


@dataclass(frozen=True, slots=True)
class InputRule:
    """How many inputs of a role an operation takes.

    ``wants_digest``: a run counts the SHA-256 of clips of which nobody has, before it plans; the look
    at ``POST /jobs`` takes what there is.
    """

    role: InputRole
    minimum: int
    maximum: int
    wants_digest: bool = False


@dataclass(frozen=True, slots=True)
class ClipInput:
    """One clip as a plan sees it: its name inside the job's folder (its id) and its probe.

    ``sha256`` of its bytes in hex, None while nobody has counted it yet.
    """

    name: str
    media: MediaInfo
    filename: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class StillInput:
    """One picture as a plan sees it: a still to be shown, or a logo. Only the limited child reads it."""

    name: str
    role: InputRole
    still: StillInfo
    filename: str


@dataclass(frozen=True, slots=True)
class LogInput:
    """A log export as a plan sees it: its name inside the job's folder and the look at its head."""

    name: str
    head: ExportHead
    filename: str
    size_bytes: int


JobSource = ClipInput | StillInput | LogInput
"""An input of a plan; which of them, its role decides."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the result of a step must be. ``duration_tolerance`` is usually one frame, in seconds.

    ``overrun_tolerance`` is how much longer it may be, where that differs: the last frame of a
    variable rate may be shown for long. Of what has no video only the step that reads it can say
    whether it is right.
    """

    duration_seconds: float
    duration_tolerance: float
    has_audio: bool
    overrun_tolerance: float | None = None
    has_video: bool = True


@dataclass(frozen=True, slots=True)
class FFmpegStep:
    """One run of FFmpeg. ``arguments`` come from ``app.operations.ffmpeg`` only, without the binary.

    Numbers that earlier steps found (``StepFacts.numbers``) stand in them as ``{name}``. ``output``
    is the name of the file it writes inside the job's folder. ``pixels`` of its largest picture decide
    how much memory it may take. ``cache_key`` is a hex digest that names everything the result
    depends on but FFmpeg itself, the input's bytes included: a step of the same owner with the same
    key takes the result of this one instead of running. None: the result is never kept. What is kept
    is for later steps, and none of the plan's outputs.
    """

    name: str
    weight: float
    arguments: tuple[str, ...]
    output: str
    expected: Expected
    source_has_damage_check: bool = True
    pixels: int = 0
    cache_key: str | None = None


@dataclass(frozen=True, slots=True)
class PythonStep:
    """One run of a program of ours in the limited child, for work on bytes that nobody trusts.

    ``program`` is its name among those that the runner knows, ``arguments`` what it is told (JSON
    values). ``inputs`` are the files of the job's folder that it may read and not change, ``outputs``
    those it writes: all of them, or the step has failed. ``expected``: the first of them is a video,
    and this is what it must be.
    """

    name: str
    weight: float
    program: str
    arguments: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    expected: Expected | None = None


Step = FFmpegStep | PythonStep
"""The kinds of steps there are."""


@dataclass(frozen=True, slots=True)
class PlannedOutput:
    """A file of the job's folder that becomes an output."""

    file: str
    filename: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, then the outputs. ``result`` is told in the job (mode that ran, real times);
    what only a run learns, such as counts, is put beside it (``StepFacts``).

    ``effort`` is the size of the work in megapixels to encode: with what earlier jobs of the same
    operation took per megapixel it tells how long this one will take. 0: nothing is known.

    ``otherwise`` is done instead when a step ends with one of the errors in ``gives_way_to``: how a
    clip is stored shows in full only when it is read.
    """

    steps: tuple[Step, ...]
    outputs: tuple[PlannedOutput, ...]
    result: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    effort: float = 0.0
    otherwise: "Plan | None" = None
    gives_way_to: tuple[type[AppError], ...] = (CannotCopy,)


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What a step learned while it ran, for the job's result and its warnings.

    ``numbers`` are for the steps that follow, such as where a title came to stand.
    """

    result: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)


NOTHING_LEARNED = StepFacts()


class Operation(Protocol):
    """One kind of work.

    ``plan`` is pure; it raises an ``AppError`` of the media section when the parameters do not fit
    the clips (422 at ``POST /jobs``, the job's error when it runs). ``work_factor`` is how many bytes
    of scratch a byte of input needs. ``releases_inputs``: nothing holds its inputs once it has ended,
    however it did; a file is too telling to be kept for a retry that may never come.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    params_model: ClassVar[type[Params]]
    work_factor: ClassVar[float]
    releases_inputs: ClassVar[bool]

    @property
    def inputs(self) -> tuple[InputRule, ...]: ...

    def plan(self, params: Any, sources: Sequence[Any]) -> Plan: ...
