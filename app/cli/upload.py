"""``tidemill upload``: send a file, have something made of it, fetch the result."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli.wish import (
    DEFAULT_SERVER,
    Wish,
    check,
    find_place,
    output_path,
    read_params,
    resume_id,
    server_of,
)

File = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The file to send.")
]
Then = Annotated[
    str | None,
    typer.Option("--then", metavar="OPERATION", help="Have this made of it, such as trim."),
]
Start = Annotated[str | None, typer.Option("--start", help="Of trim: seconds or HH:MM:SS.mmm.")]
End = Annotated[str | None, typer.Option("--end", help="Of trim: seconds or HH:MM:SS.mmm.")]
Param = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="KEY=VALUE", help="Any parameter; VALUE is JSON or text."),
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", help="Where the result goes: a file, or with / a folder."),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the file of -o.")]
Resume = Annotated[
    str | None,
    typer.Option("--resume", metavar="UPLOAD", help="Go on with this upload: its id or URL."),
]
Delete = Annotated[
    bool,
    typer.Option(
        "--delete/--keep",
        help="Once the result is here, remove all of it from the server, or leave it there for its "
        "retention.",
    ),
]
ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--server",
        help=f"Address of the server [default: {DEFAULT_SERVER}, or this machine's TIDEMILL_PORT].",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        exists=True,
        dir_okay=False,
        readable=True,
        help="File with the key, where one is required.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", min=0, metavar="SECONDS", help="Give up after this long without an answer."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results.")]


def upload(  # noqa: PLR0913 - each is an option of the command line
    file: File,
    *,
    then: Then = None,
    start: Start = None,
    end: End = None,
    param: Param = None,
    output: Output = None,
    force: Force = False,
    resume: Resume = None,
    delete: Delete = False,
    server: ServerUrl = None,
    key_file: KeyFile = None,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Send a file, have something made of it, fetch the result.

    A lost connection or a restart of the server in between costs nothing: it goes on at the right
    byte. After Ctrl-C, --resume does.

    \b
    Examples:
      tidemill upload clip.mp4 --then trim --start 2 --end 7 -o out.mp4
      tidemill upload clip.mp4 --then trim --param start=2 --param end=00:00:07 -o results/
      tidemill upload clip.mp4
      tidemill upload clip.mp4 --resume UPLOAD -o out.mp4

    \b
    Exit codes: 0 done, 1 the server or the job said no, 2 wrong command line,
    3 no useful answer for longer than --timeout, 130 stopped by Ctrl-C.
    """  # noqa: D301 - \b keeps the lines apart in the help
    wish = Wish(
        file=file,
        operation=then,
        params=read_params(start, end, param or []),
        output=None if output is None else output_path(output),
        resume=None if resume is None else resume_id(resume),
        delete=delete,
    )
    check(wish, force=force)
    place = find_place(server or server_of(resume), key_file, timeout)
    # Here, since it brings HTTP libraries with it, and other commands should start quickly.
    from app.cli.errand import carry_out  # noqa: PLC0415

    outcome = carry_out(wish, place, quiet=quiet)
    if as_json:
        fields = ("upload_id", "batch_id", "job_ids", "outputs", "files")
        typer.echo(json.dumps({name: getattr(outcome, name) for name in fields}))
    else:
        for line in outcome.lines():
            typer.echo(line)
