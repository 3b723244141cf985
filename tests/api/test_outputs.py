"""Outputs over HTTP: the bytes, their parts, their names, and their end."""

import base64
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import pytest

from app.domain.outputs import OutputStatus
from tests.factories import (
    insert_all,
    make_ended_job,
    make_input,
    make_job,
    make_output,
    make_processing_job,
)
from tests.fakes.described import Described
from tests.fakes.served import Served, settings_for, wait_for

SIZE = 3 * 1024 * 1024 + 7


class Stored(NamedTuple):
    job_id: str
    output_id: str
    data: bytes
    path: Path


def store(
    served: Served, data: bytes, filename: str = "clip-trimmed.mp4", outputs: int = 1
) -> Stored:
    """An ended job with outputs as its worker would have left them."""
    now = served.container.clock.now()
    job = make_ended_job(
        inputs=(), created_at=now, completed_at=now, expires_at=now + timedelta(hours=1)
    )
    rows = [
        make_output(
            job_id=job.id,
            filename=filename,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            created_at=now + timedelta(microseconds=place),
        )
        for place in range(outputs)
    ]
    served.write(lambda tx: insert_all(tx, job, *rows))
    for row in rows:
        path = served.data / "outputs" / row.id
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return Stored(job.id, rows[0].id, data, served.data / "outputs" / rows[0].id)


@pytest.fixture(scope="module")
def stored(served: Served) -> Stored:
    return store(served, os.urandom(SIZE))


def test_two_parts_make_the_whole(served: Served, described: Described, stored: Stored) -> None:
    path = f"/api/v1/outputs/{stored.output_id}"
    parts = [
        served.http.get(path, headers={"range": part})
        for part in ("bytes=0-999999", "bytes=1000000-")
    ]
    for part in parts:
        described.check(part)
        assert part.status_code == 206
    assert parts[0].headers["content-range"] == f"bytes 0-999999/{SIZE}"
    assert parts[0].content + parts[1].content == stored.data


def test_the_whole_file_can_be_trusted_and_asked_for_again(
    served: Served, described: Described, stored: Stored
) -> None:
    for path in (f"/api/v1/outputs/{stored.output_id}", f"/api/v1/jobs/{stored.job_id}/output"):
        response = served.http.get(path)
        described.check(response)
        assert response.content == stored.data
        digest = base64.b64encode(hashlib.sha256(stored.data).digest()).decode()
        assert response.headers["repr-digest"] == f"sha-256=:{digest}:"
        assert response.headers["content-type"] == "video/mp4"
        assert response.headers["content-disposition"] == 'attachment; filename="clip-trimmed.mp4"'
        assert response.headers["x-content-type-options"] == "nosniff"
        etag = response.headers["etag"]
        again = served.http.get(path, headers={"if-none-match": etag})
        described.check(again)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        head = served.http.head(path)
        described.check(head)
        assert (head.status_code, head.content) == (200, b"")
        same = ("content-length", "etag", "repr-digest", "accept-ranges", "content-disposition")
        assert {name: head.headers[name] for name in same} == {
            name: response.headers[name] for name in same
        }


def test_a_part_of_what_has_changed_is_the_whole(served: Served, stored: Stored) -> None:
    path = f"/api/v1/outputs/{stored.output_id}"
    headers = {"range": "bytes=0-9", "if-range": '"another"'}
    assert served.http.get(path, headers=headers).status_code == 200
    headers["if-range"] = served.http.head(path).headers["etag"]
    assert served.http.get(path, headers=headers).content == stored.data[:10]


def test_a_name_that_would_break_the_header_does_not(served: Served) -> None:
    wild = store(served, b"x", filename='a"; filename="evil.exe\r\nSet-Cookie: a=b; ü.mp4')
    response = served.http.get(f"/api/v1/outputs/{wild.output_id}")
    assert "set-cookie" not in response.headers
    header = response.headers["content-disposition"]
    assert header.startswith('attachment; filename="a_; filename=_evil.exeSet-Cookie: a=b; _.mp4"')
    assert header.endswith("%C3%BC.mp4")


