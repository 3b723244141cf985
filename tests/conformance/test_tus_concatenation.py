"""tus 1.0.0, extension: concatenation."""

import os
from datetime import timedelta

import pytest

from app.domain.access import OWNER
from app.domain.uploads import UploadKind
from tests.conformance.bench import TYPE, Tus, as_served, checksum, code
from tests.conformance.raw import Answer
from tests.conformance.statements import states
from tests.factories import make_upload

NOBODY = f"/files/{'0' * 32}"


def part(tus: Tus, *bodies: bytes, length: int | None = -1, **headers: str) -> str:
    """Create a partial, with the bytes that are given, and return its path."""
    size = sum(map(len, bodies)) if length == -1 else length
    path, offset = tus.new(size, Upload_Concat="partial", **headers), 0
    for body in bodies:
        assert tus.patch(path, offset, body).status == 204
        offset += len(body)
    return path


def final(tus: Tus, *parts: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    concat = {"Upload-Concat": f"final;{' '.join(parts)}", "Content-Length": "0"}
    return tus.ask("POST", "/files/", {**concat, **named})


@states("concatenation.offered", "concatenation.partial")
def test_concatenation_partials_are_written_like_any_other_upload(tus: Tus) -> None:
    assert "concatenation" in tus.extensions()
    path = part(tus, length=None)
    head = tus.head(path)
    assert (head["upload-offset"], head["upload-defer-length"]) == ("0", "1")
    assert tus.patch(path, 0, b"he").status == 204
    assert tus.patch(path, 1, b"x").status == 409
    assert tus.patch(path, 2, b"", Upload_Length="1").status == 400
    right = checksum(b"llo")
    assert tus.patch(path, 2, b"LLO", Upload_Checksum=right, Upload_Length="5").status == 460
    done = tus.patch(path, 2, [b"ll", b"o"], Upload_Checksum=right, Upload_Length="5")
    assert (done.status, done["upload-offset"]) == (204, "5")
    # A part completes nothing: its final does.
    assert "tidemill-batch" not in done
    made = tus.create(5, b"hello", Upload_Concat="partial")
    assert (made.status, made["upload-offset"]) == (201, "5")
    for whole in (path, made["location"]):
        assert tus.offset(whole) == 5
        assert tus.patch(whole, 5, b"!").status == 413


@states("concatenation.final", "concatenation.sum", "concatenation.head-final")
def test_concatenation_puts_the_bytes_together_in_the_order_named(tus: Tus) -> None:
    bodies = [os.urandom(size) for size in (100_000, 1, 0, 250_000)]
    paths = [part(tus, *([body] if body else [])) for body in bodies]
    order = [3, 0, 2, 1]
    made = final(tus, *(paths[i] for i in order), Upload_Metadata="filename YS5tcDQ=")
    assert (made.status, made.body) == (201, b"")
    path, whole = made["location"], b"".join(bodies[i] for i in order)
    head = tus.head(path)
    assert head["upload-offset"] == head["upload-length"] == str(len(whole))
    assert head["tidemill-batch"] == made["tidemill-batch"]
    assert head["upload-metadata"] == "filename YS5tcDQ="
    assert tus.ask("GET", path).body == whole
    assert tus.stored(path) == whole
    assert all(not tus.stored(p) for p in paths)


@states("concatenation.urls")
@pytest.mark.parametrize(
    "form", ["{path}", "http://127.0.0.1:{port}{path}", "https://cdn.example{path}"]
)
@as_served
def test_concatenation_takes_paths_and_urls(tus: Tus, form: str) -> None:
    paths = [part(tus, b"hello "), part(tus, b"world")]
    urls = [form.format(path=path, port=tus.service.port) for path in paths]
    made = final(tus, *urls)
    assert made.status == 201
    assert tus.stored(made["location"]) == b"hello world"


@states("concatenation.no-length", "ours.refusals")
@pytest.mark.parametrize("header", [{"Upload-Length": "5"}, {"Upload-Defer-Length": "1"}])
@as_served
def test_concatenation_of_a_final_with_a_length_is_400(tus: Tus, header: dict[str, str]) -> None:
    answer = final(tus, part(tus, b"hello"), **header)
    assert (answer.status, code(answer)) == (400, "invalid_header")


@states("concatenation.head")
def test_concatenation_is_told_by_head_as_it_was_sent(tus: Tus) -> None:
    paths = [part(tus, b"he"), part(tus, b"llo")]
    assert [tus.head(path)["upload-concat"] for path in paths] == ["partial"] * 2
    made = final(tus, *paths)
    assert tus.head(made["location"])["upload-concat"] == f"final;{paths[0]} {paths[1]}"
    assert tus.head(paths[0])["upload-concat"] == "partial"
    assert "upload-concat" not in tus.head(tus.new(5))


@states("concatenation.head-making")
def test_concatenation_that_is_not_done_yet_tells_no_offset(tus: Tus) -> None:
    parts = [part(tus, b"he"), part(tus, b"llo")]
    now = tus.service.container.clock.now()
    concat = f"final;{parts[0]} {parts[1]}"
    being_made = make_upload(
        owner=OWNER,
        session_id=None,
        kind=UploadKind.FINAL,
        concat=concat,
        parts=tuple(path.rpartition("/")[2] for path in parts),
        length=5,
        boot_id=tus.service.container.uploads.store.boot_id,
        created_at=now,
        active_at=now,
        expires_at=now + timedelta(hours=1),
    )
    tus.service.write(lambda tx: tx.uploads.insert(being_made))
    path = f"/files/{being_made.id}"
    head = tus.head(path)
    assert (head.status, head["upload-concat"], head["upload-length"]) == (200, concat, "5")
    assert "upload-offset" not in head
    assert tus.patch(path, 0, b"hello").status == 403
    # Who asks for it now takes over from the process that began it.
    made = final(tus, *parts)
    assert (made.status, made["location"]) == (201, path)
    assert tus.head(path)["upload-offset"] == "5"


@states("concatenation.metadata")
def test_concatenation_metadata_is_the_finals_own(tus: Tus) -> None:
    path = part(tus, b"hello", Upload_Metadata="filename cGFydA==")
    assert tus.head(path)["upload-metadata"] == "filename cGFydA=="
    assert "upload-metadata" not in tus.head(final(tus, path)["location"])


@states("concatenation.patch-403", "concatenation.patch-nothing")
@pytest.mark.parametrize("offset", [0, 3, 5])
@pytest.mark.parametrize("body", [b"", b"hello", [b"hel", b"lo"]])
@as_served
def test_concatenation_final_takes_no_patch(
    tus: Tus, offset: int, body: bytes | list[bytes]
) -> None:
    path = final(tus, part(tus, b"hello"))["location"]
    answer = tus.patch(path, offset, body)
    assert (answer.status, code(answer)) == (403, "upload_is_final")
    assert tus.stored(path) == b"hello"


@states("concatenation.unfinished", "ours.refusals")
@pytest.mark.parametrize("length", [10, None])
def test_concatenation_of_unfinished_parts_is_refused(tus: Tus, length: int | None) -> None:
    assert "concatenation-unfinished" not in tus.extensions()
    whole, half = part(tus, b"hello"), part(tus, b"world", length=length)
    for order in ((whole, half), (half, whole)):
        answer = final(tus, *order)
        assert (answer.status, code(answer)) == (422, "invalid_parts")
    assert tus.patch(half, 5, b"!!!!!", Upload_Length="10").status == 204
    assert tus.stored(final(tus, half, whole)["location"]) == b"world!!!!!hello"


@states("concatenation.unknown", "ours.refusals")
@as_served
def test_concatenation_of_what_is_no_part_is_refused(tus: Tus) -> None:
    whole, plain, done = part(tus, b"hello"), tus.new(5), tus.finished(b"hello")
    terminated, used = part(tus, b"hello"), part(tus, b"hello")
    assert tus.delete(terminated).status == 204
    made = final(tus, used)["location"]
    for path in (plain, done, terminated, made, NOBODY):
        for order in ((whole, path), (path, whole)):
            answer = final(tus, *order)
            assert (answer.status, code(answer)) == (422, "invalid_parts"), path
    for path in ("/files/x", "/files/", "/livez", "x://[", f"{whole}/x"):
        for order in ((whole, path), (path, whole)):
            assert final(tus, *order).status in {400, 422}, path
    assert final(tus, whole, used).status == 422
    assert final(tus, whole).status == 201


@states("concatenation.repeat")
def test_concatenation_asked_again_is_answered_again(tus: Tus) -> None:
    paths = [part(tus, b"hello "), part(tus, b"world")]
    first = final(tus, *paths)
    before = tus.state()
    again = final(tus, *paths)
    assert again.status == 201
    for name in ("location", "tidemill-upload", "tidemill-batch"):
        assert again[name] == first[name]
    for path, size in zip(paths, ("6", "5"), strict=True):
        head = tus.head(path)
        assert (head.status, head["upload-offset"], head["upload-length"]) == (200, size, size)
    assert tus.state() == before
    assert final(tus, *reversed(paths)).status == 422


@states("concatenation.malformed", "ours.refusals")
@pytest.mark.parametrize(
    "value",
    [
        "",
        "whole",
        "Partial",
        "partial;x",
        "partial,partial",
        "final",
        "final;",
        "final; ",
        "final /files/x",
    ],
)
@as_served
def test_concatenation_by_any_other_value_is_400(tus: Tus, value: str) -> None:
    for more in ({"Upload-Length": "5"}, {}):
        headers = {**more, "Upload-Concat": value, "Content-Length": "0"}
        answer = tus.ask("POST", "/files/", headers)
        assert (answer.status, code(answer)) == (400, "invalid_header")


@states("concatenation.malformed")
def test_concatenation_with_a_body_or_two_values_is_400(tus: Tus) -> None:
    path = part(tus, b"hello")
    concat = ("Upload-Concat", f"final;{path}")
    for body in (b"hello", [b"hello"]):
        answer = tus.ask("POST", "/files/", [concat, ("Content-Type", TYPE)], body)
        assert answer.status == 400
    assert tus.ask("POST", "/files/", [concat, concat, ("Content-Length", "0")]).status == 400
    assert final(tus, path).status == 201
