"""tus 1.0.0, extensions: creation (with its two companions), expiration, checksum, termination."""

import contextlib
import hashlib
import os
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

from app.domain.errors import ConflictingUpdate
from app.services.ports import Transaction
from tests.conformance.bench import MAX, NO_BYTES, TYPE, Tus, as_served, b64, checksum, code
from tests.conformance.raw import Answer
from tests.conformance.statements import states
from tests.fakes.served import wait_for

NOBODY = f"/files/{'0' * 32}"


# --- creation ------------------------------------------------------------------------------------


@states("creation.offered", "creation.201", "creation.location", "creation.empty", "ours.location")
def test_creation_makes_an_upload_where_location_says(tus: Tus) -> None:
    assert "creation" in tus.extensions()
    answer = tus.create(
        10,
        X_Forwarded_Host="evil.example",
        X_Forwarded_Proto="https",
        Forwarded="host=evil.example",
    )
    assert (answer.status, answer.body) == (201, b"")
    assert re.fullmatch(r"/files/[0-9a-f]{32}", answer["location"])
    assert tus.offset(answer["location"]) == 0
    empty = tus.create(0)
    assert empty.status == 201
    assert empty["tidemill-batch"] == tus.head(empty["location"])["tidemill-batch"]


@states("creation.one-length", "ours.refusals")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Length": "5", "Upload-Defer-Length": "1"},
        {"Upload-Length": "5", "Upload-Defer-Length": "0"},
    ],
)
@as_served
def test_creation_needs_one_length_and_only_one(tus: Tus, headers: dict[str, str]) -> None:
    for body in (b"", b"hello", [b"hel", b"lo"]):
        answer = tus.ask("POST", "/files/", {**headers, "Content-Type": TYPE}, body)
        assert (answer.status, code(answer)) == (400, "invalid_header")


@states("creation.one-length")
def test_creation_with_a_length_sent_twice_is_400(tus: Tus) -> None:
    twice = [("Upload-Length", "5"), ("Upload-Length", "6"), ("Content-Length", "0")]
    assert tus.ask("POST", "/files/", twice).status == 400


@states("creation.too-large")
@pytest.mark.parametrize("length", [MAX + 1, 10**18, 10**30])
@as_served
def test_creation_over_the_maximum_is_413(tus: Tus, length: int) -> None:
    answer = tus.create(length)
    assert (answer.status, code(answer)) == (413, "upload_too_large")
    assert tus.create(length, b"hello").status == 413
    assert tus.create(MAX).status == 201


@states("creation.metadata-pairs", "creation.metadata-keys", "creation.metadata-ascii")
@pytest.mark.parametrize(
    "metadata",
    [
        "filename not-base64!",
        "filename YQ",
        "filename YQ== YQ==",
        "filename\u00a0YQ==",
        "filename YQ==,filename YQ==",
        ",filename YQ==",
        "filename YQ==,",
        "filename YQ==,,kind YQ==",
        "d\u00e4tei YQ==",
        "tab\tkey YQ==",
    ],
)
@as_served
def test_creation_with_metadata_that_is_no_list_of_pairs_is_400(tus: Tus, metadata: str) -> None:
    answer = tus.create(5, Upload_Metadata=metadata)
    assert (answer.status, code(answer)) == (400, "invalid_metadata")


@states("creation.metadata-echo", "creation.metadata-empty")
@pytest.mark.parametrize(
    "metadata",
    [
        "filename YS5tcDQ=",
        "zeta emV0YQ==,filename YS5tcDQ=, alpha ,flag,binary //79,x-y.z~ YQ==",
        "filename Li4vLi4vZXRjL3Bhc3N3ZA==",
        "flag",
        "flag ",
        "relativePath bnVsbA==,name YQ==,type dmlkZW8vbXA0,filetype dmlkZW8vbXA0",
    ],
)
@as_served
def test_creation_metadata_comes_back_byte_for_byte(tus: Tus, metadata: str) -> None:
    path = tus.new(5, Upload_Metadata=metadata)
    assert tus.head(path)["upload-metadata"] == metadata.strip()
    assert tus.patch(path, 0, b"hello").status == 204
    assert tus.head(path)["upload-metadata"] == metadata.strip()
    assert "upload-metadata" not in tus.head(tus.new(5))


