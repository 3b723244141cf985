"""The form that brings a Moodle log: one file and what is to be made of it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request

from app.api.errors import invalid_request
from app.api.multipart import FormBody, FormLimits, Part
from app.api.session_form import FILE, form_metadata, form_refusal
from app.domain.errors import MalformedRequest, RequestTooLarge
from app.operations.moodle.export_head import HEAD_BYTES, ExportHead
from app.operations.moodle_log import MoodleLogParams
from app.services.form_uploads import Arrival
from app.services.log_uploads import LogUploads

TIMEOUT = "timeout_seconds"
PARAMS = tuple(MoodleLogParams.model_fields)
NAMES = (FILE, *PARAMS, TIMEOUT)
TEXT_MAX_BYTES = 1024
"""Of one text field: the longest is the name of a timezone."""

_SWITCH = {"true": True, "1": True, "on": True, "yes": True} | dict.fromkeys(
    ("false", "0", "off", "no"), False
)
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?\Z")


@asynccontextmanager
async def receive_log(request: Request, logs: LogUploads) -> AsyncIterator["LogForm"]:
    """Read a whole form and yield it; a file that did not become an upload in the block goes with it.

    Refused before a byte is read: no form, too large by its Content-Length, a full queue, no room.
    What the first 64 KiB of the file tell is refused as soon as they are there.
    """
    forms = logs.forms
    body = FormBody(request, FormLimits(forms.max_bytes, forms.uploads.read_timeout_seconds))
    await logs.check_can_begin(body.length or 0)
    async with forms.receiving(None) as arrival:
        form = LogForm(logs, arrival)
        await body.read_into(form)
        form.check_whole()
        yield form


class LogForm:
    """Takes the parts of one form, in whatever order they come.

    Raises InvalidRequest, InvalidParams, MalformedRequest, RequestTooLarge, LogTooLarge and what a
    look at the log's head raises.
    """

    def __init__(self, logs: LogUploads, arrival: Arrival) -> None:
        self._logs = logs
        self.arrival = arrival
        self._values: dict[str, Any] = {}
        self._name = ""
        self._text = bytearray()
        self._head = bytearray()
        self._size = 0
        self._found: ExportHead | None = None

    @property
    def params(self) -> dict[str, Any]:
        """The operation's parameters, as JSON would have them."""
        return {name: value for name, value in self._values.items() if name in PARAMS}

    @property
    def timeout_seconds(self) -> float | None:
        found: float | None = self._values.get(TIMEOUT)
        return found

    def check_whole(self) -> None:
        """Raise InvalidRequest without a file, TimezoneRequired where times cannot be placed."""
        if self._found is None:
            raise form_refusal(FILE, "Is missing: send the log as a file.")
        self._logs.check_time(self._found, self.params)

    async def begin(self, part: Part) -> None:
        if part.name not in NAMES:
            context = {"unknown": [part.name[:100]], "allowed": sorted(NAMES)}
            raise invalid_request([{"type": "unknown_field", "loc": ("body",), "ctx": context}])
        if part.name in self._values:
            raise form_refusal(part.name, "Is there twice.")
        self._values[part.name] = None
        self._name = part.name
        self._text.clear()
        if part.name == FILE:
            if not part.filename:
                message = "Must be a file: its part has no filename (curl: -F file=@NAME)."
                raise form_refusal(FILE, message)
            await self.arrival.begin_file(form_metadata(part))

    async def write(self, data: bytes) -> None:
        if self._name != FILE:
            self._text += data
            if len(self._text) > TEXT_MAX_BYTES:
                msg = f"The field {self._name} may have at most {TEXT_MAX_BYTES} bytes."
                raise RequestTooLarge(msg, extra={"maximum_bytes": TEXT_MAX_BYTES})
            return
        self._size += len(data)
        self._logs.looks.check_size(self._size)
        if self._found is None:
            self._head += data[: HEAD_BYTES - len(self._head)]
            if len(self._head) == HEAD_BYTES:
                self._found = self._logs.look(bytes(self._head), self._size)
        await self.arrival.write(data)

    async def end(self) -> None:
        if self._name == FILE:
            if self._found is None:
                self._found = self._logs.look(bytes(self._head), self._size)
            self._head.clear()
            await self.arrival.end_file()
            return
        self._values[self._name] = _value(self._name, bytes(self._text))
        self._logs.check_wishes(self.params, self.timeout_seconds)


def _value(name: str, text: bytes) -> Any:
    """Return a field's text as the JSON it stands for; what it cannot be is left to the schema."""
    try:
        found = text.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        msg = f"The field {name} is not valid UTF-8 text."
        raise MalformedRequest(msg) from error
    if name == "anonymise":
        return _SWITCH.get(found.lower(), found)
    if name == TIMEOUT:
        if not _NUMBER.match(found):
            raise form_refusal(TIMEOUT, "Must be a number of seconds.")
        return float(found)
    return found
