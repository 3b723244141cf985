"""Upload-Concat: whether an upload is a part, or which parts a final is made of."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from app.api.access import TUS_PREFIX
from app.api.tus.headers import single
from app.domain.errors import InvalidHeader
from app.domain.ids import is_id
from app.domain.uploads import PARTIAL, UploadKind
from app.services.concatenation import NamedPart

MOST_PARTS = 100
LONGEST_BYTES = 8192
"""HEAD sends the header back as it came, and proxies and clients take no heads without limit."""

_HEADER = "Upload-Concat"
_FINAL = "final;"
_MEANT = f"Upload-Concat must be '{PARTIAL}', or '{_FINAL}' and the addresses of parts."
_ABOUT = {"header": _HEADER}


@dataclass(frozen=True, slots=True)
class Concat:
    """What the header asks for; ``raw`` is the header itself, ``parts`` are those of a final."""

    kind: UploadKind = UploadKind.FILE
    raw: str | None = None
    parts: tuple[NamedPart, ...] = ()


def read_concat(headers: Headers) -> Concat:
    """Return what a creation says of parts. Raises InvalidHeader.

    Addresses may be paths or URLs with any host, as clients make them of what Location said.
    """
    value = single(headers, _HEADER)
    if value is None:
        return Concat()
    if value.strip() == PARTIAL:
        return Concat(UploadKind.PARTIAL, value)
    if not value.startswith(_FINAL):
        raise InvalidHeader(_MEANT, extra=_ABOUT)
    if len(value) > LONGEST_BYTES:
        msg = f"Upload-Concat may have at most {LONGEST_BYTES} bytes; send paths instead of URLs."
        raise InvalidHeader(msg, extra=_ABOUT)
    urls = value.removeprefix(_FINAL).split()
    if not 0 < len(urls) <= MOST_PARTS:
        msg = f"Upload-Concat must name 1 to {MOST_PARTS} parts."
        raise InvalidHeader(msg, extra=_ABOUT)
    parts = tuple(NamedPart(url, _id_in(url)) for url in urls)
    return Concat(UploadKind.FINAL, value, parts)


def refuse_length(headers: Headers) -> None:
    """Raise InvalidHeader for a final that brings a length: its parts have it."""
    for name in ("Upload-Length", "Upload-Defer-Length"):
        if name in headers:
            msg = f"A final is as long as its parts: send no {name} with it."
            raise InvalidHeader(msg, extra={"header": name})


def _id_in(url: str) -> str | None:
    """Return the upload that an address names, None when it is no upload's."""
    try:
        found = urlsplit(url)
    except ValueError:
        return None
    folder, _, name = found.path.rpartition("/")
    is_ours = found.path in {name, f"./{name}"} or folder.endswith(TUS_PREFIX)
    is_plain = not found.query and not found.fragment
    return name if is_ours and is_plain and is_id(name) else None
