"""Files in parts (tus 1.0.0, "Concatenation"): parts that complete nothing, and finals made of them."""

import asyncio
import contextlib
import sqlite3
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from hashlib import sha1
from typing import Any

import httpx
import pytest

from app.domain.errors import NoSpace, StorageFailed
from app.domain.ids import new_id
from app.domain.sweeps import SweepName
from app.domain.tombstones import Reason
from app.domain.uploads import UploadKind
from app.services import batch_follow_up
from app.services.burial import bury_upload
from app.services.concatenation import FINALS_AT_ONCE
from app.services.container import Container
from app.services.ports import PartCopier
from tests.factories import make_upload
from tests.fakes.served import OCTETS, TUS, Served, settings_for, wait_for
from tests.fakes.tus_client import RawRequest, code_of, encoded

THEN = {"operation": "trim", "params": {"start": 0, "end": 1}}
ONE, TWO = b"first half, ", b"second half"
MAXIMUM = 4 * 2**20
NOBODY = "0" * 32


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service whose jobs wait, that takes 4 MiB and waits half a second for locks."""
    settings = settings_for(
        tmp_path_factory.mktemp("parts") / "data",
        jobs={"workers": 0},
        uploads={"lock_wait_seconds": 0.5, "max_upload_bytes": MAXIMUM},
    )
    with Served(settings) as running:
        # The sweeps of the start change rows on their own.
        last = f"/api/v1/sweeps?sweep={SweepName.OLD_RECORDS.value}"
        wait_for(lambda: running.http.get(last).json()["items"])
        yield running


# --- the wire -------------------------------------------------------------------------------------


def create(served: Served, content: bytes | None = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kind = OCTETS if content is not None else {}
    return served.http.post("/files/", headers=TUS | kind | named, content=content)


def new_part(served: Served, body: bytes, length: int | None = None, **metadata: str) -> str:
    """Create a part with its first bytes; returns where it is."""
    size = str(len(body) if length is None else length)
    response = create(
        served,
        body,
        Upload_Length=size,
        Upload_Metadata=encoded(**metadata),
        Upload_Concat="partial",
    )
    assert response.status_code == 201, response.text
    return response.headers["location"]


def join(served: Served, *urls: str, **headers: str) -> httpx.Response:
    return create(served, None, Upload_Concat="final;" + " ".join(urls), **headers)


def new_final(served: Served, *bodies: bytes, **metadata: str) -> httpx.Response:
    urls = [new_part(served, body) for body in bodies]
    response = join(served, *urls, Upload_Metadata=encoded(**metadata))
    assert response.status_code == 201, response.text
    return response


def head(served: Served, url: str) -> httpx.Response:
    return served.http.head(url, headers=TUS)


def patch(served: Served, url: str, offset: int, body: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = TUS | OCTETS | {"Upload-Offset": str(offset)} | named
    return served.http.patch(url, headers=sent, content=body)


def told(response: httpx.Response) -> dict[str, str]:
    """What tells a client what its upload became."""
    names = ("location", "tidemill-upload", "tidemill-batch", "tidemill-job")
    return {name: response.headers[name] for name in names if name in response.headers}


def id_in(url: str) -> str:
    return url.rpartition("/")[2]


@contextlib.contextmanager
def nothing_changes(served: Served) -> Iterator[None]:
    before = served.state()
    yield
    assert served.state() == before


def sweep(served: Served, name: SweepName) -> dict[str, Any]:
    def ask() -> httpx.Response | None:
        response = served.http.post(f"/api/v1/sweeps/{name.value}")
        return None if response.status_code == 409 else response  # the one of the start still runs

    response = wait_for(ask)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def disk_and_rows(served: Served) -> tuple[int, int]:
    """The bytes of uploads that lie on the disk, and those that the rows say."""
    kinds = served.http.get("/api/v1/storage").json()["kinds"]
    (uploads,) = [kind for kind in kinds if kind["kind"] == "uploads"]
    return uploads["size_bytes"], sum(row["size_bytes"] for row in uploads["rows"])


def batches(served: Served) -> set[str]:
    with contextlib.closing(sqlite3.connect(served.data / "tidemill.db")) as db:
        return {row[0] for row in db.execute("SELECT id FROM batches")}


def patiently(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask as clients do: again after 423."""
    return wait_for(lambda: found if (found := ask()).status_code != 423 else None)