def test_a_client_that_hangs_up_leaves_no_file_open(served: Served) -> None:
    large = store(served, bytes(64 * 1024 * 1024))
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        client.sendall(
            f"GET /api/v1/outputs/{large.output_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert str(large.path) in open_files()
    wait_for(lambda: str(large.path) not in open_files(), 10)


def test_a_deleted_output_is_gone_with_its_bytes_and_its_job_says_so(
    served: Served, described: Described
) -> None:
    one = store(served, b"abc")
    path = f"/api/v1/outputs/{one.output_id}"
    assert served.http.delete(path).status_code == 204
    assert not one.path.exists()
    for address in (path, f"/api/v1/jobs/{one.job_id}/output"):
        told = described.check(served.http.get(address))
        assert (told["code"], told["reason"]) == ("output_gone", "output_deleted")
    job = described.check(served.http.get(f"/api/v1/jobs/{one.job_id}"))
    assert (job["status"], job["outputs"]) == ("completed", [])
    assert described.check(served.http.delete(path))["code"] == "output_gone"


def test_an_output_that_a_job_is_to_read_stays(served: Served, described: Described) -> None:
    one = store(served, b"abc")
    now = served.container.clock.now()
    reader = make_job(inputs=(make_input(output_id=one.output_id),), created_at=now)
    served.write(lambda tx: tx.jobs.insert(reader))
    told = described.check(served.http.delete(f"/api/v1/outputs/{one.output_id}"))
    assert (told["code"], told["jobs"]) == ("job_running", [reader.id])
    assert one.path.exists()
    served.write(lambda tx: tx.jobs.delete(reader.id))


def test_an_output_that_is_being_published_is_not_there_yet(
    served: Served, described: Described
) -> None:
    now = served.container.clock.now()
    job = make_processing_job(created_at=now, heartbeat_at=now)
    output = make_output(
        job_id=job.id, status=OutputStatus.PUBLISHING, created_at=now, expires_at=None
    )
    served.write(lambda tx: insert_all(tx, job, output))
    response = served.http.get(f"/api/v1/outputs/{output.id}")
    assert described.check(response)["code"] == "output_not_ready"
    assert response.headers["retry-after"] == "1"
    assert described.check(served.http.get(f"/api/v1/jobs/{job.id}"))["outputs"] == []
    served.write(lambda tx: tx.outputs.delete(output.id))
    served.write(lambda tx: tx.jobs.delete(job.id))


def test_several_outputs_are_listed_instead_of_one_being_chosen(
    served: Served, described: Described
) -> None:
    several = store(served, b"abc", outputs=2)
    response = served.http.get(f"/api/v1/jobs/{several.job_id}/output")
    told = described.check(response)
    assert response.status_code == 409
    assert len(told["outputs"]) == 2
    for url in told["outputs"]:
        assert served.http.get(url).content == b"abc"


def test_an_output_is_kept_for_another_time_and_its_job_at_least_as_long(
    served: Served, described: Described
) -> None:
    one, other = store(served, b"abc"), store(served, b"abc", outputs=2)
    job_end = parsed(served.http.get(f"/api/v1/jobs/{one.job_id}").json()["expires_at"])
    for end in (job_end + timedelta(hours=5), job_end + timedelta(minutes=7)):
        response = served.http.patch(
            f"/api/v1/outputs/{one.output_id}", json={"expires_at": end.isoformat()}
        )
        shown = described.check(response)
        assert (response.status_code, parsed(shown["expires_at"])) == (200, end)
        job = described.check(served.http.get(f"/api/v1/jobs/{one.job_id}"))
        assert job["outputs"] == [shown]
        # Forward only: a job takes its outputs along when it goes, this one or another.
        assert parsed(job["expires_at"]) == job_end + timedelta(hours=5)
    sooner = job_end - timedelta(minutes=30)
    response = served.http.patch(
        f"/api/v1/outputs/{other.output_id}", json={"expires_at": sooner.isoformat()}
    )
    assert parsed(described.check(response)["expires_at"]) == sooner
    assert served.http.get(f"/api/v1/outputs/{other.output_id}").content == b"abc"


def test_an_end_asked_for_in_another_zone_is_told_in_utc(served: Served, stored: Stored) -> None:
    end = (datetime.now(UTC) + timedelta(hours=5)).replace(microsecond=0)
    told = end.astimezone(timezone(timedelta(hours=2))).isoformat()
    body = {"expires_at": told}
    answer = served.http.patch(f"/api/v1/outputs/{stored.output_id}", json=body).json()
    assert answer["expires_at"] == end.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("2020-01-01T00:00:00Z", "past"),
        ("2999-01-01T00:00:00Z", "too far"),
        ("2999-01-01T00:00:00", "expires_at"),
        (1790000000, "expires_at"),
        (None, "expires_at"),
    ],
)
def test_a_time_that_cannot_be_is_refused_and_changes_nothing(
    served: Served, described: Described, stored: Stored, wrong: object, told: str
) -> None:
    before = served.read(lambda tx: tx.outputs.find(stored.output_id))
    response = served.http.patch(f"/api/v1/outputs/{stored.output_id}", json={"expires_at": wrong})
    assert response.status_code == 422
    problem = described.check(response)
    assert problem["code"] == "invalid_request"
    assert told in problem["detail"]
    assert served.read(lambda tx: tx.outputs.find(stored.output_id)) == before


