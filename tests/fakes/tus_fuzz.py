"""Requests that are nearly tus: a seed makes a valid one and then spoils it, byte for byte the same
each time. ``skip`` leaves mutations out, which is how a failing request is made smaller.
"""

import base64
import random
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import unquote_to_bytes

MOST_BYTES = 100_000
OCTETS = b"application/offset+octet-stream"
NUMBERS = [
    *b"-1 +5 0x10 1e3 4_0 00005 5,5 5;q=1 NaN 5.0 9223372036854775808 18446744073709551616".split(),
    b"",
    b" ",
    b" 7 ",
    b"9" * 39,
    b"9" * 400,
    "٣".encode(),
    b"5\t",
    b"5 5",
    b"-0",
    b"\x005",
]
METHODS = [
    *b"GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT BREW patch PRI".split(),
    b"",
    b"P\x00TCH",
    b"A" * 300,
    b"PATCH PATCH",
    "MÖVE".encode(),
]
VERSIONS = [*b"HTTP/1.0 HTTP/0.9 HTTP/1.2 HTTP/2.0 HTTP/1.1x http/1.1 HTTP/1. ICY".split(), b""]
CODINGS = [
    *b"chunked identity gzip xchunked CHUNKED".split(),
    b"gzip, chunked",
    b"chunked, gzip",
    b"chunked, chunked",
    b"\x0bchunked",
    b"",
]
ENDINGS = (b"\n", b"\r", b"\r\r\n", b"\n\n", b"\r\n ", b"\x00\r\n", b"")
NAMES = (
    b"Tus-Resumable Upload-Offset Upload-Length Upload-Defer-Length Upload-Metadata Upload-Concat "
    b"Upload-Checksum Content-Type Content-Length Transfer-Encoding X-HTTP-Method-Override Expect "
    b"Range Host Connection Authorization Idempotency-Key X-Request-ID X-Forwarded-Host Trailer Upgrade"
).split()
VALUES = [
    *b"1.0.0 0.2.2 1 chunked close keep-alive 100-continue PATCH DELETE HEAD bytes=0-3 bytes=9-1 "
    b"partial final; h2c".split(),
    b"final;/files/ /files/../x http://evil/files/" + b"a" * 32,
    b"final;" + b" ".join([b"/files/" + b"b" * 32] * 200),
    b"sha1 " + base64.b64encode(b"x" * 20),
    b"md5 !!!!",
    b"filename " + base64.b64encode("../../ü\x00.mp4".encode()),
    b"filename Zm9v,filename YmFy",
    b"a,b,c " + b"=" * 50 + b",,,",
    b"session " + base64.b64encode(b"0" * 32),
    b"x" * 20000,
    b"\xff\xfe\x80",
    b"a\x00b",
    b"a\r\n b",
    b"\x7f" * 9,
]
BITS = (
    b"\x00",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b":",
    b"\xff",
    b"%00",
    b"..",
    b"/",
    b"\t",
)
CHUNKS = (
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;name=value\r\nhello\r\n0\r\nUpload-Offset: 9\r\n\r\n",
    b"-1\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffffff\r\nhello\r\n",
    b"7fffffffffffffff\r\nhello",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"\r\n",
    b"0\r\n",
    b"3\r\nhel",
    b"g\r\n\r\n",
    b"1\r\na\r\n" * 300 + b"0\r\n\r\n",
    b"5" + b";x" * 9_000 + b"\r\nhello\r\n0\r\n\r\n",
)


