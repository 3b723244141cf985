"""One step of the log job in a process of its own; run as a script, never imported by the service.

    child.py ARGUMENTS_JSON INPUT... OUTPUT

The working directory is the job's folder, the last name the file to write. What it tells the service
is in ``app.infrastructure.telling``; its exit code says whether the output is whole.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# SQLite looks once, when it is first imported, where to sort: in the working directory, the job's.
os.environ["SQLITE_TMPDIR"] = os.getcwd()  # noqa: PTH109 - it wants text
# It is started without the service's own search path, and the package may not be installed whole.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from app.domain.errors import AppError
from app.infrastructure.moodle.reading import read_export
from app.infrastructure.moodle.sorting import sort_events
from app.infrastructure.moodle.writing import decisions, write_results
from app.infrastructure.telling import Teller, tell_facts, tell_refusal
from app.operations.moodle.export_head import head_from_json
from app.operations.moodle.moments import as_utc

ASSUMED = (
    "Nothing in the log shows whether its dates begin with the day or the month; {order} was assumed."
    " Say `date_order` if that is wrong."
)


def read(wish: dict[str, Any], paths: list[Path], report: Callable[[float], None]) -> None:
    source, target = paths
    head = head_from_json(wish["head"])
    read_export(source, target, head, anonymise=wish["anonymise"], report=report)


def sort(wish: dict[str, Any], paths: list[Path], report: Callable[[float], None]) -> None:
    raw, target = paths
    sort_events(raw, target, wish, report=report)


def write(wish: dict[str, Any], paths: list[Path], report: Callable[[float], None]) -> None:
    del wish
    raw, ordered, target = paths
    facts = write_results(raw, ordered, target, report=report)
    told = {name: facts[name] for name in ("events", "cases", "users", "courses", "rejected")}
    span = {"first": as_utc(facts["first"]), "last": as_utc(facts["last"])}
    reasons = {"rejected_by_reason": facts["rejected_by_reason"]}
    tell_facts({**told, **span, **reasons, "decisions": decisions(facts)}, warnings_of(facts))


def warnings_of(facts: dict[str, Any]) -> list[str]:
    """Say what somebody should look at before they trust the result."""
    said = {
        f"{_counted(facts['rejected'], 'line was', 'lines were')} rejected; see rejected.csv.": (
            facts["rejected"]
        ),
        ASSUMED.format(order=facts["date_order"].replace("-", " ")): (
            facts["date_order_by"] == "assumed"
        ),
        f"{_counted(facts['times_twice'], 'time lies', 'times lie')} in an hour that the clocks"
        " showed twice; the first is taken as meant.": facts["times_twice"],
        f"{_counted(facts['times_skipped'], 'time lies', 'times lie')} in an hour that the clocks"
        " skipped.": facts["times_skipped"],
    }
    return [sentence for sentence, applies in said.items() if applies]


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


STEPS = {"read": read, "sort": sort, "write": write}


def main(arguments: list[str]) -> int:
    wish = json.loads(arguments[0])
    try:
        STEPS[wish["do"]](wish, [Path(name) for name in arguments[1:]], Teller().reach)
    except AppError as refusal:
        tell_refusal(refusal.code, refusal.detail, refusal.extra)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
