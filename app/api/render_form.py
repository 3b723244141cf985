"""Reads what a synchronous call sends, a form or JSON: each part is refused as soon as it is wrong."""

from typing import Any

from starlette.requests import ClientDisconnect, Request

from app.api.errors import invalid_request
from app.api.json_route import read_json
from app.api.multipart import FORM_TYPE, FieldText, FormBody, FormLimits, Part, media_type_of
from app.api.render_fields import (
    FINAL_FILENAME,
    SEGMENT,
    SEGMENTS,
    RenderFields,
    Shape,
    final_name,
    is_main,
    value_of,
)
from app.api.session_form import form_metadata, form_refusal
from app.api.strict_json import parse_json
from app.domain.errors import (
    InvalidRequest,
    MalformedRequest,
    OutputNotFound,
    RequestTooLarge,
    UnsupportedMediaType,
    UploadNotFound,
)
from app.domain.ids import is_id
from app.domain.jobs import InputRole
from app.domain.uploads import UploadMetadata
from app.services.form_uploads import FormUploads
from app.services.sync_renders import ClientLeft, SyncInput, SyncRender, SyncWish

JSON_TYPE = "application/json"
MOST_PARTS = 1000
_TAKEN = {
    Shape.ONE: (FORM_TYPE, JSON_TYPE),
    Shape.JSON_SEGMENTS: (JSON_TYPE,),
    Shape.FORM_SEGMENTS: (FORM_TYPE,),
}


class RenderBody:
    """The body of one call. Made before anything of it is read.

    Raises UnsupportedMediaType, MalformedRequest without a usable boundary, and RequestTooLarge for
    a Content-Length over the maximum.
    """

    def __init__(self, request: Request, forms: FormUploads, fields: RenderFields) -> None:
        self._request = request
        self._fields = fields
        self._form: FormBody | None = None
        taken, media_type = _TAKEN[fields.shape], media_type_of(request)
        is_json = media_type == JSON_TYPE or media_type.endswith("+json")
        if is_json and JSON_TYPE in taken:
            return
        if FORM_TYPE not in taken or media_type != FORM_TYPE:
            sent = f"not {media_type[:100]}" if media_type else "but no Content-Type was sent"
            msg = f"The body must be {' or '.join(taken)}, {sent}."
            raise UnsupportedMediaType(msg, extra={"allowed": list(taken)})
        limits = FormLimits(forms.max_bytes, forms.uploads.read_timeout_seconds)
        self._form = FormBody(request, limits)

    @property
    def length(self) -> int:
        """Bytes of files that may come, 0 where nobody knows."""
        return 0 if self._form is None else self._form.length or 0

    async def read(self, render: SyncRender) -> SyncWish:
        """Read it to its end. Raises ClientLeft, and whatever is wrong with it."""
        reader = WishReader(self._fields, render)
        try:
            if self._form is not None:
                await self._form.read_into(FormSink(reader, render))
            else:
                await _read_json(self._request, reader)
        except MalformedRequest as error:
            if isinstance(error.__cause__, ClientDisconnect):
                raise ClientLeft from error
            raise
        return reader.whole()


async def _read_json(request: Request, reader: "WishReader") -> None:
    body = parse_json(await read_json(request) or b"null", "The body")
    if not isinstance(body, dict):
        raise form_refusal("body", "Must be a JSON object.")
    for name, value in body.items():
        await reader.take(name, value)


