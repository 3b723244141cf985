"""``tidemill config``: what is in force, where each setting came from, and what there is to set."""

import json
from typing import Annotated

import typer
from rich.table import Table

from app.cli.terminal import complain, load_settings, output
from app.settings import Effective, variables


def config(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    list_all: Annotated[
        bool, typer.Option("--list", help="List every setting there is with its default.")
    ] = False,
) -> None:
    """Print the effective settings and where each came from. Secrets are hidden.

    \b
    Examples:
      tidemill config
      tidemill config --json | jq '.[] | select(.origin != "default")'
      tidemill config --list

    \b
    Exit codes: 0 the settings are valid, 2 they are not (every problem is named).
    """  # noqa: D301 - \b keeps the lines apart in the help
    if list_all:
        _list_all(as_json=as_json)
        return
    settings = load_settings()
    complain(
        f"{name} looks like a Kubernetes service link and was passed over"
        for name in settings.skipped_variables
    )
    effective = tuple(settings.effective())
    if as_json:
        typer.echo(json.dumps([_as_json(each) for each in effective], indent=2))
        return
    table = _table("value", "from")
    for each in effective:
        style = "dim" if each.origin == "default" else None
        table.add_row(each.variable.name, each.shown, each.origin, style=style)
    output().print(table, markup=False)


def _as_json(each: Effective) -> dict[str, object]:
    value = each.value
    is_plain = isinstance(value, int | float | str) and not each.variable.is_secret
    plain = value if is_plain or value is None else each.shown
    return {
        "variable": each.variable.name,
        "value": list(value) if isinstance(value, tuple) else plain,
        "origin": each.origin,
    }


def _list_all(*, as_json: bool) -> None:
    if as_json:
        listed = [
            {
                "variable": each.name,
                "default": each.default,
                "allowed": each.allowed,
                "description": each.description,
            }
            for each in variables()
        ]
        typer.echo(json.dumps(listed, indent=2))
        return
    table = _table("default", "description")
    for each in variables():
        table.add_row(each.name, each.default, each.description)
    output().print(table, markup=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column(
        "variable", no_wrap=True, min_width=max(len(each.name) for each in variables())
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
