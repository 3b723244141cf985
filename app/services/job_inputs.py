"""The inputs of a new job: which rows they are, and whether they may be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.errors import (
    AppError,
    InputsDeleted,
    InvalidInputs,
    OutputNotFound,
    UploadNotFound,
)
from app.domain.jobs import Job, JobInput
from app.domain.outputs import Output
from app.domain.tombstones import ThingKind, Tombstone
from app.domain.uploads import Upload, UploadStatus
from app.operations.base import Operation
from app.services.batches import find_batch
from app.services.job_requests import JobRequest, check_roles, main_rule
from app.services.ports import Transaction


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a job in its order, with their rows, and the batch they belong to."""

    items: tuple[JobInput, ...]
    sources: tuple[Upload | Output, ...]
    batch_id: str | None


def find_inputs(tx: Transaction, owner: str, request: JobRequest, operation: Operation) -> Inputs:
    """Return the inputs a request names.

    Raises BatchNotFound, BatchGone, UploadNotFound, OutputNotFound for what is not the owner's,
    InputsDeleted for what is gone, InvalidInputs for wrong numbers, roles and unfinished uploads.
    """
    items = _named(tx, owner, request, operation)
    # Before any is looked up, so that a list of thousands costs nothing.
    check_roles(operation, items)
    deleted: list[Tombstone] = []
    sources: list[Upload | Output] = []
    for item in items:
        found = _find(tx, owner, item)
        if isinstance(found, Tombstone):
            deleted.append(found)
        else:
            sources.append(found)
    if deleted:
        raise inputs_deleted(deleted, of=len(items))
    for source in sources:
        _check_ready(source)
    return Inputs(items, tuple(sources), _batch_of(request, sources))


def check_inputs_kept(tx: Transaction, job: Job) -> None:
    """Raise InputsDeleted, listing them, when inputs of a job that was made before are gone."""
    lost: list[dict[str, Any]] = []
    for item in job.inputs:
        if item.upload_id is not None:
            kind, thing_id = ThingKind.UPLOAD, item.upload_id
            is_kept = tx.uploads.find(thing_id) is not None
        else:
            kind, thing_id = ThingKind.OUTPUT, item.output_id or ""
            is_kept = tx.outputs.find(thing_id) is not None
        if not is_kept:
            tombstone = tx.tombstones.find(kind, thing_id)
            # Tombstones go after their days; that the input was there once is certain.
            lost.append(_shown(tombstone) if tombstone else {"id": thing_id, "kind": kind.value})
    if lost:
        raise _inputs_deleted(lost, of=len(job.inputs))


def check_input(tx: Transaction, owner: str, item: JobInput) -> int:
    """Return the size in bytes of one input, or raise what ``find_inputs`` would say of it alone."""
    found = _find(tx, owner, item)
    if isinstance(found, Tombstone):
        raise inputs_deleted([found], of=1)
    _check_ready(found)
    return found.size_bytes if isinstance(found, Output) else found.length or 0


def inputs_deleted(deleted: Sequence[Tombstone], *, of: int) -> AppError:
    """Return the refusal of a job whose inputs have been removed, listing them."""
    return _inputs_deleted([_shown(each) for each in deleted], of=of)


def _inputs_deleted(listed: list[dict[str, Any]], *, of: int) -> AppError:
    msg = f"Inputs that have been deleted: {len(listed)} of {of}."
    return InputsDeleted(msg, extra={"inputs": listed})


def _shown(deleted: Tombstone) -> dict[str, Any]:
    return {
        "id": deleted.id,
        "kind": deleted.kind.value,
        "reason": deleted.reason.value,
        "deleted_at": deleted.deleted_at.isoformat().replace("+00:00", "Z"),
        "sweep": deleted.sweep,
    }


def _named(
    tx: Transaction, owner: str, request: JobRequest, operation: Operation
) -> tuple[JobInput, ...]:
    if request.inputs or request.batch_id is None:
        return tuple(sorted(request.inputs, key=lambda item: item.order))
    batch = find_batch(tx, owner, request.batch_id)
    kept = [upload.id for upload in tx.uploads.list_by_batch(batch.id)]
    deleted = tx.tombstones.list_by_parent(ThingKind.UPLOAD, batch.id)
    ids = request.file_ids
    if ids is None:
        if deleted:
            raise inputs_deleted(deleted, of=len(kept) + len(deleted))
        ids = tuple(kept)
    known = {*kept, *(each.id for each in deleted)}
    for file_id in ids:
        if file_id not in known:
            msg = f"There is no file {file_id} in batch {batch.id}."
            raise UploadNotFound(msg, extra={"upload_id": file_id})
    role = main_rule(operation).role
    return tuple(
        JobInput(role=role, upload_id=file_id, order=order) for order, file_id in enumerate(ids)
    )


def _find(tx: Transaction, owner: str, item: JobInput) -> Upload | Output | Tombstone:
    row: Upload | Output | None
    error: Callable[..., AppError]
    if item.upload_id is not None:
        kind, thing_id, error = ThingKind.UPLOAD, item.upload_id, UploadNotFound
        row = tx.uploads.find(thing_id)
    else:
        kind, thing_id, error = ThingKind.OUTPUT, item.output_id or "", OutputNotFound
        row = tx.outputs.find(thing_id)
    if row is not None and row.owner == owner:
        return row
    tombstone = tx.tombstones.find(kind, thing_id)
    if tombstone is not None and tombstone.owner == owner:
        return tombstone
    msg = f"There is no {kind} {thing_id}."
    raise error(msg, extra={f"{kind}_id": thing_id})


def _check_ready(source: Upload | Output) -> None:
    if isinstance(source, Output):
        if not source.status.is_readable:
            msg = f"Output {source.id} is not available yet."
            raise InvalidInputs(msg, extra={"output_id": source.id})
        return
    if source.status is not UploadStatus.COMPLETED:
        msg = f"Upload {source.id} is not complete yet."
        raise InvalidInputs(msg, extra={"upload_id": source.id})
    if source.batch_id is None:
        # Leaving an open session takes its files at once; only a batch asks who still reads them.
        msg = f"Upload {source.id} is in an open session; make the session a batch first."
        raise InvalidInputs(msg, extra={"upload_id": source.id, "session_id": source.session_id})


def _batch_of(request: JobRequest, sources: Sequence[Upload | Output]) -> str | None:
    """Return the batch a job counts for: the one asked for, else the only one of its inputs."""
    batches = {source.batch_id for source in sources if isinstance(source, Upload)}
    if request.batch_id is None:
        return batches.pop() if len(batches) == 1 else None
    if batches - {request.batch_id}:
        msg = f"Not all inputs are files of batch {request.batch_id}."
        raise InvalidInputs(msg, extra={"batch_id": request.batch_id})
    return request.batch_id
