"""Reads what our Dockerfile and .dockerignore use of their languages; refuses what it does not know."""

import fnmatch
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BUILD = frozenset({"ARG", "COPY", "FROM", "RUN", "WORKDIR"})
SETUP = frozenset({"ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "STOPSIGNAL", "USER", "VOLUME"})
INSTRUCTIONS = BUILD | SETUP | {"CMD", "ENTRYPOINT"}
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction with its continuation lines joined. ``line`` is where it begins."""

    name: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Copy:
    """``sources`` are paths of the stage ``stage``, or of the build's context when that is None."""

    sources: tuple[str, ...]
    target: str
    stage: str | None


@dataclass(slots=True)
class Stage:
    """One FROM with what follows it, variables of ARG filled in."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [each.text for each in self.instructions if each.name == name]

    def last(self, name: str) -> str:
        return self.all(name)[-1]

    def argv(self, name: str) -> list[str]:
        """The list of CMD or ENTRYPOINT, which must be in the form that needs no shell."""
        found: list[str] = json.loads(self.last(name))
        return found

    @property
    def environment(self) -> dict[str, str]:
        return dict(_pairs(self.all("ENV")))

    @property
    def labels(self) -> dict[str, str]:
        return dict(_pairs(self.all("LABEL")))

    @property
    def copies(self) -> list[Copy]:
        return [_copy(text) for text in self.all("COPY")]

    @property
    def health_check(self) -> tuple[dict[str, str], list[str]]:
        """Its options without dashes, and its command."""
        options, _, command = self.last("HEALTHCHECK").partition("CMD ")
        pairs = (option.removeprefix("--").partition("=") for option in options.split())
        argv: list[str] = json.loads(command)
        return {name: value for name, _, value in pairs}, argv


def parse(text: str) -> list[Stage]:
    """Return the stages. Raises ``ValueError`` for anything that is not understood."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for each in _instructions(text):
        if each.name not in INSTRUCTIONS:
            msg = f"line {each.line}: {each.name} is no instruction that this project uses"
            raise ValueError(msg)
        if each.name == "ARG" and not stages:
            name, _, value = each.text.partition("=")
            arguments[name] = value
        elif each.name == "FROM":
            stages.append(_stage(each, arguments))
        elif not stages:
            msg = f"line {each.line}: {each.name} before the first FROM"
            raise ValueError(msg)
        else:
            stages[-1].instructions.append(each)
    return stages


def _stage(each: Instruction, arguments: dict[str, str]) -> Stage:
    words = _VARIABLE.sub(lambda m: arguments[m[1] or m[2]], each.text).split()
    if len(words) != 3 or words[1] != "AS":
        msg = f"line {each.line}: FROM without AS"
        raise ValueError(msg)
    return Stage(name=words[2], base=words[0])


def _instructions(text: str) -> Iterator[Instruction]:
    """Join continued lines. Comments between them go, as the engine's own parser does it."""
    parts: list[str] = []
    begin = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or parts):
            continue
        begin = begin or number
        parts.append(line.rstrip().removesuffix("\\").strip())
        if line.rstrip().endswith("\\"):
            continue
        name, _, rest = " ".join(parts).partition(" ")
        yield Instruction(name, rest.strip(), begin)
        parts, begin = [], 0
    if parts:
        msg = f"line {begin}: the last line goes on into nothing"
        raise ValueError(msg)


def _pairs(texts: list[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        for word in shlex.split(text):
            name, separator, value = word.partition("=")
            if not separator:
                msg = f"{word!r} is no NAME=value"
                raise ValueError(msg)
            yield name, value


def _copy(text: str) -> Copy:
    words = shlex.split(text)
    options = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
    paths = [word for word in words if not word.startswith("--")]
    if set(options) - {"--from"}:
        msg = f"COPY with {sorted(options)}"
        raise ValueError(msg)
    return Copy(tuple(paths[:-1]), paths[-1], options.get("--from"))


class Ignored:
    """A .dockerignore: the last pattern that matches a path, or a folder above it, decides."""

    def __init__(self, text: str) -> None:
        lines = (line.strip() for line in text.splitlines())
        self._patterns = [line for line in lines if line and not line.startswith("#")]

    def covers(self, path: Path) -> bool:
        """Whether ``path``, relative to the context, is kept away from the engine."""
        parts = path.parts
        heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        covered = False
        for pattern in self._patterns:
            wanted = pattern.removeprefix("!").strip("/")
            if any(self._matches(head, wanted) for head in heads):
                covered = not pattern.startswith("!")
        return covered

    @staticmethod
    def _matches(path: str, pattern: str) -> bool:
        if pattern.startswith("**/"):
            tail = pattern.removeprefix("**/")
            parts = path.split("/")
            ends = ("/".join(parts[n:]) for n in range(len(parts)))
            return any(Ignored._matches(end, tail) for end in ends)
        same_depth = path.count("/") == pattern.count("/")
        return same_depth and fnmatch.fnmatchcase(path, pattern)