@states("ours.metadata-lines")
@as_served
def test_ours_several_lines_of_metadata_are_one_list(tus: Tus) -> None:
    lines = [("Upload-Length", "5"), ("Upload-Metadata", "a YQ=="), ("upload-metadata", "b Yg==,c")]
    answer = tus.ask("POST", "/files/", [*lines, ("Content-Length", "0")])
    assert answer.status == 201
    assert tus.head(answer["location"])["upload-metadata"] == "a YQ==,b Yg==,c"
    twice = [*lines, ("Upload-Metadata", "a YQ=="), ("Content-Length", "0")]
    assert code(tus.ask("POST", "/files/", twice)) == "invalid_metadata"


# --- creation-defer-length -----------------------------------------------------------------------


@states("defer.offered", "defer.one")
@pytest.mark.parametrize("value", ["0", "2", "true", "", "01", "1,1"])
@as_served
def test_defer_length_is_one_or_nothing(tus: Tus, value: str) -> None:
    assert "creation-defer-length" in tus.extensions()
    headers = {"Upload-Defer-Length": value, "Content-Length": "0"}
    assert tus.ask("POST", "/files/", headers).status == 400
    assert tus.create(None).status == 201


@states("defer.head", "defer.set", "defer.unchanging", "defer.not-below", "defer.too-large")
def test_defer_length_is_told_once_and_stands_from_then_on(tus: Tus) -> None:
    path = tus.new(None)
    assert tus.patch(path, 0, b"hello").status == 204
    head = tus.head(path)
    assert head["upload-defer-length"] == "1"
    assert "upload-length" not in head
    for length, status in (("4", 400), ("-5", 400), ("five", 400), (str(MAX + 1), 413)):
        for body in (b"!", [b"!"], b""):
            assert tus.patch(path, 5, body, Upload_Length=length).status == status
    # A body that goes past the length it brings along brought no length.
    for long_body in (b"wonderful", [b"wonder", b"ful"]):
        assert tus.patch(path, 5, long_body, Upload_Length="10").status == 413
        assert tus.head(path)["upload-defer-length"] == "1"
    assert tus.patch(path, 5, b"wor", Upload_Length="10").status == 204
    head = tus.head(path)
    assert head["upload-length"] == "10"
    assert "upload-defer-length" not in head
    for length in ("9", "11", "8"):
        assert code(tus.patch(path, 8, b"ld", Upload_Length=length)) == "invalid_header"
    done = tus.patch(path, 8, b"ld", Upload_Length="10")
    assert (done.status, done["upload-offset"]) == (204, "10")
    assert done["tidemill-batch"]


@states("defer.set")
def test_defer_length_may_come_with_the_last_byte_or_after_it(tus: Tus) -> None:
    together = tus.new(None)
    assert "tidemill-batch" in tus.patch(together, 0, b"hello", Upload_Length="5")
    after = tus.new(None)
    assert "tidemill-batch" not in tus.patch(after, 0, b"hello")
    assert "tidemill-batch" in tus.patch(after, 5, b"", Upload_Length="5")


# --- creation-with-upload ------------------------------------------------------------------------


@states("with-upload.offered", "with-upload.offset", "with-upload.stored", "with-upload.completes")
@pytest.mark.parametrize("length", [5, 10, None])
@pytest.mark.parametrize("body", [b"hello", [b"he", b"llo"]])
def test_with_upload_the_first_bytes_come_with_the_creation(
    tus: Tus, length: int | None, body: bytes | list[bytes]
) -> None:
    assert "creation-with-upload" in tus.extensions()
    answer = tus.create(length, body)
    assert (answer.status, answer["upload-offset"]) == (201, "5")
    path = answer["location"]
    assert tus.stored(path) == b"hello"
    assert ("tidemill-batch" in answer) == (length == 5)
    if length == 10:
        assert tus.patch(path, 5, b"world").status == 204