def finished(served: Served, outcome: str) -> float:
    name = f'tidemill_upload_finished_total{{outcome="{outcome}"}} '
    lines = [
        line for line in served.http.get("/metrics").text.splitlines() if line.startswith(name)
    ]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


# --- parts ----------------------------------------------------------------------------------------


def test_a_whole_part_says_so_and_completes_nothing(served: Served) -> None:
    session_id = served.open_session(expected_files=1, then=THEN)
    before = batches(served)
    url = new_part(served, ONE[:5], len(ONE), session=session_id, filename="a.mp4")
    assert patch(served, url, 5, ONE[5:]).headers.get("tidemill-batch") is None
    found = head(served, url)
    assert found.status_code == 200
    assert found.headers["upload-offset"] == found.headers["upload-length"] == str(len(ONE))
    assert found.headers["upload-concat"] == "partial"
    assert found.headers["upload-metadata"] == encoded(session=session_id, filename="a.mp4")
    assert "upload-expires" in found.headers
    assert not [name for name in found.headers if name.startswith("tidemill")]
    shown = served.http.get(f"/api/v1/uploads/{id_in(url)}").json()
    assert (shown["status"], shown["session_id"], shown["offset"]) == ("receiving", None, len(ONE))
    assert code_of(served.http.get(url)) == "upload_incomplete"
    # An empty PATCH at the end changes nothing either.
    assert patch(served, url, len(ONE), b"").status_code == 204
    session = served.http.get(f"/api/v1/upload/{session_id}").json()
    assert (session["uploads"], session["batch_id"]) == ([], None)
    assert batches(served) == before
    row = served.read(lambda tx: tx.uploads.find(id_in(url)))
    assert row is not None
    assert (row.kind, row.recorded_offset, row.synced_offset) == (
        UploadKind.PARTIAL,
        len(ONE),
        len(ONE),
    )


def test_a_part_may_leave_its_length_for_later_or_have_none(served: Served) -> None:
    later = create(served, Upload_Defer_Length="1", Upload_Concat="partial").headers["location"]
    assert patch(served, later, 0, ONE).status_code == 204
    assert head(served, later).headers["upload-defer-length"] == "1"
    with nothing_changes(served):
        assert join(served, later).json()["reason"] == "unfinished"
    size = str(len(ONE))
    assert patch(served, later, len(ONE), b"", Upload_Length=size).status_code == 204
    empty = create(served, Upload_Length="0", Upload_Concat="partial")
    assert "tidemill-upload" not in empty.headers
    assert head(served, empty.headers["location"]).headers["upload-offset"] == "0"
    done = join(served, empty.headers["location"], later, later)
    assert served.http.get(done.headers["location"]).content == ONE + ONE


def test_a_part_that_an_empty_patch_makes_whole_is_durable_and_its_row_knows(
    served: Served,
) -> None:
    part = create(served, b"x" * 5000, Upload_Defer_Length="1", Upload_Concat="partial")
    url = part.headers["location"]
    for _ in range(2):
        assert patch(served, url, 5000, b"", Upload_Length="5000").status_code == 204
        row = served.read(lambda tx: tx.uploads.find(id_in(url)))
        assert row is not None
        assert (row.length, row.recorded_offset, row.synced_offset) == (5000, 5000, 5000)


def test_a_body_too_long_for_a_part_leaves_it_whole(served: Served) -> None:
    url = new_part(served, ONE)
    assert code_of(patch(served, url, len(ONE), b"more")) == "body_too_long"
    assert served.http.get(join(served, url).headers["location"]).content == ONE


def test_a_part_can_be_terminated_and_no_job_can_read_it(served: Served) -> None:
    url = new_part(served, ONE)
    wish = {
        "operation": "trim",
        "inputs": [{"upload_id": id_in(url), "role": "clip"}],
        "params": {"end": 1},
    }
    assert code_of(served.http.post("/api/v1/jobs", json=wish)) == "invalid_inputs"
    assert served.http.delete(url, headers=TUS).status_code == 204
    assert head(served, url).status_code == 404
    assert not (served.data / "uploads" / id_in(url)).exists()


