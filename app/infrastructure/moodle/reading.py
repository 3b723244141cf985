"""The first step: every record of the export becomes a row of numbers, or a rejected line."""

import json
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.domain.errors import LogWithoutEvents
from app.infrastructure.moodle.records import Reason, Record, RecordReader
from app.infrastructure.moodle.scratch import BATCH_ROWS, RAW, Numbers, new_database
from app.operations.moodle.columns import Column, fold
from app.operations.moodle.export_head import ExportHead
from app.operations.moodle.identities import KEY_BYTES, Mask, Naming, identify, plainly
from app.operations.moodle.moments import DateEvidence, Moment, read_moment

LONGEST_NAME = 1000
"""Characters kept of a user, a context, a component, an event and an origin."""
SHOWN = 40
INSERT_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_REJECTED = "INSERT INTO rejected VALUES (?, ?, ?)"
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 65534, 65535), " ")
"""What neither XML nor a line of CSV should have."""


class Reading:
    """Takes the records of one file. ``name`` says what stands for names; see ``Mask``."""

    def __init__(self, db: sqlite3.Connection, head: ExportHead, name: Naming) -> None:
        self._db = db
        self._name = name
        header = head.header
        places = header.places
        self._width = header.width
        self._header: list[str] | None = None
        self._places = [places.get(column, -1) for column in Column]
        self._strings = Numbers(db, "strings", ("text",))
        self._users = Numbers(db, "users", ("name", "number"))
        self._courses = Numbers(db, "courses", ("name", "number"))
        self._events: list[tuple[int | None, ...]] = []
        self._rejected: list[tuple[int, str, str]] = []
        self.evidence = DateEvidence()
        self.n_events = 0
        self.n_rejected = 0

    def take(self, record: Record) -> None:
        """Keep a record as an event or as a rejected line. The first one is the header."""
        fields = record.fields
        if self._header is None:
            self._header = [fold(field) for field in fields]
            return
        if record.reason is not None:
            self._reject(record.line, record.reason)
        elif len(fields) != self._width:
            self._take_odd(record)
        else:
            self._take_event(record.line, fields)

    def flush(self) -> None:
        """Write what was kept in memory."""
        self._db.executemany(INSERT_EVENT, self._events)
        self._db.executemany(INSERT_REJECTED, self._rejected)
        self._events.clear()
        self._rejected.clear()

    def _take_odd(self, record: Record) -> None:
        """Empty fields behind the last are no harm; others make nobody know what belongs where."""
        fields, width = record.fields, self._width
        if len(fields) > width and not any(field.strip() for field in fields[width:]):
            self._take_event(record.line, fields[:width])
            return
        reason = Reason.TOO_MANY if len(fields) > width else Reason.TOO_FEW
        self._reject(record.line, reason, f"{len(fields)} fields where {width} were expected")

    def _take_event(self, line: int, fields: list[str]) -> None:
        cells = [fields[place].strip() if place >= 0 else "" for place in self._places]
        when, user, _, context, component, event, description, origin, _ = cells
        moment = read_moment(when)
        if moment is None:
            if [fold(field) for field in fields] == self._header:
                self._reject(line, Reason.REPEATED_HEADER)
            else:
                # The text may be anything, also a name, where columns are out of step.
                shown = "" if self._name is not plainly else _clean(when)[:SHOWN]
                self._reject(line, Reason.BAD_TIME, shown)
        elif not event:
            self._reject(line, Reason.NO_EVENT)
        else:
            self.evidence.take(moment)
            who = identify(_clean(user), _clean(context), description, self._name)
            self._keep(
                line,
                moment,
                (
                    self._users.of(who.user, who.user_id),
                    self._courses.of(who.course, who.course_id),
                    self._strings.of(_clean(event)),
                    self._strings.of(_clean(component)),
                    self._strings.of(who.context),
                    self._strings.of(_clean(origin)),
                ),
            )

    def _keep(self, line: int, moment: Moment, numbers: tuple[int, ...]) -> None:
        times = (moment.day_first, moment.month_first, moment.offset)
        self._events.append((line, *times, *numbers))
        self.n_events += 1
        if len(self._events) >= BATCH_ROWS:
            self.flush()

    def _reject(self, line: int, reason: Reason, detail: str = "") -> None:
        self._rejected.append((line, reason.value, detail))
        self.n_rejected += 1
        if len(self._rejected) >= BATCH_ROWS:
            self.flush()


def _clean(text: str) -> str:
    """Return one line of text that any format can hold."""
    if not text.isprintable():
        text = " ".join(text.translate(_CONTROLS).split())
    return text[:LONGEST_NAME]


def read_export(
    source: Path,
    target: Path,
    head: ExportHead,
    *,
    anonymise: bool,
    report: Callable[[float], None],
) -> None:
    """Read ``source`` into the raw database ``target``. Raises LogWithoutEvents."""
    # The key is nowhere but here: with this process it is gone.
    name: Naming = Mask(secrets.token_bytes(KEY_BYTES)) if anonymise else plainly
    records = RecordReader(source, head)
    try:
        with new_database(target, RAW) as db:
            reading = Reading(db, head, name)
            for number, record in enumerate(records):
                reading.take(record)
                if number % BATCH_ROWS == 0:
                    report(records.position / max(records.size_bytes, 1))
            reading.flush()
            if not reading.n_events:
                raise no_events(reading.n_rejected, _reasons(db))
            facts = _facts(reading, records, head)
            db.executemany(
                "INSERT INTO facts VALUES (?, ?)",
                [(key, json.dumps(value)) for key, value in facts.items()],
            )
    finally:
        records.close()


def no_events(n_rejected: int, reasons: dict[str, int]) -> LogWithoutEvents:
    """Return the refusal of a log of which nothing is left."""
    msg = f"None of the {n_rejected} lines below the header can be read as an event."
    return LogWithoutEvents(msg, extra={"rejected": n_rejected, "reasons": reasons})


def _reasons(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT reason, count(*) FROM rejected GROUP BY reason ORDER BY reason"))


def _facts(reading: Reading, records: RecordReader, head: ExportHead) -> dict[str, Any]:
    evidence = reading.evidence
    order, decided_by = evidence.decide(is_english=head.header.language == "en")
    return {
        "encoding": records.shown_encoding,
        "delimiter": head.delimiter,
        "language": head.header.language,
        "ignored_columns": list(head.header.unknown),
        "date_order": order.value,
        "date_order_by": decided_by,
        "numeric_times": evidence.n_numeric,
        "day_first_turns": [evidence.ups, evidence.downs],
        "month_first_turns": [evidence.month_ups, evidence.month_downs],
        "times": evidence.n_times,
        "times_with_offset": evidence.n_offsets,
    }
