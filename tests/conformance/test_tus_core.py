"""tus 1.0.0, core protocol: headers, HEAD, PATCH, OPTIONS."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.conformance.bench import MAX, NO_BYTES, TYPE, Tus, as_served, checksum, code
from tests.conformance.raw import Answer, Ended, Line
from tests.conformance.statements import states

Spelling = Callable[[str], str]
NOBODY = f"/files/{'0' * 32}"
NO_NUMBERS = ["-1", "+5", "5_0", "5 0", "5.0", "0x5", "five", "", "5,5", "\u00b2", "5" * 50]


@pytest.fixture
def half(tus: Tus) -> str:
    """An upload of ten bytes, of which five are there."""
    path = tus.new(10)
    assert tus.patch(path, 0, b"12345").status == 204
    return path


def finish(tus: Tus, path: str) -> None:
    assert tus.patch(path, 5, b"67890").status == 204
    assert tus.stored(path) == b"1234567890"


# --- headers -------------------------------------------------------------------------------------


@states("headers.offset-number", "ours.refusals")
@pytest.mark.parametrize("offset", NO_NUMBERS)
@as_served
def test_headers_an_offset_is_a_whole_number(tus: Tus, half: str, offset: str) -> None:
    answer = tus.patch(half, offset, b"67890")
    assert (answer.status, code(answer)) == (400, "invalid_header")
    finish(tus, half)


@states("headers.offset-number")
def test_headers_an_offset_sent_twice_is_none(tus: Tus, half: str) -> None:
    twice = [("Content-Type", TYPE), ("Upload-Offset", "5"), ("Upload-Offset", "5")]
    assert code(tus.ask("PATCH", half, twice, b"67890")) == "invalid_header"


@states("headers.length-number")
@pytest.mark.parametrize("length", NO_NUMBERS[:-1])
@as_served
def test_headers_a_length_is_a_whole_number(tus: Tus, half: str, length: str) -> None:
    made = tus.ask("POST", "/files/", {"Upload-Length": length, "Content-Length": "0"})
    assert (made.status, code(made)) == (400, "invalid_header")
    patched = tus.patch(half, 5, b"67890", Upload_Length=length)
    assert (patched.status, code(patched)) == (400, "invalid_header")


@states("headers.versions", "headers.extensions", "headers.max-size")
@as_served
def test_headers_options_lists_what_is_there(tus: Tus) -> None:
    answer = tus.ask("OPTIONS", "/files/", version=None)
    assert answer["tus-version"].split(",") == ["1.0.0"]
    assert int(answer["tus-max-size"]) == MAX
    extensions = answer["tus-extension"].split(",")
    assert len(extensions) == len(set(extensions))
    assert set(extensions) == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "expiration",
        "checksum",
        "termination",
        "concatenation",
    }


@states("headers.resumable")
def test_headers_every_response_has_the_version_and_has_it_once(tus: Tus, half: str) -> None:
    # ``ask`` looks at each: these are all kinds of answers that there are.
    for method, path, headers in (
        ("POST", "/files/", {"Upload-Length": "5", "Content-Length": "0"}),
        ("POST", "/files/", {"Content-Length": "0"}),
        ("PUT", "/files/", {"Content-Length": "0"}),
        ("HEAD", half, {}),
        ("HEAD", NOBODY, {}),
        ("PATCH", half, {"Upload-Offset": "5", "Content-Type": TYPE, "Content-Length": "0"}),
        ("PATCH", half, {"Content-Length": "0"}),
        ("GET", half, {}),
        ("DELETE", half, {}),
        ("DELETE", half, {}),
        ("GET", "/files/../etc", {}),
    ):
        assert tus.ask(method, path, headers).all("tus-resumable") == ["1.0.0"]


@states("headers.resumable-asked", "headers.version-412", "headers.version-unprocessed")
@pytest.mark.parametrize("version", [None, "", "0.2.2", "1.0", "1.0.1", "2.0.0", "1.0.0, 0.2.2"])
@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE"])
@as_served
def test_headers_another_version_is_412_and_not_processed(
    tus: Tus, half: str, method: str, version: str | None
) -> None:
    path = "/files/" if method == "POST" else half
    headers = {"Upload-Length": "10", "Upload-Offset": "5", "Content-Type": TYPE}
    body = b"67890" if method in {"POST", "PATCH"} else None
    answer = tus.ask(method, path, headers, body, version=version)
    assert answer.status == 412
    assert answer["tus-version"] == "1.0.0"
    assert tus.offset(half) == 5


@states("headers.version-412")
def test_headers_the_version_sent_twice_is_412(tus: Tus, half: str) -> None:
    assert tus.ask("HEAD", half, [("Tus-Resumable", "0.2.2")]).status == 412


@states("headers.override")
@pytest.mark.parametrize("actual", ["POST", "GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("spelling", [str.upper, str.lower, str.title])
def test_headers_override_is_the_method_whatever_the_actual_one(
    tus: Tus, half: str, actual: str, spelling: Spelling
) -> None:
    def over(method: str, body: bytes = b"", **headers: str) -> Answer:
        sent = {"X-HTTP-Method-Override": spelling(method), **headers}
        named = {name.replace("_", "-"): value for name, value in sent.items()}
        return tus.ask(actual, "/files/" if method == "POST" else half, named, body)

    head = over("HEAD")
    assert (head.status, head["upload-offset"], head.body) == (200, "5", b"")
    assert over("OPTIONS").status == 204
    assert over("GET").status == 409
    assert over("POST", Upload_Length="3").status == 201
    patched = over("PATCH", b"678", Content_Type=TYPE, Upload_Offset="5")
    assert (patched.status, patched["upload-offset"]) == (204, "8")
    assert over("DELETE").status == 204
    gone = over("HEAD")
    assert (gone.status, gone.body) == (404, b"")


# --- HEAD ----------------------------------------------------------------------------------------


@states("head.offset", "head.length")
def test_head_tells_offset_and_length_at_the_start_between_and_at_the_end(tus: Tus) -> None:
    path = tus.new(10)
    for offset in (0, 5, 10):
        answer = tus.head(path)
        assert answer.status == 200
        assert (answer["upload-offset"], answer["upload-length"]) == (str(offset), "10")
        if offset < 10:
            assert tus.patch(path, offset, b"12345").status == 204
    empty = tus.head(tus.new(0))
    assert (empty["upload-offset"], empty["upload-length"]) == ("0", "0")


@states("head.missing", "ours.ids")
@pytest.mark.parametrize(
    "name",
    ["0" * 32, "x", "A" * 32, "a" * 31, "a" * 33, "..", "%2e%2e", "%00", f"{'a' * 32}.info",
     f"{'a' * 32}/", f"{'a' * 32}/x", "..%2ftidemill.db", f"{'a' * 32}%0a"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "DELETE"])
@as_served
def test_head_of_what_is_not_there_is_404_without_an_offset(
    tus: Tus, name: str, method: str
) -> None:
    headers = {"Upload-Offset": "0", "Content-Type": TYPE}
    answer = tus.ask(method, f"/files/{name}", headers, b"" if method == "PATCH" else None)
    assert answer.status == 404
    assert "upload-offset" not in answer


@states("head.no-store")
def test_head_is_never_cached(tus: Tus, half: str) -> None:
    for path in (half, tus.finished(b"all of it"), NOBODY):
        assert tus.head(path)["cache-control"] == "no-store"


@states("head.no-body", "ours.keep-alive")
def test_head_leaves_the_connection_to_the_next_request(tus: Tus, half: str) -> None:
    with tus.line() as line:
        for _ in range(3):
            assert tus.ask("HEAD", half, on=line).status == 200
            assert tus.ask("HEAD", NOBODY, on=line).status == 404
            assert tus.ask("HEAD", half, on=line, version="0").status == 412
        # A body behind it can only be one that belongs to the HEAD.
        usual = {"Upload-Offset": "5", "Content-Type": TYPE}
        assert tus.ask("PATCH", half, {**usual, "Upload-Offset": "4"}, b"x", on=line).status == 409
        assert tus.ask("PATCH", half, usual, b"67890", on=line).status == 204
        assert tus.ask("HEAD", half, on=line)["upload-offset"] == "10"


@states("head.changes-nothing")
def test_head_waits_for_no_writer_and_changes_nothing(tus: Tus, half: str) -> None:
    with tus.line() as writer:
        usual = [("Tus-Resumable", "1.0.0"), ("Content-Type", TYPE), ("Upload-Offset", "5")]
        writer.send_head("PATCH", half, [*usual, ("Content-Length", "5")])
        writer.socket.sendall(b"67")
        tus.await_stored(half, 7)
        before = tus.state()
        assert tus.offset(half) == 7
        assert tus.state() == before
        writer.socket.sendall(b"890")
        assert writer.answer().status == 204


# --- PATCH ---------------------------------------------------------------------------------------


@states("patch.applies", "patch.204", "patch.new-offset", "ours.told-at-the-end")
@pytest.mark.parametrize("is_chunked", [False, True])
def test_patch_applies_bytes_where_the_last_one_ended(tus: Tus, *, is_chunked: bool) -> None:
    data = os.urandom(700_000)
    path, offset = tus.new(len(data)), 0
    for size in (1, 0, 99_999, 400_000, 200_000):
        body = data[offset : offset + size]
        chunks = [chunk for chunk in (body[:1], body[1:70_000], body[70_000:]) if chunk]
        answer = tus.patch(path, offset, chunks if is_chunked else body)
        offset += size
        assert (answer.status, answer["upload-offset"], answer.body) == (204, str(offset), b"")
        assert ("tidemill-batch" in answer) == (offset == len(data))
    assert tus.stored(path) == data


@states("patch.type", "ours.refusals")
@pytest.mark.parametrize(
    "kind",
    ["video/mp4", "", "application/octet-stream", "application/offset", "text/plain", TYPE + "x"],
)
@pytest.mark.parametrize("is_chunked", [False, True])
@as_served
def test_patch_of_another_type_is_415(tus: Tus, half: str, kind: str, *, is_chunked: bool) -> None:
    body = [b"678", b"90"] if is_chunked else b"67890"
    answer = tus.patch(half, 5, body, Content_Type=kind)
    assert (answer.status, code(answer)) == (415, "unsupported_media_type")
    without = tus.ask("PATCH", half, {"Upload-Offset": "5"}, body)
    assert without.status == 415
    finish(tus, half)


@states("patch.offset-conflict", "patch.offset-unmodified")
@pytest.mark.parametrize("offset", [0, 4, 6, 10, 11, 10**30])
@pytest.mark.parametrize("body", [b"", b"67890", [b"67", b"890"], b"x" * 300_000])
@as_served
def test_patch_at_another_offset_is_409_and_changes_nothing(
    tus: Tus, half: str, offset: int, body: bytes | list[bytes]
) -> None:
    answer = tus.patch(half, offset, body)
    assert (answer.status, code(answer)) == (409, "offset_mismatch")
    assert answer["upload-offset"] == "5"
    finish(tus, half)


@states("patch.offset-required")
def test_patch_without_an_offset_is_400(tus: Tus, half: str) -> None:
    answer = tus.ask("PATCH", half, {"Content-Type": TYPE}, b"67890")
    assert (answer.status, code(answer)) == (400, "invalid_header")


@states("patch.missing")
def test_patch_of_what_is_not_there_is_404(tus: Tus) -> None:
    answer = tus.patch(NOBODY, 0, b"hello")
    assert (answer.status, code(answer)) == (404, "upload_not_found")


@states("patch.keeps", "ours.no-retry-loss")
@pytest.mark.parametrize("is_chunked", [False, True])
def test_patch_that_breaks_off_leaves_what_came(tus: Tus, *, is_chunked: bool) -> None:
    data = os.urandom(300_000)
    path = tus.new(len(data))
    size = ("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(len(data)))
    usual = [("Tus-Resumable", "1.0.0"), ("Content-Type", TYPE), ("Upload-Offset", "0"), size]
    with tus.line() as line:
        line.send_head("PATCH", path, usual)
        half = data[:150_000]
        line.socket.sendall(b"%x\r\n%s\r\n" % (len(half), half) if is_chunked else half)
    tus.await_stored(path, 150_000)
    # The old request may still be noticing that its client is gone: then it is stopped.
    assert tus.offset(path) == 150_000
    assert tus.patch(path, 150_000, data[150_000:]).status == 204
    assert tus.stored(path) == data


@states("patch.past-the-end", "ours.refusals")
@pytest.mark.parametrize(
    "body", [b"67890!", [b"6789", b"0!"], b"x" * 2_000_000, [b"x" * 400_000] * 5]
)
def test_patch_past_the_end_is_413_and_nothing_of_it_is_kept(
    tus: Tus, half: str, body: bytes | list[bytes]
) -> None:
    answer = tus.patch(half, 5, body)
    assert (answer.status, code(answer)) == (413, "body_too_long")
    assert answer["upload-offset"] == "5"
    finish(tus, half)


@states("patch.past-the-end")
def test_patch_of_a_finished_upload_takes_nothing_more(tus: Tus) -> None:
    path = tus.finished(b"hello")
    batch = tus.head(path)["tidemill-batch"]
    for body in NO_BYTES:
        again = tus.patch(path, 5, body)
        assert (again.status, again["upload-offset"]) == (204, "5")
        assert again["tidemill-batch"] == batch
    assert tus.patch(path, 5, b"!").status == 413
    assert tus.patch(path, 5, [b"!"]).status == 413
    assert tus.patch(path, 0, b"HELLO").status == 409
    assert tus.stored(path) == b"hello"


@states("patch.chunked")
def test_patch_with_odd_chunks_is_what_was_in_them(tus: Tus) -> None:
    path = tus.new(1000)
    usual = [("Tus-Resumable", "1.0.0"), ("Content-Type", TYPE), ("Upload-Offset", "0")]
    with tus.line() as line:
        line.send_head("PATCH", path, [*usual, ("Transfer-Encoding", "chunked")])
        for byte in range(256):
            line.socket.sendall(b"1;note=%d\r\n%c\r\n" % (byte, byte))
        line.socket.sendall(b"00C8\r\n" + b"x" * 200 + b"\r\n0\r\nX-Trailer: ignored\r\n\r\n")
        assert line.answer()["upload-offset"] == "456"
        # The end was understood: what follows is the next request.
        assert line.ask("HEAD", path, usual[:1])["upload-offset"] == "456"
    assert tus.stored(path) == bytes(range(256)) + b"x" * 200


@states("patch.continue")
def test_patch_that_waits_is_told_to_go_on_or_refused_at_once(tus: Tus, half: str) -> None:
    usual = [("Tus-Resumable", "1.0.0"), ("Content-Type", TYPE), ("Content-Length", "5")]
    waits = ("Expect", "100-continue")
    with tus.line() as line:
        line.send_head("PATCH", half, [*usual, ("Upload-Offset", "4"), waits])
        refused = line.answer()
        assert (refused.status, refused["connection"]) == (409, "close")
        assert line.is_closed()
    with tus.line() as line:
        line.send_head("PATCH", half, [*usual, ("Upload-Offset", "5"), waits])
        assert line.answer().status == 100
        line.socket.sendall(b"67890")
        assert line.answer().status == 204
        assert line.ask("HEAD", half, usual[:1])["upload-offset"] == "10"


# --- OPTIONS -------------------------------------------------------------------------------------


@states("options.answer", "options.told", "options.version-ignored", "options.everywhere")
@pytest.mark.parametrize("version", [None, "1.0.0", "0.2.2", "nonsense"])
@as_served
def test_options_answers_everywhere_whatever_the_version(
    tus: Tus, half: str, version: str | None
) -> None:
    for path in ("/files", "/files/", half, NOBODY, "/files/nonsense"):
        answer = tus.ask("OPTIONS", path, version=version)
        assert (answer.status, answer.body) == (204, b"")
        assert answer["tus-version"] == "1.0.0"
        for name in ("tus-extension", "tus-max-size", "tus-checksum-algorithm", "allow"):
            assert answer[name]


# --- what holds around it ------------------------------------------------------------------------


@states("ours.header-names")
@pytest.mark.parametrize("spelling", [str.upper, str.lower, str.title, str.swapcase])
def test_ours_header_names_may_have_any_letters(tus: Tus, spelling: Spelling) -> None:
    def spelled(**headers: str) -> list[tuple[str, str]]:
        return [(spelling(n.replace("_", "-")), v) for n, v in headers.items()]

    def ask(line: Line, method: str, path: str, body: bytes, **headers: str) -> int:
        sent = spelled(Tus_Resumable="1.0.0", **headers)
        return line.ask(method, path, sent, body).status

    with tus.line() as line:
        assert ask(line, "POST", "/files/", b"", Upload_Defer_Length="1") == 201
        path = tus.new(10)
        usual = {"Content_Type": TYPE, "Upload_Offset": "0", "Upload_Length": "10"}
        assert ask(line, "PATCH", path, b"12345", **usual) == 204
        assert ask(line, "PATCH", path, b"12345", **usual) == 409
        assert ask(line, "POST", path, b"", X_HTTP_Method_Override="HEAD") == 200
        assert ask(line, "POST", "/files/", b"", Upload_Length="1", Upload_Concat="no") == 400
        wrong = {**usual, "Upload_Offset": "5", "Upload_Checksum": "sha0 YQ=="}
        assert ask(line, "PATCH", path, b"67890", **wrong) == 400
    assert tus.stored(path) == b"12345"


@states("ours.type-parameters")
@pytest.mark.parametrize(
    "kind", [f"{TYPE}; charset=binary", f"{TYPE};x=y", TYPE.upper(), f" {TYPE} ; a=b; c=d"]
)
def test_ours_parameters_of_the_content_type_do_not_matter(tus: Tus, kind: str) -> None:
    made = tus.create(10, b"12345", Content_Type=kind)
    assert made.status == 201
    assert tus.patch(made["location"], 5, b"67890", Content_Type=kind).status == 204


@states("ours.slash")
@as_served
def test_ours_both_addresses_of_the_collection_are_one(tus: Tus) -> None:
    for path in ("/files", "/files/"):
        answer = tus.ask("POST", path, {"Upload-Length": "3", "Content-Length": "0"})
        assert answer.status == 201
        assert tus.offset(answer["location"]) == 0


@states("ours.keep-alive")
def test_ours_an_upload_goes_over_one_connection_with_refusals_between(tus: Tus) -> None:
    data = os.urandom(400_000)
    with tus.line() as line:
        made = tus.ask("POST", "/files/", {"Upload-Length": "400000"}, b"", on=line)
        path = made["location"]
        for start in range(0, len(data), 100_000):
            usual = {"Content-Type": TYPE, "Upload-Offset": str(start)}
            piece = data[start : start + 100_000]
            wrong = {**usual, "Upload-Offset": str(start + 1)}
            assert tus.ask("PATCH", path, wrong, data[:90_000], on=line).status == 409
            assert tus.ask("PATCH", path, wrong, [data[:90_000]], on=line).status == 409
            assert tus.ask("PATCH", path, usual, piece, on=line).status == 204
            assert tus.ask("HEAD", path, on=line)["upload-offset"] == str(start + 100_000)
    assert tus.stored(path) == data


@states("ours.not-built")
def test_ours_what_would_have_to_be_honoured_is_refused(tus: Tus, half: str) -> None:
    for header in ({"Idempotency_Key": "once"}, {"Trailer": "Upload-Checksum"}):
        made = tus.create(5, None, **header)
        assert (made.status, code(made)) == (400, "not_supported")
        patched = tus.patch(half, 5, b"67890", **header)
        assert (patched.status, code(patched)) == (400, "not_supported")


@states("ours.download")
def test_ours_get_has_the_bytes_of_a_whole_upload(tus: Tus, half: str) -> None:
    answer = tus.ask("GET", half, version=None)
    assert (answer.status, code(answer)) == (409, "upload_incomplete")
    finish(tus, half)
    answer = tus.ask("GET", half, version=None)
    assert (answer.status, answer.body) == (200, b"1234567890")
    part = tus.ask("GET", half, {"Range": "bytes=2-4"}, version=None)
    assert (part.status, part.body) == (206, b"345")
    assert tus.ask("GET", half, {"Range": "bytes=10-"}, version=None).status == 416


# --- what the service cannot go on with, which ``ask`` looks after ---------------------------------


@contextlib.contextmanager
def failing_after(count: int, error: int) -> Iterator[None]:
    """A disk that takes so many bytes more of uploads."""
    real, left = os.pwritev, count

    def pwritev(fd: int, pieces: list[Any], offset: int) -> int:
        nonlocal left
        if left == 0:
            raise OSError(error, os.strerror(error))
        taken = real(fd, [memoryview(b"".join(pieces))[:left]], offset)
        left -= taken
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", pwritev)
        yield


DISK_ERRORS = {errno.ENOSPC: (507, "no_space"), errno.EIO: (500, "storage_failed")}


@states("ours.failures")
@pytest.mark.parametrize("error", DISK_ERRORS)
@pytest.mark.parametrize("taken", [0, 7])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_ours_a_patch_that_the_disk_refuses_leaves_what_was_written(
    tus: Tus, half: str, error: int, taken: int, *, is_chunked: bool
) -> None:
    data = os.urandom(600_000)
    path = tus.new(len(data))
    assert tus.patch(path, 0, data[:5]).status == 204
    body = [data[5:300_000], data[300_000:]] if is_chunked else data[5:]
    for checked in ({"Upload_Checksum": checksum(data[5:])}, {}):
        with failing_after(taken, error):
            answer = tus.patch(path, 5, body, **checked)
        assert (answer.status, code(answer)) == DISK_ERRORS[error]
        assert tus.offset(path) == (5 if checked else 5 + taken)
    assert tus.patch(path, 5 + taken, data[5 + taken :]).status == 204
    assert tus.stored(path) == data
    finish(tus, half)


@states("ours.failures")
@pytest.mark.parametrize("error", DISK_ERRORS)
@pytest.mark.parametrize("length", [600_000, None])
def test_ours_a_creation_that_the_disk_refuses_makes_nothing(
    tus: Tus, error: int, length: int | None
) -> None:
    for body in (bytes(600_000), [bytes(300_000)] * 2):
        with failing_after(100_000, error):
            answer = tus.create(length, body)
        assert (answer.status, code(answer)) == DISK_ERRORS[error]
        assert "location" not in answer


@states("ours.failures")
def test_ours_a_body_that_stalls_is_hung_up_on_and_leaves_what_came(tus: Tus, half: str) -> None:
    container = tus.service.container
    policy = replace(container.uploads.policy, read_timeout_seconds=0.3)
    impatient = replace(container, uploads=replace(container.uploads, policy=policy))
    usual = [("Tus-Resumable", "1.0.0"), ("Content-Type", TYPE), ("Content-Length", "500000")]
    data = os.urandom(500_000)
    path, patched = tus.new(len(data)), ("Upload-Offset", "0")
    sums = ("Upload-Checksum", checksum(data))
    with tus.service.exchanged(impatient):
        for method, where, more in (
            ("POST", "/files/", [("Upload-Length", "500000")]),
            ("PATCH", path, [patched, sums]),
            ("PATCH", path, [patched]),
        ):
            with tus.line() as line:
                line.send_head(method, where, [*usual, *more])
                line.socket.sendall(data[:300_000])
                with pytest.raises(Ended):
                    line.answer()
    assert tus.offset(path) == 300_000
    assert tus.patch(path, 300_000, data[300_000:]).status == 204
    assert tus.stored(path) == data
    finish(tus, half)


@states("ours.starting")
def test_ours_a_service_that_is_starting_changes_nothing(tus: Tus, half: str) -> None:
    with tus.service.exchanged(None):
        for body in (b"67890", [b"678", b"90"], bytes(300_000)):
            assert tus.patch(half, 5, body).status == 503
            assert tus.create(5, body).status == 503
        assert tus.head(half).status == 423
        assert tus.delete(half).status == 503
    finish(tus, half)
