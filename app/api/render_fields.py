"""The fields of a synchronous call: what an operation's parameters and inputs are called in a form, and
what their text means.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from app.api.session_form import clean_filename, form_refusal
from app.api.strict_json import parse_json
from app.domain.errors import MalformedRequest
from app.domain.jobs import InputRole
from app.operations.base import Operation

FINAL_FILENAME = "final_filename"
SEGMENTS = "segments"
SEGMENT = re.compile(r"(segment|order)_(0|[1-9][0-9]{0,2})\Z")
_FILES = {
    InputRole.CLIP: ("video", "file"),
    InputRole.IMAGE: ("image",),
    InputRole.LOGO: ("logo",),
}
_MAIN = (InputRole.CLIP, InputRole.IMAGE)
_SWITCH = {"true": True, "1": True, "on": True, "yes": True} | dict.fromkeys(
    ("false", "0", "off", "no"), False
)
_WHOLE = re.compile(r"-?[0-9]{1,15}\Z")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?\Z")
_UNSAFE = re.compile(r'[<>:"|?*]')
_LONGEST_STEM = 200


class Shape(Enum):
    """How the inputs of a call come: one that the work is about, or any number in an order."""

    ONE = "one"
    JSON_SEGMENTS = "json_segments"
    FORM_SEGMENTS = "form_segments"


@dataclass(frozen=True, slots=True)
class IdField:
    """A field that names an input by its id. ``of_upload``: of an upload, else of an output."""

    role: InputRole
    of_upload: bool


@dataclass(frozen=True, slots=True)
class RenderFields:
    """The fields of one call: ``files`` and ``ids`` by name, ``params`` with their JSON Schemas."""

    operation: Operation
    shape: Shape
    files: Mapping[str, InputRole]
    ids: Mapping[str, IdField]
    params: Mapping[str, Mapping[str, Any]]
    definitions: Mapping[str, Mapping[str, Any]]
    required: frozenset[str]

    @property
    def names(self) -> list[str]:
        """Every name, as a refusal lists them."""
        segments = {
            Shape.ONE: (),
            Shape.JSON_SEGMENTS: (SEGMENTS,),
            Shape.FORM_SEGMENTS: ("segment_0", "order_0", "segment_1", "order_1", "…"),
        }
        return [*segments[self.shape], *self.files, *self.ids, *self.params, FINAL_FILENAME]

    @property
    def main_names(self) -> list[str]:
        """The names of what the work is about, those of a still that goes beside it left out."""
        if self.shape is not Shape.ONE:
            return [SEGMENTS] if self.shape is Shape.JSON_SEGMENTS else ["segment_0", "…"]
        files = [name for name, role in self.files.items() if is_main(role)]
        return files + [name for name, field in self.ids.items() if is_main(field.role)]

    def kinds_of(self, name: str) -> frozenset[str]:
        """Return the JSON types that a parameter may have."""
        return self._kinds(self.params[name])

    def item_kinds_of(self, name: str) -> frozenset[str]:
        """Return the JSON types of the entries of a parameter that is a list."""
        lists = [each for each in self._branches(self.params[name]) if "items" in each]
        return frozenset(kind for each in lists for kind in self._kinds(each["items"]))

    def most_items_of(self, name: str) -> int | None:
        """Return how many entries a parameter that is a list takes, None where it does not say."""
        return next(
            (each["maxItems"] for each in self._branches(self.params[name]) if "maxItems" in each),
            None,
        )

    def _kinds(self, schema: Mapping[str, Any]) -> frozenset[str]:
        found = {each.get("type") for each in self._branches(schema)}
        if any("enum" in each or "const" in each for each in self._branches(schema)):
            found.add("string")
        return frozenset(kind for kind in found if isinstance(kind, str) and kind != "null")

    def _branches(self, schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        reference = schema.get("$ref")
        if reference is not None:
            return self._branches(self.definitions[reference.rpartition("/")[2]])
        several = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
        return [each for branch in several for each in self._branches(branch)] or [schema]


def fields_of(operation: Operation, shape: Shape) -> RenderFields:
    """Return the fields of the call that runs ``operation``."""
    schema = operation.params_model.model_json_schema()
    roles = [rule.role for rule in operation.inputs] if shape is Shape.ONE else []
    return RenderFields(
        operation=operation,
        shape=shape,
        files={name: role for role in roles for name in _FILES[role]},
        ids=_ids_of(roles),
        params=schema.get("properties", {}),
        definitions=schema.get("$defs", {}),
        required=frozenset(schema.get("required", ())),
    )


def is_main(role: InputRole) -> bool:
    """Whether an input is what the work is about; there is one of these."""
    return role in _MAIN


def _ids_of(roles: list[InputRole]) -> dict[str, IdField]:
    found: dict[str, IdField] = {}
    has_main = False
    for role in roles:
        # The first kind goes by the plain name; a still that may stand in its place says so.
        prefix = "" if is_main(role) and not has_main else f"{role.value}_"
        has_main = has_main or is_main(role)
        found[f"{prefix}upload_id"] = IdField(role, of_upload=True)
        found[f"{prefix}output_id"] = IdField(role, of_upload=False)
    return found


def value_of(fields: RenderFields, name: str, texts: list[str]) -> Any:
    """Return what the text of a parameter says, as JSON would have it; what it cannot be is left to the
    operation's own schema. ``texts``: several where the field is repeated, which lists may be.
    """
    kinds = fields.kinds_of(name)
    if "array" in kinds:
        return _list_of(fields, name, texts)
    if len(texts) > 1:
        raise form_refusal(name, "Is there twice.")
    text = texts[0]
    if "object" in kinds and text.lstrip().startswith("{"):
        return parse_json(text.encode(), f"The field {name}")
    return text if "string" in kinds else _plain(kinds, text)


def _plain(kinds: frozenset[str], text: str) -> Any:
    bare = text.strip()
    if "boolean" in kinds and bare.lower() in _SWITCH:
        return _SWITCH[bare.lower()]
    if "integer" in kinds and _WHOLE.match(bare):
        return int(bare)
    if "number" in kinds and _NUMBER.match(bare):
        return float(bare)
    return text


def _list_of(fields: RenderFields, name: str, texts: list[str]) -> Any:
    holds_text = "string" in fields.item_kinds_of(name)
    if len(texts) == 1 and texts[0].lstrip().startswith("["):
        try:
            return parse_json(texts[0].encode(), f"The field {name}")
        except MalformedRequest:
            if not holds_text:  # else a line that happens to begin so
                raise
    if holds_text:
        return list(texts)
    return [parse_json(text.encode(), f"The field {name}") for text in texts]


def final_name(sent: str) -> str:
    """Return the name to give the file. Raises InvalidRequest when nothing is left of it."""
    shown = _UNSAFE.sub("_", clean_filename(sent) or "")
    stem = re.sub(r"(?i)(\.mp4)+\Z", "", shown).strip(" .")
    if not stem:
        raise form_refusal(FINAL_FILENAME, "Nothing of it can be a file's name.")
    return f"{stem[:_LONGEST_STEM].rstrip(' .')}.mp4"
