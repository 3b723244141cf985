"""How rows end: each burial deletes rows, leaves tombstones and promises to delete the bytes.

Everything here is row work inside the caller's transaction. Each function returns the relative paths
whose bytes are to go; after the commit the caller gives them to ``Disposal.settle``. If the process
dies in between, the cleanup rows written here are settled by the sweep ``spent_inputs``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.domain.batches import Batch
from app.domain.jobs import Job
from app.domain.kept_clips import KeptClip
from app.domain.layout import CACHE, WORK, kept_clip_path, output_path, upload_path
from app.domain.outputs import Output
from app.domain.sessions import Session
from app.domain.sweeps import PendingCleanup, SweepName
from app.domain.tombstones import Reason, ThingKind, Tombstone
from app.domain.uploads import Upload
from app.services.ports import Transaction


@dataclass(frozen=True, slots=True)
class _Burial:
    """Why and when: the same for everything that goes in one transaction."""

    reason: Reason
    sweep: SweepName | None
    now: datetime

    def release(self, tx: Transaction, path: str, kind: str, owner: str) -> str:
        tx.cleanup.put(
            PendingCleanup(
                path=path,
                kind=kind,
                reason=self.reason.value,
                owner=owner,
                attempts=0,
                next_attempt_at=self.now,
                last_error=None,
                created_at=self.now,
            )
        )
        return path

    def tombstone(
        self,
        thing: Upload | Session | Batch | Job | Output,
        kind: ThingKind,
        *,
        parent_id: str | None,
        size_bytes: int = 0,
        completed_at: datetime | None = None,
    ) -> Tombstone:
        error = thing.error if isinstance(thing, Job) else None
        return Tombstone(
            id=thing.id,
            kind=kind,
            owner=thing.owner,
            reason=self.reason,
            sweep=self.sweep.value if self.sweep else None,
            parent_id=parent_id,
            size_bytes=size_bytes,
            error_code=error.code if error else None,
            created_at=thing.created_at,
            completed_at=completed_at,
            deleted_at=self.now,
        )


def bury_upload(
    tx: Transaction, upload: Upload, *, reason: Reason, sweep: SweepName | None, now: datetime
) -> list[str]:
    """Bury one upload; its writer must have been stopped. Returns its path."""
    parent_id = upload.batch_id or upload.session_id
    return _bury_upload(tx, upload, _Burial(reason, sweep, now), parent_id)


def bury_part(tx: Transaction, part: Upload, final: Upload, *, now: datetime) -> list[str]:
    """Bury a part whose bytes are in its final. Returns its path."""
    return _bury_upload(tx, part, _Burial(Reason.CONCATENATED, None, now), final.id)


def bury_with_own_session(
    tx: Transaction, upload: Upload, *, reason: Reason, now: datetime
) -> list[str]:
    """Bury one upload, and the session with it that was made for it alone: nobody knows of that.
    Returns its path.
    """
    session = tx.sessions.find(upload.session_id) if upload.session_id else None
    if session is not None and session.implicit:
        return bury_session(tx, session, reason=reason, sweep=None, now=now)
    return bury_upload(tx, upload, reason=reason, sweep=None, now=now)


def _bury_upload(
    tx: Transaction, upload: Upload, burial: _Burial, parent_id: str | None
) -> list[str]:
    if not tx.uploads.delete(upload.id):
        return []
    tx.tombstones.put(
        burial.tombstone(
            upload,
            ThingKind.UPLOAD,
            parent_id=parent_id,
            size_bytes=upload.recorded_offset if upload.length is None else upload.length,
            completed_at=upload.completed_at,
        )
    )
    paths = [burial.release(tx, upload_path(upload.id), ThingKind.UPLOAD.value, upload.owner)]
    # What was made of the file may not outlive it, whoever or whatever let it go.
    return [*paths, *_release_clips(tx, tx.kept_clips.list_by_upload(upload.id), burial)]


def withdraw_upload(tx: Transaction, upload: Upload, *, now: datetime) -> list[str]:
    """Undo a creation that nobody was told of, with the session made for it: no tombstone. Returns
    its path.
    """
    session = tx.sessions.find(upload.session_id) if upload.session_id else None
    if not tx.uploads.delete(upload.id):
        return []
    if session is not None and session.implicit:
        tx.sessions.delete(session.id)
    burial = _Burial(Reason.TERMINATED, None, now)
    return [burial.release(tx, upload_path(upload.id), ThingKind.UPLOAD.value, upload.owner)]


def release_kept_clip(tx: Transaction, clip: KeptClip, *, reason: str, now: datetime) -> list[str]:
    """Let go of one kept clip: nobody was ever told of it, so no tombstone. Returns its path."""
    if not tx.kept_clips.delete(clip.id):
        return []
    path = kept_clip_path(clip.id)
    tx.cleanup.put(
        PendingCleanup(
            path=path,
            kind=CACHE,
            reason=reason,
            owner=clip.owner,
            attempts=0,
            next_attempt_at=now,
            last_error=None,
            created_at=now,
        )
    )
    return [path]


def _release_clips(tx: Transaction, clips: Sequence[KeptClip], burial: _Burial) -> list[str]:
    return [
        path
        for clip in clips
        for path in release_kept_clip(tx, clip, reason=burial.reason.value, now=burial.now)
    ]


def bury_output(
    tx: Transaction, output: Output, *, reason: Reason, sweep: SweepName | None, now: datetime
) -> list[str]:
    """Bury one output, published or not. Returns its path."""
    burial = _Burial(reason, sweep, now)
    if not tx.outputs.delete(output.id):
        return []
    tx.tombstones.put(
        burial.tombstone(
            output, ThingKind.OUTPUT, parent_id=output.job_id, size_bytes=output.size_bytes
        )
    )
    return [burial.release(tx, output_path(output.id), ThingKind.OUTPUT.value, output.owner)]


def bury_job(
    tx: Transaction, job: Job, *, reason: Reason, sweep: SweepName | None, now: datetime
) -> list[str]:
    """Bury a job that no worker runs, with its outputs and the clips that it was the last to use.

    Returns their paths and its work folder.
    """
    burial = _Burial(reason, sweep, now)
    outputs = tx.outputs.list_by_job(job.id)
    paths = [
        path
        for output in outputs
        for path in bury_output(tx, output, reason=reason, sweep=sweep, now=now)
    ]
    paths += _release_clips(tx, tx.kept_clips.list_by_job(job.id), burial)
    if not tx.jobs.delete(job.id):
        return paths
    tx.tombstones.put(
        burial.tombstone(
            job,
            ThingKind.JOB,
            parent_id=job.batch_id if job.from_then else None,
            size_bytes=sum(output.size_bytes for output in outputs),
            completed_at=job.completed_at,
        )
    )
    return [*paths, burial.release(tx, f"{WORK}/{job.id}", ThingKind.JOB.value, job.owner)]


def bury_session(
    tx: Transaction, session: Session, *, reason: Reason, sweep: SweepName | None, now: datetime
) -> list[str]:
    """Bury a session that is no batch, with all its uploads. Returns their paths."""
    burial = _Burial(reason, sweep, now)
    uploads = tx.uploads.list_by_session(session.id)
    paths = [
        path
        for upload in uploads
        for path in bury_upload(tx, upload, reason=reason, sweep=sweep, now=now)
    ]
    if tx.sessions.delete(session.id):
        tx.tombstones.put(
            burial.tombstone(
                session,
                ThingKind.SESSION,
                parent_id=session.batch_id,
                size_bytes=sum(upload.length or 0 for upload in uploads),
            )
        )
    return paths


def bury_batch(
    tx: Transaction, batch: Batch, *, reason: Reason, sweep: SweepName | None, now: datetime
) -> list[str]:
    """Bury a batch with its session and uploads; its jobs live on. Returns the uploads' paths."""
    burial = _Burial(reason, sweep, now)
    uploads = tx.uploads.list_by_batch(batch.id)
    paths = [
        path
        for upload in uploads
        for path in bury_upload(tx, upload, reason=reason, sweep=sweep, now=now)
    ]
    # The batch refers to the session, and whatever else is left in the session goes with it.
    if tx.batches.delete(batch.id):
        tx.tombstones.put(
            burial.tombstone(
                batch,
                ThingKind.BATCH,
                parent_id=batch.session_id,
                size_bytes=sum(upload.length or 0 for upload in uploads),
            )
        )
    session = tx.sessions.find(batch.session_id)
    if session is not None:
        paths += bury_session(tx, session, reason=reason, sweep=sweep, now=now)
    return paths
