"""What the text of tus 1.0.0 and our own contract demand of a server, each statement by its section.

In our own words, one line for each MUST, MUST NOT and SHOULD that a server can meet or break; what is
demanded of clients is here only where a server has to answer it. A test says with ``states`` which
statements it shows, and ``test_conformance_table.py`` sees that none is left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Statement:
    """``level``: MUST, MUST NOT, SHOULD; OURS: where the text leaves it to us."""

    section: str
    level: str
    text: str


def states(*keys: str) -> Callable[[Test], Test]:
    """Mark a test with the statements that it shows; its name begins with their section."""

    def mark(test: Test) -> Test:
        missing = [key for key in keys if key not in STATEMENTS]
        assert not missing, f"no such statements: {missing}"
        return test

    return mark


_TABLE = """
headers.offset-number | MUST | Upload-Offset is a non-negative whole number
headers.length-number | MUST | Upload-Length is a non-negative whole number
headers.versions | MUST | Tus-Version lists the versions, by commas, the preferred first
headers.resumable | MUST | Tus-Resumable is in every response but those to OPTIONS
headers.resumable-asked | MUST | a request other than OPTIONS without Tus-Resumable is not served
headers.version-412 | MUST | an unsupported version is 412 and Tus-Version tells which are known
headers.version-unprocessed | MUST NOT | a request of an unsupported version is not processed
headers.extensions | MUST | Tus-Extension lists the extensions by commas, and only what works
headers.max-size | MUST | Tus-Max-Size is a non-negative whole number of bytes
headers.override | MUST | X-HTTP-Method-Override is the method; the actual one is ignored

head.offset | MUST | HEAD always has Upload-Offset, also 0 and at the end
head.length | MUST | HEAD has Upload-Length when the length is known
head.missing | SHOULD | HEAD of what is not there is 404, 410 or 403, without Upload-Offset
head.no-store | MUST | HEAD is never cached: Cache-Control: no-store
head.no-body | OURS | HEAD has no body and leaves the connection usable, refused or not
head.changes-nothing | OURS | HEAD changes nothing and waits for no writer

patch.applies | SHOULD | PATCH to an upload applies the bytes at the offset
patch.type | SHOULD | a body of another type than application/offset+octet-stream is 415
patch.offset-conflict | MUST | an Upload-Offset that is not the current one is 409
patch.offset-unmodified | MUST NOT | a PATCH at a wrong offset changes nothing
patch.offset-required | OURS | a PATCH without Upload-Offset is 400
patch.204 | MUST | a PATCH that was stored is 204
patch.new-offset | MUST | its Upload-Offset is the old one plus the bytes that were stored
patch.missing | SHOULD | PATCH to what is not there is 404
patch.keeps | SHOULD | of a body that breaks off as much as possible is stored
patch.past-the-end | OURS | a body past Upload-Length is 413 and none of it is kept
patch.chunked | OURS | a chunked body is a body
patch.continue | OURS | Expect: 100-continue is answered before the body, a refusal at once

options.answer | MUST | OPTIONS is 204 or 200 with Tus-Version
options.told | OURS | OPTIONS tells Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm
options.version-ignored | MUST | OPTIONS ignores Tus-Resumable
options.everywhere | OURS | OPTIONS answers on the collection and on uploads, known or not

creation.offered | MUST | Tus-Extension has creation
creation.201 | MUST | a created upload is 201
creation.location | MUST | Location is where the upload is, absolute or relative
creation.empty | OURS | a new upload is at offset 0; one of no bytes is complete at once
creation.one-length | MUST | Upload-Length or Upload-Defer-Length, and not both
creation.too-large | MUST | a length over Tus-Max-Size is 413
creation.metadata-pairs | MUST | Upload-Metadata is pairs by commas: a key, a space, Base64
creation.metadata-keys | MUST | a key is not empty, has no space and no comma, and is there once
creation.metadata-ascii | SHOULD | keys are ASCII
creation.metadata-empty | OURS | a value may be empty, with or without the space
creation.metadata-echo | MUST | HEAD has Upload-Metadata as it was sent with the creation

defer.offered | MUST | Tus-Extension has creation-defer-length
defer.one | MUST | Upload-Defer-Length is 1
defer.head | MUST | HEAD has Upload-Defer-Length: 1 while the length is unknown
defer.set | MUST | a PATCH may bring Upload-Length, from then on HEAD has it
defer.unchanging | MUST NOT | a length that was set cannot be changed
defer.not-below | OURS | a length below the offset is 400
defer.too-large | OURS | a later length over Tus-Max-Size is 413

