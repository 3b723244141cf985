"""The lock that proves a worker alive, against real files and a real dead process."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.domain.errors import StorageFailed
from app.domain.ids import new_id
from app.infrastructure.worker.worker_lock import WorkerLock, WorkerLocks

HOLD = """
import sys, time
from pathlib import Path
from app.infrastructure.worker.worker_lock import WorkerLock
lock = WorkerLock.acquire(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


def test_a_worker_is_alive_while_it_holds_its_lock(tmp_path: Path) -> None:
    worker, locks = new_id(), WorkerLocks(tmp_path)
    assert not locks.is_alive(worker)
    lock = WorkerLock.acquire(tmp_path, worker)
    assert locks.is_alive(worker)
    assert locks.remove_stale() == []
    lock.release()
    lock.release()
    assert not locks.is_alive(worker)
    assert list(tmp_path.iterdir()) == []


def test_one_id_is_held_once(tmp_path: Path) -> None:
    worker = new_id()
    lock = WorkerLock.acquire(tmp_path, worker)
    with pytest.raises(StorageFailed):
        WorkerLock.acquire(tmp_path, worker)
    lock.release()


def test_a_killed_process_is_dead_at_once_and_its_file_is_stale(tmp_path: Path) -> None:
    worker, locks = new_id(), WorkerLocks(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), worker],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert locks.is_alive(worker)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert not locks.is_alive(worker)
    assert locks.remove_stale() == [worker]
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_worker_s_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "worker-../x.lock").parent.mkdir()
    (tmp_path / "worker-notes.lock").write_text("mine")
    locks = WorkerLocks(tmp_path)
    assert locks.remove_stale() == []
    assert not locks.is_alive("../x")
    assert (tmp_path / "worker-notes.lock").exists()
    with pytest.raises(ValueError, match="identifier"):
        WorkerLock.acquire(tmp_path, "../x")


def test_a_symbolic_link_is_no_lock(tmp_path: Path) -> None:
    worker = new_id()
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / f"worker-{worker}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed):
        WorkerLock.acquire(tmp_path, worker)
    assert not WorkerLocks(tmp_path).is_alive(worker)
