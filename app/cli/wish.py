"""What a command line of ``tidemill upload`` asks for, read and checked before anything is sent."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import typer

from app.cli.terminal import load_settings
from app.domain.ids import is_id

DEFAULT_SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be done with which file. ``resume`` is an upload's id."""

    file: Path
    operation: str | None
    params: Mapping[str, Any]
    output: Path | None
    resume: str | None
    delete: bool


def read_params(start: str | None, end: str | None, pairs: list[str]) -> dict[str, Any]:
    """Return the operation's parameters of the command line. Raises BadParameter."""
    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            msg = f"--param takes KEY=VALUE, not {pair!r}"
            raise typer.BadParameter(msg)
        if name in params:
            msg = f"--param {name} is given twice"
            raise typer.BadParameter(msg)
        params[name] = _value(value)
    for name, text in (("start", start), ("end", end)):
        if text is None:
            continue
        if name in params:
            msg = f"--{name} and --param {name}=… say the same thing: leave one out"
            raise typer.BadParameter(msg)
        params[name] = _value(text)
    return params


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def _refuse_constant(name: str) -> NoReturn:
    # NaN and Infinity are no JSON, though Python's parser takes them.
    raise ValueError(name)


def output_path(text: str) -> Path:
    """Return where the result goes; a folder named with a slash at its end is made."""
    path = Path(text)
    if text.endswith("/"):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"the folder {text} cannot be made: {error.strerror}"
            raise typer.BadParameter(msg) from error
    return path


def check(wish: Wish, *, force: bool) -> None:
    problem = None
    if wish.params and wish.operation is None:
        problem = "--start, --end and --param say how --then is to be done: name an operation"
    elif wish.resume and wish.operation:
        problem = "--resume goes on with what the upload was begun for: leave --then out"
    elif wish.delete and wish.output is None:
        problem = "--delete needs -o: it would remove a result that nobody has fetched"
    elif wish.output and not (wish.operation or wish.resume):
        problem = "-o needs --then: without an operation there is no result to fetch"
    elif wish.output and not wish.output.parent.is_dir():
        problem = f"the folder {wish.output.parent} is not there"
    elif wish.output and wish.output.is_file() and not force:
        problem = f"{wish.output} exists: --force replaces it"
    if problem:
        raise typer.BadParameter(problem)


def resume_id(text: str) -> str:
    upload_id = urlsplit(text).path.rstrip("/").rsplit("/", 1)[-1]
    if not is_id(upload_id):
        msg = f"--resume takes an upload's id (32 hex digits) or its URL, not {text!r}"
        raise typer.BadParameter(msg)
    return upload_id


def server_of(resume: str | None) -> str | None:
    """The server's address if ``--resume`` was given as a whole URL."""
    if resume is None or "://" not in resume:
        return None
    return resume.rsplit("/files/", 1)[0]


@dataclass(frozen=True, slots=True)
class Place:
    """Where, and how long to be patient with it."""

    server: str
    key_file: Path | None
    timeout_seconds: float


def find_place(server: str | None, key_file: Path | None, timeout_seconds: float) -> Place:
    """Return where to go: without a server named, to the one of this machine by its settings.

    Raises ``SettingsError`` when they are needed and wrong.
    """
    if server is None:
        settings = load_settings()
        server = f"http://127.0.0.1:{settings.service.port}"
        key_file = key_file or settings.access.admin_key_file
    return Place(server, key_file, timeout_seconds)


def resume_command(upload_id: str, wish: Wish, place: Place) -> str:
    words = ["tidemill", "upload", str(wish.file), "--resume", upload_id]
    if wish.output is not None:
        words += ["-o", str(wish.output)]
    if wish.delete:
        words.append("--delete")
    if place.server != DEFAULT_SERVER:
        words += ["--server", place.server]
    if place.key_file is not None:
        words += ["--key-file", str(place.key_file)]
    return shlex.join(words)