@states("with-upload.type", "ours.refusals")
@pytest.mark.parametrize("body", [b"hello", [b"he", b"llo"]])
@as_served
def test_with_upload_of_another_type_is_415_and_makes_nothing(
    tus: Tus, body: bytes | list[bytes]
) -> None:
    for kind in ({"Content-Type": "video/mp4"}, {"Content-Type": ""}, {}):
        answer = tus.ask("POST", "/files/", {"Upload-Length": "5", **kind}, body)
        assert (answer.status, code(answer)) == (415, "unsupported_media_type")


@states("with-upload.past-the-end", "ours.refusals")
@pytest.mark.parametrize("length", [0, 5])
@pytest.mark.parametrize("body", [b"hello!", [b"hel", b"lo!"], [b"x" * 600_000] * 2])
def test_with_upload_past_the_end_is_413_and_makes_nothing(
    tus: Tus, length: int, body: bytes | list[bytes]
) -> None:
    answer = tus.create(length, body)
    assert (answer.status, code(answer)) == (413, "body_too_long")
    assert "location" not in answer


@states("with-upload.stored")
def test_with_upload_a_client_that_waits_is_told_to_go_on(tus: Tus) -> None:
    usual = [("Tus-Resumable", "1.0.0"), ("Content-Type", TYPE), ("Content-Length", "5")]
    with tus.line() as line:
        line.send_head(
            "POST", "/files/", [*usual, ("Upload-Length", "5"), ("Expect", "100-continue")]
        )
        assert line.answer().status == 100
        line.socket.sendall(b"hello")
        assert line.answer()["upload-offset"] == "5"
    with tus.line() as line:
        line.send_head(
            "POST", "/files/", [*usual, ("Upload-Length", "4"), ("Expect", "100-continue")]
        )
        assert line.answer().status == 413
        assert line.is_closed()


# --- expiration ----------------------------------------------------------------------------------

HTTP_DATE = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"


@states("expiration.offered", "expiration.creation", "expiration.patch", "expiration.date")
@pytest.mark.parametrize("length", [10, None])
def test_expiration_is_told_with_every_step_of_an_unfinished_upload(
    tus: Tus, length: int | None
) -> None:
    assert "expiration" in tus.extensions()
    made = tus.create(length)
    path = made["location"]
    for answer in (
        made,
        tus.head(path),
        tus.patch(path, 0, b"hel"),
        tus.patch(path, 3, b""),
        tus.create(10, b"hello"),
    ):
        assert re.fullmatch(HTTP_DATE, answer["upload-expires"])
        assert parsedate_to_datetime(answer["upload-expires"]) > datetime.now(UTC)


@states("expiration.finished")
def test_expiration_is_over_when_the_upload_is_finished(tus: Tus) -> None:
    path = tus.new(5)
    for answer in (tus.patch(path, 0, b"hello"), tus.head(path), tus.create(5, b"hello")):
        assert answer.status < 300
        assert "upload-expires" not in answer


@states("expiration.gone")
def test_expiration_makes_every_later_request_410(tus: Tus) -> None:
    path = tus.new(10)
    assert tus.patch(path, 0, b"hello").status == 204
    upload_id, past = path.rpartition("/")[2], datetime.now(UTC) - timedelta(days=30)

    def age(tx: Transaction) -> None:
        tx.uploads.touch(
            upload_id, active_at=past, expires_at=past, recorded_offset=5, synced_offset=5
        )

    def swept() -> Answer | None:
        # The sweep of the start may be quicker than this one, keep it out, or find the file young.
        with contextlib.suppress(ConflictingUpdate, FileNotFoundError):
            tus.service.write(age)
            os.utime(tus.service.data / "uploads" / upload_id, (past.timestamp(),) * 2)
        tus.service.http.post("/api/v1/sweeps/gc_files")
        head = tus.head(path)
        return head if head.status == 410 else None

    tus.service.write(age)
    # Until a sweep has been there it goes on: nobody loses bytes to a clock alone.
    assert tus.offset(path) == 5

    head = wait_for(swept)
    assert "upload-offset" not in head
    assert code(tus.patch(path, 5, b"world")) == "upload_gone"
    assert tus.delete(path).status == 410
    assert tus.ask("GET", path).status == 410
    assert tus.stored(path) == b""


