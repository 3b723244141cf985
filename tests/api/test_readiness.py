"""/readyz reaches each of its states by a real fault, names the part, and comes back by itself."""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import imageio_ffmpeg
import pytest

from app.bootstrap.checks import CLOCK_TOLERANCE_SECONDS
from app.domain.ids import new_id
from app.domain.sweeps import SweepName
from app.infrastructure.clock import ClockDrift, SystemClock
from app.services.disposal import ALARM_AFTER_ATTEMPTS
from tests.api.conftest import KEY
from tests.fakes.disk import undeletable
from tests.fakes.served import Served, settings_for, wait_for

PARTS = ["database", "store", "engine", "ffmpeg", "sandbox", "cleanup", "clock"]
SOON_SECONDS = 15.0


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with an FFmpeg of its own, and one sweep that runs every second."""
    folder = tmp_path_factory.mktemp("ready")
    ffmpeg = folder / "ffmpeg"
    shutil.copy(imageio_ffmpeg.get_ffmpeg_exe(), ffmpeg)
    settings = settings_for(
        folder / "data",
        jobs={"workers": 1},
        media={"ffmpeg_path": ffmpeg},
        intervals={"unclaimed_interval_seconds": 1.0},
    )
    with Served(settings) as running:
        yield running


def look(served: Served) -> tuple[int, str, dict[str, tuple[str, str]]]:
    answer = served.http.get("/readyz")
    body = answer.json()
    parts = {part["name"]: (part["state"], part["detail"]) for part in body["parts"]}
    return answer.status_code, body["status"], parts


def wanting(served: Served) -> dict[str, tuple[str, str]]:
    """The parts that are not ok, with a check that status and code go with them."""
    code, status, parts = look(served)
    found = {name: told for name, told in parts.items() if told[0] != "ok"}
    states = {state for state, _ in found.values()}
    expected = "failing" if "failing" in states else "degraded" if states else "ok"
    assert (code, status) == (503 if expected == "failing" else 200, expected)
    assert served.http.get("/livez").status_code == 200
    return found


def comes_back(served: Served) -> None:
    wait_for(lambda: not wanting(served), SOON_SECONDS)


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    aside = path.with_name(f"{path.name}-aside")
    path.rename(aside)
    try:
        yield aside
    finally:
        path.unlink(missing_ok=True)
        aside.rename(path)


def test_a_sound_service_names_every_part_and_is_ok(ready: Served) -> None:
    code, status, parts = look(ready)
    assert (code, status) == (200, "ok")
    assert list(parts) == [*PARTS, "scheduler"]
    assert parts["sandbox"][1] in {"bubblewrap", "no-network"}


def test_a_locked_database_fails_until_it_is_let_go(ready: Served) -> None:
    with closing(sqlite3.connect(ready.data / "tidemill.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert wanting(ready)["database"] == ("failing", "no answer within 3 s")
        other.execute("ROLLBACK")
    comes_back(ready)


def test_a_database_whose_file_was_removed_or_replaced_fails_until_it_is_back(
    ready: Served,
) -> None:
    path = ready.data / "tidemill.db"
    with renamed(path) as aside:
        state, detail = wanting(ready)["database"]
        assert state == "failing"
        assert "not the one of the start" in detail
        shutil.copy(aside, path)
        assert wanting(ready)["database"][0] == "failing"
    comes_back(ready)


def test_a_folder_that_takes_no_files_fails_until_it_does(ready: Served) -> None:
    with undeletable(ready.data / "run"):
        state, detail = wanting(ready)["store"]
        assert state == "failing"
        assert "EPERM" in detail or "another file system" in detail or "EACCES" in detail
    comes_back(ready)


def test_an_ffmpeg_that_went_away_fails_until_it_is_back(ready: Served) -> None:
    with renamed(ready.data.parent / "ffmpeg"):
        assert wanting(ready)["ffmpeg"] == ("failing", "the FFmpeg found at start is gone")
    comes_back(ready)


def test_bytes_that_cannot_be_deleted_degrade_it_until_they_are_gone(ready: Served) -> None:
    path = f"outputs/{new_id()}"
    folder = ready.data / path
    folder.mkdir()
    with undeletable(folder):
        for attempt in range(ALARM_AFTER_ATTEMPTS):
            assert "cleanup" not in wanting(ready), attempt
            ready.call(ready.container.disposal.settle([path]))
        state, detail = wanting(ready)["cleanup"]
        assert state == "degraded"
        assert path in detail
        assert "lsattr" in detail or "unmount" in detail or "right to write" in detail
    ready.call(ready.container.disposal.settle([path]))
    comes_back(ready)
    assert not folder.exists()


@pytest.fixture(scope="module")
def ahead() -> Iterator[Callable[[float], None]]:
    """Let time pass at once, for whoever asks the service's clock how much went by.

    It never goes back while the service runs: a beat noted in the future would look alive for long.
    """
    offset = 0.0

    def advance(seconds: float) -> None:
        nonlocal offset
        offset += seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SystemClock, "monotonic", lambda _: time.monotonic() + offset)
        yield advance


def test_a_sweep_that_does_not_come_to_run_degrades_it_until_it_has(
    ready: Served, ahead: Callable[[float], None]
) -> None:
    name = SweepName.UNCLAIMED_UPLOADS
    far = timedelta(hours=1)

    def hang_on(holder: str) -> bool:
        """Hold the sweep's lease as a process does that hangs in the middle of it."""
        now = datetime.now(UTC)
        return ready.write(
            lambda tx: tx.leases.acquire(f"sweep:{name.value}", holder, now=now, ttl=far)
        )

    wait_for(lambda: hang_on("hangs"))
    ahead(400)
    state, detail = wait_for(lambda: degraded_scheduler(ready), SOON_SECONDS)
    assert (state, detail) == ("degraded", "late: unclaimed_uploads")
    ready.write(lambda tx: tx.leases.release(f"sweep:{name.value}", "hangs"))
    comes_back(ready)


