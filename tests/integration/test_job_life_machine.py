"""Every order of events in the life of jobs, over the real services, held against a plain model.

Submitted, claimed, lost, cancelled, tried again, published, kept longer, expired, deleted, with
workers that stand still at any point and go on when their job is long another's. After each step
rows, fences, holds, outputs, tombstones and the files on the disk are as the model says.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.domain.access import OWNER
from app.domain.errors import InputDamaged, RenderFailed
from app.domain.idempotency import IdempotentRequest
from app.domain.jobs import InputRole, Job, JobInput, JobStatus
from app.domain.sweeps import SweepName
from app.domain.tombstones import ThingKind
from app.services.job_requests import JobRequest
from tests.fakes.job_life import Attempt, Life, make_template
from tests.fakes.job_model import (
    QUEUE_LIMIT,
    Model,
    ModelAttempt,
    ModelJob,
    ModelUpload,
    Refusal,
    Thing,
)

T = TypeVar("T")

PICK = st.integers(min_value=0, max_value=11)
"""Which of the things there are, counted round."""
PICK_ANY = 9
STEPS = timedelta(seconds=1), timedelta(seconds=20), timedelta(seconds=80), timedelta(minutes=70)
SWEEPS = SweepName.JOB_TIMEOUTS, SweepName.SPENT_INPUTS, SweepName.EXPIRED_JOBS
MOVES = timedelta(hours=-1), timedelta(minutes=30), timedelta(hours=6), timedelta(hours=11)
FITTING: dict[str, tuple[JobStatus, ...]] = {
    "cancel": (JobStatus.QUEUED, JobStatus.PROCESSING),
    "retry": (JobStatus.FAILED, JobStatus.CANCELLED),
    "move": (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED),
    "delete": (JobStatus.COMPLETED, JobStatus.FAILED),
    "end": (JobStatus.QUEUED, JobStatus.PROCESSING),
}
PROFILE = settings(
    max_examples=40,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class JobLifeMachine(RuleBasedStateMachine):
    """Clients, two workers, a clock and three sweeps around a few jobs."""

    template: ClassVar[Path]
    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(dir=self.folder))
        self.life = Life.open(self.root, template=self.template)
        self.model = Model()
        self.in_hand: list[tuple[ModelAttempt, Attempt]] = []
        self.known_jobs: list[str] = []
        self.known_uploads: list[str] = []
        self.seen: dict[str, Job] = {}

    def teardown(self) -> None:
        self.run(self.life.close())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.root)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def ask(self, work: Coroutine[Any, Any, T], refusal: Refusal) -> T | None:
        """Do what a client asks; it must be refused exactly as the model says."""
        if refusal is None:
            return self.run(work)
        with pytest.raises(refusal) as caught:
            self.run(work)
        assert type(caught.value) is refusal
        return None

    @property
    def now(self) -> Any:
        return self.life.clock.now()

    def any_job(self, pick: int, *statuses: JobStatus) -> str:
        """Mostly one of these states, sometimes any other, also one that is gone."""
        fit = [job.id for job in self.model.jobs.values() if job.status in statuses]
        jobs = fit if fit and pick < PICK_ANY else self.known_jobs
        return jobs[pick % len(jobs)]

    def has_jobs(self) -> bool:
        return bool(self.known_jobs)

    def open_attempts(self, *stages: str) -> list[tuple[ModelAttempt, Attempt]]:
        """What workers have in hand at these stages; without any, at whatever stage."""
        return [
            pair
            for pair in self.in_hand
            if pair[0].stage != "closed" and (not stages or pair[0].stage in stages)
        ]

    # --- clients ---

    @initialize()
    def begin(self) -> None:
        for keep_hours in (None, 3.0):
            self.upload(keep_hours)
            self.submit(len(self.known_uploads) - 1, None)

    @precondition(lambda self: len(self.known_uploads) < 5)
    @rule(keep_hours=st.sampled_from([None, 0.0, 3.0]))
    def upload(self, keep_hours: float | None) -> None:
        upload = self.run(self.life.add_upload(keep_hours))
        self.model.uploads[upload.id] = ModelUpload(upload.id, keep_hours)
        self.known_uploads.append(upload.id)

    @precondition(lambda self: self.model.queued() <= QUEUE_LIMIT)
    @rule(pick=PICK, key=st.sampled_from([None, None, "a", "b"]))
    def submit(self, pick: int, key: str | None) -> None:
        uploads: list[Thing] = [(ThingKind.UPLOAD, each) for each in self.known_uploads]
        self._submit((uploads[pick % len(uploads)]), key)

    @precondition(lambda self: self.readable() and self.model.queued() <= QUEUE_LIMIT)
    @rule(pick=PICK)
    def submit_on_an_output(self, pick: int) -> None:
        outputs = self.readable()
        self._submit(outputs[pick % len(outputs)], None)

    def readable(self) -> list[Thing]:
        return [thing for thing in self.model.outputs() if self.model.is_kept(thing)]

    def _submit(self, source: Thing, key: str | None) -> None:
        kind, thing_id = source
        item = (
            JobInput(InputRole.CLIP, upload_id=thing_id)
            if kind is ThingKind.UPLOAD
            else JobInput(InputRole.CLIP, output_id=thing_id)
        )
        request = JobRequest("polish", {}, inputs=(item,))
        named = IdempotentRequest("POST /api/v1/jobs", key, thing_id) if key else None
        refusal, replayed = self.model.refuse_submit(source, key)
        made = self.ask(self.life.jobs.create(OWNER, request, named), refusal)
        if made is None:
            return
        job_id = made.view.job.id
        assert (made.is_replay, replayed or job_id) == (replayed is not None, job_id)
        if not made.is_replay:
            self.known_jobs.append(job_id)
            self.model.submit(ModelJob(job_id, source, self.now), key)

    @precondition(lambda self: self.model.uploads and self.model.queued() <= QUEUE_LIMIT)
    @rule(pick=PICK)
    def submit_by_then(self, pick: int) -> None:
        upload_id = list(self.model.uploads)[pick % len(self.model.uploads)]
        upload = self.run(self.life.db.read(lambda tx: tx.uploads.find(upload_id)))
        assert upload is not None
        job = self.run(self.life.add_then_job(upload))
        self.known_jobs.append(job.id)
        thing = (ThingKind.UPLOAD, upload_id)
        self.model.submit(ModelJob(job.id, thing, self.now, from_then=True), None)

    @precondition(has_jobs)
    @rule(pick=PICK, wish=st.sampled_from(["cancel", "retry", "cancel", "retry", "delete", "end"]))
    def ask_about_a_job(self, pick: int, wish: str) -> None:
        """Whatever its state; what cannot be is refused. ``end``: cancelled if it runs, and deleted."""
        job_id, jobs = self.any_job(pick, *FITTING[wish]), self.life.jobs
        if wish == "cancel":
            cancelled = self.ask(jobs.cancel(OWNER, job_id), self.model.cancel(job_id, self.now))
            assert cancelled is None or cancelled.job.cancel_requested
        elif wish == "retry":
            retried = self.ask(jobs.retry(OWNER, job_id), self.model.retry(job_id, self.now))
            assert retried is None or retried.job.status is JobStatus.QUEUED
        else:
            cancel = wish == "end"
            refusal = self.model.delete(job_id, self.now, cancel=cancel)
            self.ask(jobs.delete(OWNER, job_id, cancel=cancel), refusal)

    @precondition(has_jobs)
    @rule(pick=PICK, by=st.sampled_from(MOVES))
    def move_expiry(self, pick: int, by: timedelta) -> None:
        job_id = self.any_job(pick, *FITTING["move"])
        refusal = self.model.move(job_id, by, self.now)
        self.ask(self.life.jobs.move_expiry(OWNER, job_id, self.now + by), refusal)

    # --- workers ---

    @precondition(lambda self: self.model.queued())
    @rule(pick=PICK, worker=st.sampled_from(["w1", "w2"]), steps=st.integers(0, 4))
    def start(self, pick: int, worker: str, steps: int) -> None:
        """A worker takes a job that waits, and goes so many steps."""
        queued = [job for job in self.model.jobs.values() if job.status is JobStatus.QUEUED]
        job = queued[pick % len(queued)]
        self._claim(job.id, job.attempt, worker)
        self._step(*self.in_hand[-1], steps)

    @precondition(has_jobs)
    @rule(pick=PICK, worker=st.sampled_from(["w1", "w2"]), behind=st.integers(0, 1))
    def deliver_again(self, pick: int, worker: str, behind: int) -> None:
        """A delivery may be old: of an attempt that goes on or is over, of a job that is gone."""
        job = self.model.jobs.get(self.any_job(pick))
        attempt = max((job.attempt if job else 1) - behind, 1)
        self._claim(self.any_job(pick), attempt, worker)

    def _claim(self, job_id: str, attempt: int, worker: str) -> None:
        taken = self.run(self.life.claim(worker, job_id, attempt))
        job = self.model.jobs.get(job_id)
        if job is None or not self.model.claim(job, attempt, worker, self.now):
            assert taken is None
            return
        assert taken is not None
        self.in_hand.append((self.model.attempts[-1], taken))

    @precondition(lambda self: self.open_attempts())
    @rule(pick=PICK, steps=st.integers(1, 4))
    def go_on(self, pick: int, steps: int) -> None:
        """A worker goes on where it stood, whether or not the job is still its own."""
        self._step(*self._take(pick), steps)

    def _step(self, expected: ModelAttempt, real: Attempt, steps: int) -> None:
        for _ in range(steps):
            match expected.stage:
                case "claimed":
                    self.model.work(expected, self.now)
                    self.run(self.life.work(real))
                case "working":
                    self.run(self.life.announce(real))
                    output_id = real.run.output_ids[0] if real.run.output_ids else None
                    self.model.announce(expected, output_id, self.now)
                case "announced":
                    self.model.rename(expected, self.now)
                    self.run(self.life.rename(real))
                case "renamed":
                    self.model.complete(expected, self.now)
                    self.run(self.life.complete(real))
            assert real.is_over == (expected.stage == "closed")

    @precondition(lambda self: self.open_attempts("claimed", "working"))
    @rule(pick=PICK, how=st.sampled_from(["broken", "damaged", "handed back"]))
    def give_up(self, pick: int, how: str) -> None:
        expected, real = self._take(pick, "claimed", "working")
        if how == "handed back":
            self.model.hand_back(expected, self.now)
            self.run(self.life.hand_back(real))
            return
        is_curable = how == "broken"
        self.model.fail(expected, self.now, is_curable=is_curable)
        self.run(self.life.fail(real, RenderFailed() if is_curable else InputDamaged()))

    @precondition(lambda self: self.open_attempts())
    @rule(pick=PICK)
    def beat(self, pick: int) -> None:
        """A worker beats; one that is not publishing acts on what it hears."""
        self._beat(*self._take(pick))

    def _beat(self, expected: ModelAttempt, real: Attempt) -> None:
        can_stop = expected.stage in {"claimed", "working"}
        is_held = self.model.held(expected) is not None
        beat = self.run(self.life.beat(real))
        assert (beat is not None) == is_held
        self.model.beat(expected, self.now, can_stop=can_stop)
        if not can_stop:
            return
        if beat is None:
            self.run(self.life.abandon(real))
        elif beat.cancel_requested:
            self.run(self.life.cancel(real))
        assert real.is_over == (expected.stage == "closed")

    def _take(self, pick: int, *stages: str) -> tuple[ModelAttempt, Attempt]:
        found = self.open_attempts(*stages)
        return found[pick % len(found)]

    # --- time ---

    @precondition(lambda self: self.open_attempts())
    @rule(pick=PICK, by=st.sampled_from(STEPS[1:3]), steps=st.integers(0, 3))
    def lose(self, pick: int, by: timedelta, steps: int) -> None:
        """All workers stand still for longer than a lease and are found out. Another one takes the job
        of one of them, which then goes on as if nothing had been, or beats.
        """
        expected, real = self._take(pick)
        self.pass_time(by, [SweepName.JOB_TIMEOUTS])
        job = self.model.jobs.get(expected.job_id)
        if job is not None and pick % 2 == 0:
            self._claim(job.id, job.attempt, "w2" if expected.worker == "w1" else "w1")
        if steps:
            self._step(expected, real, steps)
        else:
            self._beat(expected, real)

    @rule(
        by=st.sampled_from(STEPS),
        sweeps=st.lists(st.sampled_from(SWEEPS), max_size=3, unique=True),
    )
    def pass_time(self, by: timedelta, sweeps: list[SweepName]) -> None:
        """Time goes by, and some sweeps run, in any order."""
        self.life.clock.advance(by)
        for name in sweeps:
            match name:
                case SweepName.JOB_TIMEOUTS:
                    self.model.sweep_timeouts(self.now)
                case SweepName.SPENT_INPUTS:
                    self.model.sweep_spent(self.now)
                case SweepName.EXPIRED_JOBS:
                    self.model.sweep_expired(self.now)
            assert self.run(self.life.sweep(name)) == []

    # --- what must always be so ---

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        model = self.model
        found = self.run(self.life.look(self.known_jobs, self.known_uploads, list(model.gone)))
        assert {key: _facts(job) for key, job in found.jobs.items()} == {
            key: _expected(job) for key, job in model.jobs.items()
        }
        assert {(o.job_id, o.id, o.attempt, o.status, o.expires_at) for o in found.outputs} == {
            (job.id, job.output.id, job.output.attempt, job.output.status, job.output.expires_at)
            for job in model.jobs.values()
            if job.output is not None
        }
        assert {each.id: each.spent_at for each in found.uploads} == {
            each.id: each.spent_at for each in model.uploads.values()
        }
        assert {(each.kind, each.id): each.reason for each in found.tombstones} == model.gone
        assert found.pending == 0
        assert self.life.stored() == model.stored()
        for job_id, job in found.jobs.items():
            before = self.seen.get(job_id, job)
            assert job == before or job.version > before.version, "a change that nobody can see"
        self.seen = found.jobs


def _facts(job: Job) -> dict[str, Any]:
    is_processing = job.status is JobStatus.PROCESSING
    return {
        "status": job.status,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "worker": job.worker,
        "cancel_requested": job.cancel_requested,
        "heartbeat_at": job.heartbeat_at if is_processing else None,
        "deadline_at": job.deadline_at,
        "completed_at": job.completed_at,
        "expires_at": job.expires_at,
        "has_error": job.error is not None,
        "has_result": job.result is not None,
    }


def _expected(job: ModelJob) -> dict[str, Any]:
    is_processing = job.status is JobStatus.PROCESSING
    return {
        "status": job.status,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "worker": job.worker,
        "cancel_requested": job.cancel_requested,
        "heartbeat_at": job.heartbeat_at if is_processing else None,
        "deadline_at": job.deadline_at,
        "completed_at": job.completed_at,
        "expires_at": job.expires_at,
        "has_error": job.status is JobStatus.FAILED,
        "has_result": job.status is JobStatus.COMPLETED,
    }


def test_every_order_of_events_leaves_what_the_model_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobLifeMachine, "template", make_template(tmp_path), raising=False)
    monkeypatch.setattr(JobLifeMachine, "folder", tmp_path, raising=False)
    run_state_machine_as_test(JobLifeMachine, settings=PROFILE)