with-upload.offered | MUST | Tus-Extension has creation-with-upload
with-upload.type | MUST | the body of a creation is of type application/offset+octet-stream
with-upload.offset | MUST | the 201 has Upload-Offset: how many of the bytes were stored
with-upload.stored | SHOULD | the bytes that came along are stored
with-upload.completes | OURS | a whole body completes the upload
with-upload.past-the-end | OURS | a body past the length is 413 and there is no upload

expiration.offered | MUST | Tus-Extension has expiration
expiration.creation | MUST | the 201 has Upload-Expires, as it is known then
expiration.patch | MUST | every PATCH response of an unfinished upload has Upload-Expires
expiration.date | MUST | Upload-Expires is an HTTP date (IMF-fixdate, GMT)
expiration.gone | SHOULD | an upload that expired is 410, for every request
expiration.finished | OURS | a finished upload expires no more, and says so by saying nothing

checksum.offered | MUST | Tus-Extension has checksum
checksum.algorithms | MUST | Tus-Checksum-Algorithm lists the algorithms by commas, sha1 among them
checksum.names | MUST | the names are of ASCII without capital letters
checksum.right | MUST | a body that comes to its checksum is processed like any other
checksum.mismatch | MUST | a body that does not is 460
checksum.discarded | MUST | and it is discarded: offset and bytes are as before
checksum.unsupported | MUST | an unknown algorithm is 400
checksum.malformed | OURS | a header that is no algorithm and Base64 digest is 400
checksum.each-request | OURS | it is compared with each body: chunked, empty, first of a creation
checksum.trailer | OURS | checksum-trailer is not offered, and refused, not ignored
checksum.completion | OURS | nothing is complete before its last body was found right

termination.offered | MUST | Tus-Extension has termination
termination.204 | MUST | DELETE of an upload is 204
termination.frees | SHOULD | its bytes go from the disk
termination.after | SHOULD | later requests for it are 404 or 410

concatenation.offered | MUST | Tus-Extension has concatenation
concatenation.partial | MUST | Upload-Concat: partial makes an upload written like any other
concatenation.final | MUST | final;urls makes the parts' bytes one upload, in the order named
concatenation.urls | OURS | the parts are named by path or by URL
concatenation.no-length | MUST NOT | a final brings no Upload-Length
concatenation.sum | MUST | the length of a final is the sum of its parts'
concatenation.head | MUST | HEAD of partial and final has Upload-Concat as it was sent
concatenation.head-final | MUST | HEAD of a whole final has Upload-Offset equal to its length
concatenation.head-making | MUST NOT | HEAD of a final that is not whole yet has no Upload-Offset
concatenation.metadata | MUST NOT | the metadata of parts does not become the final's
concatenation.patch-403 | MUST | PATCH to a final is 403
concatenation.patch-nothing | MUST NOT | and changes neither final nor parts
concatenation.unfinished | OURS | concatenation-unfinished is not offered: parts must be whole
concatenation.unknown | OURS | what is no part, unknown or another's is refused
concatenation.repeat | OURS | the same final again is 201 with the same Location
concatenation.malformed | OURS | any other value of Upload-Concat is 400

ours.refusals | OURS | after any 4xx offset, bytes and rows are as before
ours.failures | OURS | after a 5xx and an end without an answer, too, but for a true beginning of a PATCH
ours.starting | OURS | while it starts HEAD is 423, all else 503, and nothing is changed
ours.ids | OURS | what is no id of 32 small hex digits is 404
ours.location | OURS | Location is a path that no header of the client changes
ours.header-names | OURS | header names may be written with any letters
ours.metadata-lines | OURS | several Upload-Metadata lines are one list
ours.type-parameters | OURS | parameters and capital letters of the content type do not matter
ours.slash | OURS | /files and /files/ are the same, without a redirect
ours.keep-alive | OURS | many requests go over one connection, refused ones between them
ours.not-built | OURS | what would have to be honoured and is not is 400
ours.download | OURS | GET of a whole upload has its bytes, of an unfinished one 409
ours.told-at-the-end | OURS | the response that finishes an upload names its batch
ours.no-retry-loss | OURS | what a retry can cure is no 4xx but 409 and 423
"""


def _read(table: str) -> Mapping[str, Statement]:
    found: dict[str, Statement] = {}
    for line in filter(None, map(str.strip, table.splitlines())):
        key, level, text = (part.strip() for part in line.split("|"))
        assert key not in found, key
        assert level in {"MUST", "MUST NOT", "SHOULD", "OURS"}, line
        found[key] = Statement(key.partition(".")[0], level, text)
    return found


STATEMENTS = _read(_TABLE)