# --- checksum ------------------------------------------------------------------------------------

ALGORITHMS = ["sha1", "sha256", "sha512", "md5", "crc32"]
BODIES = [b"hello", [b"he", b"llo"], [bytes([c]) for c in b"hello"]]


@states("checksum.offered", "checksum.algorithms", "checksum.names")
@as_served
def test_checksum_algorithms_are_told(tus: Tus) -> None:
    assert "checksum" in tus.extensions()
    told = tus.ask("OPTIONS", "/files/", version=None)["tus-checksum-algorithm"].split(",")
    assert told == ALGORITHMS
    assert all(re.fullmatch(r"[\x21-\x7e]+", name) and name == name.lower() for name in told)


@states("checksum.right", "checksum.each-request")
@pytest.mark.parametrize("algorithm", ALGORITHMS[:-1])
@pytest.mark.parametrize("body", BODIES)
def test_checksum_that_is_right_is_a_patch_like_any_other(
    tus: Tus, algorithm: str, body: bytes | list[bytes]
) -> None:
    right = checksum(b"hello", algorithm)
    made = tus.create(10, body, Upload_Checksum=right)
    assert (made.status, made["upload-offset"]) == (201, "5")
    path = made["location"]
    done = tus.patch(path, 5, body, Upload_Checksum=right)
    assert (done.status, done["upload-offset"]) == (204, "10")
    assert done["tidemill-batch"]
    assert tus.stored(path) == b"hellohello"


@states("checksum.right")
def test_checksum_crc32_is_four_bytes_the_highest_first(tus: Tus) -> None:
    path = tus.new(9)
    right = f"crc32 {b64(bytes.fromhex('cbf43926'))}"
    wrong = f"crc32 {b64(bytes.fromhex('2639f4cb'))}"
    assert tus.patch(path, 0, b"123456789", Upload_Checksum=wrong).status == 460
    assert tus.patch(path, 0, b"123456789", Upload_Checksum=right).status == 204


@states("checksum.mismatch", "checksum.discarded", "checksum.each-request", "ours.refusals")
@pytest.mark.parametrize("algorithm", ALGORITHMS[:-1])
@pytest.mark.parametrize("body", BODIES)
def test_checksum_that_is_wrong_is_460_and_nothing_stays(
    tus: Tus, algorithm: str, body: bytes | list[bytes]
) -> None:
    wrong = checksum(b"hallo", algorithm)
    made = tus.create(5, body, Upload_Checksum=wrong)
    assert (made.status, code(made)) == (460, "checksum_mismatch")
    assert "location" not in made
    for length in (10, None):
        path = tus.new(length)
        assert tus.patch(path, 0, b"12345").status == 204
        for more in ({}, {"Upload_Length": "10"}):
            answer = tus.patch(path, 5, body, Upload_Checksum=wrong, **more)
            assert (answer.status, code(answer)) == (460, "checksum_mismatch")
            assert answer["upload-offset"] == "5"
        done = tus.patch(path, 5, body, Upload_Length="10")
        assert "tidemill-batch" in done
        assert tus.stored(path) == b"12345hello"


