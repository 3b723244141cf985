"""When inputs stop being held, and what a batch's jobs say of the batch."""

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.batches import BatchStatus, derive_status, ended_as
from app.domain.holds import HoldPolicy, held_until
from app.domain.jobs import JobStatus
from app.domain.tombstones import Reason
from tests.factories import make_tombstone
from tests.fakes.clock import NOON

POLICY = HoldPolicy(keep_inputs=timedelta(hours=1), failed_ttl=timedelta(hours=3))
QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus


@pytest.mark.parametrize(
    ("status", "from_then", "hours"),
    [
        (COMPLETED, True, 0),
        (COMPLETED, False, 1),
        (FAILED, True, 3),
        (FAILED, False, 3),
        (CANCELLED, True, 3),
        (CANCELLED, False, 3),
    ],
)
def test_inputs_are_held_by_how_the_job_ended(
    status: JobStatus, from_then: bool, hours: int
) -> None:
    until = held_until(status, NOON, from_then=from_then, policy=POLICY)
    assert until == NOON + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], BatchStatus.READY),
        ([CANCELLED], BatchStatus.READY),
        ([QUEUED], BatchStatus.PROCESSING),
        ([COMPLETED, PROCESSING], BatchStatus.PROCESSING),
        ([COMPLETED, CANCELLED], BatchStatus.COMPLETED),
        ([FAILED, FAILED], BatchStatus.FAILED),
        ([FAILED, COMPLETED], BatchStatus.PARTIALLY_FAILED),
    ],
)
def test_a_batch_is_what_its_jobs_are(jobs: list[JobStatus], expected: BatchStatus) -> None:
    assert derive_status(jobs) is expected


@pytest.mark.parametrize(
    ("keep", "status", "from_then", "hours"),
    [
        (0.5, COMPLETED, True, 0.5),
        (0.5, COMPLETED, False, 0.5),
        (0.0, COMPLETED, False, 0),
        (5.0, COMPLETED, True, 5),
        (0.0, FAILED, False, 3),
        (5.0, CANCELLED, True, 5),
    ],
)
def test_what_a_batch_asks_for_never_shortens_the_time_for_a_retry(
    keep: float, status: JobStatus, from_then: bool, hours: float
) -> None:
    until = held_until(status, NOON, from_then=from_then, policy=POLICY, keep_inputs_hours=keep)
    assert until == NOON + timedelta(hours=hours)


@pytest.mark.parametrize("jobs", [[], [CANCELLED]])
def test_a_batch_without_files_is_not_ready(jobs: list[JobStatus]) -> None:
    assert derive_status(jobs, has_files=False) is BatchStatus.SPENT
    assert derive_status([*jobs, FAILED], has_files=False) is BatchStatus.FAILED
    assert derive_status([*jobs, QUEUED], has_files=False) is BatchStatus.PROCESSING


@pytest.mark.parametrize(
    ("reason", "code", "status"),
    [
        (Reason.RETENTION_COMPLETED, None, COMPLETED),
        (Reason.RETENTION_FAILED, "timeout", FAILED),
        (Reason.RETENTION_FAILED, None, CANCELLED),
        (Reason.RETENTION_QUEUED, None, None),
        (Reason.JOB_DELETED, "timeout", None),
    ],
)
def test_a_job_that_retention_took_still_tells_how_it_ended(
    reason: Reason, code: str | None, status: JobStatus | None
) -> None:
    assert ended_as(make_tombstone(reason=reason, error_code=code)) is status


@given(st.lists(st.sampled_from(JobStatus)), st.randoms())
def test_the_order_and_number_of_jobs_do_not_matter(jobs: list[JobStatus], random: Random) -> None:
    shuffled = [*jobs, *jobs]
    random.shuffle(shuffled)
    assert derive_status(shuffled) is derive_status(jobs)


@given(st.lists(st.sampled_from(JobStatus)))
def test_a_batch_is_processing_exactly_while_a_job_is_active(jobs: list[JobStatus]) -> None:
    is_active = any(job.is_active for job in jobs)
    assert (derive_status(jobs) is BatchStatus.PROCESSING) == is_active
