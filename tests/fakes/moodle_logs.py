"""Moodle logs as people export them, made for tests: rows, whole files of any size, every language."""

import csv
import io
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from app.operations.moodle.columns import BY_CODE

HEADER = (
    *("Time", "User full name", "Affected user", "Event context", "Component"),
    *("Event name", "Description", "Origin", "IP address"),
)
ANNA = (
    *("5/03/26, 10:15:00", "Anna Ågren", "-", "Course: Algebra", "System", "Course viewed"),
    *("The user with id '5' viewed the course with id '2'.", "web", "10.0.0.1"),
)
KINDS = (
    ("Course viewed", "System", "Course: Course {course}"),
    ("Course module viewed", "Quiz", "Quiz: Quiz {thing}"),
    ("Quiz attempt started", "Quiz", "Quiz: Quiz {thing}"),
    ("Quiz attempt submitted", "Quiz", "Quiz: Quiz {thing}"),
    ("Discussion viewed", "Forum", "Forum: Forum {thing}"),
)


def header_of(language: str) -> tuple[str, ...]:
    """The header as the language pack has it now."""
    return tuple(names.split("|")[0] for names in BY_CODE[language].names)


def row(**changes: str) -> tuple[str, ...]:
    """Anna's row with other cells: when, user, affected, context, component, event, what, origin,
    address.
    """
    names = (
        "when",
        "user",
        "affected",
        "context",
        "component",
        "event",
        "what",
        "origin",
        "address",
    )
    return tuple(changes.get(name, cell) for name, cell in zip(names, ANNA, strict=True))


def as_csv(
    rows: Iterable[Sequence[str]],
    *,
    header: Sequence[str] | None = HEADER,
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> bytes:
    """A file as a spreadsheet would write it."""
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter)
    table.writerows([*([header] if header else []), *rows])
    return text.getvalue().encode(encoding)


def many_rows(count: int, *, courses: int = 40, users: int = 2000) -> Iterator[tuple[str, ...]]:
    """Rows of a large site, newest first."""
    draw, moment = random.Random(count), datetime(2026, 7, 1, 12)  # noqa: DTZ001 - local on purpose
    for _ in range(count):
        moment -= timedelta(seconds=draw.randint(0, 25))
        user, course = draw.randrange(users), draw.randrange(1, courses + 1)
        event, component, context = draw.choice(KINDS)
        yield row(
            when=f"{moment.day}/{moment:%m/%y, %H:%M:%S}",
            user=f"Student {user:05}",
            context=context.format(course=course, thing=draw.randrange(300)),
            component=component,
            event=event,
            what=f"The user with id '{user + 10}' viewed the course with id '{course}'.",
            address=f"10.0.{user % 250}.{course}",
        )


def write_log(path: Path, count: int) -> Path:
    """Write a log of ``count`` events, without holding it in memory."""
    rows = many_rows(count)
    with path.open("wb") as file:
        file.write(as_csv([]))
        while piece := list(itertools.islice(rows, 10_000)):
            file.write(as_csv(piece, header=None))
    return path
