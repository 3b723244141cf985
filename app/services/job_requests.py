"""What a request for a job must be before any row is read: operation, parameters, limits."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.domain.errors import InvalidInputs, InvalidParams, InvalidRequest
from app.domain.jobs import InputRole, JobInput, JobPolicy
from app.operations.base import InputRule, Operation, Params

PRIORITY_LIMIT = 100
"""Priorities go from minus to plus this; more would only be a race to the top."""
UNREADABLE = "cannot be read"
MISSING = "is missing"
WORDS = {
    "missing": MISSING,
    "extra_forbidden": "there is no such parameter",
    "string_pattern_mismatch": UNREADABLE,
    **dict.fromkeys(("literal_error", "enum"), "is none of the values allowed"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "must be an object"),
    "string_too_short": "is too short",
    "string_too_long": "is too long",
    "too_short": "has too few entries",
    "too_long": "has too many entries",
    **dict.fromkeys(
        ("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "is out of range"
    ),
}
"""What is wrong, by pydantic's name for it: its own words are about Python."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What ``POST /api/v1/jobs`` asks for.

    Either ``inputs``, or ``batch_id`` short for all its files, or for those of ``file_ids``.
    ``timeout_seconds`` None: the default. ``one_time``: each output goes once it was delivered.
    ``output_name``: what to call the one output, None for the operation's own choice.
    """

    operation: str
    params: dict[str, Any]
    inputs: tuple[JobInput, ...] = ()
    batch_id: str | None = None
    file_ids: tuple[str, ...] | None = None
    priority: int = 0
    timeout_seconds: float | None = None
    one_time: bool = False
    output_name: str | None = None


def check_shape(request: JobRequest, policy: JobPolicy) -> None:
    """Refuse what contradicts itself or the limits. Raises InvalidRequest, InvalidInputs."""
    errors = []
    if request.file_ids is not None and request.batch_id is None:
        errors.append(_error("file_ids", "needs batch_id", "batch_id with file_ids"))
    if request.file_ids is not None and request.inputs:
        errors.append(_error("file_ids", "not together with inputs", "file_ids or inputs"))
    if abs(request.priority) > PRIORITY_LIMIT:
        allowed = f"-{PRIORITY_LIMIT} to {PRIORITY_LIMIT}"
        errors.append(_error("priority", f"{request.priority} is out of range", allowed))
    errors += _timeout_errors(request.timeout_seconds, policy)
    if errors:
        raise InvalidRequest(_sentence(errors), extra={"errors": errors})
    for position, item in enumerate(request.inputs):
        if (item.upload_id is None) == (item.output_id is None):
            one = _error(
                f"inputs.{position}",
                "needs exactly one of upload_id and output_id",
                "upload_id or output_id",
            )
            raise InvalidInputs(_sentence([one]), extra={"errors": [one]})


def check_timeout(timeout_seconds: float | None, policy: JobPolicy) -> None:
    """Raise InvalidRequest when a wished time limit is not to be had."""
    errors = _timeout_errors(timeout_seconds, policy)
    if errors:
        raise InvalidRequest(_sentence(errors), extra={"errors": errors})


def _timeout_errors(timeout_seconds: float | None, policy: JobPolicy) -> list[dict[str, Any]]:
    if timeout_seconds is None:
        return []
    maximum = policy.timeout_max_seconds
    if math.isfinite(timeout_seconds) and 0 < timeout_seconds <= maximum:
        return []
    allowed = f"more than 0, up to {maximum:g} seconds"
    return [_error("timeout_seconds", f"{timeout_seconds:g} is out of range", allowed)]


def check_params(operation: Operation, params: dict[str, Any]) -> Params:
    """Return the parameters by the operation's schema. Raises InvalidParams listing every mistake."""
    try:
        return operation.params_model.model_validate(params)
    except ValidationError as error:
        fields = operation.params_model.model_fields
        merged: dict[str, dict[str, Any]] = {}
        for found in error.errors(include_url=False, include_input=False):
            place = _place(found["loc"], params)
            message = _message(found["type"], found["msg"])
            allowed = _allowed(found["type"], found.get("ctx", {}))
            if found["type"] == "extra_forbidden":
                allowed = _names_beside(operation.params_model, found["loc"])
            if place in merged:
                # The other branch of a value that may be of several types.
                merged[place]["message"] = UNREADABLE
                merged[place]["allowed"] = merged[place]["allowed"] or allowed
            else:
                merged[place] = _error(place, message, allowed)
        errors = list(merged.values())
        for each in errors:
            # What a pattern wants is better said by examples.
            field = fields.get(each["loc"].partition(".")[0])
            if each["allowed"] is None and field is not None and field.examples:
                each["allowed"] = "such as " + ", ".join(map(_shown, field.examples))
        raise InvalidParams(_sentence(errors), extra={"errors": errors}) from error