@states("checksum.mismatch", "checksum.discarded")
def test_checksum_over_a_connection_that_stays_and_by_override(tus: Tus) -> None:
    path = tus.new(700_000)
    data = os.urandom(700_000)
    usual = {"Content-Type": TYPE, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    wrong = {**usual, "Upload-Checksum": checksum(data[:-1])}
    right = {**usual, "Upload-Checksum": checksum(data)}
    with tus.line() as line:
        for body in (data, [data[:300_000], data[300_000:]]):
            assert tus.ask("POST", path, wrong, body, on=line).status == 460
            assert tus.ask("HEAD", path, on=line)["upload-offset"] == "0"
        assert tus.ask("POST", path, right, data, on=line).status == 204
    assert tus.stored(path) == data


@states("checksum.unsupported")
@pytest.mark.parametrize(
    "name", ["sha0", "SHA1", "sha-1", "sha3-256", "", "crc32c", "none", "blake2b"]
)
@as_served
def test_checksum_by_an_unknown_algorithm_is_400(tus: Tus, name: str) -> None:
    value = f"{name} {checksum(b'hello').partition(' ')[2]}"
    path = tus.new(5)
    for body in (b"hello", [b"hello"]):
        answer = tus.patch(path, 0, body, Upload_Checksum=value)
        assert (answer.status, code(answer)) == (400, "checksum_algorithm_unsupported")
        assert tus.create(5, body, Upload_Checksum=value).status == 400
    assert tus.offset(path) == 0


@states("checksum.malformed")
@pytest.mark.parametrize(
    "value",
    [
        "sha1",
        "sha1 ",
        "sha1 nonsense!",
        "sha1 YWJj",
        "sha1  qvTGHdzF6KLavt4PO0gs2a6pQ00=",
        "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00",
        "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00= x",
        "sha1 aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d",
        "sha256 qvTGHdzF6KLavt4PO0gs2a6pQ00=",
        "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=,md5 XUFAKrxLKna5cZ2REBfFkg==",
    ],
)
@as_served
def test_checksum_that_is_no_digest_is_400_before_anything_is_read(tus: Tus, value: str) -> None:
    path = tus.new(5)
    with tus.line() as line:
        usual = [("Tus-Resumable", "1.0.0"), ("Content-Type", TYPE), ("Upload-Offset", "0")]
        more = [("Content-Length", "5"), ("Expect", "100-continue"), ("Upload-Checksum", value)]
        line.send_head("PATCH", path, [*usual, *more])
        answer = line.answer()
        assert (answer.status, code(answer)) == (400, "invalid_header")
    assert tus.create(5, b"hello", Upload_Checksum=value).status == 400
    assert tus.patch(path, 0, b"hello", Upload_Checksum=value).status == 400


@states("checksum.malformed")
def test_checksum_sent_twice_is_400(tus: Tus) -> None:
    path, right = tus.new(5), ("Upload-Checksum", checksum(b"hello"))
    usual = [("Content-Type", TYPE), ("Upload-Offset", "0")]
    assert tus.ask("PATCH", path, [*usual, right, right], b"hello").status == 400


@states("checksum.each-request")
def test_checksum_of_no_bytes_is_compared_too(tus: Tus) -> None:
    nothing, something = checksum(b""), checksum(b"x")
    open_path, done_path = tus.new(5), tus.finished(b"hello")
    for path, offset in ((open_path, 0), (done_path, 5)):
        for body in NO_BYTES:
            assert tus.patch(path, offset, body, Upload_Checksum=something).status == 460
            assert tus.patch(path, offset, body, Upload_Checksum=nothing).status == 204
    for length in (0, 5, None):
        for body in NO_BYTES:
            assert tus.create(length, body, Upload_Checksum=something).status == 460
            assert tus.create(length, body, Upload_Checksum=nothing).status == 201
    # The last byte came before, and this one only tells the length.
    path = tus.new(None)
    assert tus.patch(path, 0, b"hello").status == 204
    refused = tus.patch(path, 5, b"", Upload_Length="5", Upload_Checksum=something)
    assert refused.status == 460
    assert tus.head(path)["upload-defer-length"] == "1"
    done = tus.patch(path, 5, b"", Upload_Length="5", Upload_Checksum=nothing)
    assert done["tidemill-batch"]


@states("checksum.trailer")
def test_checksum_behind_the_body_is_not_offered_and_refused(tus: Tus) -> None:
    assert "checksum-trailer" not in tus.extensions()
    path = tus.new(5)
    answer = tus.patch(path, 0, [b"hello"], Trailer="Upload-Checksum")
    assert (answer.status, code(answer)) == (400, "not_supported")


@states("checksum.completion", "checksum.discarded")
def test_checksum_makes_nothing_count_before_it_was_compared(tus: Tus) -> None:
    data = os.urandom(400_000)
    path = tus.new(len(data))
    assert tus.patch(path, 0, data[:100_000]).status == 204
    right = f"sha256 {b64(hashlib.sha256(data[100_000:]).digest())}"
    usual = [("Tus-Resumable", "1.0.0"), ("Content-Type", TYPE), ("Upload-Offset", "100000")]
    with tus.line() as line:
        head = [*usual, ("Transfer-Encoding", "chunked"), ("Upload-Checksum", right)]
        line.send_head("PATCH", path, head)
        line.socket.sendall(b"%x\r\n%s\r\n" % (300_000, data[100_000:]))
        tus.await_stored(path, len(data))
        # Every byte is there, and the end of the body is not.
        for _ in range(2):
            told = tus.head(path)
            assert told["upload-offset"] == "100000"
            assert "tidemill-batch" not in told
        line.socket.sendall(b"0\r\n\r\n")
        assert line.answer()["tidemill-batch"]
    assert tus.offset(path) == len(data)


@states("checksum.discarded")
@pytest.mark.parametrize("how", ["the client goes", "another comes"])
def test_checksum_of_a_body_that_breaks_off_cannot_be_right(tus: Tus, how: str) -> None:
    path = tus.new(10)
    assert tus.patch(path, 0, b"hel").status == 204
    usual = [("Tus-Resumable", "1.0.0"), ("Content-Type", TYPE), ("Upload-Offset", "3")]
    more = [("Content-Length", "7"), ("Upload-Checksum", checksum(b"lo"))]
    with tus.line() as line:
        line.send_head("PATCH", path, [*usual, *more])
        line.socket.sendall(b"lo")
        tus.await_stored(path, 5)
        assert tus.offset(path) == 3
        if how == "another comes":
            assert tus.patch(path, 3, b"LO WORL").status == 204
            assert line.answer().status == 423
            assert tus.stored(path) == b"helLO WORL"
            return
    tus.await_stored(path, 3)
    assert tus.patch(path, 3, b"lo worl", Upload_Checksum=checksum(b"lo worl")).status == 204


# --- termination ---------------------------------------------------------------------------------


@states("termination.offered", "termination.204", "termination.frees", "termination.after")
@pytest.mark.parametrize("length", [10, None])
@pytest.mark.parametrize("body", [None, b"hello"])
def test_termination_frees_and_forgets(tus: Tus, length: int | None, body: bytes | None) -> None:
    assert "termination" in tus.extensions()
    path = tus.create(length, body)["location"]
    answer = tus.delete(path)
    assert (answer.status, answer.body) == (204, b"")
    assert not (tus.service.data / "uploads" / path.rpartition("/")[2]).exists()
    assert tus.head(path).status == 404
    assert tus.patch(path, 0, b"hello").status == 404
    assert tus.ask("GET", path).status == 404
    assert tus.delete(path).status == 404
    upload_id = path.rpartition("/")[2]
    assert tus.service.http.get(f"/api/v1/uploads/{upload_id}").status_code == 410


@states("termination.after")
def test_termination_of_what_is_in_a_batch_or_nowhere_is_refused(tus: Tus) -> None:
    path = tus.finished(b"hello")
    answer = tus.delete(path)
    assert (answer.status, code(answer)) == (403, "upload_in_batch")
    assert tus.delete(NOBODY).status == 404
    assert tus.stored(path) == b"hello"