def degraded_scheduler(served: Served) -> tuple[str, str] | None:
    """What is said of the scheduler once its beat has caught up with the clock."""
    told = wanting(served).get("scheduler")
    return told if told and told[0] == "degraded" else None


def test_a_beat_that_stops_fails_until_it_goes_on(
    ready: Served, ahead: Callable[[float], None]
) -> None:
    scheduler = ready.container.readiness._looks["scheduler"].args[0]  # type: ignore[attr-defined]

    async def stop() -> None:
        scheduler._scheduler.pause()

    async def go_on() -> None:
        scheduler._scheduler.resume()

    ready.call(stop())
    ahead(40)
    assert wanting(ready)["scheduler"] == ("failing", "its beat has stopped")
    ready.call(go_on())
    comes_back(ready)


def test_others_learn_the_state_but_no_part(keyed: Served) -> None:
    anonymous = httpx.get(f"{keyed.url}/readyz", trust_env=False)
    assert anonymous.status_code == 200
    assert anonymous.json() == {"status": "ok", "parts": []}
    admin = keyed.http.get("/readyz", headers={"Authorization": f"Bearer {KEY}"})
    assert [part["name"] for part in admin.json()["parts"]] == [*PARTS, "scheduler"]


def test_a_service_without_workers_is_ok_and_says_so_and_a_stopping_one_fails(
    tmp_path: Path,
) -> None:
    with Served(settings_for(tmp_path / "data", jobs={"workers": 0})) as served:
        assert look(served)[2]["engine"] == ("ok", "runs no jobs here (TIDEMILL_WORKERS=0)")

        async def begin() -> None:
            served.container.drain.begin()

        served.call(begin())
        assert wanting(served) == {"service": ("failing", "draining")}


def test_a_wall_clock_that_jumps_is_told_from_time_that_goes_by() -> None:
    now = {"wall": 1_000_000.0, "boot": 500.0}
    drift = ClockDrift(lambda: now["wall"], lambda: now["boot"])
    now = {"wall": 1_003_600.0, "boot": 4_100.0}
    assert drift.seconds() == 0
    now["wall"] += 7200
    assert drift.seconds() == 7200
    now["wall"] -= 7300
    assert drift.seconds() == -100
    assert abs(ClockDrift().seconds()) < 1 < CLOCK_TOLERANCE_SECONDS


def test_a_moved_wall_clock_degrades_it_until_it_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = 0.0
    real = time.time
    with monkeypatch.context() as patched:
        patched.setattr("app.infrastructure.clock.wall_seconds", lambda: real() + moved)
        with Served(settings_for(tmp_path / "data", jobs={"workers": 0})) as served:
            assert wanting(served) == {}
            moved = -3600.0
            state, detail = wanting(served)["clock"]
            assert state == "degraded"
            assert "-3600 s" in detail
            moved = 0.0
            assert wanting(served) == {}
