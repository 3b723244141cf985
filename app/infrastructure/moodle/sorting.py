"""The second step: times become UTC, rows get their case, and all is sorted by case and time."""

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from app.infrastructure.moodle.reading import no_events
from app.infrastructure.moodle.records import Reason
from app.infrastructure.moodle.scratch import SORTED, attach, new_database
from app.operations.moodle.identities import CaseNotion, case_name
from app.operations.moodle.moments import DateOrder

BLOCK_SECONDS = 900
"""Clocks change at quarters of an hour: within one, all times have the same offset."""
KEPT_BLOCKS = 50_000
PERSON_SHIFT = 31
REPORT_ROWS = 4096

LABELS = """
CREATE TABLE person_of (user INTEGER PRIMARY KEY, name TEXT NOT NULL, person INTEGER);
INSERT INTO person_of (user, name)
    SELECT u.id, CASE WHEN u.number <> '' AND (
        SELECT count(*) FROM raw.users t WHERE t.name = u.name AND t.number <> '') > 1
        THEN u.name || ' (' || u.number || ')' ELSE u.name END
    FROM raw.users u ORDER BY u.id;
CREATE INDEX by_label ON person_of (name);
INSERT INTO people (id, name) SELECT min(user), name FROM person_of GROUP BY name;
UPDATE person_of SET person = (
    SELECT min(o.user) FROM person_of o WHERE o.name = person_of.name);

CREATE TABLE course_names (number TEXT PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO course_names
    SELECT number, min(name) FROM raw.courses WHERE number <> '' AND name <> '' GROUP BY number;
CREATE TABLE course_of (course INTEGER PRIMARY KEY, name TEXT NOT NULL, place INTEGER);
INSERT INTO course_of (course, name)
    SELECT c.id, label_course(
        coalesce(nullif(c.name, ''), n.name, ''), c.number,
        (SELECT count(*) FROM course_names t WHERE t.name = coalesce(nullif(c.name, ''), n.name)))
    FROM raw.courses c LEFT JOIN course_names n ON n.number = c.number ORDER BY c.id;
UPDATE course_of SET name = (SELECT max(name) FROM course_of)
    WHERE name = '' AND (SELECT count(DISTINCT name) FROM course_of WHERE name <> '') = 1;
CREATE INDEX by_course ON course_of (name);
UPDATE course_of SET place = (
    SELECT min(o.course) FROM course_of o WHERE o.name = course_of.name);
"""
"""People and courses of one name are one, unless their ids say that they are two."""

CASES = {
    CaseNotion.USER: "p.person",
    CaseNotion.COURSE: "k.place",
    CaseNotion.USER_COURSE: f"(p.person << {PERSON_SHIFT}) | k.place",
}
JOINED = """
FROM raw.events e CROSS JOIN person_of p ON p.user = e.user
CROSS JOIN course_of k ON k.course = e.course
"""


class LocalClock:
    """Turns local seconds into UTC; ``zone`` None: only times with an offset of their own.

    A time that a clock set back shows twice is taken as the first of the two, one that a clock set
    forward skips as if it had not been set. ``n_twice`` and ``n_skipped`` count them.
    """

    def __init__(self, zone: ZoneInfo | None) -> None:
        self._zone = zone
        self._blocks: dict[int, tuple[int, int]] = {}
        self.n_twice = 0
        self.n_skipped = 0

    @property
    def has_zone(self) -> bool:
        return self._zone is not None

    def utc(self, local: int | None, offset: int | None) -> int | None:
        """Return seconds since 1970 in UTC; None where the time is not to be had."""
        if local is None:
            return None
        if offset is not None:
            return local - offset
        if self._zone is None:
            return None
        block = local // BLOCK_SECONDS
        known = self._blocks.get(block)
        if known is None:
            if len(self._blocks) >= KEPT_BLOCKS:
                self._blocks.clear()
            known = self._blocks[block] = self._look(block * BLOCK_SECONDS, self._zone)
        first, second = known
        if first != second:
            self.n_twice += first > second
            self.n_skipped += first < second
        return local - first

    @staticmethod
    def _look(local: int, zone: ZoneInfo) -> tuple[int, int]:
        """Return the offsets in seconds of a local time: of its first and its second occurrence."""
        moment = datetime.fromtimestamp(local, UTC).replace(tzinfo=zone)
        none = timedelta(0)
        before = moment.replace(fold=0).utcoffset() or none
        after = moment.replace(fold=1).utcoffset() or none
        return int(before.total_seconds()), int(after.total_seconds())


def sort_events(
    raw: Path,
    target: Path,
    wish: dict[str, Any],
    *,
    report: Callable[[float], None],
) -> None:
    """Sort the raw database into ``target``. Raises LogWithoutEvents.

    ``wish``: ``case``, ``timezone`` and ``date_order``, the latter two may be None.
    """
    notion = CaseNotion(wish["case"])
    zone = ZoneInfo(wish["timezone"]) if wish["timezone"] else None
    clock = LocalClock(zone)
    with new_database(target, SORTED) as db:
        attach(db, raw, "raw")
        told = {name: json.loads(value) for name, value in db.execute("SELECT * FROM raw.facts")}
        if wish["date_order"] is not None:
            told |= {"date_order": wish["date_order"], "date_order_by": "asked"}
        order = DateOrder(told["date_order"])
        db.create_function("label_course", 3, _course_label, deterministic=True)
        db.executescript(LABELS)
        db.execute("BEGIN")
        # In a transaction of many statements: executescript commits before it begins.
        _sort(db, notion, order, clock, _Progress(db, report), _is_newest_first(told, order))
        _name_cases(db, notion)
        facts = _facts(db, told, clock, wish)
        if not facts["events"]:
            raise no_events(facts["rejected"], facts["rejected_by_reason"])
        db.executemany(
            "INSERT INTO facts VALUES (?, ?)",
            [(name, json.dumps(value)) for name, value in facts.items()],
        )


