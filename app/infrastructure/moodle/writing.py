"""The third step: the sorted events become the files of one ZIP, written as a stream."""

import csv
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.infrastructure.moodle.scratch import open_finished
from app.operations.moodle import xes
from app.operations.moodle.moments import as_utc
from app.operations.moodle.tables import safe_cell

EVENTS_CSV, EVENTS_XES = "events.csv", "events.xes"
SUMMARY, REJECTED_CSV = "summary.json", "rejected.csv"
CSV_HEADER = ("case", "activity", "timestamp", "resource", "component", "context", "origin")
REJECTED_HEADER = ("line", "reason", "detail")
SAME_MOMENT = (1980, 1, 1, 0, 0, 0)
"""The earliest that a ZIP can say: the same events always make the same file."""
READABLE = 0o100644 << 16
LEVEL = 4
"""Of compression: half the time of the usual 6 for a few percent more."""
BATCH_ROWS = 1000
MOST_ACTIVITIES = 1000
"""Listed in the summary; a usual site has a few hundred."""

EVENTS = """
SELECT s."case", c.name, a.text, s.at, p.name, m.text, x.text, o.text
FROM main.events s
CROSS JOIN main.cases c ON c.id = s."case"
CROSS JOIN raw.strings a ON a.id = s.activity
CROSS JOIN main.people p ON p.id = s.person
CROSS JOIN raw.strings m ON m.id = s.component
CROSS JOIN raw.strings x ON x.id = s.context
CROSS JOIN raw.strings o ON o.id = s.origin
ORDER BY s.rowid
"""
ACTIVITIES = """
SELECT a.text, count(*) FROM main.events s CROSS JOIN raw.strings a ON a.id = s.activity
GROUP BY s.activity ORDER BY 2 DESC, 1
"""


Row = tuple[int, str, str, int, str, str, str, str]
"""Case's number and name, activity, seconds since 1970, resource, component, context, origin."""


class _Entry:
    """A file inside the ZIP; text is best written to it in large pieces."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        info = zipfile.ZipInfo(name, SAME_MOMENT)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = READABLE
        info.create_system = 3  # Unix, wherever it is made
        info._compresslevel = LEVEL  # type: ignore[attr-defined]  # noqa: SLF001 - no public way before 3.13
        self._file = archive.open(info, "w", force_zip64=True)

    def write(self, text: str) -> None:
        self._file.write(text.encode("utf-8", "replace"))

    def close(self) -> None:
        self._file.close()


@contextmanager
def _entry(archive: zipfile.ZipFile, name: str) -> Iterator[_Entry]:
    entry = _Entry(archive, name)
    try:
        yield entry
    finally:
        entry.close()


def write_results(
    raw: Path,
    ordered: Path,
    target: Path,
    *,
    report: Callable[[float], None],
) -> dict[str, Any]:
    """Write the ZIP of the sorted database ``ordered``; returns the facts for the job's result."""
    with (
        open_finished(ordered, (raw, "raw")) as db,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        facts = {name: json.loads(value) for name, value in db.execute("SELECT * FROM main.facts")}
        total = max(facts["events"], 1)
        with _entry(archive, EVENTS_CSV) as entry:
            _write_csv(entry, db, lambda done: report(0.4 * done / total))
        with _entry(archive, EVENTS_XES) as entry:
            _write_xes(entry, db, lambda done: report(0.4 + 0.6 * done / total))
        with _entry(archive, SUMMARY) as entry:
            entry.write(json.dumps(_summary(db, facts), ensure_ascii=False, indent=2) + "\n")
        with _entry(archive, REJECTED_CSV) as entry:
            _write_rejected(entry, db)
    return facts


def _batches(db: sqlite3.Connection, report: Callable[[int], None]) -> Iterator[list[Row]]:
    cursor, count = db.execute(EVENTS), 0
    while rows := cursor.fetchmany(BATCH_ROWS):
        report(count)
        count += len(rows)
        yield rows


def _lines(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _write_csv(entry: _Entry, db: sqlite3.Connection, report: Callable[[int], None]) -> None:
    entry.write(_lines([CSV_HEADER]))
    for rows in _batches(db, report):
        entry.write(
            _lines(
                (safe_cell(case), safe_cell(activity), as_utc(at), *map(safe_cell, texts))
                for _, case, activity, at, *texts in rows
            )
        )


def _write_xes(entry: _Entry, db: sqlite3.Connection, report: Callable[[int], None]) -> None:
    entry.write(xes.HEAD)
    present: int | None = None
    for rows in _batches(db, report):
        pieces: list[str] = []
        for case_id, case, activity, at, resource, component, context, origin in rows:
            if case_id != present:
                pieces += (xes.TRACE_END if present is not None else "", xes.trace_start(case))
                present = case_id
            attributes = (
                ("org:resource", resource),
                ("component", component),
                ("context", context),
                ("origin", origin),
            )
            pieces.append(xes.event(activity, as_utc(at), attributes))
        entry.write("".join(pieces))
    if present is not None:
        entry.write(xes.TRACE_END)
    entry.write(xes.TAIL)


def _write_rejected(entry: _Entry, db: sqlite3.Connection) -> None:
    entry.write(_lines([REJECTED_HEADER]))
    cursor = db.execute("SELECT * FROM main.rejected ORDER BY line")
    while rows := cursor.fetchmany(BATCH_ROWS):
        entry.write(_lines((line, reason, safe_cell(detail)) for line, reason, detail in rows))


def _summary(db: sqlite3.Connection, facts: dict[str, Any]) -> dict[str, Any]:
    counts = db.execute(ACTIVITIES)
    listed = [
        {"activity": name, "events": count} for name, count in counts.fetchmany(MOST_ACTIVITIES)
    ]
    return {
        **{name: facts[name] for name in ("events", "cases", "users", "courses")},
        "first": as_utc(facts["first"]),
        "last": as_utc(facts["last"]),
        "rejected": facts["rejected"],
        "rejected_by_reason": facts["rejected_by_reason"],
        "decisions": decisions(facts),
        "activities": listed,
        "activities_not_listed": sum(1 for _ in counts),
    }


def decisions(facts: dict[str, Any]) -> dict[str, Any]:
    """Return how the log was read."""
    delimiter = {",": "comma", ";": "semicolon", "\t": "tab"}[facts["delimiter"]]
    names = ("case", "timezone", "encoding", "language", "ignored_columns", "date_order")
    more = ("date_order_by", "newest_first", "times_with_offset", "times_twice", "times_skipped")
    return {"delimiter": delimiter, **{name: facts[name] for name in (*names, *more)}}
