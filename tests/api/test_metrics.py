"""Every metric there is, moved by what it tells of: read before and after, from the real /metrics."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from app.domain.ids import new_id
from app.domain.jobs import Job, JobStatus
from app.domain.layout import output_path, upload_path
from app.domain.sweeps import SweepName
from app.infrastructure.metrics import METRICS, PrometheusMetrics
from app.services.ports import Transaction
from tests.factories import make_job
from tests.fakes.disk import undeletable
from tests.fakes.media_bench import scripted_ffmpeg
from tests.fakes.served import TUS, Served, settings_for, wait_for
from tests.runtime_process import service

MIB = 2**20
WORKER = "e" * 32
TRIM = {"operation": "trim", "params": {"start": 0, "end": 1}}

Sample = Mapping[str, float]


def read(text: str) -> dict[str, float]:
    """The series by name and labels, without the prefix."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {
        line.rpartition(" ")[0].removeprefix("tidemill_"): float(line.rpartition(" ")[2])
        for line in lines
    }


def scrape(served: Served) -> dict[str, float]:
    response = served.http.get("/metrics")
    assert response.status_code == 200
    return read(response.text)


@dataclass
class Stage:
    """A service, a clip for it, and a folder of the test's own."""

    served: Served
    clip: bytes
    folder: Path

    def job(self, **body: object) -> str:
        batch_id = self.served.make_batch(self.clip)["id"]
        wish = {"batch_id": batch_id, **TRIM, **body}
        response = self.served.http.post("/api/v1/jobs", json=wish)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def ended(self, job_id: str, status: str) -> None:
        def look() -> bool:
            return bool(self.served.http.get(f"/api/v1/jobs/{job_id}").json()["status"] == status)

        wait_for(look, 30)

    def sweep(self, name: SweepName) -> None:
        def is_done() -> bool:
            status = self.served.http.post(f"/api/v1/sweeps/{name}").status_code
            assert status in {200, 409}, "or it runs by itself at this very moment"
            return status == 200

        wait_for(is_done, 10)

    def settle(self, path: str) -> None:
        self.served.call(self.served.container.disposal.settle([path]))

    def row(self, **changes: object) -> Job:
        """A job's row as a worker that died left it."""
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        job = make_job(
            status=JobStatus.PROCESSING,
            worker=WORKER,
            created_at=long_ago,
            started_at=long_ago,
            heartbeat_at=long_ago,
            deadline_at=long_ago + timedelta(days=1),
        )
        job = replace(job, **changes)  # type: ignore[arg-type]
        self.served.write(lambda tx: tx.jobs.insert(job))
        return job


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, clip: bytes) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("metrics")
    # With the file there, jobs wait until they are stopped.
    waits = f'if [ -e "{folder}/hold" ]; then exec sleep 30; fi; exec "$FFMPEG" "$@"'
    script = scripted_ffmpeg(folder / "ffmpeg", waits)
    settings = settings_for(
        folder / "data",
        jobs={"workers": 1, "heartbeat_seconds": 0.1, "lease_seconds": 5},
        media={"ffmpeg_path": script, "sandbox": "off"},
    )
    with Served(settings) as running:
        yield Stage(running, clip, folder)


# --- what moves them ------------------------------------------------------------------------------


def run_a_job(stage: Stage) -> None:
    stage.ended(stage.job(), "completed")


def claim_a_job(stage: Stage) -> None:
    stage.row(heartbeat_at=datetime.now(UTC))


def leave_a_job_behind(stage: Stage) -> None:
    stage.row()
    stage.sweep(SweepName.JOB_TIMEOUTS)


def let_a_deadline_pass(stage: Stage) -> None:
    past = datetime.now(UTC) - timedelta(minutes=30)
    stage.row(deadline_at=past, heartbeat_at=datetime.now(UTC))
    stage.sweep(SweepName.JOB_TIMEOUTS)


def take_a_job_away(stage: Stage) -> None:
    hold = stage.folder / "hold"
    hold.touch()
    job_id = stage.job()
    stage.ended(job_id, "processing")
    served = stage.served
    row = served.read(lambda tx: tx.jobs.find(job_id))
    assert row is not None
    later = replace(row, attempt=row.attempt + 1, worker=WORKER)
    served.write(
        lambda tx: tx.jobs.update(later, expected=JobStatus.PROCESSING, attempt=row.attempt)
    )
    wait_for(lambda: scrape(served)["job_leases_lost_total"] > 0)
    hold.unlink()


def join_the_same_twice(stage: Stage) -> None:
    for _ in range(2):
        stage.ended(stage.job(operation="concatenate", params={}), "completed")


def render_while_waiting(stage: Stage) -> None:
    files = {"video": ("clip.mp4", stage.clip, "video/mp4")}
    answer = stage.served.http.post("/api/trim", files=files, data={"end": "0.5"})
    assert answer.status_code == 200, answer.text
    wait_for(
        lambda: 'operation="trim",outcome="delivered"' in stage.served.http.get("/metrics").text
    )


