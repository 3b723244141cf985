"""Kept clips: results of steps that the next job of the same owner takes instead of running them.

Keeping is three steps that can each be the last thing a process does:

1. a cleanup row promises to delete the file, later: from here on its bytes have an owner;
2. the scratch file is synced and hard-linked to its kept path;
3. one fenced transaction: the promise goes, the kept clip's row is there.

Whoever dies after 1 or 2 leaves the promise, which the sweep ``spent_inputs`` settles. Nothing else
ever sees a file without its row, or a row before its file.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from app.domain.errors import AppError, StorageFailed
from app.domain.ids import new_id
from app.domain.kept_clips import KeptClip, KeptClipPolicy
from app.domain.layout import kept_clip_path
from app.services.burial import release_kept_clip
from app.services.cancellation import uninterrupted
from app.services.disposal import Disposal
from app.services.job_endings import pending
from app.services.job_run import Run
from app.services.ports import Clock, Database, Files, Metrics, Transaction

log = structlog.get_logger(__name__)

PROMISE = timedelta(minutes=10)
"""How long the file of a clip that is just being kept may be without its row: no sync takes longer."""
PAGE = 100


class KeptClips:
    """Keeps clips for their owner, and gives them out. Trouble with either fails no job: a clip that
    cannot be had is made again, and one that cannot be kept is not kept.
    """

    def __init__(
        self,
        db: Database,
        files: Files,
        clock: Clock,
        metrics: Metrics,
        disposal: Disposal,
        policy: KeptClipPolicy,
    ) -> None:
        self._db = db
        self._files = files
        self._clock = clock
        self._metrics = metrics
        self._disposal = disposal
        self._policy = policy

    async def take(self, run: Run, key: str, target: Path) -> bool:
        """Hard-link the owner's clip of that key into the run's folder, if there is one.

        A link, so that no deletion pulls the file from under the work. One whose file is missing or
        of another length is forgotten.
        """
        if not self._policy.keeps:
            return False
        try:
            outcome = await self._take(run, key, target)
        except AppError as error:
            log.warning("kept_clip.not_taken", code=error.code)
            outcome = "failed"
        self._metrics.count("kept_clip_lookups_total", outcome=outcome)
        return outcome == "found"

    async def keep(self, run: Run, key: str, source: Path) -> None:
        """Keep a finished and checked file of the run's folder, unless there is one of that key."""
        if not self._policy.keeps:
            return
        try:
            await uninterrupted(self._keep(run, key, source))
        except AppError as error:
            log.warning("kept_clip.not_kept", code=error.code)

    async def _take(self, run: Run, key: str, target: Path) -> str:
        owner, now = run.job.owner, self._clock.now()
        clip = await self._db.read(lambda tx: tx.kept_clips.find_by_key(owner, key))
        if clip is None:
            return "missing"
        if clip.used_at <= now - self._policy.kept_for:
            await self._forget(clip, "unused")
            return "missing"
        try:
            is_taken = await self._files.take_clip(clip.id, clip.size_bytes, target)
        except StorageFailed as error:
            log.warning("kept_clip.unreadable", clip_id=clip.id, error=str(error))
            is_taken = False
        if not is_taken:
            log.warning("kept_clip.damaged", clip_id=clip.id, size_bytes=clip.size_bytes)
            await self._forget(clip, "damaged")
            return "damaged"
        # Gone meanwhile or not, this run has the bytes.
        await self._db.write(lambda tx: _touch(tx, clip, run, now))
        log.info("kept_clip.taken", clip_id=clip.id, size_bytes=clip.size_bytes)
        return "found"

    async def _forget(self, clip: KeptClip, reason: str) -> None:
        now = self._clock.now()
        paths = await self._db.write(lambda tx: release_kept_clip(tx, clip, reason=reason, now=now))
        await self._disposal.settle(paths)

    async def _keep(self, run: Run, key: str, source: Path) -> None:
        clip_id = new_id()
        path = kept_clip_path(clip_id)
        if not await self._db.write(lambda tx: self._promise(tx, run, key, path)):
            return
        paths: Sequence[str] = [path]
        try:
            size_bytes = await self._files.keep_clip(source, clip_id)
            now = self._clock.now()
            clip = KeptClip(clip_id, run.job.owner, key, run.job.id, size_bytes, now, now)
            paths = await self._db.write(lambda tx: self._insert(tx, run, clip))
            if path not in paths:
                log.info("kept_clip.kept", clip_id=clip_id, size_bytes=size_bytes)
        finally:
            await self._disposal.settle(paths)

    def _promise(self, tx: Transaction, run: Run, key: str, path: str) -> bool:
        """Say when a file will be deleted that is about to be there; False: it is not wanted."""
        owner, now = run.job.owner, self._clock.now()
        if not _is_held(tx, run) or tx.kept_clips.find_by_key(owner, key) is not None:
            return False
        if self._files.free_bytes() < self._policy.reserve_bytes:
            return False
        promise = pending(path, owner=owner, reason="being_kept", now=now)
        tx.cleanup.put(replace(promise, next_attempt_at=now + PROMISE))
        return True

    def _insert(self, tx: Transaction, run: Run, clip: KeptClip) -> list[str]:
        """Put the row in the place of the promise. Returns what has to go: this clip, if another was
        quicker, or those used longest ago, if there is no room for all.
        """
        path = kept_clip_path(clip.id)
        is_wanted = _is_held(tx, run) and clip.size_bytes <= self._policy.max_bytes
        is_first = tx.kept_clips.find_by_key(clip.owner, clip.key) is None
        if not (tx.cleanup.remove(path) and is_wanted and is_first):
            # Due at once: whoever dies before it is settled has left nothing for long.
            tx.cleanup.put(
                pending(path, owner=clip.owner, reason="not_kept", now=self._clock.now())
            )
            return [path]
        tx.kept_clips.insert(clip)
        return self._make_room(tx)

    def _make_room(self, tx: Transaction) -> list[str]:
        _, total = tx.kept_clips.totals()
        paths: list[str] = []
        while total > self._policy.max_bytes:
            for clip in tx.kept_clips.list_oldest(PAGE):
                if total <= self._policy.max_bytes:
                    break
                now = self._clock.now()
                paths += release_kept_clip(tx, clip, reason="no_room", now=now)
                total -= clip.size_bytes
        return paths


def _touch(tx: Transaction, clip: KeptClip, run: Run, now: datetime) -> None:
    """Say that a run uses a clip. One that a request waits for is about to go, and takes along only
    what it made itself: the clip stays with the job that it is of.
    """
    is_waited_for = tx.requests.find_by_job(run.job.id) is not None
    tx.kept_clips.touch(clip.id, clip.job_id if is_waited_for else run.job.id, now)


def _is_held(tx: Transaction, run: Run) -> bool:
    row = tx.jobs.find(run.fence.job_id)
    return row is not None and run.fence.is_held(row)