def test_the_end_of_what_was_delivered_cannot_be_moved(
    served: Served, described: Described
) -> None:
    one = store(served, b"abc")
    found = served.read(lambda tx: tx.outputs.find(one.output_id))
    assert found is not None
    now = served.container.clock.now()
    delivered = replace(found, status=OutputStatus.DELIVERED, delivered_at=now)
    served.write(lambda tx: tx.outputs.update(delivered, expected=OutputStatus.AVAILABLE))
    end = (now + timedelta(hours=2)).isoformat()
    response = served.http.patch(f"/api/v1/outputs/{one.output_id}", json={"expires_at": end})
    assert response.status_code == 422
    assert "was delivered" in described.check(response)["detail"]


def test_moving_the_end_of_what_is_not_there_says_so(served: Served, described: Described) -> None:
    one = store(served, b"abc")
    end = {"expires_at": (served.container.clock.now() + timedelta(hours=2)).isoformat()}
    assert served.http.delete(f"/api/v1/outputs/{one.output_id}").status_code == 204
    for output_id, code in ((one.output_id, "output_gone"), ("0" * 32, "output_not_found")):
        response = served.http.patch(f"/api/v1/outputs/{output_id}", json=end)
        assert described.check(response)["code"] == code


def parsed(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that runs jobs, behind a proxy that serves it below a path and takes that off."""
    data = tmp_path_factory.mktemp("working") / "data"
    settings = settings_for(data, jobs={"workers": 1}, service={"root_path": "/tide"})
    with Served(settings) as running:
        yield running


def test_a_trim_is_downloaded_from_where_its_job_says(working: Served, clip: bytes) -> None:
    session_id = working.open_session(
        expected_files=1, then={"operation": "trim", "params": {"end": 1}}
    )
    session = working.http.get(f"/api/v1/upload/{session_id}").json()
    assert session["tus"]["endpoint"] == "/tide/files/"
    working.upload(clip, session=session_id, filename="Übung.mp4", filetype="video/mp4")
    (job,) = working.http.get("/api/v1/jobs").json()["items"]
    ended = wait_for(
        lambda: (
            found
            if (found := working.http.get(f"/api/v1/jobs/{job['id']}").json())["status"]
            not in {"queued", "processing"}
            else None
        ),
        60,
    )
    assert (ended["status"], ended["error"], ended["progress"]) == ("completed", None, 100)
    (output,) = ended["outputs"]
    assert output["url"] == f"/tide/api/v1/outputs/{output['id']}"
    response = working.http.get(output["url"].removeprefix("/tide"))
    assert len(response.content) == output["size_bytes"]
    assert hashlib.sha256(response.content).hexdigest() == output["sha256"]
    assert response.headers["etag"] == f'"{output["sha256"]}"'
    assert output["filename"].isprintable()
    assert b"ftyp" in response.content[:32]


def open_files() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return found