def begin_an_upload(stage: Stage) -> None:
    stage.served.create_upload(1000)


def finish_an_upload(stage: Stage) -> None:
    stage.served.upload(b"x" * 1000)


def free_bytes_by_a_sweep(stage: Stage) -> None:
    served, long_ago = stage.served, datetime.now(UTC) - timedelta(days=7)
    upload_id = served.create_upload(1000)
    assert served.patch(upload_id, 0, b"y" * 400).status_code == 204
    upload = served.read(lambda tx: tx.uploads.find(upload_id))
    assert upload is not None
    left = replace(upload, active_at=long_ago, expires_at=long_ago)
    served.write(lambda tx: tx.uploads.update(left, expected=upload.status))
    week_ago = long_ago.timestamp()
    os.utime(served.data / upload_path(upload_id), (week_ago, week_ago))
    stage.sweep(SweepName.GC_FILES)


def trip_a_sweep(stage: Stage) -> None:
    path = stubborn(stage, output_path(new_id()))
    with undeletable(path):
        stage.settle(str(path.relative_to(stage.served.data)))
        make_due(stage)
        stage.sweep(SweepName.SPENT_INPUTS)


def stubborn(stage: Stage, path: str) -> Path:
    """A folder where nobody made one, for ``undeletable`` to hold."""
    folder = stage.served.data / path
    folder.mkdir(parents=True)
    return folder


def make_due(stage: Stage) -> None:
    """Let the time until the next attempts pass at once."""
    served, past = stage.served, datetime.now(UTC) - timedelta(seconds=1)

    def work(tx: Transaction) -> None:
        for each in tx.cleanup.list_all(100):
            tx.cleanup.record_failure(each.path, error=each.last_error or "", next_attempt_at=past)

    served.write(work)


def run_a_sweep(stage: Stage) -> None:
    stage.sweep(SweepName.STALE_SESSIONS)


def remove_scratch(stage: Stage) -> None:
    path = f"work/{new_id()}/1"
    stubborn(stage, path)
    stage.settle(path)


def fail_to_remove_scratch(stage: Stage) -> None:
    path = f"work/{new_id()}/1"
    with undeletable(stubborn(stage, path)):
        stage.settle(path)
    stage.settle(path)


def leave_scratch_alone(stage: Stage) -> None:
    folder = stubborn(stage, f"work/{new_id()}")
    hour_ago = datetime.now(UTC).timestamp() - 3600
    os.utime(folder, (hour_ago, hour_ago))


def fail_to_delete(stage: Stage) -> None:
    path = f"outputs/{new_id()}"
    with undeletable(stubborn(stage, path)):
        stage.settle(path)


def fail_to_delete_five_times(stage: Stage) -> None:
    path = f"outputs/{new_id()}"
    with undeletable(stubborn(stage, path)):
        for _ in range(5):
            stage.settle(path)


def fill_the_disk(stage: Stage) -> None:
    with (stage.folder / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 256 * MIB)


def ask_something(stage: Stage) -> None:
    stage.served.http.get("/livez")


@dataclass(frozen=True)
class Move:
    """What is done, and by how much each named series must change: exactly, or by a test of it."""

    act: Callable[[Stage], None]
    by: Mapping[str, float | Callable[[float], bool]]


def at_least(amount: float) -> Callable[[float], bool]:
    return lambda change: change >= amount