@dataclass
class Message:
    """A request before it is bytes."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    version: bytes = b"HTTP/1.1"
    ending: bytes = b"\r\n"
    is_chunked: bool = False

    def encoded(self) -> bytes:
        lines = [b" ".join((self.method, self.target, self.version))]
        lines += [name + b": " + value for name, value in self.headers]
        return self.ending.join([*lines, b"", b""]) + self.body


@dataclass(frozen=True)
class Try:
    """What goes over one connection. ``ends``: how the client leaves: it looks, FIN, RST, close."""

    pieces: tuple[bytes, ...]
    ends: str
    mutations: int = field(compare=False)

    @property
    def raw(self) -> bytes:
        return b"".join(self.pieces)


class TusFuzz:
    """Makes tries. ``pool`` are uploads that may be hurt, ``protected`` those that may not."""

    def __init__(self, pool: Sequence[str], protected: Sequence[str]) -> None:
        self._pool = [each.encode() for each in pool]
        self._protected = [each.encode() for each in protected]

    def make(self, seed: int, skip: AbstractSet[int] = frozenset()) -> Try:
        source = random.Random(seed)
        messages = [self._valid(source) for _ in range(source.choice((1, 1, 1, 1, 2, 3)))]
        planned = []
        for _ in range(mutations := source.choice((0, 1, 1, 2, 3, 5))):
            message = source.choice(messages)
            change: Callable[[Message, random.Random], None] = source.choice(_CHANGES)
            planned.append((change, message, source.getrandbits(32)))
        for number, (change, message, own_seed) in enumerate(planned):
            if number not in skip:
                change(message, random.Random(own_seed))
        raw = b"".join(message.encoded() for message in messages)
        is_torn = source.random() < 0.35
        torn = random.Random(source.getrandbits(32))
        if is_torn and mutations not in skip:
            raw = _tear(raw, torn)
        # Bodies are at the end, and one that is cut comes in another way than one that is not.
        least = source.choice((0, 0, len(raw) // 2))
        count = source.choice((0, 1, 1, 3))
        cuts = sorted(source.randint(least, len(raw)) for _ in range(count))
        edges = [0, *cuts, len(raw)]
        pieces = tuple(raw[a:b] for a, b in pairwise(edges))
        ends = source.choice(("looks", "fin", "fin", "rst", "close"))
        found = Try(pieces, ends, mutations + 1)
        return Try((), "close", 0) if self._endangers(found.raw) else found

    def _endangers(self, raw: bytes) -> bool:
        """Whether a protected upload's own address is in it, by whatever spelling."""
        plain = unquote_to_bytes(raw)
        return any(
            tail[:1] not in b"/.%" or not tail
            for each in self._protected
            for tail in plain.split(b"/" + each)[1:]
        )

    # --- valid requests ---

    def _valid(self, source: random.Random) -> Message:
        kind = source.choice((*["create"] * 3, *["patch"] * 3, "other", "near"))
        headers = [(b"Host", b"127.0.0.1"), (b"Tus-Resumable", b"1.0.0")]
        if kind == "create":
            return self._creation(source, headers)
        if kind == "patch":
            return self._patch(source, headers)
        if kind == "other":
            method = source.choice((b"HEAD", b"GET", b"DELETE", b"OPTIONS"))
            return Message(method, b"/files/" + source.choice(self._pool), headers)
        around = b"/files/" + source.choice(self._protected)
        tail = source.choice(
            (b"/", b"/..", b".info", b"%2e%2e", b"/x", b"/%2e%2e/" + self._pool[0])
        )
        method = source.choice((b"DELETE", b"PATCH", b"GET", b"POST"))
        headers += [(b"Upload-Offset", b"0"), (b"Content-Type", OCTETS), (b"Content-Length", b"0")]
        return Message(method, around + tail, headers)

    def _creation(self, source: random.Random, headers: list[tuple[bytes, bytes]]) -> Message:
        length = source.choice((0, 5, 3000, 60_000, 60_000))
        if source.random() < 0.2:
            headers.append((b"Upload-Defer-Length", b"1"))
        else:
            headers.append((b"Upload-Length", b"%d" % length))
        if source.random() < 0.3:
            headers.append((b"Upload-Metadata", b"filename Y2xpcC5tcDQ="))
        if source.random() < 0.2:
            headers.append((b"Upload-Concat", b"partial"))
        message = Message(b"POST", source.choice((b"/files", b"/files/")), headers)
        if source.random() < 0.5:
            _give_body(
                message, source.randbytes(source.choice((0, 1, length, length, length))), source
            )
        else:
            headers.append((b"Content-Length", b"0"))
        return message

    def _patch(self, source: random.Random, headers: list[tuple[bytes, bytes]]) -> Message:
        headers.append((b"Upload-Offset", b"%d" % source.choice((0, 0, 0, 1, 50))))
        message = Message(b"PATCH", b"/files/" + source.choice(self._pool), headers)
        if source.random() < 0.2:
            message.method = b"POST"
            headers.append((b"X-HTTP-Method-Override", b"PATCH"))
        _give_body(
            message, source.randbytes(source.choice((0, 1, 50, 4000, 40_000, 40_000))), source
        )
        return message


def _give_body(message: Message, body: bytes, source: random.Random) -> None:
    message.headers.append((b"Content-Type", OCTETS))
    message.is_chunked = source.random() < 0.4
    if message.is_chunked:
        message.headers.append((b"Transfer-Encoding", b"chunked"))
        last = b"0\r\n\r\n"
        message.body = b"%x\r\n%s\r\n%s" % (len(body), body, last) if body else last
    else:
        message.headers.append((b"Content-Length", b"%d" % len(body)))
        message.body = body


# --- mutations of a message ---


def _drop_header(message: Message, source: random.Random) -> None:
    if message.headers:
        message.headers.pop(source.randrange(len(message.headers)))


def _double_header(message: Message, source: random.Random) -> None:
    name, value = _one_of(message, source)
    value = source.choice((value, source.choice(NUMBERS), source.choice(VALUES)))
    message.headers.insert(source.randrange(len(message.headers) + 1), (name, value))


def _add_header(message: Message, source: random.Random) -> None:
    value = source.choice(source.choice((NUMBERS, VALUES)))
    message.headers.append((source.choice(NAMES), value))


def _many_headers(message: Message, source: random.Random) -> None:
    message.headers += [(b"X-%d" % n, b"v" * source.choice((1, 100))) for n in range(400)]