# --- finals ---------------------------------------------------------------------------------------


def test_parts_become_one_file_in_the_order_that_was_asked_for(served: Served) -> None:
    before, disk_before, rows_before = finished(served, "concatenated"), *disk_and_rows(served)
    parts = [new_part(served, body) for body in (TWO, ONE, b"", TWO[::-1])]
    metadata = encoded(filename="whole.mp4", other="\u00fc")
    urls = [f"https://files.example:8443/x{parts[1]}", parts[0], id_in(parts[2]), parts[3]]
    done = join(served, *urls, parts[1], Upload_Metadata=metadata)
    assert done.status_code == 201
    assert "upload-offset" not in done.headers
    assert done.headers["tidemill-upload"] == id_in(done.headers["location"])
    body = ONE + TWO + TWO[::-1] + ONE
    assert served.http.get(done.headers["location"]).content == body
    found = head(served, done.headers["location"])
    assert found.headers["upload-offset"] == found.headers["upload-length"] == str(len(body))
    assert found.headers["upload-concat"] == "final;" + " ".join([*urls, parts[1]])
    assert found.headers["upload-metadata"] == metadata
    assert found.headers["tidemill-batch"] == done.headers["tidemill-batch"]
    batch = served.http.get(f"/api/v1/batches/{done.headers['tidemill-batch']}").json()
    assert [(each["filename"], each["size_bytes"]) for each in batch["files"]] == [
        ("whole.mp4", len(body))
    ]
    assert finished(served, "concatenated") == before + 4
    on_disk, by_rows = disk_and_rows(served)
    assert on_disk - disk_before == by_rows - rows_before == len(body)
    for url in parts:
        assert not (served.data / "uploads" / id_in(url)).exists()


def test_a_final_of_nothing_is_an_empty_file(served: Served) -> None:
    done = new_final(served, b"", b"")
    assert head(served, done.headers["location"]).headers["upload-offset"] == "0"
    assert served.http.get(done.headers["location"]).content == b""
    assert "tidemill-batch" in done.headers


def test_a_used_part_is_still_told_of_until_its_final_is_terminated(served: Served) -> None:
    session_id = served.open_session(expected_files=2)
    url = new_part(served, ONE)
    done = join(served, url, Upload_Metadata=encoded(session=session_id))
    found = head(served, url)
    assert found.status_code == 200
    assert found.headers["upload-offset"] == found.headers["upload-length"] == str(len(ONE))
    assert found.headers["upload-concat"] == "partial"
    assert code_of(served.http.get(url)) == "upload_gone"
    assert code_of(patch(served, url, len(ONE), b"")) == "upload_gone"
    gone = served.http.get(f"/api/v1/uploads/{id_in(url)}").json()
    assert gone["reason"] == "concatenated"
    assert served.http.delete(done.headers["location"], headers=TUS).status_code == 204
    assert head(served, url).status_code == 410
    assert join(served, url).json()["reason"] == "used"


def test_finals_fill_a_session_like_other_uploads(served: Served) -> None:
    session_id = served.open_session(expected_files=3, then=THEN)
    first = new_final(served, ONE, TWO, session=session_id, filename="1.mp4")
    assert "tidemill-batch" not in first.headers
    assert "tidemill-batch" not in served.http.head(first.headers["location"], headers=TUS).headers
    served.upload(b"by itself", session=session_id, filename="2.mp4")
    last = new_final(served, TWO, session=session_id, filename="3.mp4")
    assert len(last.headers["tidemill-job"].split(",")) == 3
    batch = served.http.get(f"/api/v1/batches/{last.headers['tidemill-batch']}").json()
    assert [each["filename"] for each in batch["files"]] == ["1.mp4", "2.mp4", "3.mp4"]
    late = new_part(served, ONE)
    with nothing_changes(served):
        refused = join(served, late, Upload_Metadata=encoded(session=session_id))
    assert code_of(refused) == "session_closed"


def test_no_byte_can_be_sent_to_a_final(served: Served) -> None:
    url = new_final(served, ONE).headers["location"]
    with nothing_changes(served):
        for offset, body in ((len(ONE), b""), (len(ONE), b"more"), (0, ONE)):
            refused = patch(served, url, offset, body)
            assert (refused.status_code, code_of(refused)) == (403, "upload_is_final")