def _course_label(name: str, number: str, n_twins: int) -> str:
    if not name:
        # A pseudonym says by itself that it is a course.
        return f"course {number}" if number.isdigit() else number
    return f"{name} ({number})" if number and n_twins > 1 else name


def _is_newest_first(told: dict[str, Any], order: DateOrder) -> bool:
    name = "day_first_turns" if order is DateOrder.DAY_FIRST else "month_first_turns"
    ups, downs = told[name]
    return bool(downs >= ups)


class _Progress:
    """Counts the rows that a statement looks at."""

    def __init__(self, db: sqlite3.Connection, report: Callable[[float], None]) -> None:
        (count,) = db.execute("SELECT count(*) FROM raw.events").fetchone()
        self._total = max(2 * count, 1)
        self._seen = 0
        self._report = report

    def step(self) -> None:
        self._seen += 1
        if self._seen % REPORT_ROWS == 0:
            self._report(self._seen / self._total)


def _sort(
    db: sqlite3.Connection,
    notion: CaseNotion,
    order: DateOrder,
    clock: LocalClock,
    progress: _Progress,
    newest_first: bool,
) -> None:
    """Fill ``events`` in the order of case, time and, within a second, of what happened first."""

    def utc(local: int | None, offset: int | None) -> int | None:
        progress.step()
        return clock.utc(local, offset)

    column = "day_first" if order is DateOrder.DAY_FIRST else "month_first"
    usable = f"e.{column} IS NOT NULL AND (e.utc_offset IS NOT NULL OR :has_zone)"
    db.create_function("utc", 2, utc)
    direction = "DESC" if newest_first else "ASC"
    has_zone = {"has_zone": clock.has_zone}
    db.execute(
        f"""INSERT INTO events SELECT {CASES[notion]}, utc(e.{column}, e.utc_offset), e.line,
            p.person, e.activity, e.component, e.context, e.origin {JOINED}
            WHERE {usable} ORDER BY 1, 2, e.line {direction}""",
        has_zone,
    )
    db.execute("INSERT INTO rejected SELECT * FROM raw.rejected")
    db.execute(
        f"""INSERT INTO rejected SELECT e.line,
            CASE WHEN e.{column} IS NULL THEN :no_day ELSE :no_zone END, ''
            FROM raw.events e WHERE NOT ({usable})""",  # noqa: S608
        {**has_zone, "no_day": Reason.WRONG_ORDER.value, "no_zone": Reason.NO_ZONE.value},
    )


def _name_cases(db: sqlite3.Connection, notion: CaseNotion) -> None:
    db.create_function(
        "case_name",
        2,
        lambda user, course: case_name(notion, user or "", course or ""),
        deterministic=True,
    )
    person, course = {
        CaseNotion.USER: ('"case"', "NULL"),
        CaseNotion.COURSE: ("NULL", '"case"'),
        CaseNotion.USER_COURSE: (
            f'"case" >> {PERSON_SHIFT}',
            f'"case" & {(1 << PERSON_SHIFT) - 1}',
        ),
    }[notion]
    db.execute(
        f"""INSERT INTO cases SELECT "case", case_name(
            (SELECT name FROM people WHERE id = {person}),
            (SELECT name FROM course_of WHERE course = {course}))
            FROM (SELECT DISTINCT "case" FROM events)"""  # noqa: S608
    )


def _facts(
    db: sqlite3.Connection, told: dict[str, Any], clock: LocalClock, wish: dict[str, Any]
) -> dict[str, Any]:
    def one(query: str) -> Any:
        return db.execute(query).fetchone()[0]

    reasons = dict(db.execute("SELECT reason, count(*) FROM rejected GROUP BY 1 ORDER BY 1"))
    return {
        "events": one("SELECT count(*) FROM events"),
        "cases": one("SELECT count(*) FROM cases"),
        "users": one("SELECT count(*) FROM people WHERE name <> ''"),
        "courses": one("SELECT count(DISTINCT name) FROM course_of WHERE name <> ''"),
        "first": one("SELECT min(at) FROM events"),
        "last": one("SELECT max(at) FROM events"),
        "rejected": sum(reasons.values()),
        "rejected_by_reason": reasons,
        "case": wish["case"],
        "timezone": wish["timezone"],
        "times_twice": clock.n_twice,
        "times_skipped": clock.n_skipped,
        "newest_first": _is_newest_first(told, DateOrder(told["date_order"])),
        **{
            name: told[name]
            for name in (
                *("encoding", "delimiter", "language", "ignored_columns"),
                *("date_order", "date_order_by", "times_with_offset"),
            )
        },
    }
