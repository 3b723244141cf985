"""What an upload is to whoever sends it: some bytes, a length, and whether it lives. Nothing else."""

from dataclasses import dataclass, field
from enum import Enum

MOST = 1_000_000
"""The largest upload of the service that the model is held against, in bytes."""


class Life(Enum):
    RECEIVING = "receiving"
    COMPLETED = "completed"
    TERMINATED = "terminated"
    EXPIRED = "expired"
    USED = "used"
    """A part whose bytes went into its final."""

    @property
    def is_over(self) -> bool:
        return self not in {Life.RECEIVING, Life.COMPLETED}


class Age(Enum):
    """What ``gc_files`` may make of an unfinished upload."""

    YOUNG = "young"
    UNCERTAIN = "uncertain"
    """A refused body may have touched its file."""
    OLD = "old"


class End(Enum):
    """How a body ends."""

    WHOLE = "whole"
    FIN = "fin"
    RESET = "reset"
    HANGS = "hangs"


class Sum(Enum):
    """What Upload-Checksum says of the body."""

    RIGHT = "right"
    WRONG = "wrong"
    UNKNOWN = "unknown"
    GARBLED = "garbled"


class Fault(Enum):
    """What else is wrong with a request, and how it is refused."""

    VERSION = 412
    CONTENT_TYPE = 415
    GARBAGE = 400


@dataclass(frozen=True)
class Body:
    """A body to be sent. ``sent``: after so many of its bytes it ends as ``end`` says."""

    data: bytes = b""
    chunked: bool = False
    end: End = End.WHOLE
    sent: int = 0

    @property
    def arrived(self) -> bytes:
        return self.data if self.end is End.WHOLE else self.data[: self.sent]

    @property
    def is_whole(self) -> bool:
        """Whether its end can be seen by the receiver: a chunked one has to say so."""
        return self.end is End.WHOLE or (not self.chunked and self.sent == len(self.data))


@dataclass(frozen=True)
class Patch:
    """A PATCH. ``declared`` None: without Upload-Length."""

    offset: int
    body: Body
    declared: int | None = None
    checksum: Sum | None = None
    fault: Fault | None = None
    override: bool = False


@dataclass(frozen=True)
class Creation:
    """A POST to the collection. ``length`` None: deferred. ``body`` None: none at all."""

    length: int | None
    body: Body | None = None
    session: str | None = None
    partial: bool = False
    checksum: Sum | None = None
    fault: Fault | None = None


@dataclass
class ModelUpload:
    """One upload. ``makes_batch``: its completion does, since it is alone in its session."""

    id: str
    length: int | None
    data: bytes = b""
    is_part: bool = False
    parts: tuple[str, ...] = ()
    session: str | None = None
    life: Life = Life.RECEIVING
    age: Age = Age.YOUNG

    @property
    def makes_batch(self) -> bool:
        return self.session is None and not self.is_part

    @property
    def is_complete(self) -> bool:
        return self.life is Life.COMPLETED

    def settle(self) -> None:
        """Whole bytes are a complete upload, at the latest when HEAD is asked; but of parts, which their
        final completes.
        """
        if self.is_whole and self.life is Life.RECEIVING and not self.is_part:
            self.life = Life.COMPLETED

    @property
    def is_whole(self) -> bool:
        return len(self.data) == self.length


@dataclass
class Model:
    """Every upload of one example, by id. ``knows`` are the extensions that the service has."""

    knows: frozenset[str]
    uploads: dict[str, ModelUpload] = field(default_factory=dict)

    def alive(self) -> list[ModelUpload]:
        return [each for each in self.uploads.values() if not each.life.is_over]

    # --- PATCH ---

    def refusals(self, upload: ModelUpload, patch: Patch) -> set[int]:
        """Every status with which this PATCH may be refused; empty: it must be taken."""
        found = {patch.fault.value} if patch.fault else set()
        if upload.life.is_over:
            # A used part is neither gone nor to be written.
            return found | ({404, 410, 403, 409} if upload.life is Life.USED else {gone(upload)})
        if upload.parts:
            found.add(403)
        found |= self._checksum_refusals(patch.checksum, patch.body)
        if patch.offset != len(upload.data):
            found.add(409)
        found |= self._length_refusals(upload, patch)
        return found

    def _checksum_refusals(self, checksum: Sum | None, body: Body) -> set[int]:
        if checksum is None:
            return set()
        if "checksum" not in self.knows or checksum in {Sum.UNKNOWN, Sum.GARBLED}:
            return {400}
        return {460} if checksum is Sum.WRONG and body.is_whole else set()

    def _length_refusals(self, upload: ModelUpload, patch: Patch) -> set[int]:
        found, declared, limit = set(), patch.declared, upload.length
        if declared is not None:
            if upload.length is not None and declared != upload.length:
                found.add(400)
            if declared < len(upload.data):
                found.add(400)
            if declared > MOST:
                found.add(413)
            limit = declared
        limit = MOST if limit is None else limit
        body = patch.body
        told = len(body.arrived) if body.chunked else len(body.data)
        if len(upload.data) + told > limit:
            found.add(413)
        return found

    def after_patch(self, upload: ModelUpload, patch: Patch) -> None:
        """Note a PATCH that was not refused."""
        body = patch.body
        if patch.declared is not None:
            upload.length = patch.declared
        if patch.checksum is None or body.is_whole:
            upload.data += body.arrived
        upload.age = Age.YOUNG if upload.age is Age.YOUNG else Age.UNCERTAIN
        if patch.checksum is None and body.arrived:
            upload.age = Age.YOUNG
        upload.settle()

    # --- creation ---

    def creation_refusals(self, creation: Creation) -> set[int]:
        found = {creation.fault.value} if creation.fault else set()
        if creation.partial and "concatenation" not in self.knows:
            found.add(400)
        length, body = creation.length, creation.body
        if length is not None and length > MOST:
            found.add(413)
        if body is None or not (body.data or body.chunked):
            found.discard(Fault.CONTENT_TYPE.value)  # there is nothing it could be of
        if body is None:
            return found
        found |= self._checksum_refusals(creation.checksum, body)
        told = len(body.arrived) if body.chunked else len(body.data)
        if told > (MOST if length is None else length):
            found.add(413)
        return found


def gone(upload: ModelUpload) -> int:
    """Return the status of an upload that is no more: what was asked to be forgotten is."""
    return 410 if upload.life is Life.EXPIRED else 404