class WishReader:
    """Puts together what a call asks for, field by field.

    Raises InvalidRequest, InvalidParams, and what naming an input by its id may raise.
    """

    def __init__(self, fields: RenderFields, render: SyncRender) -> None:
        self.fields = fields
        self._render = render
        self._params: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}
        self._inputs: dict[str, SyncInput] = {}
        self._orders: dict[int, int] = {}
        self._name: str | None = None
        self._n_files = 0

    def check_name(self, name: str) -> None:
        """Refuse a field that there is not."""
        fields = self.fields
        is_known = name in fields.params or name in fields.ids or name == FINAL_FILENAME
        is_known = is_known or name in fields.files
        if fields.shape is Shape.FORM_SEGMENTS:
            is_known = is_known or SEGMENT.match(name) is not None
        if fields.shape is Shape.JSON_SEGMENTS:
            is_known = is_known or name == SEGMENTS
        if not is_known:
            context = {"unknown": [name[:100]], "allowed": fields.names}
            raise invalid_request([{"type": "unknown_field", "loc": ("body",), "ctx": context}])

    def is_file(self, name: str) -> bool:
        """Whether a field is a file's."""
        return name in self.fields.files or (
            self.fields.shape is Shape.FORM_SEGMENTS and name.startswith("segment_")
        )

    async def take_text(self, name: str, text: str) -> None:
        """Take a text field of a form."""
        if name in self.fields.params:
            texts = [*self._texts.get(name, ()), text]
            value = value_of(self.fields, name, texts)
            self._texts[name] = texts
            self._params[name] = value
            self._render.check_given(self._params, name, is_whole=not self._may_grow(name, value))
        else:
            await self.take(name, text)

    def _may_grow(self, name: str, value: Any) -> bool:
        """Whether more entries of a list may come. One that has too many is looked at as it is: each
        entry costs a look at all before it, and a form has room for a thousand.
        """
        most = self.fields.most_items_of(name)
        return isinstance(value, list) and (most is None or len(value) <= most)

    async def take(self, name: str, value: Any) -> None:
        """Take a field with the value that JSON has for it."""
        self.check_name(name)
        if name in self.fields.params:
            self._params[name] = value
            self._render.check_given(self._params, name)
        elif name == FINAL_FILENAME:
            if self._name is not None:
                raise form_refusal(name, "Is there twice.")
            self._name = final_name(_text(name, value))
        elif name == SEGMENTS:
            await self._take_segments(value)
        elif name in self.fields.ids:
            await self._take_id(name, _text(name, value).strip())
        elif name.startswith("order_"):
            self._take_order(name, _text(name, value).strip())
        else:
            raise form_refusal(name, "Must be a file: send a form (multipart/form-data).")

    def add_file(self, name: str) -> None:
        """Note a file that begins to come."""
        if name in self.fields.files:
            role, order = self.fields.files[name], 0
        else:
            role, order = InputRole.CLIP, int(name.partition("_")[2])
        self._add(name, SyncInput(role, order, arrived=self._n_files))
        self._n_files += 1

    def whole(self) -> SyncWish:
        """Return what is asked for. All of it has come."""
        if self.fields.shape is Shape.FORM_SEGMENTS:
            inputs = self._ordered()
        else:
            inputs = tuple(self._inputs.values())
        rules = self.fields.operation.inputs
        needed = [rule.role for rule in rules if rule.minimum and is_main(rule.role)]
        if needed and not inputs:
            raise _missing(self.fields.main_names)
        return SyncWish(self._params, inputs, self._name)

    # --- inputs ----------------------------------------------------------------------------------

    def _add(self, name: str, item: SyncInput) -> None:
        if name in self._inputs:
            raise form_refusal(name, "Is there twice.")
        if self.fields.shape is Shape.ONE:
            for other, before in self._inputs.items():
                both_main = is_main(before.role) and is_main(item.role)
                if both_main or before.role is item.role:
                    msg = f"Not together with {other}: exactly one of them."
                    raise form_refusal(name, msg)
        else:
            most = max(rule.maximum for rule in self.fields.operation.inputs)
            if len(self._inputs) >= most:
                raise form_refusal(name, f"At most {most} segments are taken.")
        self._inputs[name] = item

    async def _take_id(self, name: str, value: str) -> None:
        field = self.fields.ids[name]
        await self._add_id(name, field.role, 0, value, of_upload=field.of_upload)

    async def _add_id(
        self, name: str, role: InputRole, order: int, value: str, *, of_upload: bool
    ) -> None:
        if not is_id(value):
            thing, error = ("upload", UploadNotFound) if of_upload else ("output", OutputNotFound)
            msg = f"There is no {thing} {value[:64]}; ids are 32 lower-case hex digits."
            raise error(msg)
        upload_id, output_id = (value, None) if of_upload else (None, value)
        item = SyncInput(role, order, upload_id=upload_id, output_id=output_id)
        self._add(name, item)
        await self._render.check_source(item)

    async def _take_segments(self, value: Any) -> None:
        if not isinstance(value, list):
            raise form_refusal(SEGMENTS, "Must be a list of segments.")
        orders: set[int] = set()
        for place, segment in enumerate(value):
            name = f"{SEGMENTS}.{place}"
            order = _order_of_segment(name, segment, place)
            if order in orders:
                where = f"{name}.order"
                raise form_refusal(where, f"The order {order} is there twice.")
            orders.add(order)
            (key,) = segment.keys() - {"order"}
            of_upload = key == "upload_id"
            thing = _text(f"{name}.{key}", segment[key])
            await self._add_id(name, InputRole.CLIP, order, thing, of_upload=of_upload)

    def _take_order(self, name: str, text: str) -> None:
        number = int(name.partition("_")[2])
        if number in self._orders:
            raise form_refusal(name, "Is there twice.")
        if not text.isascii() or not text.isdecimal() or len(text) > 6:  # noqa: PLR2004
            raise form_refusal(name, "Must be a whole number from 0 to 999999.")
        if int(text) in self._orders.values():
            raise form_refusal(name, f"The order {int(text)} is there twice.")
        self._orders[number] = int(text)

    def _ordered(self) -> tuple[SyncInput, ...]:
        """Return the segments with the places they asked for; their own number where they did not."""
        found = {int(name.partition("_")[2]): item for name, item in self._inputs.items()}
        for number in self._orders:
            if number not in found:
                where = f"order_{number}"
                raise form_refusal(where, f"There is no segment_{number}.")
        orders: dict[int, int] = {}
        for number in sorted(found):
            order = self._orders.get(number, number)
            if order in orders:
                msg = f"The order {order} is that of segment_{orders[order]} too."
                where = f"order_{number}"
                raise form_refusal(where, msg)
            orders[order] = number
        return tuple(
            SyncInput(InputRole.CLIP, place, arrived=found[orders[order]].arrived)
            for place, order in enumerate(sorted(orders))
        )