# --- what is refused ------------------------------------------------------------------------------


def foreign_part(served: Served) -> str:
    row = make_upload(
        owner="somebody else",
        session_id=None,
        kind=UploadKind.PARTIAL,
        concat="partial",
        length=0,
        expires_at=served.container.clock.now() + timedelta(hours=1),
    )
    served.write(lambda tx: tx.uploads.insert(row))
    return f"/files/{row.id}"


def terminated(served: Served) -> str:
    url = new_part(served, ONE)
    assert served.http.delete(url, headers=TUS).status_code == 204
    return url


def expired(served: Served) -> str:
    url = new_part(served, ONE)
    run_out(served, id_in(url))
    return url


def used(served: Served) -> str:
    url = new_part(served, ONE)
    assert join(served, url, new_part(served, TWO)).status_code == 201
    return url


def run_out(served: Served, *upload_ids: str) -> dict[str, Any]:
    """Let uploads expire, and run the sweep that ends them."""

    def age(tx: Any) -> None:
        for upload_id in upload_ids:
            row = tx.uploads.find(upload_id)
            old = row.created_at - timedelta(days=30)
            tx.uploads.update(
                replace(row, created_at=old, active_at=old, expires_at=old), expected=row.status
            )

    served.write(age)
    return sweep(served, SweepName.GC_FILES)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: f"/files/{new_id()}", "unknown"),
        (lambda _: f"/elsewhere/{NOBODY}", "unknown"),
        (lambda _: f"/{NOBODY}", "unknown"),
        (lambda _: f"/files/{NOBODY}?a=b", "unknown"),
        (lambda _: f"/files/{NOBODY}#a", "unknown"),
        (lambda _: f"/files/{'A' * 32}", "unknown"),
        (lambda _: f"/files/{NOBODY}/../instance.json", "unknown"),
        (lambda _: "http://[half", "unknown"),
        (foreign_part, "unknown"),
        (terminated, "unknown"),
        (expired, "deleted"),
        (used, "used"),
        (lambda served: "/files/" + served.create_upload(0), "not_partial"),
        (lambda served: "/files/" + served.create_upload(5), "not_partial"),
        (lambda served: new_final(served, ONE).headers["location"], "not_partial"),
        (lambda served: new_part(served, ONE, 100), "unfinished"),
    ],
)
def test_what_is_no_whole_part_of_mine_is_refused_and_nothing_changes(
    make: Callable[[Served], str], reason: str, served: Served
) -> None:
    good, bad = new_part(served, ONE), make(served)
    with nothing_changes(served):
        refused = join(served, good, bad)
    assert (refused.status_code, code_of(refused)) == (422, "invalid_parts")
    assert (refused.json()["reason"], refused.json()["url"]) == (reason, bad)
    assert bad in refused.json()["detail"]


