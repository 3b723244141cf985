"""Upload-Metadata: what a client says of its file. Data only, never a path or a header."""

import base64
import binascii
import re

from app.domain.errors import InvalidMetadata
from app.domain.uploads import UploadMetadata

_KEY = re.compile(r"[!-+\--~]+\Z")
"""Printable ASCII without space and comma."""
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,80}/[A-Za-z0-9!#$&^_.+-]{1,80}\Z")
_ORDER = re.compile(r"[0-9]{1,9}\Z")


def parse_metadata(header: str, max_bytes: int) -> UploadMetadata:
    """Return what the header says; ``raw`` is the header itself, to be echoed byte for byte.

    Values that are not UTF-8 are kept in ``raw`` only. Raises InvalidMetadata for a header over
    ``max_bytes``, keys that are empty, twice there or not ASCII, and values that are not Base64.
    """
    if len(header) > max_bytes:
        msg = f"Upload-Metadata may have at most {max_bytes} bytes."
        raise InvalidMetadata(msg, extra={"maximum": max_bytes})
    fields: dict[str, str | None] = {}
    for pair in header.split(",") if header.strip() else ():
        key, _, encoded = pair.strip().partition(" ")
        if _KEY.match(key) is None:
            raise InvalidMetadata("A key of Upload-Metadata is empty or not plain ASCII.")
        if key in fields:
            msg = f"The key {key[:50]} is in Upload-Metadata twice."
            raise InvalidMetadata(msg)
        fields[key] = _decode(key, encoded.strip())
    return _understand(header, {key: value for key, value in fields.items() if value is not None})


def _decode(key: str, encoded: str) -> str | None:
    try:
        value = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        msg = f"The value of {key[:50]} in Upload-Metadata is not Base64."
        raise InvalidMetadata(msg) from error
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    # Not every database stores NUL; the header has it still.
    return None if "\0" in text else text


def _understand(header: str, fields: dict[str, str]) -> UploadMetadata:
    media_type = fields.get("filetype") or fields.get("type") or ""
    order = fields.get("order", "")
    return UploadMetadata(
        raw=header,
        filename=fields.get("filename") or fields.get("name") or None,
        media_type=media_type if _MEDIA_TYPE.match(media_type) else None,
        session_id=fields.get("session") or None,
        order=int(order) if _ORDER.match(order) else None,
        fields=tuple(fields.items()),
    )
