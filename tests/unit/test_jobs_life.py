"""The life of a job in the domain, as a machine that tries every order of events."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.domain.errors import AppError, InputDamaged, JobTimedOut, NoSpace, RenderFailed, WorkerLost
from app.domain.holds import HoldPolicy
from app.domain.jobs import (
    Fence,
    Job,
    JobPolicy,
    JobStatus,
    NewJob,
    expiry_after,
    finish,
    is_stale,
    queue,
    requeue,
)
from app.services.job_endings import JobRules, after_failure, after_hand_back
from tests.factories import make_ended_job, make_job, make_processing_job
from tests.fakes.clock import NOON

POLICY = JobPolicy(
    queue_limit=10,
    timeout_seconds=600,
    timeout_max_seconds=7200,
    stall_seconds=60,
    heartbeat_seconds=2,
    lease_seconds=15,
    max_attempts=3,
    queued_ttl=timedelta(hours=24),
    completed_ttl=timedelta(hours=24),
    failed_ttl=timedelta(hours=1),
)
RULES = JobRules(POLICY, HoldPolicy(keep_inputs=timedelta(hours=1), failed_ttl=timedelta(hours=1)))


class JobLife(RuleBasedStateMachine):
    """One job, its worker, and whoever cancels or rescues it."""

    @initialize(wish=st.one_of(st.none(), st.floats(min_value=0.1, max_value=1e6)))
    def make(self, wish: float | None) -> None:
        new = NewJob(operation="trim", params={}, inputs=(), timeout_seconds=wish)
        self.now = NOON
        self.job = queue(new, "0" * 32, "owner", self.now, POLICY)
        self.attempts_used = 0
        self.fences: list[Fence] = []
        self.last_status = self.job.status

    def become(self, job: Job) -> None:
        assert self.job.status.is_active, "an ended job changed"
        self.job = job

    @precondition(lambda self: self.job.status is JobStatus.QUEUED)
    @rule()
    def claim(self) -> None:
        self.become(
            replace(
                self.job,
                status=JobStatus.PROCESSING,
                worker=f"w{len(self.fences)}",
                started_at=self.now,
                heartbeat_at=self.now,
                deadline_at=self.now + timedelta(seconds=self.job.timeout_seconds),
            )
        )
        self.attempts_used += 1
        fence = Fence(self.job.id, self.job.attempt, self.job.worker or "")
        assert all(old.attempt != fence.attempt for old in self.fences)
        self.fences.append(fence)

    @precondition(lambda self: self.job.status is JobStatus.PROCESSING)
    @rule(progress=st.floats(min_value=0, max_value=99))
    def beat(self, progress: float) -> None:
        self.become(replace(self.job, heartbeat_at=self.now, progress=progress))
        assert not is_stale(self.job, self.now, POLICY)

    @rule(seconds=st.floats(min_value=0, max_value=100))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.job.status is JobStatus.PROCESSING)
    @rule()
    def ask_to_cancel(self) -> None:
        self.become(replace(self.job, cancel_requested=True))

    @precondition(lambda self: self.job.status is JobStatus.PROCESSING)
    @rule(error=st.sampled_from([RenderFailed, WorkerLost, InputDamaged, NoSpace, JobTimedOut]))
    def fail(self, error: type[AppError]) -> None:
        before = self.job
        self.become(after_failure(before, error("It went wrong."), self.now, RULES))
        if before.cancel_requested:
            assert self.job.status is JobStatus.CANCELLED
        elif error in {RenderFailed, WorkerLost} and before.attempt < before.max_attempts:
            assert self.job.status is JobStatus.QUEUED
        else:
            assert self.job.error is not None
            assert self.job.error.code == error.code

    @precondition(lambda self: self.job.status is JobStatus.PROCESSING)
    @rule()
    def hand_back(self) -> None:
        was_cancelled = self.job.cancel_requested
        self.become(after_hand_back(self.job, self.now, RULES))
        assert (self.job.status is JobStatus.CANCELLED) == was_cancelled
        if not was_cancelled:
            self.attempts_used -= 1

    @precondition(lambda self: self.job.status.is_active)
    @rule(status=st.sampled_from([JobStatus.COMPLETED, JobStatus.CANCELLED]))
    def end(self, status: JobStatus) -> None:
        self.become(finish(self.job, status, self.now, POLICY))

    @invariant()
    def fields_fit_the_state(self) -> None:
        if not hasattr(self, "job"):
            return
        job = self.job
        is_processing = job.status is JobStatus.PROCESSING
        assert (job.worker is not None) == is_processing
        assert (job.deadline_at is not None) == is_processing
        assert (job.completed_at is not None) == (not job.status.is_active)
        assert job.status.is_active or job.expires_at is not None
        assert (job.error is not None) == (job.status is JobStatus.FAILED)
        assert (job.progress == 100) == (job.status is JobStatus.COMPLETED)
        assert 0 < job.timeout_seconds <= POLICY.timeout_max_seconds

    @invariant()
    def only_the_present_fence_holds(self) -> None:
        if not hasattr(self, "job"):
            return
        held = [fence for fence in self.fences if fence.is_held(self.job)]
        expected = self.fences[-1:] if self.job.status is JobStatus.PROCESSING else []
        assert held == expected

    @invariant()
    def attempts_are_never_more_than_allowed(self) -> None:
        if hasattr(self, "job"):
            assert self.attempts_used <= POLICY.max_attempts
            assert self.job.attempt <= self.job.max_attempts


TestJobLife = JobLife.TestCase
TestJobLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.sampled_from([s for s in JobStatus if not s.is_active]), st.sampled_from(JobStatus))
def test_what_has_ended_cannot_end_again(ended: JobStatus, into: JobStatus) -> None:
    with pytest.raises(ValueError, match="cannot become"):
        finish(make_ended_job(status=ended), into, NOON, POLICY)


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.PROCESSING])
def test_a_job_cannot_end_in_an_active_state(status: JobStatus) -> None:
    with pytest.raises(ValueError, match="cannot become"):
        finish(make_processing_job(), status, NOON, POLICY)


def test_a_lease_ends_only_when_it_is_over() -> None:
    job = make_processing_job()
    assert not is_stale(job, NOON + timedelta(seconds=15), POLICY)
    assert is_stale(job, NOON + timedelta(seconds=15.001), POLICY)
    assert not is_stale(make_job(), NOON + timedelta(days=1), POLICY)


def test_a_job_that_is_queued_again_goes_first_and_forgets_its_run() -> None:
    job = make_processing_job(progress=50.0, stage="trim", dispatched_at=NOON)
    again = requeue(job, uses_attempt=True)
    assert (again.attempt, again.max_attempts, again.priority) == (2, 3, 10)
    assert (again.progress, again.stage, again.dispatched_at) == (0.0, None, None)
    assert requeue(job, uses_attempt=False).max_attempts == 4


def test_completed_jobs_stay_longer_than_others() -> None:
    assert expiry_after(JobStatus.COMPLETED, NOON, POLICY) == NOON + timedelta(hours=24)
    for status in (JobStatus.FAILED, JobStatus.CANCELLED):
        assert expiry_after(status, NOON, POLICY) == NOON + timedelta(hours=1)