@pytest.mark.parametrize(
    "more",
    [
        {"Upload_Length": "12"},
        {"Upload_Defer_Length": "1"},
        {"Upload_Length": "0"},
        {"Upload_Concat": "final;" + " /files/0" * 101},
        {"Upload_Concat": "final;" + "x" * 9000},
        {"Upload_Concat": "final;"},
        {"Upload_Concat": "final"},
        {"Upload_Concat": ""},
        {"Upload_Concat": "partially", "Upload_Length": "5"},
        {"content": b"bytes"},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(more: dict[str, Any], served: Served) -> None:
    wish = {"Upload_Concat": f"final;{new_part(served, ONE)}", **more}
    with nothing_changes(served):
        refused = create(served, **wish)
    assert (refused.status_code, code_of(refused)) == (400, "invalid_header")


def test_a_final_over_the_maximum_is_refused(served: Served) -> None:
    url = new_part(served, b"x" * (MAXIMUM // 2 + 1))
    with nothing_changes(served):
        assert code_of(join(served, url, url)) == "upload_too_large"
    served.http.delete(url, headers=TUS)


# --- asked again, and by several ------------------------------------------------------------------


def test_the_same_final_asked_for_again_is_the_same(served: Served) -> None:
    session_id = served.open_session(expected_files=1, then=THEN)
    urls = [new_part(served, ONE), new_part(served, TWO)]
    metadata = encoded(session=session_id, filename="a.mp4")
    first = join(served, *urls, Upload_Metadata=metadata)
    assert {"tidemill-batch", "tidemill-job"} < set(told(first))
    with nothing_changes(served):
        again = join(served, *urls, Upload_Metadata=metadata)
        assert (again.status_code, told(again)) == (201, told(first))
        refused = [join(served, *urls[::-1]), join(served, urls[0]), join(served, *urls, urls[0])]
    assert [each.json()["reason"] for each in refused] == ["used"] * 3
    assert refused[0].json()["final_id"] == first.headers["tidemill-upload"]


def end_final(served: Served, final_id: str, reason: Reason, **changes: Any) -> None:
    def end(tx: Any) -> None:
        row = replace(tx.uploads.find(final_id), **changes)
        bury_upload(tx, row, reason=reason, sweep=None, now=served.container.clock.now())

    served.write(end)


def test_after_retention_took_the_final_it_is_still_the_same_for_a_while(served: Served) -> None:
    urls = [new_part(served, ONE), new_part(served, TWO)]
    first = join(served, *urls)
    end_final(served, first.headers["tidemill-upload"], Reason.SPENT)
    assert head(served, urls[0]).status_code == 200
    assert head(served, first.headers["location"]).status_code == 200
    assert told(join(served, *urls)) == told(first)
    assert join(served, urls[0]).json()["reason"] == "used"
    assert join(served, *urls, urls[0]).json()["reason"] == "used"
    # After UPLOAD_EXPIRES_HOURS nobody asks any more.
    other = new_part(served, ONE)
    final_id = join(served, other).headers["tidemill-upload"]
    old = served.container.clock.now() - timedelta(days=30)
    end_final(served, final_id, Reason.SPENT, completed_at=old)
    assert head(served, other).status_code == 410
    assert join(served, other).json()["reason"] == "used"


def test_eight_equal_wishes_at_once_make_one_final(served: Served) -> None:
    session_id = served.open_session(expected_files=1, then=THEN)
    urls = [new_part(served, bytes([n]) * 50_000) for n in range(4)]
    metadata = encoded(session=session_id)
    before = batches(served)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: patiently(lambda: join(served, *urls, Upload_Metadata=metadata)), range(8)
            )
        )
    assert {each.status_code for each in answers} == {201}
    assert len({tuple(told(each).items()) for each in answers}) == 1
    assert batches(served) - before == {answers[0].headers["tidemill-batch"]}
    body = b"".join(bytes([n]) * 50_000 for n in range(4))
    assert served.http.get(answers[0].headers["location"]).content == body


def test_of_two_finals_over_the_same_parts_exactly_one_is_made(served: Served) -> None:
    for _ in range(3):
        urls = [new_part(served, ONE), new_part(served, TWO)]
        with ThreadPoolExecutor(2) as pool:
            orders = (urls, urls[::-1])
            answers = list(pool.map(lambda o: patiently(lambda: join(served, *o)), orders))
        assert sorted(each.status_code for each in answers) == [201, 422]
        won = answers[0].status_code == 201
        url = answers[0 if won else 1].headers["location"]
        assert served.http.get(url).content == (ONE + TWO if won else TWO + ONE)


def test_a_client_that_never_heard_asks_again_and_is_told_the_same(served: Served) -> None:
    urls = [new_part(served, ONE), new_part(served, TWO)]
    copier = HalfWay(served)
    with served.exchanged(with_copier(served, copier)):
        asked = TUS | {"Upload-Concat": "final;" + " ".join(urls), "Content-Length": "0"}
        try:
            with RawRequest(served.port, "POST", "/files/", asked):
                wait_for(lambda: copier.final_id)
        finally:
            copier.go_on()
        done = patiently(lambda: join(served, *urls))
    assert (done.status_code, done.headers["tidemill-upload"]) == (201, copier.final_id)
    assert served.http.get(done.headers["location"]).content == ONE + TWO


def test_a_part_with_a_wrong_checksum_is_no_part_yet(served: Served) -> None:
    wrong, right = (b64encode(sha1(each, usedforsecurity=False).digest()) for each in (TWO, ONE))
    url = create(served, Upload_Length=str(len(ONE)), Upload_Concat="partial").headers["location"]
    assert patch(served, url, 0, ONE, Upload_Checksum=f"sha1 {wrong.decode()}").status_code == 460
    assert join(served, url).json()["reason"] == "unfinished"
    assert patch(served, url, 0, ONE, Upload_Checksum=f"sha1 {right.decode()}").status_code == 204
    assert served.http.get(join(served, url).headers["location"]).content == ONE


# --- while it is being made, and when that fails --------------------------------------------------


class HalfWay(PartCopier):
    """Copies the bytes of the first ``n_first`` parts, and the rest when told to go on."""

    def __init__(self, served: Served, n_first: int = 1) -> None:
        self._served = served
        self._n_first = n_first
        self._copier = served.container.uploads.copier
        self._may_go_on = threading.Event()
        self.failure: Exception | None = None
        self.begun: list[str] = []

    @property
    def final_id(self) -> str:
        return self.begun[-1] if self.begun else ""

    async def copy(self, final_id: str, parts: Sequence[tuple[str, int]]) -> None:
        await self._copier.copy(final_id, parts[: self._n_first])
        self.begun.append(final_id)
        while not self._may_go_on.is_set():  # noqa: ASYNC110  set in another thread
            await asyncio.sleep(0.01)
        if self.failure is not None:
            (self._served.data / "uploads" / final_id).write_bytes(b"")
            raise self.failure
        if self._n_first < len(parts):
            await self._copier.copy(final_id, parts)

    def go_on(self) -> None:
        self._may_go_on.set()


def with_copier(served: Served, copier: PartCopier) -> Container:
    container = served.container
    return replace(container, uploads=replace(container.uploads, copier=copier))


def test_while_a_final_is_made_it_is_not_there_and_its_parts_are_kept(served: Served) -> None:
    urls = [new_part(served, ONE), new_part(served, TWO)]
    copier = HalfWay(served)
    with served.exchanged(with_copier(served, copier)), ThreadPoolExecutor(1) as pool:
        making = pool.submit(join, served, *urls)
        try:
            final_id = wait_for(lambda: copier.final_id)
            url = f"/files/{final_id}"
            found = head(served, url)
            assert found.status_code == 200
            assert "upload-offset" not in found.headers
            assert found.headers["upload-length"] == str(len(ONE + TWO))
            assert found.headers["upload-concat"] == "final;" + " ".join(urls)
            assert code_of(served.http.get(url)) == "upload_incomplete"
            assert code_of(patch(served, url, len(ONE), TWO)) == "upload_is_final"
            for part in urls:
                assert served.http.delete(part, headers=TUS).status_code == 423
                assert head(served, part).headers["upload-offset"]
            report = run_out(served, *(id_in(part) for part in urls))
            assert report["skipped"]["being_written"] == 2
            sweep(served, SweepName.UNCLAIMED_UPLOADS)
            assert join(served, *urls).status_code == 423
            assert join(served, *urls[::-1]).status_code == 423
        finally:
            copier.go_on()
        done = making.result()
    assert (done.status_code, id_in(done.headers["location"])) == (201, final_id)
    assert told(join(served, *urls)) == told(done)
    assert served.http.get(done.headers["location"]).content == ONE + TWO


@pytest.mark.parametrize(
    ("failure", "status"),
    [(NoSpace("The disk is full."), 507), (StorageFailed("The disk is broken."), 500)],
)
def test_a_copy_that_fails_leaves_the_parts_as_they_were(
    failure: Exception, status: int, served: Served
) -> None:
    session_id = served.open_session(expected_files=1)
    urls = [new_part(served, ONE), new_part(served, TWO)]
    metadata = encoded(session=session_id)
    copier = HalfWay(served)
    copier.failure = failure
    copier.go_on()
    with served.exchanged(with_copier(served, copier)):
        assert join(served, *urls, Upload_Metadata=metadata).status_code == status
    assert served.http.get(f"/api/v1/upload/{session_id}").json()["uploads"] == []
    assert not (served.data / "uploads" / copier.final_id).exists()
    assert head(served, f"/files/{copier.final_id}").status_code == 404
    done = join(served, *urls, Upload_Metadata=metadata)
    assert "tidemill-batch" in done.headers
    assert served.http.get(done.headers["location"]).content == ONE + TWO


@pytest.mark.parametrize(("n_copied", "is_swept"), [(1, False), (0, True), (1, True), (2, True)])
def test_a_session_that_becomes_a_batch_meanwhile_takes_no_final(
    n_copied: int, is_swept: bool, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_follow_up, "SUPERSEDED_WAIT_SECONDS", 0.05)
    session_id = served.open_session()
    served.upload(b"by itself", session=session_id)
    urls = [new_part(served, ONE), new_part(served, TWO)]
    copier = HalfWay(served, n_copied)
    with served.exchanged(with_copier(served, copier)), ThreadPoolExecutor(1) as pool:
        metadata = encoded(session=session_id)
        making = pool.submit(join, served, *urls, Upload_Metadata=metadata)
        try:
            wait_for(lambda: copier.final_id)
            wish = {"session_id": session_id, "only_completed": True}
            made = served.http.post("/api/v1/batches", json=wish)
            assert made.status_code == 201
            if is_swept:
                sweep(served, SweepName.SPENT_INPUTS)
                assert not (served.data / "uploads" / copier.final_id).exists()
        finally:
            copier.go_on()
        refused = making.result()
    assert code_of(refused) == "session_closed"
    with nothing_changes(served):
        again = join(served, *urls, Upload_Metadata=metadata)
    assert (again.status_code, code_of(again)) == (refused.status_code, "session_closed")
    assert len(copier.begun) == 1
    assert len(made.json()["files"]) == 1
    assert not (served.data / "uploads" / copier.final_id).exists()
    assert join(served, *urls).status_code == 201


def test_finals_that_wait_for_their_turn_hold_no_part(served: Served) -> None:
    urls = [new_part(served, bytes([n])) for n in range(FINALS_AT_ONCE + 2)]
    copier = HalfWay(served, 0)
    with served.exchanged(with_copier(served, copier)), ThreadPoolExecutor(len(urls)) as pool:
        making = {url: pool.submit(join, served, url) for url in urls}
        try:
            refused = wait_for(
                lambda: done if len(done := [u for u in urls if making[u].done()]) == 2 else None
            )
            assert [making[url].result().status_code for url in refused] == [423, 423]
            assert len(copier.begun) == FINALS_AT_ONCE
            # Nobody holds what the refused were to be made of.
            assert served.http.delete(refused[0], headers=TUS).status_code == 204
        finally:
            copier.go_on()
        answers = [making[url].result().status_code for url in urls if url not in refused]
        assert answers == [201] * FINALS_AT_ONCE
        assert patiently(lambda: join(served, refused[1])).status_code == 201


# --- what a dead process leaves -------------------------------------------------------------------


def left_behind(served: Served, urls: list[str], data: bytes, length: int) -> str:
    """The row and file of a final whose process died while it was made; returns its id."""
    row = make_upload(
        session_id=None,
        kind=UploadKind.FINAL,
        concat="final;" + " ".join(urls),
        parts=tuple(id_in(url) for url in urls),
        length=length,
        boot_id=served.container.uploads.store.boot_id,
        created_at=served.container.clock.now(),
        active_at=served.container.clock.now(),
        expires_at=served.container.clock.now() + timedelta(hours=1),
    )
    served.write(lambda tx: tx.uploads.insert(row))
    (served.data / "uploads" / row.id).write_bytes(data)
    return row.id


def test_a_half_final_of_a_dead_process_is_made_whole_when_it_is_asked_for_again(
    served: Served,
) -> None:
    urls = [new_part(served, ONE), new_part(served, TWO)]
    final_id = left_behind(served, urls, b"fir", len(ONE + TWO))
    assert "upload-offset" not in head(served, f"/files/{final_id}").headers
    done = join(served, *urls)
    assert (done.status_code, done.headers["tidemill-upload"]) == (201, final_id)
    assert served.http.get(done.headers["location"]).content == ONE + TWO
    assert head(served, urls[0]).headers["upload-offset"] == str(len(ONE))


def test_a_half_final_of_a_dead_process_expires(served: Served) -> None:
    urls = [new_part(served, ONE), new_part(served, TWO)]
    final_id = left_behind(served, urls, b"fir", len(ONE + TWO))
    sweep(served, SweepName.UNCLAIMED_UPLOADS)
    run_out(served, final_id)
    assert head(served, f"/files/{final_id}").status_code == 410
    assert not (served.data / "uploads" / final_id).exists()
    assert served.http.get(join(served, *urls).headers["location"]).content == ONE + TWO


@pytest.mark.parametrize("finisher", ["the sweep", "HEAD", "the client that asks again"])
def test_a_whole_final_of_a_dead_process_is_completed_and_takes_its_parts(
    finisher: str, served: Served
) -> None:
    urls = [new_part(served, ONE), new_part(served, TWO)]
    final_id = left_behind(served, urls, ONE + TWO, len(ONE + TWO))
    if finisher == "the sweep":
        assert sweep(served, SweepName.UNCLAIMED_UPLOADS)["removed"] == 1
    elif finisher == "HEAD":
        found = head(served, f"/files/{final_id}")
        assert found.headers["tidemill-upload"] == final_id
    else:
        assert join(served, *urls).headers["tidemill-upload"] == final_id
    assert served.http.get(f"/files/{final_id}").content == ONE + TWO
    for url in urls:
        gone = served.http.get(f"/api/v1/uploads/{id_in(url)}").json()
        assert gone["reason"] == "concatenated"
        assert head(served, url).headers["upload-concat"] == "partial"
        assert not (served.data / "uploads" / id_in(url)).exists()


def test_a_whole_final_of_a_dead_process_ends_when_another_has_its_parts(served: Served) -> None:
    urls = [new_part(served, ONE), new_part(served, TWO)]
    final_id = left_behind(served, urls, ONE + TWO, len(ONE + TWO))
    other = join(served, *urls[::-1])
    assert other.status_code == 201
    report = sweep(served, SweepName.UNCLAIMED_UPLOADS)
    assert (report["skipped"], report["errors"]) == ({"gone": 1}, [])
    assert head(served, f"/files/{final_id}").status_code == 410
    assert not (served.data / "uploads" / final_id).exists()
    assert served.http.get(other.headers["location"]).content == TWO + ONE


@pytest.mark.parametrize("n_copied", [1, 2])
def test_a_final_loses_its_parts_to_one_that_a_dead_process_had_whole(
    n_copied: int, served: Served
) -> None:
    urls = [new_part(served, ONE), new_part(served, TWO)]
    final_id = left_behind(served, urls, ONE + TWO, len(ONE + TWO))
    copier = HalfWay(served, n_copied)
    with served.exchanged(with_copier(served, copier)), ThreadPoolExecutor(1) as pool:
        making = pool.submit(join, served, *urls[::-1])
        try:
            wait_for(lambda: copier.final_id)
            assert sweep(served, SweepName.UNCLAIMED_UPLOADS)["removed"] == 1
        finally:
            copier.go_on()
        refused = making.result()
    assert (code_of(refused), refused.json()["reason"]) == ("invalid_parts", "used")
    assert refused.json()["final_id"] == final_id
    assert served.http.get(f"/files/{final_id}").content == ONE + TWO
    assert not (served.data / "uploads" / copier.final_id).exists()


def test_a_final_of_a_dead_process_ends_when_its_parts_are_gone(served: Served) -> None:
    urls = [new_part(served, ONE), new_part(served, TWO)]
    final_id = left_behind(served, urls, b"fir", len(ONE + TWO))
    assert served.http.delete(urls[1], headers=TUS).status_code == 204
    assert join(served, *urls).json()["reason"] == "unknown"
    assert head(served, f"/files/{final_id}").status_code == 404
    assert not (served.data / "uploads" / final_id).exists()


def test_a_whole_part_that_nobody_asks_for_expires(served: Served) -> None:
    whole, used_one = new_part(served, ONE), new_part(served, TWO)
    assert sweep(served, SweepName.UNCLAIMED_UPLOADS)["removed"] == 0
    final = join(served, used_one)
    run_out(served, id_in(whole))
    gone = served.http.get(f"/api/v1/uploads/{id_in(whole)}").json()
    assert (gone["reason"], gone["sweep"]) == ("expired", "gc_files")
    assert head(served, whole).status_code == 410
    assert not (served.data / "uploads" / id_in(whole)).exists()
    assert served.http.get(final.headers["location"]).content == TWO
