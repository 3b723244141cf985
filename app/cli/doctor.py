"""``tidemill doctor``: looks at everything a service needs, and says what to do about what it finds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.terminal import FAILED, load_settings, output, to_json
from app.services.diagnosis import Finding, Level, failure, note, ok, warning, worst
from app.settings import Effective, Settings, SettingsError

if TYPE_CHECKING:
    import httpx

SETTINGS, SERVICE = "settings", "service"
ANSWER_SECONDS = 5.0
READY, UNREADY = 200, 503
STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.FAILURE: "bold red"}

ServerUrl = Annotated[
    str | None,
    typer.Option("--server", help="Address of the service [default: this machine's, if it runs]."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        exists=True,
        dir_okay=False,
        readable=True,
        help="File with the key for --server, where one is required.",
    ),
]


def doctor(
    *,
    data_dir: Annotated[
        Path | None, typer.Option(help="The data folder, above TIDEMILL_DATA_DIR.")
    ] = None,
    server: ServerUrl = None,
    key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine settings, key, folder, disk, database, clock, sweeps, FFmpeg, sandbox and service.

    Works beside a running service and without one. It changes nothing: no folder is made, nothing
    migrated, nothing deleted. One line for each finding, with what to do where something is amiss.

    \b
    Examples:
      tidemill doctor
      tidemill doctor --data-dir /srv/tidemill --json
      tidemill doctor --server https://videos.example.org --key-file key

    \b
    Exit codes: 0 nothing fails (there may be notes and warnings), 1 something fails,
    2 wrong command line.
    """  # noqa: D301 - \b keeps the lines apart in the help
    findings = _examine(data_dir, server, key_file)
    if as_json:
        told = {"status": worst(findings), "findings": [asdict(each) for each in findings]}
        typer.echo(to_json(told))
    else:
        _show(output(), findings)
    if worst(findings) is Level.FAILURE:
        raise typer.Exit(FAILED)


def _examine(data_dir: Path | None, server: str | None, key_file: Path | None) -> list[Finding]:
    try:
        settings = load_settings({"TIDEMILL_DATA_DIR": data_dir})
    except SettingsError as error:
        todo = "correct it and look again; `tidemill config --list` shows every setting"
        return [failure(SETTINGS, problem, todo) for problem in error.problems]
    # Here, since it brings everything with it, and other commands should start quickly.
    from app.bootstrap.checkup import examine  # noqa: PLC0415

    found = examine(settings)
    return [
        *_examine_settings(settings),
        *found.findings,
        *_examine_service(settings, len(found.living), server, key_file),
    ]


def _examine_settings(settings: Settings) -> list[Finding]:
    changed: Sequence[Effective] = [e for e in settings.effective() if e.origin != "default"]
    origins = Counter(each.origin.split(" as ")[0] for each in changed)
    told = ", ".join(f"{count} from {origin}" for origin, count in sorted(origins.items()))
    findings = [ok(SETTINGS, f"valid; {told or 'all are at their defaults'}")]
    for name in settings.skipped_variables:
        what = f"{name} looks like a Kubernetes service link and was passed over"
        findings.append(note(SETTINGS, what, "nothing, or set enableServiceLinks: false"))
    return findings


def _examine_service(
    settings: Settings, running: int, server: str | None, key_file: Path | None
) -> list[Finding]:
    if not running and server is None:
        what = "none runs on this folder"
        return [note(SERVICE, what, "`tidemill serve` starts it; --server looks at another one")]
    # Here, since it brings HTTP libraries with it.
    import httpx  # noqa: PLC0415

    from app.cli.client import describe, make_server  # noqa: PLC0415

    key_file = key_file or (settings.access.admin_key_file if server is None else None)
    try:
        place = make_server(server or f"http://127.0.0.1:{settings.service.port}", key_file)
    except (ValueError, OSError) as error:
        return [failure(SERVICE, str(error), "correct --server or --key-file")]
    try:
        with place.connect() as http:
            answer = http.get(place.at("/readyz"), timeout=ANSWER_SECONDS)
            return _read(place.url, answer)
    except httpx.TransportError as error:
        told = describe(error, place.url)
        if server is None:
            what = f"{running} of them on this folder, but {told}"
            return [warning(SERVICE, what, "if it listens elsewhere, say so: --server URL")]
        return [failure(SERVICE, told, "start it, or correct --server")]


def _read(url: str, answer: "httpx.Response") -> list[Finding]:
    body = _body(answer)
    if answer.status_code not in {READY, UNREADY} or body is None:
        what = f"{url} answered {answer.status_code}, which no Tidemill does"
        return [failure(SERVICE, what, "correct --server or TIDEMILL_PORT")]
    findings = []
    for part in body["parts"]:
        what = f"{part['name']} of {url}: {part['detail']}"
        if part["state"] == "degraded":
            findings.append(warning(SERVICE, what, "as it says; the service works meanwhile"))
        elif part["state"] == "failing":
            findings.append(failure(SERVICE, what, "as it says; the log has more"))
    if findings:
        return findings
    if body["status"] == "ok":
        return [ok(SERVICE, f"{url} is ready")]
    what = f"{url} is {body['status']}, and tells why to admins only"
    todo = "name the key's file with --key-file, or run this on its own machine"
    return [(failure if answer.status_code == UNREADY else warning)(SERVICE, what, todo)]


def _body(answer: "httpx.Response") -> dict[str, Any] | None:
    try:
        body = answer.json()
    except ValueError:
        return None
    is_ours = isinstance(body, dict) and isinstance(body.get("parts"), list) and "status" in body
    return body if is_ours else None


def _show(console: Console, findings: Sequence[Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in findings:
        text = f"{each.what.rstrip('.')}. To do: {each.todo}." if each.todo else each.what
        level = Text(each.level.value, style=STYLES[each.level])
        table.add_row(level, Text(each.check), Text(text))
    console.print(table)
    counts = Counter(each.level for each in findings)
    plural = {level: "" if counts[level] == 1 else "s" for level in Level}
    told = [
        f"{counts[level]} {level.value}{plural[level]}"
        for level in (Level.FAILURE, Level.WARNING, Level.NOTE)
        if counts[level]
    ]
    console.print(", ".join(told) + "." if told else "All is well.", markup=False)
