"""Links, pipes, sockets and devices planted in the data folder: nothing outside is read, cut or gone."""

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import imageio_ffmpeg
import pytest

from app.bootstrap import Role, open_container
from app.domain.errors import SweepRunning
from app.domain.ids import new_id
from app.domain.jobs import JobStatus
from app.domain.sweeps import SweepName, Trigger
from app.domain.uploads import UploadStatus
from app.services.ports import Files
from app.services.upload_space import SpaceKeeper
from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.served import OCTETS, TUS, Served, settings_for, wait_for
from tests.runtime_process import eventually, service

SECRET = b"nobody's business but ours"
TRIM = {"operation": "trim", "params": {"start": 0, "end": 1}}


@dataclass
class Outside:
    """A file, a folder with a file, and a note of how they were."""

    root: Path

    @property
    def file(self) -> Path:
        return self.root / "file"

    @property
    def folder(self) -> Path:
        return self.root / "folder"

    def seen(self) -> dict[str, tuple[int, int, int, bytes | None]]:
        """Everything there with its mode, length and times of change, and the bytes of files."""
        found = {}
        for path in sorted([self.root, *self.root.rglob("*")]):
            status = path.lstat()
            data = path.read_bytes() if path.is_file() else None
            facts = (status.st_mode, status.st_size, status.st_mtime_ns)
            found[str(path)] = (*facts, data)
        return found


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    made = Outside(tmp_path / "outside")
    (made.folder / "deep").mkdir(parents=True)
    made.file.write_bytes(SECRET)
    (made.folder / "deep" / "file").write_bytes(SECRET)
    before = made.seen()
    yield made
    assert made.seen() == before


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with a worker, whose jobs try once."""
    data = tmp_path_factory.mktemp("planted") / "data"
    settings = settings_for(
        data,
        jobs={"workers": 1, "max_attempts": 1},
        uploads={"lock_wait_seconds": 0.5},
    )
    with Served(settings) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("clip")
    return make_clip(folder, imageio_ffmpeg.get_ffmpeg_exe(), ClipSpec(seconds=2)).read_bytes()


def refused(response: httpx.Response) -> None:
    """A clear error, without a byte of what the link led to."""
    assert response.status_code in {410, 423, 500, 503}, response.text
    if response.content and response.headers["content-type"] == "application/problem+json":
        assert response.json()["code"] in {"storage_failed", "output_gone"}, response.text
    assert SECRET not in response.content


@contextmanager
def exchanged(path: Path, target: Path) -> Iterator[None]:
    """A link in the place of a file or folder, for the length of the block."""
    aside = path.with_name(f"{path.name}-aside")
    path.rename(aside)
    path.symlink_to(target)
    try:
        yield
    finally:
        if path.is_symlink():
            path.unlink()
        aside.rename(path)


def plant_in(folder: Path, outside: Outside) -> list[socket.socket]:
    """Put one of everything strange into a folder; the socket is open."""
    (folder / "link").symlink_to(outside.file)
    (folder / "link-to-folder").symlink_to(outside.folder)
    (folder / "dangling").symlink_to(outside.root / "nowhere")
    (folder / new_id()).symlink_to(outside.folder)
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe")
    (folder / "file").write_bytes(b"foreign")
    (folder / "strange" / "deep").mkdir(parents=True)
    (folder / "strange" / "deep" / "link").symlink_to(outside.folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).write_bytes(b"no text")
    if os.geteuid() == 0:
        os.mknod(folder / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    bound = socket.socket(socket.AF_UNIX)
    with in_folder(folder):  # the address of a socket is short
        bound.bind("socket")
    return [bound]


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_recovery_takes_everything_foreign_out_of_work_and_follows_nothing(
    served: Served, outside: Outside
) -> None:
    engine = served.container.engine
    wait_for(lambda: engine._loop)  # type: ignore[attr-defined]  # the recovery at start is over
    work = served.data / "work"
    of_a_dead_job = work / new_id()
    of_a_dead_job.mkdir()
    sockets = plant_in(work, outside)
    sockets += plant_in(of_a_dead_job, outside)
    (worker,) = [p.name[7:-5] for p in (served.data / "run").glob("worker-*.lock")]
    living = work / worker / new_id()
    living.mkdir(parents=True)
    (living / "part").write_bytes(b"of a request")
    for each in sockets:
        each.close()
    report = served.call(served.container.recovery.run())
    assert report.scratch_removed >= 16
    assert [path.name for path in work.iterdir()] == [worker]
    assert (living / "part").read_bytes() == b"of a request"
    shutil.rmtree(work / worker)
    assert served.http.get("/metrics").status_code == 200


def test_a_link_in_the_place_of_an_open_upload_is_neither_read_nor_cut(
    served: Served, outside: Outside
) -> None:
    upload_id = served.create_upload(1000)
    assert served.patch(upload_id, 0, b"a" * 400).status_code == 204
    file = served.data / "uploads" / upload_id
    file.unlink()
    file.symlink_to(outside.file)
    refused(served.http.head(f"/files/{upload_id}", headers=TUS))
    refused(served.patch(upload_id, 400, b"b" * 600))
    refused(served.patch(upload_id, len(SECRET), b"b" * 100))
    assert served.http.delete(f"/files/{upload_id}", headers=TUS).status_code == 204
    assert not os.path.lexists(file)
    assert outside.file.read_bytes() == SECRET
    assert served.http.get(f"/api/v1/uploads/{upload_id}").json()["reason"] == "terminated"


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_planted_in_the_place_of_an_open_upload_goes_when_that_expires(
    served: Served, outside: Outside, what: str
) -> None:
    upload_id = served.create_upload(1000)
    file = served.data / "uploads" / upload_id
    plant(file, what, outside)
    upload = served.read(lambda tx: tx.uploads.find(upload_id))
    assert upload is not None
    long_ago = upload.created_at - timedelta(days=30)
    past = replace(upload, active_at=long_ago, expires_at=long_ago)
    served.write(lambda tx: tx.uploads.update(past, expected=UploadStatus.RECEIVING))

    def is_swept() -> bool:
        with suppress(SweepRunning):  # its run at the start of the service
            served.call(served.container.sweeps.run(SweepName.GC_FILES, trigger=Trigger.MANUAL))
        return not os.path.lexists(file)

    wait_for(is_swept)
    assert served.http.get(f"/api/v1/uploads/{upload_id}").json()["reason"] == "expired"


def test_what_is_planted_in_the_place_of_an_upload_keeps_nobody_from_the_room_there_is(
    served: Served, outside: Outside
) -> None:
    planted = served.create_upload(1000)
    (served.data / "uploads" / planted).symlink_to(outside.file)
    told = served.create_upload(10_000_000)
    assert served.patch(told, 0, bytes(9_000_000)).status_code == 204
    container = served.container
    upload = served.read(lambda tx: tx.uploads.find(told))
    assert upload is not None
    behind = replace(upload, recorded_offset=0)  # as while its PATCH is under way
    served.write(lambda tx: tx.uploads.update(behind, expected=UploadStatus.RECEIVING))
    promised = served.read(lambda tx: tx.uploads.unwritten_bytes())
    files = SimpleNamespace(free_bytes=lambda: promised, size=container.uploads.files.size)
    keeper = SpaceKeeper(container.db, cast("Files", files), 0)
    served.call(keeper.write(lambda tx, space: space.require(tx, 9_000_000)))
    for upload_id in (planted, told):
        assert served.http.delete(f"/files/{upload_id}", headers=TUS).status_code == 204


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_planted_in_the_place_of_an_output_is_never_sent_and_goes_with_it(
    served: Served, outside: Outside, clip: bytes, what: str
) -> None:
    job_id = submit(served, served.make_batch(clip)["id"])
    ended(served, job_id, JobStatus.COMPLETED)
    (output,) = served.http.get(f"/api/v1/jobs/{job_id}").json()["outputs"]
    file = served.data / "outputs" / output["id"]
    file.unlink()
    plant(file, what, outside)
    address = f"/api/v1/outputs/{output['id']}"
    for method in ("GET", "HEAD"):
        refused(served.http.request(method, address, timeout=10))
    refused(served.http.get(address, headers={"Range": "bytes=0-9"}, timeout=10))
    refused(served.http.get(f"/api/v1/jobs/{job_id}/output", timeout=10))
    assert served.http.delete(address).status_code == 204
    assert not os.path.lexists(file)


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_planted_in_the_place_of_a_batched_upload_fails_its_readers_only(
    served: Served, outside: Outside, clip: bytes, what: str
) -> None:
    batch = served.make_batch(clip)
    (file,) = batch["files"]
    path = served.data / "uploads" / file["id"]
    path.unlink()
    plant(path, what, outside)
    refused(served.http.get(f"/files/{file['id']}", timeout=10))
    wish = {"batch_id": batch["id"], **TRIM}
    answer = served.http.post("/api/v1/jobs", json=wish, timeout=20)
    if answer.status_code == 202:
        ended(served, answer.json()["id"], JobStatus.FAILED)
    else:
        assert answer.status_code in {409, 410, 422, 500, 503}, answer.text
        assert answer.json()["code"] != "internal_error"
    assert served.http.delete(f"/api/v1/batches/{batch['id']}").status_code in {204, 409}


def plant(path: Path, what: str, outside: Outside) -> None:
    if what == "link":
        path.symlink_to(outside.file)
    elif what == "folder":
        path.symlink_to(outside.folder)
    else:
        os.mkfifo(path)


def submit(served: Served, batch_id: str) -> str:
    answer = served.http.post("/api/v1/jobs", json={"batch_id": batch_id, **TRIM})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ended(served: Served, job_id: str, status: JobStatus) -> None:
    def look() -> bool:
        job = served.http.get(f"/api/v1/jobs/{job_id}").json()
        return bool(job["status"] == status.value)

    wait_for(look, 30)


def test_folders_that_links_replaced_are_not_entered(
    served: Served, outside: Outside, clip: bytes
) -> None:
    upload_id = served.create_upload(1000)
    assert served.patch(upload_id, 0, b"a" * 400).status_code == 204
    with exchanged(served.data / "uploads", outside.folder):
        refused(served.http.head(f"/files/{upload_id}", headers=TUS))
        refused(served.patch(upload_id, 400, b"b" * 600))
        headers = {**TUS, **OCTETS, "Upload-Length": "5"}
        refused(served.http.post("/files/", headers=headers, content=b"hello"))
        served.http.delete(f"/files/{upload_id}", headers=TUS)
        report = served.http.get("/api/v1/storage").json()
        uploads = next(kind for kind in report["kinds"] if kind["kind"] == "uploads")
        assert (uploads["count"], uploads["size_bytes"]) == (0, 0)
    batch_id = served.make_batch(clip)["id"]
    with exchanged(served.data / "work", outside.folder):
        job_id = submit(served, batch_id)
        ended(served, job_id, JobStatus.FAILED)
        assert served.http.get("/metrics").status_code == 200
    with exchanged(served.data / "outputs", outside.folder):
        job_id = submit(served, batch_id)
        ended(served, job_id, JobStatus.FAILED)
    assert served.http.get("/readyz").json()["status"] in {"ok", "degraded"}


def test_what_is_planted_in_run_is_not_followed(served: Served, outside: Outside) -> None:
    run = served.data / "run"
    address = outside.root.parent / "foreign.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as foreign:
        with in_folder(address.parent):
            foreign.bind(address.name)
        foreign.settimeout(0.3)
        dead = outside.root.parent / "dead.sock"
        (run / "locks-1-0000.sock").symlink_to(address)
        (run / "locks-2-0000.sock").symlink_to(dead)
        upload_id = served.create_upload(1000)
        with served.held(upload_id):
            assert served.patch(upload_id, 0, b"a").status_code == 423  # so the others are asked
        with pytest.raises(TimeoutError):
            foreign.recv(100)
    for put in (lambda p: p.symlink_to(outside.file), os.mkfifo):
        put(run / "writable")
        parts = {p["name"]: p["state"] for p in served.http.get("/readyz").json()["parts"]}
        assert parts["store"] == "ok"
        assert not os.path.lexists(run / "writable")
    lock = run / f"worker-{new_id()}.lock"
    lock.symlink_to(outside.file)
    assert served.call(served.container.recovery.run()).workers_removed == 0
    for link in (lock, run / "locks-1-0000.sock", run / "locks-2-0000.sock"):
        link.unlink()


async def test_a_start_writes_its_marker_through_no_link(tmp_path: Path, outside: Outside) -> None:
    data = tmp_path / "data"
    (data / "run").mkdir(parents=True)
    (data / "run" / "instance.json").symlink_to(outside.file)
    async with open_container(settings_for(data, jobs={"workers": 0}), Role.SERVE):
        assert (data / "instance.json").is_file()
        assert not (data / "instance.json").is_symlink()


def test_a_second_start_keeps_the_scratch_of_the_living_and_takes_that_of_the_dead(
    tmp_path: Path,
) -> None:
    quiet = {"TIDEMILL_WORKERS": "0"}
    work = tmp_path / "data" / "work"

    def workers() -> set[str]:
        return {p.name[7:-5] for p in (tmp_path / "data" / "run").glob("worker-*.lock")}

    with service(tmp_path, variables=quiet) as first:
        (alive,) = workers()
        part = work / alive / new_id() / "part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"x" * 100)
        with service(tmp_path, variables=quiet) as second:
            eventually(lambda: second.events("recovery.finished"), what="the recovery")
            assert part.read_bytes() == b"x" * 100
            assert len(workers()) == 2
        first.process.kill()
        first.process.wait()
        with service(tmp_path, variables=quiet) as third:
            (told,) = eventually(lambda: third.events("recovery.finished"), what="the recovery")
            assert (told["scratch"], told["bytes_freed"]) == (1, 100)
            assert list(work.iterdir()) == []
