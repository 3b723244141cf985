"""Reads the variables: finds the unknown, the doubled and the invalid, and says so all at once."""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from app.settings.groups import Group
from app.settings.kinds import hide_password
from app.settings.variables import PREFIX, Variable, groups_of, variables_of

ENV_FILE = ".env"

_SERVICE_LINK = re.compile(
    r"TIDEMILL(_[A-Z0-9_]+)?_("
    r"SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class SettingsError(Exception):
    """The variables do not make a configuration. ``problems`` has a sentence for each fault."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(slots=True)
class Reading:
    """What was read: raw values by group and field, where each came from, what was passed over."""

    groups: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


def read(
    environ: Mapping[str, str] | None, options: Mapping[str, str], tree: type[Group]
) -> Reading:
    """Read and check the variables of ``environ``, or of the process with ``.env`` below it.

    ``options`` go above both. Raises ``SettingsError``.
    """
    source = dict(os.environ if environ is None else environ)
    known = variables_of(tree)
    from_file = {} if environ is not None else _env_file(known)
    merged = {**from_file, **source, **options}
    reading, problems = Reading(), []
    unknown, reading.skipped = _unknown(merged, known)
    problems += unknown
    raw: dict[str, dict[str, str]] = {}
    for variable in known:
        chosen, problem = _choose(variable, merged)
        if problem:
            problems.append(problem)
        elif chosen:
            raw.setdefault(variable.group, {})[variable.field] = merged[chosen]
            place = "environment" if chosen in source else ENV_FILE
            place = "option" if chosen in options else place
            alias = "" if chosen == variable.name else f" as {chosen}"
            reading.origins[variable.name] = place + alias
    problems += _fill_groups(raw, tree, reading)
    problems += [] if problems else _check_together(tree, reading)
    if problems:
        raise SettingsError(problems)
    return reading


def _env_file(known: tuple[Variable, ...]) -> dict[str, str]:
    """The variables of ``.env`` in the working folder that concern us; others' are none of ours."""
    names = {name for variable in known for name in variable.names}
    if not Path(ENV_FILE).is_file():
        return {}
    return {
        name: value
        for name, value in dotenv_values(ENV_FILE, interpolate=False).items()
        if value is not None and (name in names or name.upper().startswith(PREFIX))
    }


def _unknown(
    environ: Mapping[str, str], known: tuple[Variable, ...]
) -> tuple[list[str], tuple[str, ...]]:
    """Return a sentence for each name that is no setting, and the service links passed over."""
    names = {variable.name for variable in known}
    problems, skipped = [], []
    for name in sorted(environ):
        if name in names or not name.upper().startswith(PREFIX):
            continue
        is_link = _SERVICE_LINK.fullmatch(name) or (
            name.endswith("_PORT") and _SERVICE_ADDRESS.match(environ[name])
        )
        if is_link:
            skipped.append(name)
        else:
            problems.append(f"{name} is not a setting.{_nearest(name, names)}")
    return problems, tuple(skipped)


def _nearest(name: str, names: set[str]) -> str:
    near = difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else " `tidemill config --list` shows all there are."


def _choose(variable: Variable, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the name under which ``variable`` was given, or what is wrong with giving it twice."""
    given = [name for name in variable.names if name in environ]
    if len(given) > 1 and environ[given[0]].strip() != environ[given[1]].strip():
        shown = [f"{name}={_safe(variable, environ[name])}" for name in given]
        return None, f"{' and '.join(shown)} are the same setting with different values: keep one."
    return (given[0] if given else None), None


def _safe(variable: Variable, value: str) -> str:
    text = hide_password(value) if variable.is_secret else value
    return repr(text if len(text) <= 200 else f"{text[:200]}...")  # noqa: PLR2004 - one line


def _fill_groups(raw: dict[str, dict[str, str]], tree: type[Group], reading: Reading) -> list[str]:
    by_place = {(variable.group, variable.field): variable for variable in variables_of(tree)}
    groups = groups_of(tree)
    problems = []
    for group, values in raw.items():
        try:
            reading.groups[group] = groups[group].model_validate(values)
        except ValidationError as error:
            for each in error.errors():
                variable = by_place[(group, str(each["loc"][0]))]
                problems.append(_invalid(variable, values[variable.field], dict(each), reading))
    return problems


def _invalid(variable: Variable, value: str, error: dict[str, Any], reading: Reading) -> str:
    """Say which variable, its value, why where that says more, and what is allowed."""
    origin = reading.origins.get(variable.name, "")
    name = variable.bare if origin.endswith(f" as {variable.bare}") else variable.name
    cause = error.get("ctx", {}).get("error")
    why = f" ({cause})" if cause is not None else ""
    shown = "empty" if not value.strip() else _safe(variable, value)
    return f"{name} is {shown}{why}; allowed is {variable.allowed}."


def _check_together(tree: type[Group], reading: Reading) -> list[str]:
    try:
        tree.model_validate(reading.groups)
    except ValidationError as error:
        return [
            line
            for each in error.errors()
            for line in str(each.get("ctx", {}).get("error", each["msg"])).splitlines()
        ]
    return []