def check_given(
    operation: Operation, params: dict[str, Any], name: str, *, is_whole: bool = True
) -> None:
    """Look at one parameter while others may still come. Raises InvalidParams for what is wrong with
    it by itself. Unless it ``is_whole``, it is a list to which more may come: only its entries count.
    """
    try:
        check_params(operation, params)
    except InvalidParams as error:
        found = [
            each
            for each in error.extra["errors"]
            if each["loc"].partition(".")[0] == name
            and each["message"] != MISSING
            and (is_whole or each["loc"] != name)
        ]
        if found:
            raise InvalidParams(_sentence(found), extra={"errors": found}) from error


def _place(location: tuple[int | str, ...], params: object) -> str:
    """Return where in the client's own JSON a complaint belongs.

    Pydantic appends the branch of a union that failed (``end.float``), which no client has written.
    """
    parts, value = [], params
    for part in location:
        if isinstance(value, dict):
            parts.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            parts.append(part)
            value = value[part]
        else:
            break
    return ".".join(str(part) for part in parts) or "params"


def _shown(example: object) -> str:
    """Return an example as a client would send it."""
    return example if isinstance(example, str) else json.dumps(example, ensure_ascii=False)


def _message(kind: str, told: str) -> str:
    """Say what is wrong in our words; ``told`` are pydantic's."""
    return WORDS.get(kind, told.removeprefix("Value error, ").removeprefix("Input "))


def _allowed(kind: str, context: dict[str, Any]) -> str | None:
    """Say what pydantic's complaint would rather have seen."""
    bounds = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    lengths = {"min_length": "at least", "max_length": "at most"}
    words = bounds | lengths
    said = [f"{words[key]} {value}" for key, value in context.items() if key in words]
    if kind in {"string_too_short", "string_too_long"}:
        unit = "character" if 1 in context.values() else "characters"
        said = [f"{each} {unit}" for each in said]
    if "expected" in context:
        said.append(str(context["expected"]))
    return ", ".join(said) or None


def _names_beside(model: type[Params], location: tuple[int | str, ...]) -> str:
    """List the names that there are where ``location`` has one that there is not."""
    whole = model.model_json_schema()
    here = whole
    for part in location[:-1]:
        here = here["items"] if isinstance(part, int) else here["properties"][part]
        if "$ref" in here:
            here = whole["$defs"][here["$ref"].rpartition("/")[2]]
    return ", ".join(here["properties"])


def check_roles(operation: Operation, inputs: Sequence[JobInput]) -> None:
    """Raise InvalidInputs unless number and roles of the inputs fit the operation."""
    given = Counter(item.role for item in inputs)
    rules = {rule.role: rule for rule in operation.inputs}
    errors = [
        _error("inputs", f"{operation.name} takes no {role.value}", _roles(operation))
        for role in given
        if role not in rules
    ]
    errors += [
        _error(
            "inputs",
            f"{operation.name} takes {_count(rule)}, and {given[role]} were given",
            _count(rule),
        )
        for role, rule in rules.items()
        if not rule.minimum <= given[role] <= rule.maximum
    ]
    if errors:
        raise InvalidInputs(_sentence(errors), extra={"errors": errors, "given": len(inputs)})


def check_count(operation: Operation, n_inputs: int | None) -> None:
    """Raise InvalidInputs when a batch of ``n_inputs`` files could never be the operation's.

    A one-input operation on N files makes N jobs, so any number but none will do.
    """
    rule = main_rule(operation)
    if n_inputs is None:
        return
    most = math.inf if rule.maximum == 1 else rule.maximum
    if not rule.minimum <= n_inputs <= most:
        one = _error("then", f"{operation.name} takes {_count(rule)}, not {n_inputs}", _count(rule))
        raise InvalidInputs(_sentence([one]), extra={"errors": [one], "given": n_inputs})


def main_rule(operation: Operation) -> InputRule:
    """Return the rule of what a batch's files are to an operation: its clips, else its first."""
    for rule in operation.inputs:
        if rule.role is InputRole.CLIP:
            return rule
    return operation.inputs[0] if operation.inputs else InputRule(InputRole.CLIP, 0, 0)


def _roles(operation: Operation) -> str:
    return ", ".join(rule.role.value for rule in operation.inputs) or "no inputs"


def _count(rule: InputRule) -> str:
    name = rule.role.value
    if rule.minimum == rule.maximum:
        return f"exactly {rule.minimum} {name}{'' if rule.minimum == 1 else 's'}"
    return f"{rule.minimum} to {rule.maximum} {name}s"


def _error(loc: str, message: str, allowed: str | None) -> dict[str, Any]:
    return {"loc": loc, "message": message, "allowed": allowed}


def _sentence(errors: Sequence[dict[str, Any]]) -> str:
    """Return all mistakes as text, for clients that read only ``detail``."""
    return " ".join(
        f"{each['loc']}: {each['message']}"
        + (f" (allowed: {each['allowed']})." if each["allowed"] else ".")
        for each in errors
    )