class FormSink:
    """Takes the parts of a form: files go to the request's arrival, text to the reader."""

    def __init__(self, reader: WishReader, render: SyncRender) -> None:
        self._reader = reader
        self._arrival = render.arrival
        self._name = ""
        self._text = FieldText()
        self._n_parts = 0
        self._pending: UploadMetadata | None = None

    async def begin(self, part: Part) -> None:
        self._n_parts += 1
        if self._n_parts > MOST_PARTS:
            msg = f"A form may have at most {MOST_PARTS} parts."
            raise RequestTooLarge(msg, extra={"maximum_parts": MOST_PARTS})
        self._reader.check_name(part.name)
        self._name = part.name
        self._text.begin()
        if self._is_file:
            if part.filename is None:
                msg = f"Must be a file: its part has no filename (curl: -F {part.name}=@NAME)."
                raise form_refusal(part.name, msg)
            self._pending = form_metadata(part)
            if part.filename:
                await self._begin_file()

    async def write(self, data: bytes) -> None:
        if self._is_file:
            await self._begin_file()
            await self._arrival.write(data)
            return
        self._text.add(data)

    async def end(self) -> None:
        if not self._is_file:
            # An input of a page that was left empty says nothing.
            if text := self._text.value():
                await self._reader.take_text(self._name, _decoded(self._name, text))
        elif self._pending is None:
            await self._arrival.end_file()
        # Else a file input in which nothing was chosen: browsers send it without name and bytes.

    @property
    def _is_file(self) -> bool:
        return self._reader.is_file(self._name)

    async def _begin_file(self) -> None:
        metadata, self._pending = self._pending, None
        if metadata is not None:
            self._reader.add_file(self._name)
            await self._arrival.begin_file(metadata)


def _missing(names: list[str]) -> InvalidRequest:
    allowed = ", ".join(names)
    entry = {"in": "body", "loc": names[0], "message": "Is missing.", "allowed": allowed}
    detail = f"{names[0]}: Is missing. Allowed: {allowed}."
    return InvalidRequest(detail, extra={"errors": [entry]})


def _order_of_segment(name: str, segment: Any, place: int) -> int:
    keys = segment.keys() if isinstance(segment, dict) else set()
    unknown = sorted(keys - {"upload_id", "output_id", "order"})
    if unknown:
        where = f"{name}.{unknown[0][:100]}"
        raise form_refusal(where, "There is no such field. Allowed: upload_id, output_id, order.")
    if len(keys - {"order"}) != 1:
        raise form_refusal(name, "Needs exactly one of upload_id and output_id.")
    order = segment.get("order", place)
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order <= 10**6:
        where = f"{name}.order"
        raise form_refusal(where, "Must be a whole number from 0 to 1000000.")
    return order


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise form_refusal(name, "Must be text.")
    return value


def _decoded(name: str, text: bytes) -> str:
    try:
        found = text.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"The field {name} is not valid UTF-8 text."
        raise MalformedRequest(msg) from error
    if "\x00" in found:
        msg = f"The field {name} holds the character U+0000, which no field may have."
        raise MalformedRequest(msg)
    return found
