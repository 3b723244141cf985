"""Bytes that cannot be deleted for a while: told to whoever must look, and gone without their help."""

import json
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.sweeps import SweepName
from tests.fakes.retention import World, open_world
from tests.fakes.sweeping import sweep
from tests.runtime_process import Service, eventually, run_command, service

TUS = {"Tus-Resumable": "1.0.0"}
BODY = b"z" * 5000
EVERY_SECOND = {"TIDEMILL_WORKERS": "0", "TIDEMILL_SPENT_INPUTS_INTERVAL_SECONDS": "1"}


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Keep a file as even root cannot delete it; without chattr, take the rights from its folder."""
    if subprocess.run(["chattr", "+i", path], check=False, capture_output=True).returncode == 0:
        try:
            yield
        finally:
            subprocess.run(["chattr", "-i", path], check=True)
        return
    if os.geteuid() == 0:  # a file system without the flag: something mounted over it is as good
        subprocess.run(["mount", "--bind", path, path], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", path], check=True)
        return
    path.parent.chmod(0o500)
    try:
        yield
    finally:
        path.parent.chmod(0o700)


def upload(running: Service) -> str:
    """Upload half of a file, and return its id."""
    headers = TUS | {"Upload-Length": str(2 * len(BODY))}
    made = httpx.post(f"{running.url}/files/", headers=headers)
    assert made.status_code == 201
    path = httpx.URL(made.headers["location"]).path
    headers = TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert httpx.patch(running.url + path, headers=headers, content=BODY).status_code == 204
    return path.rpartition("/")[2]


def rows(folder: Path, statement: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "data" / "tidemill.db", timeout=20)) as db, db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(statement).fetchall()]


def metric(running: Service, series: str) -> float:
    lines = running.get("/metrics").text.splitlines()
    return next(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"tidemill_{series} ")
    )


def state_of(running: Service, part: str) -> tuple[str, str]:
    body = running.get("/readyz").json()
    return next((p["state"], p["detail"]) for p in body["parts"] if p["name"] == part)


def test_a_file_that_cannot_go_goes_by_itself_once_it_can_and_only_then_counts(
    tmp_path: Path,
) -> None:
    with service(tmp_path, variables=EVERY_SECOND) as running:
        upload_id = upload(running)
        file = tmp_path / "data" / "uploads" / upload_id
        with immutable(file):
            gone = httpx.delete(f"{running.url}/files/{upload_id}", headers=TUS)
            assert gone.status_code == 204
            (row,) = rows(tmp_path, "SELECT * FROM cleanup_pending")
            assert (row["path"], row["attempts"]) == (f"uploads/{upload_id}", 1)
            assert "cannot be deleted" in row["last_error"]
            assert "lsattr" in row["last_error"] or "unmount" in row["last_error"]
            assert str(tmp_path) not in row["last_error"]
            assert file.read_bytes() == BODY
            assert metric(running, "cleanup_pending") == 1
        # Nobody helps: ten seconds after the first attempt comes the next.
        eventually(lambda: not file.exists(), seconds=25, what="the deletion")
        eventually(lambda: metric(running, "cleanup_pending") == 0, what="the row's end", seconds=5)
        freed = 'sweep_bytes_freed_total{sweep="spent_inputs"}'
        assert metric(running, freed) == len(BODY)
        assert rows(tmp_path, "SELECT * FROM cleanup_pending") == []


def test_after_five_attempts_log_metric_readiness_and_doctor_ask_for_a_hand(
    tmp_path: Path,
) -> None:
    with (
        service(tmp_path, variables=EVERY_SECOND) as running,
        service(tmp_path, variables={"TIDEMILL_WORKERS": "0"}) as other,
    ):
        upload_id = upload(running)
        file = tmp_path / "data" / "uploads" / upload_id
        with immutable(file):
            httpx.delete(f"{running.url}/files/{upload_id}", headers=TUS)
            assert state_of(other, "cleanup")[0] == "ok"
            due(tmp_path, attempts=4)
            (told,) = eventually(lambda: running.events("cleanup.stuck"), what="the alarm")
            assert (told["path"], told["attempts"]) == (f"uploads/{upload_id}", 5)
            for each in (running, other):  # from rows: right in whichever process is asked
                assert metric(each, "cleanup_stuck") == 1
                assert each.get("/readyz").status_code == 200
                state, detail = state_of(each, "cleanup")
                assert state == "degraded"
                assert f"uploads/{upload_id}" in detail
            finding = doctor(tmp_path)
            assert finding["level"] == "warning"
            assert f"uploads/{upload_id} could not be deleted in 5 attempts" in finding["what"]
            assert "tidemill sweep spent_inputs" in finding["todo"]
        due(tmp_path, attempts=5)
        eventually(lambda: not file.exists(), what="the deletion")
        for each in (running, other):
            eventually(partial(is_clean, each), what="readiness")
            assert metric(each, "cleanup_stuck") == 0
        assert doctor(tmp_path)["level"] == "ok"


def is_clean(running: Service) -> bool:
    return state_of(running, "cleanup")[0] == "ok"


def due(folder: Path, *, attempts: int) -> None:
    """Let the wait pass at once that follows so many attempts."""
    rows(
        folder,
        f"UPDATE cleanup_pending SET attempts = {attempts}, next_attempt_at = 0",  # noqa: S608
    )


def doctor(folder: Path) -> dict[str, Any]:
    done = run_command("doctor", "--json", folder=folder, TIDEMILL_SANDBOX="off")
    findings = json.loads(done.stdout)["findings"]
    return next(each for each in findings if each["check"] == "cleanup")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def test_a_mount_inside_a_folder_keeps_it_until_it_is_unmounted(world: World) -> None:
    folder = world.path("work/" + "a" * 32 + "/1")
    mount = folder / "mount"
    mount.mkdir(parents=True)
    (folder / "easy").write_bytes(b"1234")
    command = ["mount", "-t", "tmpfs", "none", str(mount)]
    mounted = subprocess.run(command, check=False, capture_output=True)  # noqa: ASYNC221
    if mounted.returncode != 0:  # without the right to mount there is no such trouble either
        assert os.getuid() != 0 or b"permission" in mounted.stderr
        return
    path = str(folder.relative_to(world.root))
    try:
        (mount / "foreign").write_bytes(b"keep me")
        assert await world.disposal.settle([path]) == 0
        assert (mount / "foreign").read_bytes() == b"keep me"
        assert not (folder / "easy").exists()
        (pending,) = await world.pending()
        assert "unmount it" in (pending.last_error or "")
        world.clock.advance(timedelta(seconds=11))
        report = await sweep(world, SweepName.SPENT_INPUTS)
        assert (report.removed, report.bytes_freed, len(report.errors)) == (0, 0, 1)
    finally:
        subprocess.run(["umount", mount], check=True)  # noqa: ASYNC221
    world.clock.advance(timedelta(seconds=21))
    report = await sweep(world, SweepName.SPENT_INPUTS)
    assert (report.removed, report.errors) == (1, ())
    assert not folder.exists()
    assert await world.pending() == []
