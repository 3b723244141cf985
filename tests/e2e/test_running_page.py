"""What docs/running.md promises: its nginx lines carry uploads over restarts, its backup restores."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e import node
from tests.e2e.harness import Server, wait_for
from tests.e2e.nginx import Nginx
from tests.e2e.wire import (
    TUS,
    SlowPatch,
    await_job,
    create,
    offset_of,
    open_session,
    patch,
    problem,
    upload,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "running.md").read_text()
BACKUP = ROOT / "scripts" / "backup.py"
KEY = "a-key-for-the-tests-of-the-page"
BEARER = {"Authorization": f"Bearer {KEY}"}


# --- behind nginx --------------------------------------------------------------------------------------


@pytest.fixture
def proxied(make_server: Callable[..., Server], tmp_path: Path) -> tuple[Server, Nginx]:
    """A service with the page's settings, and nginx with the page's lines, not yet started."""
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    # Behind a proxy a stop always takes the whole drain, so that the proxy notices.
    server = make_server(
        {"TRUSTED_PROXIES": "127.0.0.1", "ADMIN_KEY_FILE": key_file, "DRAIN_SECONDS": "1"}
    )
    nginx = Nginx.of_the_page(tmp_path, server.port)
    server.start({"PUBLIC_URL": nginx.url})
    return server, nginx


def test_an_upload_goes_on_through_nginx_while_the_service_restarts(
    proxied: tuple[Server, Nginx], tmp_path: Path
) -> None:
    server, nginx = proxied
    content = os.urandom(48 * 2**20)
    file = tmp_path / "clip.bin"
    file.write_bytes(content)
    wish = {
        "client": "tus-js-client",
        "endpoint": f"{nginx.url}/files/",
        "file": str(file),
        "headers": BEARER,
        "chunkSize": 2**20,
        "retryDelays": [0, 1000, 3000, 5000, 10000],  # as in the README
    }
    with nginx, node.start_upload(wish) as process:
        wait_for(lambda: _stored(server) > 8 * 2**20, "some of the upload")
        assert server.stop() == 0
        kept = _stored(server)
        assert 0 < kept < len(content)
        server.start()
        told = node.finish(process)

    assert told.success["url"].startswith(f"{nginx.url}/files/")
    (stored,) = (server.data / "uploads").iterdir()
    assert hashlib.sha256(stored.read_bytes()).digest() == hashlib.sha256(content).digest()
    assert len([e for e in told.of("request") if e["method"] == "POST"]) == 1, "it began anew"
    assert not [e for e in told.of("response") if 500 <= e["status"] < 600]
    assert told.patch_offsets.count(0) == 1


def _stored(server: Server) -> int:
    return sum(path.stat().st_size for path in (server.data / "uploads").iterdir())


def test_while_the_service_is_away_nginx_tells_tus_clients_to_ask_again(
    proxied: tuple[Server, Nginx],
) -> None:
    server, nginx = proxied
    with nginx, httpx.Client(base_url=nginx.url, headers=BEARER, trust_env=False) as client:
        url = create(client, 100)
        assert url.startswith(f"{nginx.url}/files/")
        server.stop()
        for answer in (client.head(url, headers=TUS), patch(client, url, 0, b"x" * 100)):
            assert answer.status_code == 423
            assert answer.headers["retry-after"] == "2"
            assert answer.headers["tus-resumable"] == "1.0.0"
        assert client.get("/api/v1/jobs").status_code == 502
        server.start()
        assert offset_of(client, url) == 0


def test_through_nginx_a_body_is_on_the_disk_before_it_has_ended(
    proxied: tuple[Server, Nginx],
) -> None:
    server, nginx = proxied
    with nginx, httpx.Client(base_url=nginx.url, headers=BEARER, trust_env=False) as client:
        path = httpx.URL(create(client, 3_000_000)).path
        with SlowPatch(
            nginx.port, f"{path} HTTP/1.1\r\n{_header()}\r\nX-Rest:", 0, 3_000_000
        ) as sent:
            sent.send(bytes(1_000_000))
            wait_for(lambda: _stored(server) == 1_000_000, "the first third on the disk")
            sent.send(bytes(2_000_000))
            answer = sent.answer()
        assert answer
        assert answer.status == 204
        refused = client.get("/api/v1/jobs", headers={"Authorization": "Bearer no"})
        problem(refused, 401, "credentials_invalid")


def _header() -> str:
    return f"Authorization: Bearer {KEY}"


# --- backup and restore ------------------------------------------------------------------------------


def back_up(data: Path, target: Path) -> str:
    """Run the script as the page does it for a container: through a Python that has no file of it."""
    with target.open("wb") as out, BACKUP.open("rb") as script:
        done = subprocess.run(
            [sys.executable, "-", data],
            stdin=script,
            stdout=out,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


def restore(backup: Path, data: Path) -> None:
    data.mkdir(mode=0o700)
    subprocess.run(["tar", "-xf", backup, "-C", data], check=True, timeout=60)


def test_a_backup_taken_beside_the_running_service_restores_all_of_it(
    make_server: Callable[..., Server], tmp_path: Path, short_clip: Path
) -> None:
    server = make_server().start()
    backup = tmp_path / "tidemill.tar"
    content = os.urandom(5_000_000)
    with server.client() as client:
        session = open_session(
            client, expected_files=1, then={"operation": "trim", "params": {"start": 0, "end": 1}}
        )
        done = upload(client, short_clip.read_bytes(), session=session)
        job = await_job(client, done.headers["tidemill-job"])
        made = client.get(f"/api/v1/jobs/{job['id']}/output", follow_redirects=True).content
        path = create(client, len(content))
        with SlowPatch(server.port, path, 0, len(content)) as sending:
            sending.send(content[:2_000_000])
            wait_for(lambda: offset_of(client, path) == 2_000_000, "the first bytes")
            said = back_up(server.data, backup)
            sending.send(content[2_000_000:])
            assert sending.answer() is not None
        assert "Saved the database and 3 files" in said
        client.delete(f"/api/v1/jobs/{job['id']}")
    server.stop()

    again = make_server()
    restore(backup, again.data)
    again.start()

    with again.client() as client:
        found = client.get(f"/api/v1/jobs/{job['id']}/output", follow_redirects=True)
        assert found.content == made
        assert hashlib.sha256(made).hexdigest() == job["outputs"][0]["sha256"]
        offset = offset_of(client, path)
        assert offset == 2_000_000
        assert patch(client, path, offset, content[offset:]).status_code == 204
        batch = client.head(path, headers=TUS).headers["tidemill-batch"]
        assert client.get(f"/api/v1/batches/{batch}").json()["files"][0]["size_bytes"] == len(
            content
        )
        # The clip has served: a completed `then` keeps nothing, and the first sweep takes it.
        kept = {f"outputs/{job['outputs'][0]['id']}", f"uploads/{path.rpartition('/')[2]}"}
        wait_for(lambda: set(again.leftovers()) == kept, "nothing else in the folder")
    assert not again.events(level="error")


def test_a_restored_folder_without_its_database_is_refused_with_what_the_page_quotes(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server().start()
    with server.client() as client:
        stored = upload(client, b"some bytes").headers["tidemill-upload"]
    server.stop()
    for name in ("tidemill.db", "tidemill.db-wal", "tidemill.db-shm"):
        (server.data / name).unlink(missing_ok=True)

    server.start(ready=False)
    assert server._process
    assert server._process.wait(20) == 1

    (refused,) = server.events("service.start_refused")
    instance = json.loads((server.data / "instance.json").read_text())["instance"]
    said = refused["reason"].replace(str(server.data), "/var/lib/tidemill/data")
    quoted = " ".join(PAGE.split()).replace("5c0f…", instance)
    assert " ".join(said.split()) in quoted
    assert (server.data / "uploads" / stored).read_bytes() == b"some bytes"


def test_a_backup_of_what_is_no_data_folder_fails_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BACKUP, tmp_path],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert b"of no use" in done.stderr
    assert done.stdout == b""


def test_a_file_that_is_deleted_while_the_backup_runs_is_saved_all_the_same(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server().start()
    content = os.urandom(8 * 2**20)
    with server.client() as client:
        done = upload(client, content)
        upload_id = done.headers["tidemill-upload"]
        # A pipe that nobody reads yet holds the script back once it has opened everything.
        with subprocess.Popen(
            [sys.executable, BACKUP, server.data],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout
            first = process.stdout.read(1)
            batch = done.headers["tidemill-batch"]
            assert client.delete(f"/api/v1/batches/{batch}").status_code == 204
            wait_for(lambda: not server.leftovers(), "the file to go")
            (tmp_path / "backup.tar").write_bytes(first + process.stdout.read())
            assert process.wait(30) == 0

    with tarfile.open(tmp_path / "backup.tar") as tar:
        saved = tar.extractfile(f"uploads/{upload_id}")
        assert saved
        assert saved.read() == content