DONE = '{operation="trim",outcome="completed"}'
MOVES: dict[str, Move] = {
    "jobs": Move(run_a_job, {'jobs{status="completed"}': 1}),
    "jobs_active": Move(claim_a_job, {"jobs_active": 1}),
    "job_duration_seconds": Move(
        run_a_job,
        {
            f"job_duration_seconds_count{DONE}": 1,
            f"job_duration_seconds_sum{DONE}": at_least(0.05),
        },
    ),
    "job_timeouts_total": Move(let_a_deadline_pass, {"job_timeouts_total": 1}),
    "job_requeued_total": Move(
        leave_a_job_behind, {'job_requeued_total{why="worker_lost"}': at_least(1)}
    ),
    "job_leases_lost_total": Move(take_a_job_away, {"job_leases_lost_total": 1}),
    "kept_clip_lookups_total": Move(
        join_the_same_twice,
        {
            'kept_clip_lookups_total{outcome="missing"}': 1,
            'kept_clip_lookups_total{outcome="found"}': 1,
        },
    ),
    "renders_total": Move(
        render_while_waiting, {'renders_total{operation="trim",outcome="delivered"}': 1}
    ),
    "uploads_open": Move(begin_an_upload, {"uploads_open": 1}),
    "upload_bytes_received_total": Move(finish_an_upload, {"upload_bytes_received_total": 1000}),
    "upload_created_total": Move(begin_an_upload, {"upload_created_total": 1}),
    "upload_finished_total": Move(
        finish_an_upload, {'upload_finished_total{outcome="completed"}': 1}
    ),
    "sweep_removed_total": Move(
        free_bytes_by_a_sweep, {'sweep_removed_total{sweep="gc_files"}': 1}
    ),
    "sweep_bytes_freed_total": Move(
        free_bytes_by_a_sweep, {'sweep_bytes_freed_total{sweep="gc_files"}': 400}
    ),
    "sweep_errors_total": Move(
        trip_a_sweep, {'sweep_errors_total{sweep="spent_inputs"}': at_least(1)}
    ),
    "sweep_last_success_timestamp_seconds": Move(
        run_a_sweep,
        {'sweep_last_success_timestamp_seconds{sweep="stale_sessions"}': at_least(0.0001)},
    ),
    "sweep_duration_seconds": Move(
        run_a_sweep, {'sweep_duration_seconds_count{sweep="stale_sessions"}': 1}
    ),
    "scratch_removed_total": Move(remove_scratch, {"scratch_removed_total": 1}),
    "scratch_remove_failed_total": Move(fail_to_remove_scratch, {"scratch_remove_failed_total": 1}),
    "scratch_oldest_age_seconds": Move(
        leave_scratch_alone, {"scratch_oldest_age_seconds": at_least(3000)}
    ),
    "cleanup_pending": Move(fail_to_delete, {"cleanup_pending": 1}),
    "cleanup_stuck": Move(fail_to_delete_five_times, {"cleanup_stuck": 1}),
    "storage_free_bytes": Move(
        fill_the_disk, {"storage_free_bytes": lambda change: change < -128 * MIB}
    ),
    "storage_reserved_bytes": Move(begin_an_upload, {"storage_reserved_bytes": 1000}),
    "http_requests_total": Move(
        ask_something, {'http_requests_total{method="GET",status="200"}': at_least(1)}
    ),
}
"""Whoever declares a metric says here what moves it."""


@pytest.mark.parametrize("name", MOVES)
def test_a_metric_moves_with_what_it_tells_of(stage: Stage, name: str) -> None:
    clean_up(stage)
    before = scrape(stage.served)
    MOVES[name].act(stage)
    after = scrape(stage.served)
    for series, wanted in MOVES[name].by.items():
        assert series.startswith(name)
        change = after[series] - before.get(series, 0.0)
        assert wanted(change) if callable(wanted) else change == wanted, (series, change)


def clean_up(stage: Stage) -> None:
    """Take away what other moves left where it would hide this one."""
    make_due(stage)
    stage.sweep(SweepName.SPENT_INPUTS)
    for folder in (stage.served.data / "work").iterdir():
        stage.settle(f"work/{folder.name}")
    (stage.folder / "ballast").unlink(missing_ok=True)


def test_every_metric_that_is_declared_is_moved_here() -> None:
    assert {spec.name for spec in METRICS} == set(MOVES)


def test_every_metric_is_on_the_page_with_its_help(stage: Stage) -> None:
    page = stage.served.http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    for spec in METRICS:
        assert f"# HELP tidemill_{spec.name} {spec.help}" in page.text


def test_a_work_folder_in_trouble_hides_no_other_metric(stage: Stage) -> None:
    work, aside = stage.served.data / "work", stage.folder / "aside"
    work.rename(aside)
    try:
        work.symlink_to(aside)
        assert scrape(stage.served)['jobs{status="failed"}'] >= 0
    finally:
        work.unlink(missing_ok=True)
        aside.rename(work)


def test_gauges_of_rows_are_right_in_every_process_and_counters_are_its_own(tmp_path: Path) -> None:
    quiet = {"TIDEMILL_WORKERS": "0"}
    with service(tmp_path, variables=quiet) as first, service(tmp_path, variables=quiet) as second:

        def scrapes() -> list[dict[str, float]]:
            return [read(each.get("/metrics").text) for each in (first, second)]

        def post(path: str, **headers: str) -> int:
            return httpx.post(first.url + path, headers=headers, timeout=10).status_code

        assert post("/files/", **TUS, **{"Upload-Length": "500"}) == 201
        assert post("/api/v1/sweeps/old_records") == 200
        here, there = scrapes()
        for series in ("uploads_open", "storage_reserved_bytes", "cleanup_pending"):
            assert here[series] == there[series]
        assert here["uploads_open"] == 1
        assert (here["upload_created_total"], there["upload_created_total"]) == (1, 0)
        last = 'sweep_last_success_timestamp_seconds{sweep="old_records"}'
        assert here[last] == pytest.approx(there[last], abs=1)
        assert there[last] == pytest.approx(datetime.now(UTC).timestamp(), abs=60)


def test_a_scrape_of_a_fresh_process_has_every_counter_at_its_start() -> None:
    page = read(PrometheusMetrics().render().decode())
    for spec in METRICS:
        series = [name for name in page if name.partition("{")[0].startswith(spec.name)]
        is_open = any(not values for values in spec.labels.values())
        assert series or is_open or spec.kind.value == "gauge"
