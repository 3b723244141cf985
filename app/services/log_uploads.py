"""A log that comes in one form with its wishes: looked at on the way in, then a job of its own."""

from dataclasses import dataclass
from typing import Any

from app.domain.errors import NotReady
from app.domain.jobs import JobPolicy
from app.domain.sessions import Then
from app.operations.moodle.export_head import ExportHead, look_at_export
from app.operations.moodle_log import MoodleLog, timezone_required
from app.services.completion import Completion
from app.services.form_uploads import Arrival, FormUploads
from app.services.job_queueing import check_queue
from app.services.jobs import JobService
from app.services.logs import LogLooks
from app.services.ports import Database
from app.services.sessions import SessionRequest

OPERATION = MoodleLog.name


@dataclass(frozen=True, slots=True, kw_only=True)
class LogUploads:
    """Use cases of ``POST /api/upload``: the job is what ``POST /api/v1/jobs`` would make."""

    db: Database
    forms: FormUploads
    looks: LogLooks
    operations: JobService
    policy: JobPolicy

    async def check_can_begin(self, size_bytes: int) -> None:
        """Raise QueueFull or NoSpace when there is no place for one more job or so many bytes with
        the work that they need. Before the body is read.
        """
        await self.db.read(lambda tx: check_queue(tx, self.policy))
        await self.forms.check_room(int(size_bytes * (1 + MoodleLog.work_factor)))

    def check_wishes(self, params: dict[str, Any], timeout_seconds: float | None) -> None:
        """Raise InvalidParams, or InvalidRequest for a time limit that is not to be had."""
        self.operations.check_new(OPERATION, params, 1, timeout_seconds)

    def look(self, head: bytes, size_bytes: int) -> ExportHead:
        """Look at the first bytes of a log. Raises what ``look_at_export`` raises."""
        return look_at_export(head, size_bytes)

    def check_time(self, head: ExportHead, params: dict[str, Any]) -> None:
        """Raise TimezoneRequired when nobody says where the log's times are."""
        if params.get("timezone") is None and not head.names_offsets:
            raise timezone_required()

    async def start(
        self,
        owner: str,
        params: dict[str, Any],
        timeout_seconds: float | None,
        arrival: Arrival,
    ) -> Completion:
        """Make the log that came an upload in a batch of its own with its job, all at once.

        Raises QueueFull when the queue filled meanwhile, and what ``FormUploads.open_session``
        raises; nothing is kept then.
        """
        await self.db.read(lambda tx: check_queue(tx, self.policy))
        then = Then(OPERATION, params, timeout_seconds)
        filled = await self.forms.open_session(
            owner, SessionRequest(expected_files=1, then=then), arrival
        )
        if not filled.completion.job_ids:
            # Its bytes are safe: the sweep unclaimed_uploads makes the job that nobody waits for.
            raise NotReady("The log was stored, but its job could not be made yet.")
        return filled.completion