def _other_value(message: Message, source: random.Random) -> None:
    name, _ = (
        message.headers.pop(source.randrange(len(message.headers) or 1))
        if message.headers
        else (
            source.choice(NAMES),
            b"",
        )
    )
    message.headers.append((name, source.choice(source.choice((NUMBERS, VALUES)))))


def _garble_name(message: Message, source: random.Random) -> None:
    name, value = _one_of(message, source)
    message.headers.append((_with_bit(name, source), value))


def _garble_value(message: Message, source: random.Random) -> None:
    name, value = _one_of(message, source)
    with_bit = _with_bit(value, source)
    message.headers = [(n, with_bit if n == name else v) for n, v in message.headers]


def _other_method(message: Message, source: random.Random) -> None:
    message.method = source.choice(METHODS)


def _other_target(message: Message, source: random.Random) -> None:
    own = message.target
    message.target = source.choice(
        (
            own + b"/",
            own + b"?x=%00&y",
            own + b"#f",
            own.upper(),
            own.replace(b"f", b"%66"),
            own.replace(b"/", b"//"),
            own.replace(b"/", b"%2f"),
            own + b"%00",
            own + b"/../../tidemill.db",
            own + b"\x80",
            b"http://evil" + own,
            b"/files/..%2f..%2fetc/passwd",
            b"/files/" + b"a" * 70_000,
            b"/files/" + b"%41" * 5_000,
            b"/files/" + b"\xc0\xae" * 8,
            b"/files/.",
            b"/files/%",
            b"*",
            b"",
            b"files",
            b"\\files\\",
            b"/api/v1/uploads/" + own[7:],
            b"/" * 3_000,
        )
    )


def _other_version(message: Message, source: random.Random) -> None:
    message.version = source.choice(VERSIONS)


def _other_ending(message: Message, source: random.Random) -> None:
    message.ending = source.choice(ENDINGS)


def _lie_about_length(message: Message, source: random.Random) -> None:
    sizes = (*NUMBERS, b"%d" % (len(message.body) + 3), b"1", b"0", b"100000000000")
    message.headers.append((b"Content-Length", source.choice(sizes)))


def _true_length(message: Message, source: random.Random) -> None:
    """Length instead of coding, or both."""
    if source.random() < 0.5:
        message.headers = [h for h in message.headers if h[0] != b"Transfer-Encoding"]
    message.headers.append((b"Content-Length", b"%d" % len(message.body)))


def _other_coding(message: Message, source: random.Random) -> None:
    message.headers.append((b"Transfer-Encoding", source.choice(CODINGS)))


def _odd_chunks(message: Message, source: random.Random) -> None:
    if not message.is_chunked:
        message.headers.append((b"Transfer-Encoding", b"chunked"))
    message.body = source.choice(CHUNKS)


def _expect(message: Message, source: random.Random) -> None:
    message.headers.append(
        (b"Expect", source.choice((b"100-continue", b"200-ok", b"100-Continue")))
    )


def _large_body(message: Message, source: random.Random) -> None:
    message.headers = [h for h in message.headers if h[0] != b"Content-Length"]
    message.body = source.randbytes(300_000)
    message.headers.append((b"Content-Length", b"300000"))


def _one_of(message: Message, source: random.Random) -> tuple[bytes, bytes]:
    return source.choice(message.headers) if message.headers else (source.choice(NAMES), b"1")


def _with_bit(value: bytes, source: random.Random) -> bytes:
    at = source.randrange(len(value) + 1)
    return value[:at] + source.choice(BITS) + value[at:]


def _tear(raw: bytes, source: random.Random) -> bytes:
    """Change some bytes wherever they are, or leave the end out."""
    for _ in range(source.choice((1, 1, 3, 10))):
        at = source.randrange(len(raw) + 1)
        match source.choice(("flip", "insert", "delete", "double", "end", "other")):
            case "flip" if at < len(raw):
                raw = raw[:at] + bytes([raw[at] ^ (1 << source.randrange(8))]) + raw[at + 1 :]
            case "insert":
                raw = raw[:at] + source.choice(BITS) + raw[at:]
            case "delete":
                raw = raw[:at] + raw[at + source.randrange(1, 20) :]
            case "double":
                raw = raw[: at + source.randrange(1, 60)] + raw[at:]
            case "end":
                raw = raw[:at]
            case _:
                raw = raw[:at] + source.randbytes(source.randrange(1, 8)) + raw[at:]
    return raw


_CHANGES = (
    _drop_header,
    _drop_header,
    _double_header,
    _double_header,
    _add_header,
    _add_header,
    _many_headers,
    _other_value,
    _other_value,
    _other_value,
    _garble_name,
    _garble_value,
    _garble_value,
    _other_method,
    _other_target,
    _other_target,
    _other_version,
    _other_ending,
    _lie_about_length,
    _true_length,
    _other_coding,
    _odd_chunks,
    _odd_chunks,
    _expect,
    _large_body,
)
