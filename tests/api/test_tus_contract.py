"""The tus contract over real sockets: what is answered, and that a refusal changes nothing."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.access import AccessPolicy, hash_key
from app.api.middleware import ALLOWED_HEADERS as CORS_ALLOWED
from app.api.middleware import EXPOSED_HEADERS as CORS_EXPOSED
from app.api.tus import ALLOWED_HEADERS, EXPOSED_HEADERS
from app.api.tus.headers import completion_headers
from app.domain.ids import new_id
from app.domain.jobs import Job
from app.domain.layout import upload_path
from app.domain.sessions import Session, SessionStatus, Then
from app.domain.tombstones import Reason, ThingKind, Tombstone
from app.domain.uploads import UploadStatus
from app.services.burial import bury_job
from app.services.completion import Completion
from tests.factories import make_job
from tests.fakes.tus_client import (
    OFFSET_TYPE,
    VERSION,
    RawRequest,
    TusClient,
    code_of,
    encoded,
    id_of,
    raw_patch,
)
from tests.fakes.tus_server import TusConfig, TusServer, tus_server

MAX = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TusServer]:
    root = tmp_path_factory.mktemp("tus") / "data"
    with tus_server(root, TusConfig(max_upload_bytes=MAX)) as running:
        yield running


@pytest.fixture
def tus(server: TusServer) -> Iterator[TusClient]:
    with TusClient(server.url) as client:
        yield client


def seen(server: TusServer, upload_id: str) -> tuple[Any, bytes | None]:
    """Everything of an upload that a refused request must leave as it is."""
    file = server.file(upload_id)
    data = file.read_bytes() if file.exists() else None
    return server.read(lambda tx: tx.uploads.find(upload_id)), data


def everything(server: TusServer) -> tuple[Any, list[str]]:
    rows = server.read(lambda tx: (tx.uploads.totals(), tx.sessions.list_idle(_FAR, 10_000)))
    return rows, sorted(file.name for file in (server.root / "uploads").iterdir())


_FAR = datetime(2999, 1, 1, tzinfo=UTC)


def make_session(server: TusServer, **changes: Any) -> Session:
    now = datetime.now(UTC)
    session = Session(
        id=new_id(),
        owner="owner",
        status=SessionStatus.OPEN,
        expected_files=None,
        then=None,
        batch_id=None,
        implicit=False,
        keep_inputs_hours=None,
        created_at=now,
        active_at=now,
    )
    session = replace(session, **changes)
    server.do(server.parts.db.write(lambda tx: tx.sessions.insert(session)))
    return session


# --- OPTIONS and versions ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/files", "/files/", f"/files/{'a' * 32}", "/files/nonsense"])
@pytest.mark.parametrize("version", [None, "1.0.0", "0.2.2"])
def test_options_answers_everywhere_whatever_the_version(
    tus: TusClient, path: str, version: str | None
) -> None:
    headers = {"Tus-Resumable": version} if version else {}
    response = tus.http.options(path, headers=headers)
    assert response.status_code == 204
    assert response.headers["tus-version"] == "1.0.0"
    assert response.headers["tus-resumable"] == "1.0.0"
    assert response.headers["tus-max-size"] == str(MAX)
    assert response.headers["tus-checksum-algorithm"].split(",")[0] == "sha1"
    assert set(response.headers["tus-extension"].split(",")) >= {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "expiration",
        "termination",
        "checksum",
    }


@pytest.mark.parametrize("version", [{}, {"Tus-Resumable": "0.2.2"}, {"Tus-Resumable": ""}])
@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE", "POST", "PUT"])
def test_a_wrong_version_is_412_and_writes_nothing(
    server: TusServer, tus: TusClient, method: str, version: dict[str, str]
) -> None:
    upload_id = tus.new(10)
    before = seen(server, upload_id), everything(server)
    path = "/files/" if method == "POST" else f"/files/{upload_id}"
    headers = OFFSET_TYPE | {"Upload-Offset": "0", "Upload-Length": "10"} | version
    response = tus.http.request(method, path, headers=headers, content=b"hello")
    assert response.status_code == 412
    assert response.headers["tus-version"] == "1.0.0"
    assert response.headers["tus-resumable"] == "1.0.0"
    assert (seen(server, upload_id), everything(server)) == before


def test_methods_that_are_not_there_are_405_with_the_ones_that_are(tus: TusClient) -> None:
    response = tus.http.put(f"/files/{'a' * 32}", headers=VERSION)
    assert response.status_code == 405
    assert response.headers["allow"] == "OPTIONS, HEAD, GET, PATCH, DELETE"
    response = tus.http.patch("/files/", headers=VERSION)
    assert response.status_code == 405
    assert response.headers["allow"] == "OPTIONS, POST"
    assert code_of(response) == "method_not_allowed"


def test_the_collection_answers_with_and_without_slash_and_never_redirects(tus: TusClient) -> None:
    for path in ("/files", "/files/"):
        response = tus.http.post(path, headers=VERSION | {"Upload-Length": "1"})
        assert response.status_code == 201


# --- credentials ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TusServer]:
    policy = AccessPolicy(key_hashes=frozenset({hash_key("s3cret")}))
    root = tmp_path_factory.mktemp("locked") / "data"
    with tus_server(root, TusConfig(access=policy)) as running:
        yield running


def test_without_a_key_nothing_is_read_or_written(locked: TusServer) -> None:
    key = {"Authorization": "Bearer s3cret"}
    with TusClient(locked.url) as tus:
        upload_id = tus.new(10, **key)
        before = seen(locked, upload_id), everything(locked)
        for wrong in ({}, {"Authorization": "Bearer no"}):
            assert tus.create(5, content=None, **wrong).status_code == 401
            assert tus.patch(upload_id, 0, b"EVIL!", **wrong).status_code == 401
            assert tus.head(upload_id, **wrong).status_code == 401
            assert (
                tus.http.delete(f"/files/{upload_id}", headers=VERSION | wrong).status_code == 401
            )
            assert tus.http.get(f"/files/{upload_id}", headers=wrong).status_code == 401
        assert (seen(locked, upload_id), everything(locked)) == before
        assert tus.http.options("/files/").status_code == 204
        # The version goes first, and an unknown id is told to nobody.
        assert tus.http.head(f"/files/{upload_id}").status_code == 412
        assert tus.patch("0" * 32, 0, b"x").status_code == 401


def test_a_body_without_credentials_is_refused_before_it_is_read(locked: TusServer) -> None:
    headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "0", "Content-Length": str(1 << 40)}
    headers["Expect"] = "100-continue"
    with RawRequest(locked.port, "PATCH", f"/files/{'a' * 32}", headers) as request:
        status, answer, _ = request.answer()
    assert status == 401
    assert answer["connection"] == "close"


def test_another_owners_upload_is_not_found(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new(10)
    row, _ = seen(server, upload_id)
    other = replace(row, owner="somebody else")
    server.do(
        server.parts.db.write(lambda tx: tx.uploads.update(other, expected=UploadStatus.RECEIVING))
    )
    before = seen(server, upload_id)
    assert tus.head(upload_id).status_code == 404
    assert code_of(tus.patch(upload_id, 0, b"hello")) == "upload_not_found"
    assert tus.delete(upload_id).status_code == 404
    assert tus.get(upload_id).status_code == 404
    assert seen(server, upload_id) == before


# --- creation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Length": "-1"},
        {"Upload-Length": "+400"},
        {"Upload-Length": "4_00"},
        {"Upload-Length": "4 0"},
        {"Upload-Length": "four"},
        {"Upload-Length": "1.5"},
        {"Upload-Length": ""},
        {"Upload-Length": "²"},
        {"Upload-Defer-Length": "2"},
        {"Upload-Defer-Length": "yes"},
        {"Upload-Length": "5", "Upload-Defer-Length": "1"},
        {"Upload-Length": "5", "Idempotency-Key": "once"},
        {"Upload-Concat": "final;"},
        {"Upload-Length": "5", "Upload-Concat": "whole"},
        {"Upload-Length": "5", "Trailer": "Upload-Checksum"},
        {"Upload-Length": "5", "Upload-Checksum": "sha1 abc"},
        {"Upload-Length": "5", "Upload-Metadata": "filename not-base64!"},
        {"Upload-Length": "5", "Upload-Metadata": "filename YQ==,filename YQ=="},
        {"Upload-Length": "5", "Upload-Metadata": ",filename YQ=="},
        {"Upload-Length": "5", "Upload-Metadata": "dätei YQ=="},
        {"Upload-Length": "5", "Upload-Metadata": f"filename {'YWFh' * 3000}"},
    ],
)
def test_a_creation_with_bad_headers_is_400_and_leaves_nothing(
    server: TusServer, tus: TusClient, headers: dict[str, str]
) -> None:
    before = everything(server)
    raw = [(k.encode(), v.encode("latin-1")) for k, v in (VERSION | headers).items()]
    response = tus.http.post("/files/", headers=raw)
    assert response.status_code == 400
    assert code_of(response) in {"invalid_header", "invalid_metadata", "not_supported"}
    assert response.headers["tus-resumable"] == "1.0.0"
    assert everything(server) == before


@pytest.mark.parametrize("length", [MAX + 1, 10**26])
def test_a_length_over_the_maximum_is_413_at_creation(
    server: TusServer, tus: TusClient, length: int
) -> None:
    before = everything(server)
    response = tus.create(length)
    assert response.status_code == 413
    assert code_of(response) == "upload_too_large"
    assert everything(server) == before


def test_what_is_not_built_is_refused_and_not_advertised(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new(10)
    before = seen(server, upload_id)
    for header in ({"Idempotency_Key": "once"}, {"Trailer": "Upload-Checksum"}):
        response = tus.patch(upload_id, 0, b"hello", **header)
        assert (response.status_code, code_of(response)) == (400, "not_supported")
    assert seen(server, upload_id) == before
    advertised = tus.http.options("/files/").headers
    assert "checksum-trailer" not in advertised["tus-extension"]


def test_location_is_a_path_that_no_header_can_poison(tus: TusClient) -> None:
    response = tus.create(
        5, X_Forwarded_Host="evil.example", X_Forwarded_Proto="https", Forwarded="host=evil.example"
    )
    assert response.headers["location"] == f"/files/{id_of(response)}"
    assert len(id_of(response)) == 32


def test_location_knows_the_root_path_and_the_public_url(tmp_path: Path) -> None:
    with (
        tus_server(tmp_path / "a", TusConfig(root_path="/tide")) as behind,
        TusClient(behind.url) as tus,
    ):
        # The proxy takes the prefix off, and clients go by what Location says.
        response = tus.create(2)
        assert response.headers["location"] == f"/tide/files/{id_of(response)}"
        assert tus.head(id_of(response)).status_code == 200
    config = TusConfig(public_url="https://video.example")
    with tus_server(tmp_path / "b", config) as public, TusClient(public.url) as tus:
        response = tus.create(2)
        assert response.headers["location"] == f"https://video.example/files/{id_of(response)}"


def test_unfinished_uploads_say_when_they_expire(server: TusServer, tus: TusClient) -> None:
    response = tus.create(10)
    upload_id = id_of(response)
    assert response.headers["upload-expires"].endswith(" GMT")
    moment = parsedate_to_datetime(response.headers["upload-expires"])
    assert timedelta(hours=23) < moment - datetime.now(UTC) < timedelta(hours=25)
    row, _ = seen(server, upload_id)
    old = replace(row, expires_at=row.created_at + timedelta(hours=1))
    server.do(
        server.parts.db.write(lambda tx: tx.uploads.update(old, expected=UploadStatus.RECEIVING))
    )
    # It slides with each PATCH, and HEAD tells.
    patched = tus.patch(upload_id, 0, b"hello").headers["upload-expires"]
    assert parsedate_to_datetime(patched) >= moment
    assert tus.head(upload_id).headers["upload-expires"] == patched
    assert "upload-expires" not in tus.patch(upload_id, 5, b"world").headers


# --- metadata ------------------------------------------------------------------------------------


def test_head_echoes_the_metadata_byte_for_byte(server: TusServer, tus: TusClient) -> None:
    name, kind = "Li4vLi4vZXRjL3Bhc3N3ZA==", "dmlkZW8vbXA0"
    raw = f"zeta emV0YQ==,filename {name}, empty ,flag,binary //79,filetype {kind}"
    upload_id = tus.new(10, Upload_Metadata=raw)
    response = tus.head(upload_id)
    assert response.headers["upload-metadata"] == raw
    assert response.headers["cache-control"] == "no-store"
    row, _ = seen(server, upload_id)
    assert row.metadata.filename == "../../etc/passwd"
    assert row.metadata.media_type == "video/mp4"
    assert dict(row.metadata.fields) == {
        "zeta": "zeta",
        "filename": "../../etc/passwd",
        "empty": "",
        "flag": "",
        "filetype": "video/mp4",
    }
    assert server.file(upload_id).parent == server.root / "uploads"


def test_head_does_not_say_zero_while_the_folder_of_uploads_is_away(tmp_path: Path) -> None:
    with tus_server(tmp_path / "data") as server, TusClient(server.url) as tus:
        upload_id = tus.new(10)
        assert tus.patch(upload_id, 0, b"01234").status_code == 204
        (tmp_path / "data/uploads").rename(tmp_path / "away")
        told, patched = tus.head(upload_id), tus.patch(upload_id, 0, b"01234")
        (tmp_path / "away").rename(tmp_path / "data/uploads")
        assert told.status_code == 423
        assert patched.status_code >= 500
        assert tus.offset(upload_id) == 5


def test_head_works_without_any_metadata(tus: TusClient) -> None:
    response = tus.head(tus.new(10))
    assert response.status_code == 200
    assert "upload-metadata" not in response.headers
    assert response.headers["upload-length"] == "10"
    assert response.headers["upload-offset"] == "0"


def test_a_file_name_cannot_break_out_of_a_header(tus: TusClient) -> None:
    name = 'a"\r\nSet-Cookie: x=1; é.mp4'
    upload_id = id_of(tus.create(2, content=b"ab", Upload_Metadata=encoded(filename=name)))
    response = tus.get(upload_id)
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    assert response.headers["content-disposition"].startswith("attachment; ")


# --- PATCH ---------------------------------------------------------------------------------------


def test_an_upload_in_pieces_is_whole_in_the_end(server: TusServer, tus: TusClient) -> None:
    data = os.urandom(300_000)
    upload_id = tus.new(len(data))
    offset, response = 0, None
    for size in (1, 99_999, 150_000, 50_000):
        response = tus.patch(upload_id, offset, data[offset : offset + size])
        assert response.status_code == 204
        offset += size
        assert response.headers["upload-offset"] == str(offset)
        assert tus.offset(upload_id) == offset
    assert response is not None
    assert response.headers["tidemill-upload"] == upload_id
    assert response.headers["tidemill-batch"]
    assert server.file(upload_id).read_bytes() == data
    head = tus.head(upload_id)
    assert head.headers["tidemill-batch"] == response.headers["tidemill-batch"]
    row, _ = seen(server, upload_id)
    assert row.status is UploadStatus.COMPLETED


BAD_PATCHES = [
    ({"Upload-Offset": "3"}, b"hello", 409, "offset_mismatch"),
    ({"Upload-Offset": "7"}, b"hello", 409, "offset_mismatch"),
    ({"Upload-Offset": "-5"}, b"hello", 400, "invalid_header"),
    ({"Upload-Offset": "+5"}, b"hello", 400, "invalid_header"),
    ({"Upload-Offset": "0_5"}, b"hello", 400, "invalid_header"),
    ({"Upload-Offset": "five"}, b"hello", 400, "invalid_header"),
    ({"Upload-Offset": ""}, b"hello", 400, "invalid_header"),
    ({}, b"hello", 400, "invalid_header"),
    ({"Upload-Offset": "5", "Content-Type": "video/mp4"}, b"hello", 415, "unsupported_media_type"),
    ({"Upload-Offset": "5", "Content-Type": ""}, b"hello", 415, "unsupported_media_type"),
    ({"Upload-Offset": "5", "Upload-Length": "11"}, b"hello", 400, "invalid_header"),
    ({"Upload-Offset": "5", "Upload-Length": "-1"}, b"hello", 400, "invalid_header"),
    ({"Upload-Offset": "5"}, b"far too long", 413, "body_too_long"),
    ({"Upload-Offset": "5"}, b"x" * 2_000_000, 413, "body_too_long"),
]


@pytest.mark.parametrize(("headers", "content", "status", "code"), BAD_PATCHES)
def test_a_patch_that_is_refused_writes_nothing(
    server: TusServer,
    tus: TusClient,
    headers: dict[str, str],
    content: bytes,
    status: int,
    code: str,
) -> None:
    upload_id = tus.new(10)
    assert tus.patch(upload_id, 0, b"12345").status_code == 204
    before = seen(server, upload_id)
    response = tus.http.patch(
        f"/files/{upload_id}", headers=VERSION | OFFSET_TYPE | headers, content=content
    )
    assert (response.status_code, code_of(response)) == (status, code)
    assert response.headers["tus-resumable"] == "1.0.0"
    assert seen(server, upload_id) == before
    assert tus.offset(upload_id) == 5
    assert tus.patch(upload_id, 5, b"67890").status_code == 204
    assert server.file(upload_id).read_bytes() == b"1234567890"


def test_a_chunked_body_that_runs_past_the_length_is_cut_back(
    server: TusServer, tus: TusClient
) -> None:
    data = os.urandom(700_000)
    upload_id = tus.new(len(data))
    assert tus.patch(upload_id, 0, data[:100_000]).status_code == 204
    pieces = [data[i : i + 50_000] for i in range(100_000, len(data), 50_000)] + [b"more"]
    response = tus.patch(upload_id, 100_000, iter(pieces))
    assert (response.status_code, code_of(response)) == (413, "body_too_long")
    assert response.headers["upload-offset"] == "100000"
    assert server.file(upload_id).stat().st_size == 100_000
    row, _ = seen(server, upload_id)
    assert row.status is UploadStatus.RECEIVING
    response = tus.patch(upload_id, 100_000, data[100_000:])
    assert response.status_code == 204
    assert server.file(upload_id).read_bytes() == data


def test_chunked_bodies_work_for_patch_and_creation(server: TusServer, tus: TusClient) -> None:
    data = os.urandom(200_000)
    created = tus.create(len(data), content=iter([data[:70_000], data[70_000:90_000]]))
    assert created.status_code == 201
    assert created.headers["upload-offset"] == "90000"
    upload_id = id_of(created)
    response = tus.patch(upload_id, 90_000, iter([data[90_000:90_001], data[90_001:]]))
    assert (response.status_code, response.headers["upload-offset"]) == (204, "200000")
    assert server.file(upload_id).read_bytes() == data


def test_a_patch_on_a_completed_upload_changes_nothing(server: TusServer, tus: TusClient) -> None:
    upload_id = id_of(tus.create(5, content=b"hello"))
    before = seen(server, upload_id)
    again = tus.patch(upload_id, 5, b"")
    assert again.status_code == 204
    assert again.headers["tidemill-batch"] == before[0].batch_id
    for content in (b"more", iter([b"mo", b"re"])):
        response = tus.patch(upload_id, 5, content)
        assert (response.status_code, code_of(response)) == (413, "body_too_long")
    assert tus.patch(upload_id, 0, b"HELLO").status_code == 409
    assert seen(server, upload_id) == before


def test_eight_empty_patches_at_the_end_complete_once(server: TusServer, tus: TusClient) -> None:
    session = make_session(server, expected_files=1, then=Then("trim", {"start": 0, "end": 1}))
    upload_id = tus.new(5, Upload_Metadata=encoded(session=session.id))
    # The state after a crash between the last byte and the completion.
    server.file(upload_id).write_bytes(b"hello")
    jobs_before = len(server.parts.queue.enqueued)

    def finish(_: int) -> httpx.Response:
        with TusClient(server.url) as client:
            return client.patch(upload_id, 5, b"")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(finish, range(8)))
    assert [answer.status_code for answer in answers] == [204] * 8
    assert len({answer.headers["tidemill-batch"] for answer in answers}) == 1
    assert len({answer.headers["tidemill-job"] for answer in answers}) == 1
    batch_id = answers[0].headers["tidemill-batch"]
    assert len(server.read(lambda tx: tx.jobs.list_by_batch(batch_id))) == 1
    assert len(server.parts.queue.enqueued) == jobs_before + 1


def test_head_completes_an_upload_whose_completion_was_lost(
    server: TusServer, tus: TusClient
) -> None:
    upload_id = tus.new(5)
    server.file(upload_id).write_bytes(b"hello")
    response = tus.head(upload_id)
    assert response.headers["upload-offset"] == "5"
    assert response.headers["tidemill-upload"] == upload_id
    row, _ = seen(server, upload_id)
    assert response.headers["tidemill-batch"] == row.batch_id


# --- creation-with-upload, deferred lengths, no bytes --------------------------------------------


def test_a_creation_with_the_whole_body_completes_the_upload(
    server: TusServer, tus: TusClient
) -> None:
    data = os.urandom(100_000)
    response = tus.create(len(data), content=data)
    upload_id = id_of(response)
    assert response.status_code == 201
    assert response.headers["upload-offset"] == "100000"
    assert response.headers["tidemill-upload"] == upload_id
    assert response.headers["tidemill-batch"]
    assert server.file(upload_id).read_bytes() == data


def test_a_creation_with_a_body_of_another_type_is_415(server: TusServer, tus: TusClient) -> None:
    before = everything(server)
    response = tus.create(5, content=b"hello", Content_Type="video/mp4")
    assert (response.status_code, code_of(response)) == (415, "unsupported_media_type")
    assert everything(server) == before


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [0, 5])
def test_a_creation_whose_body_is_too_long_leaves_nothing(
    server: TusServer, tus: TusClient, *, chunked: bool, length: int
) -> None:
    before = everything(server)
    content = iter([b"hello", b" world"]) if chunked else b"hello world"
    response = tus.create(length, content=content)
    assert (response.status_code, code_of(response)) == (413, "body_too_long")
    assert everything(server) == before


def test_a_zero_byte_upload_completes_at_creation(server: TusServer, tus: TusClient) -> None:
    for content in (None, iter([b""])):
        response = tus.create(0, content=content)
        upload_id = id_of(response)
        assert response.headers["tidemill-upload"] == upload_id
        assert response.headers["tidemill-batch"]
        assert server.file(upload_id).read_bytes() == b""
        assert tus.head(upload_id).headers["upload-offset"] == "0"
        got = tus.get(upload_id)
        assert (got.status_code, got.content) == (200, b"")
        assert tus.patch(upload_id, 0, b"").status_code == 204


def test_a_deferred_length_is_declared_once(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new()
    assert tus.head(upload_id).headers["upload-defer-length"] == "1"
    assert "upload-length" not in tus.head(upload_id).headers
    assert tus.patch(upload_id, 0, b"hello").status_code == 204
    before = seen(server, upload_id)
    for bad, status in (("4", 400), ("-5", 400), ("+9", 400), (str(MAX + 1), 413)):
        assert tus.patch(upload_id, 5, b"!", Upload_Length=bad).status_code == status
        assert seen(server, upload_id) == before
    # A body that would go past the length it declares: the length is not stored either.
    assert tus.patch(upload_id, 5, b"too long", Upload_Length="8").status_code == 413
    assert seen(server, upload_id) == before
    assert tus.patch(upload_id, 5, b"wor", Upload_Length="10").status_code == 204
    assert tus.head(upload_id).headers["upload-length"] == "10"
    assert code_of(tus.patch(upload_id, 8, b"ld", Upload_Length="11")) == "invalid_header"
    response = tus.patch(upload_id, 8, b"ld", Upload_Length="10")
    assert response.headers["tidemill-upload"] == upload_id
    assert server.file(upload_id).read_bytes() == b"helloworld"


def test_a_deferred_length_may_be_declared_by_an_empty_patch(tus: TusClient) -> None:
    upload_id = tus.new()
    assert tus.patch(upload_id, 0, b"hello").status_code == 204
    response = tus.patch(upload_id, 5, b"", Upload_Length="5")
    assert response.headers["tidemill-upload"] == upload_id


def test_a_body_without_a_length_ends_at_the_maximum(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new()
    response = tus.patch(upload_id, 0, iter([b"x" * 400_000] * 3))
    assert (response.status_code, code_of(response)) == (413, "body_too_long")
    assert tus.offset(upload_id) == 0
    assert not seen(server, upload_id)[1]


# --- termination ---------------------------------------------------------------------------------


def test_a_terminated_upload_is_forgotten(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new(10)
    tus.patch(upload_id, 0, b"hello")
    session_id = seen(server, upload_id)[0].session_id
    assert tus.delete(upload_id).status_code == 204
    assert tus.head(upload_id).status_code == 404
    assert code_of(tus.patch(upload_id, 5, b"world")) == "upload_not_found"
    assert tus.delete(upload_id).status_code == 404
    assert tus.get(upload_id).status_code == 404
    assert not server.file(upload_id).exists()
    tombstone = server.read(lambda tx: tx.tombstones.find(ThingKind.UPLOAD, upload_id))
    assert tombstone.reason is Reason.TERMINATED
    assert server.read(lambda tx: tx.sessions.find(session_id)) is None
    assert server.read(lambda tx: tx.cleanup.find(upload_path(upload_id))) is None


def test_a_terminated_upload_frees_its_place_in_an_open_session(
    server: TusServer, tus: TusClient
) -> None:
    session = make_session(server, expected_files=2)
    named = {"Upload_Metadata": encoded(session=session.id)}
    first = tus.create(5, content=b"first", **named)
    assert "tidemill-batch" not in first.headers
    assert first.headers["tidemill-upload"] == id_of(first)
    assert tus.delete(id_of(first)).status_code == 204
    second = tus.create(5, content=b"other", **named)
    assert "tidemill-batch" not in second.headers
    third = tus.create(5, content=b"third", **named)
    batch_id = third.headers["tidemill-batch"]
    files = server.read(lambda tx: tx.uploads.list_by_batch(batch_id))
    assert [file.id for file in files] == [id_of(second), id_of(third)]


def test_an_upload_in_a_batch_cannot_be_terminated(server: TusServer, tus: TusClient) -> None:
    upload_id = id_of(tus.create(5, content=b"hello"))
    before = seen(server, upload_id)
    response = tus.delete(upload_id)
    assert (response.status_code, code_of(response)) == (403, "upload_in_batch")
    assert seen(server, upload_id) == before


# --- sessions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", ["0" * 32, "nonsense", "../../x", "A" * 32])
def test_an_unknown_session_is_404(server: TusServer, tus: TusClient, session: str) -> None:
    before = everything(server)
    response = tus.create(5, Upload_Metadata=encoded(session=session))
    assert (response.status_code, code_of(response)) == (404, "session_not_found")
    assert everything(server) == before


def test_anothers_session_is_404_and_a_deleted_one_410(server: TusServer, tus: TusClient) -> None:
    other = make_session(server, owner="somebody else")
    response = tus.create(5, Upload_Metadata=encoded(session=other.id))
    assert (response.status_code, code_of(response)) == (404, "session_not_found")
    gone = Tombstone(
        id=new_id(),
        kind=ThingKind.SESSION,
        owner="owner",
        reason=Reason.SESSION_DELETED,
        sweep=None,
        parent_id=None,
        size_bytes=0,
        error_code=None,
        created_at=datetime.now(UTC),
        completed_at=None,
        deleted_at=datetime.now(UTC),
    )
    server.do(server.parts.db.write(lambda tx: tx.tombstones.put(gone)))
    response = tus.create(5, Upload_Metadata=encoded(session=gone.id))
    assert (response.status_code, code_of(response)) == (410, "session_gone")
    assert response.json()["reason"] == "session_deleted"


def test_a_session_that_is_a_batch_takes_no_more(server: TusServer, tus: TusClient) -> None:
    session = make_session(server, expected_files=1)
    named = encoded(session=session.id)
    # Creation is allowed while fewer are completed: a lost 201 locks nobody out.
    left_over = tus.new(9, Upload_Metadata=named)
    tus.patch(left_over, 0, b"four")
    done = tus.create(5, content=b"hello", Upload_Metadata=named)
    assert done.headers["tidemill-batch"]
    response = tus.create(5, Upload_Metadata=named)
    assert (response.status_code, code_of(response)) == (422, "session_closed")
    # When the session fills, its unfinished rest ends as superseded.
    response = tus.patch(left_over, 4, b"going")
    assert (response.status_code, code_of(response)) == (410, "upload_gone")
    assert response.json()["reason"] == "superseded"
    assert tus.head(left_over).status_code == 410
    assert not server.file(left_over).exists()


def test_then_makes_a_job_for_each_file_in_the_order_asked_for(
    server: TusServer, tus: TusClient
) -> None:
    orders = "452160"
    then = Then("trim", {"start": 1})
    session = make_session(server, expected_files=len(orders), then=then)
    made = [
        tus.create(4, content=b"data", Upload_Metadata=encoded(session=session.id, order=order))
        for order in orders
    ]
    in_order = [id_of(answer) for _, answer in sorted(zip(orders, made, strict=True))]
    batch_id, told = made[-1].headers["tidemill-batch"], made[-1].headers["tidemill-job"]
    files = server.read(lambda tx: tx.uploads.list_by_batch(batch_id))
    assert [file.id for file in files] == in_order
    jobs = server.read(lambda tx: tx.jobs.list_by_batch(batch_id))
    assert [job.inputs[0].upload_id for job in jobs] == in_order
    assert [job.id for job in jobs] == told.split(",")
    assert all(job.from_then and job.operation == "trim" for job in jobs)
    assert {job.id for job in jobs} <= {job_id for job_id, _ in server.parts.queue.enqueued}

    def head_tells() -> str:
        return tus.head(in_order[0]).headers["tidemill-job"]

    assert head_tells() == told
    bury_jobs(server, jobs[1])
    assert head_tells() == told


def test_head_tells_only_of_the_jobs_of_then(server: TusServer, tus: TusClient) -> None:
    upload_id = id_of(tus.create(4, content=b"data"))
    row, _ = seen(server, upload_id)
    job = make_job(owner=row.owner, batch_id=row.batch_id, inputs=())
    server.do(server.parts.db.write(lambda tx: tx.jobs.insert(job)))
    assert "tidemill-job" not in tus.head(upload_id).headers
    bury_jobs(server, job)
    assert "tidemill-job" not in tus.head(upload_id).headers


@pytest.mark.parametrize(("jobs", "told"), [(0, 0), (1, 1), (50, 50), (51, 0), (1000, 0)])
def test_more_jobs_than_a_head_can_carry_are_told_by_the_batch_only(jobs: int, told: int) -> None:
    ids = tuple(new_id() for _ in range(jobs))
    headers = completion_headers(Completion(new_id(), new_id(), ids))
    assert headers["Tidemill-Batch"]
    assert headers.get("Tidemill-Job", "") == ",".join(ids[:told])
    assert len(str(headers)) < 2048


def bury_jobs(server: TusServer, *gone: Job) -> None:
    def work(tx: Any) -> None:
        for job in gone:
            bury_job(tx, job, reason=Reason.JOB_DELETED, sweep=None, now=datetime.now(UTC))

    server.do(server.parts.db.write(work))


# --- HEAD after the end --------------------------------------------------------------------------


def bury(server: TusServer, tus: TusClient, reason: Reason, *, ago: timedelta) -> str:
    """Return the id of an upload that was completed ``ago`` and is now gone for ``reason``."""
    upload_id = id_of(tus.create(5, content=b"hello", Upload_Metadata=encoded(filename="a.mp4")))
    row, _ = seen(server, upload_id)
    now = datetime.now(UTC)
    tombstone = Tombstone(
        id=upload_id,
        kind=ThingKind.UPLOAD,
        owner=row.owner,
        reason=reason,
        sweep="spent_inputs",
        parent_id=row.batch_id,
        size_bytes=5,
        error_code=None,
        created_at=now - ago,
        completed_at=now - ago,
        deleted_at=now,
    )

    def work(tx: Any) -> None:
        tx.uploads.delete(upload_id)
        tx.tombstones.put(tombstone)

    server.do(server.parts.db.write(work))
    server.file(upload_id).unlink()
    return upload_id


@pytest.mark.parametrize("reason", [Reason.SPENT, Reason.BATCH_EXPIRED])
def test_head_says_complete_for_a_while_after_retention_took_the_bytes(
    server: TusServer, tus: TusClient, reason: Reason
) -> None:
    upload_id = bury(server, tus, reason, ago=timedelta(hours=23))
    response = tus.head(upload_id)
    assert response.status_code == 200
    assert response.headers["upload-offset"] == response.headers["upload-length"] == "5"
    assert response.headers["tidemill-upload"] == upload_id
    assert response.headers["tidemill-batch"]
    assert "upload-metadata" not in response.headers
    assert (tus.get(upload_id).status_code, code_of(tus.get(upload_id))) == (410, "upload_gone")
    late = bury(server, tus, reason, ago=timedelta(hours=25))
    assert tus.head(late).status_code == 410


@pytest.mark.parametrize("reason", [Reason.SESSION_DELETED, Reason.BATCH_DELETED, Reason.EXPIRED])
def test_head_is_410_where_the_upload_was_deleted_on_purpose(
    server: TusServer, tus: TusClient, reason: Reason
) -> None:
    upload_id = bury(server, tus, reason, ago=timedelta(minutes=1))
    response = tus.head(upload_id)
    assert (response.status_code, response.content) == (410, b"")
    assert response.headers["tus-resumable"] == "1.0.0"
    assert code_of(tus.patch(upload_id, 5, b"")) == "upload_gone"


# --- GET, ids, override, CORS --------------------------------------------------------------------


def test_get_hands_out_a_complete_upload_with_range(tus: TusClient) -> None:
    data = os.urandom(50_000)
    metadata = encoded(filename="clip.mp4", filetype="video/mp4")
    upload_id = id_of(tus.create(len(data), content=data, Upload_Metadata=metadata))
    whole = tus.get(upload_id)
    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-disposition"] == 'attachment; filename="clip.mp4"'
    assert whole.headers["tus-resumable"] == "1.0.0"
    part = tus.get(upload_id, Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, data[100:200])
    assert tus.get(upload_id, Range="bytes=50000-").status_code == 416


def test_get_of_an_unfinished_upload_is_409(tus: TusClient) -> None:
    upload_id = tus.new(10)
    response = tus.get(upload_id)
    assert (response.status_code, code_of(response)) == (409, "upload_incomplete")


@pytest.mark.parametrize(
    "name",
    ["x", "A" * 32, "a" * 31, "a" * 33, "..", "%2e%2e", "%00", "a%00", "run", f"{'a' * 32}.info",
     f"{'a' * 32}/x", "..%2ftidemill.db", "%252e%252e", f"{'a' * 32}%0a"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "DELETE"])
def test_what_is_no_id_is_404(server: TusServer, name: str, method: str) -> None:
    before = everything(server)
    headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "0", "Content-Length": "0"}
    with RawRequest(server.port, method, f"/files/{name}", headers) as request:
        status, answer, body = request.answer() if method != "HEAD" else _head(request)
    assert status == 404
    assert answer["tus-resumable"] == "1.0.0"
    assert b"upload_not_found" in body or method == "HEAD"
    assert everything(server) == before
    assert (server.root / "tidemill.db").exists()


def _head(request: RawRequest) -> tuple[int, dict[str, str], bytes]:
    request.socket.settimeout(5)
    data = b""
    while b"\r\n\r\n" not in data:
        data += request.socket.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
    assert body == b""
    return int(status.split()[1]), headers, body


def test_the_method_may_be_overridden(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new(5)

    def post(method: str, content: bytes = b"", **headers: str) -> httpx.Response:
        override = VERSION | {"X-HTTP-Method-Override": method} | headers
        return tus.http.post(f"/files/{upload_id}", headers=override, content=content)

    assert post("HEAD").headers["upload-offset"] == "0"
    patched = post("PATCH", b"hell", **OFFSET_TYPE, **{"Upload-Offset": "0"})
    assert (patched.status_code, patched.headers["upload-offset"]) == (204, "4")
    assert post("delete").status_code == 204
    gone = post("HEAD")
    assert (gone.status_code, gone.content) == (404, b"")
    assert post("BREW").status_code == 405
    assert post("OPTIONS").status_code == 204
    assert not server.file(upload_id).exists()


def test_pages_of_allowed_origins_can_read_every_header(tus: TusClient) -> None:
    def names(text: str) -> set[str]:
        return {name.strip().lower() for name in text.split(",")}

    assert {name.lower() for name in EXPOSED_HEADERS} <= names(CORS_EXPOSED)
    assert {name.lower() for name in ALLOWED_HEADERS} <= names(CORS_ALLOWED)
    preflight = tus.http.options(
        "/files/",
        headers={
            "Origin": "http://localhost:5173",
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "tus-resumable,upload-offset",
        },
    )
    assert preflight.status_code == 204
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    refused = tus.http.head(
        f"/files/{'a' * 32}", headers=VERSION | {"Origin": "http://localhost:5173"}
    )
    assert refused.status_code == 404
    assert refused.headers["access-control-allow-origin"] == "http://localhost:5173"


# --- space and trouble ---------------------------------------------------------------------------


def test_an_upload_that_does_not_fit_is_507_with_the_figures(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    reserve = free.f_bavail * free.f_frsize - 200_000_000
    with (
        tus_server(tmp_path / "data", TusConfig(reserve_bytes=reserve)) as server,
        TusClient(server.url) as tus,
    ):
        first = tus.create(120_000_000)
        assert first.status_code == 201
        before = everything(server)
        # The first has not written a byte, and yet its space is taken.
        response = tus.create(120_000_000)
        assert (response.status_code, code_of(response)) == (507, "no_space")
        figures = response.json()
        assert figures["required_bytes"] == 120_000_000
        assert 0 < figures["available_bytes"] < 120_000_000
        assert figures["promised_bytes"] == 120_000_000
        assert everything(server) == before
        deferred = tus.new()
        late = tus.patch(deferred, 0, b"", Upload_Length="120000000")
        assert (late.status_code, code_of(late)) == (507, "no_space")
        assert seen(server, deferred)[0].length is None
        assert tus.delete(id_of(first)).status_code == 204
        assert tus.create(120_000_000).status_code == 201


def test_while_the_service_is_not_ready_head_is_423(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new(5)
    container, server.app.state.container = server.app.state.container, None
    try:
        response = tus.head(upload_id)
        assert (response.status_code, response.content) == (423, b"")
        assert tus.patch(upload_id, 0, b"hello").status_code == 503
        assert tus.http.options("/files/").status_code == 204
    finally:
        server.app.state.container = container
    assert tus.patch(upload_id, 0, b"hello").status_code == 204


def test_an_answer_comes_with_the_digest_of_exactly_what_was_sent(
    server: TusServer, tus: TusClient
) -> None:
    """Many small PATCHes on one connection, some refused in between: nothing shifts."""
    data = os.urandom(200_000)
    upload_id = tus.new(len(data))
    for start in range(0, len(data), 10_000):
        assert tus.patch(upload_id, start + 1, data[:70_000]).status_code == 409
        assert tus.patch(upload_id, start, data[start : start + 10_000]).status_code == 204
    whole = hashlib.sha256(tus.get(upload_id).content).digest()
    assert whole == hashlib.sha256(data).digest()


def test_expect_100_continue_is_answered_before_the_body(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new(5)
    with raw_patch(server.port, upload_id, 0, 5, Expect="100-continue") as request:
        assert request.socket.recv(4096).startswith(b"HTTP/1.1 100 Continue")
        request.send(b"hello")
        assert request.answer()[0] == 204
    with raw_patch(server.port, upload_id, 3, 5, Expect="100-continue") as request:
        status, headers, _ = request.answer()
        assert (status, headers["connection"]) == (409, "close")
