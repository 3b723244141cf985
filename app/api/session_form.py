"""The form that opens or fills a session: which fields it has, and what their text means."""

import re
import unicodedata
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from app.api.errors import invalid_request
from app.api.multipart import FieldText, FormBody, FormLimits, Part
from app.api.schemas.sessions import MOST_FILES, NewSession
from app.api.strict_json import parse_json
from app.api.tus.metadata import parse_metadata
from app.domain.errors import AppError, InvalidRequest, MalformedRequest, RequestTooLarge
from app.domain.sessions import Session
from app.domain.uploads import UploadMetadata
from app.services.form_uploads import Arrival, FormUploads
from app.services.sessions import SessionRequest

FILES = "files"
FILE = "file"
"""Another name of ``files``, for those who send one."""
WISHES = tuple(NewSession.model_fields)
FILENAME_MAX = 255

_DIGITS = re.compile(r"[0-9]{1,9}\Z")
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?\Z")
_BAD_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They make ``gpj.exe`` look like ``exe.jpg``."""


@asynccontextmanager
async def receive_form(
    request: Request, forms: FormUploads, session: Session | None
) -> AsyncIterator["SessionForm"]:
    """Read a whole form and yield it; what did not become uploads in the block goes with it.

    ``session``: the one it adds to, None when it opens one. Refused before a byte is read: no
    form, too large by its Content-Length, no room for it.
    """
    limits = FormLimits(forms.max_bytes, forms.uploads.read_timeout_seconds)
    body = FormBody(request, limits)
    await forms.check_room(body.length or 0)
    async with forms.receiving(session) as arrival:
        form = SessionForm(forms, arrival, opens=session is None)
        await body.read_into(form)
        form.check_whole()
        yield form


class SessionForm:
    """Takes the parts of one form: files go to the ``arrival``, text is what the session shall be.

    ``opens``: the form opens a session; one that adds to a session has files only. What is wrong is
    refused with the part that shows it, in whatever order the parts come. Raises InvalidRequest,
    MalformedRequest, RequestTooLarge, SessionClosed and what a wrong ``then`` raises.
    """

    def __init__(self, forms: FormUploads, arrival: Arrival, *, opens: bool) -> None:
        self._forms = forms
        self.arrival = arrival
        self._names = (FILES, *(WISHES if opens else ()))
        self._values: dict[str, Any] = {}
        self._n_parts = 0
        self._n_files = 0
        self._part: Part | None = None
        self._pending: UploadMetadata | None = None
        self._text = FieldText()

    @property
    def wishes(self) -> SessionRequest:
        """What the text fields say, of those that have come."""
        try:
            return NewSession.model_validate(self._values).to_domain()
        except ValidationError as error:
            found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
            raise invalid_request(found) from error

    def check_whole(self) -> None:
        """Raise InvalidRequest for a form without a file."""
        if not self._n_files:
            raise form_refusal(FILES, "Is missing: send at least one file.")

    # --- parts -----------------------------------------------------------------------------------

    async def begin(self, part: Part) -> None:
        name = FILES if part.name == FILE else part.name
        self._n_parts += 1
        if self._n_parts > MOST_FILES + len(self._names):
            raise _too_many()
        if name not in self._names:
            context = {"unknown": [part.name[:100]], "allowed": sorted(self._names)}
            raise invalid_request([{"type": "unknown_field", "loc": ("body",), "ctx": context}])
        if name in self._values:
            raise form_refusal(name, "Is there twice.")
        if name == FILES and part.filename is None:
            raise form_refusal(
                FILES, "Must be a file: its part has no filename (curl: files=@NAME)."
            )
        self._part = part
        self._text.begin()
        if name == FILES:
            self._pending = form_metadata(part)
            if part.filename:
                await self._begin_file()

    async def write(self, data: bytes) -> None:
        if self._name == FILES:
            await self._begin_file()
            await self.arrival.write(data)
            return
        self._text.add(data)

    async def end(self) -> None:
        name = self._name
        if name != FILES:
            self._values[name] = _value(name, self._text.value())
            self._forms.check_wishes(self.wishes, self._n_files)
        elif self._pending is None:
            await self.arrival.end_file()
        # Else a file input in which nothing was chosen: browsers send it without name and bytes.

    @property
    def _name(self) -> str:
        name = self._part.name if self._part else ""
        return FILES if name == FILE else name

    async def _begin_file(self) -> None:
        metadata, self._pending = self._pending, None
        if metadata is None:
            return
        self._n_files += 1
        if self._n_files > MOST_FILES:
            raise _too_many()
        self._forms.check_wishes(self.wishes, self._n_files)
        await self.arrival.begin_file(metadata)


def clean_filename(sent: str) -> str | None:
    """Return the last segment of what a client calls a file, safe to show; None if nothing is left."""
    name = re.split(r"[/\\]", sent)[-1]
    shown = "".join(
        sign
        for sign in name
        if unicodedata.category(sign) not in _BAD_CATEGORIES and sign not in _DIRECTIONS
    ).strip()
    if len(shown) > FILENAME_MAX:
        stem, dot, suffix = shown.rpartition(".")
        kept = f"{dot}{suffix}" if stem and len(suffix) <= 16 else ""  # noqa: PLR2004 - "extension"
        shown = shown[: FILENAME_MAX - len(kept)] + kept
    return None if shown in {"", ".", ".."} else shown


def form_metadata(part: Part) -> UploadMetadata:
    """Return what a tus client would have said of the file, so that HEAD and lists tell the same."""
    fields = {"filename": clean_filename(part.filename or ""), "filetype": part.media_type}
    raw = ",".join(
        f"{key} {b64encode(value.encode('utf-8', 'replace')).decode('ascii')}"
        for key, value in fields.items()
        if value
    )
    return parse_metadata(raw, len(raw))


def _value(name: str, text: bytes) -> Any:
    """Return a field's text as the JSON it stands for."""
    if name == "then":
        return parse_json(text, f"The field {name}")
    try:
        found = text.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _malformed(name, "is not valid UTF-8 text") from error
    if name == "expected_files":
        return int(found) if _DIGITS.match(found) else found
    return float(found) if _NUMBER.match(found) else found


def _malformed(name: str, what: str) -> AppError:
    return MalformedRequest(f"The field {name} {what}.")


def _too_many() -> AppError:
    msg = f"A form may have at most {MOST_FILES} files."
    return RequestTooLarge(msg, extra={"maximum_files": MOST_FILES})


def form_refusal(name: str, message: str) -> AppError:
    entry = {"in": "body", "loc": name, "message": message}
    return InvalidRequest(f"{name}: {message}", extra={"errors": [entry]})
