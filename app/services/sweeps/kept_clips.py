"""``kept_clips``: clips that nobody used for long, and those there is no room for."""

from typing import ClassVar

from app.domain.kept_clips import KeptClip, KeptClipPolicy
from app.domain.layout import kept_clip_path
from app.domain.sweeps import SweepName, Victim
from app.services.burial import release_kept_clip
from app.services.disposal import Disposal
from app.services.ports import Database, Files, Transaction
from app.services.sweeps.base import SweepRun


class ExpiredClips:
    """Removes kept clips past their time; then, longest unused first, whatever is more than all may
    take together, or than the disk has room for. Jobs that use one have links of their own.
    """

    name: ClassVar[SweepName] = SweepName.KEPT_CLIPS

    def __init__(
        self, db: Database, files: Files, disposal: Disposal, policy: KeptClipPolicy
    ) -> None:
        self._db = db
        self._files = files
        self._disposal = disposal
        self._policy = policy

    async def run(self, run: SweepRun) -> None:
        run.cutoff = run.now - self._policy.kept_for
        found = await self._db.read(lambda tx: tx.kept_clips.list_oldest(run.limit))
        _, total = await self._db.read(lambda tx: tx.kept_clips.totals())
        missing = max(0, self._policy.reserve_bytes - self._files.free_bytes())
        left = min(self._policy.max_bytes, max(0, total - missing))
        for clip in found:
            why = self._why(run, clip, total - left)
            if why is None:
                return
            total -= clip.size_bytes
            with run.entry("kept_clip", clip.id):
                await self._remove(run, clip, why)

    def _why(self, run: SweepRun, clip: KeptClip, excess_bytes: int) -> str | None:
        if run.cutoff is not None and clip.used_at <= run.cutoff:
            return f"not used for {self._policy.kept_for.total_seconds() / 3600:g} h"
        if not self._policy.keeps or excess_bytes > 0:
            return "no room: it was used longest ago"
        return None

    async def _remove(self, run: SweepRun, clip: KeptClip, why: str) -> None:
        size = self._files.size(kept_clip_path(clip.id)) or 0
        if not run.claim(Victim("kept_clip", clip.id, why, size)):
            return
        paths = await self._db.write(lambda tx: _release(tx, clip, run))
        if not paths:
            run.skip("in_use")
            return
        run.count_removed(await self._disposal.settle_each(paths))


def _release(tx: Transaction, clip: KeptClip, run: SweepRun) -> list[str]:
    """Let go of a clip that no job has used since it was looked at."""
    now = tx.kept_clips.find(clip.id)
    if now is None or now.used_at != clip.used_at:
        return []
    return release_kept_clip(tx, clip, reason=run.name.value, now=run.now)
