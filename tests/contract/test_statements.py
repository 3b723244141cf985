"""Statements run by the driver: what goes in and comes out is what SQLAlchemy would have made of it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    ColumnElement,
    Engine,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import (
    IntegrityError,
    InvalidRequestError,
    OperationalError,
    ProgrammingError,
    StatementError,
)

from app.domain.errors import ConflictingUpdate, InternalError
from app.domain.ids import new_id
from app.domain.sweeps import SweepName
from app.infrastructure.database.columns import EnumText, UtcDateTime
from app.infrastructure.database.connections import open_links
from app.infrastructure.database.faults import translate
from app.infrastructure.database.link import Link
from app.infrastructure.database.statements import Statement, in_lists
from app.infrastructure.database.tables import cleanup_pending, metadata, sweep_reports
from app.infrastructure.database.urls import parse_url
from tests.fakes.clock import NOON

STRANGE = "Grüße 'n' \"x\" 50% %s :id_ ? \\ \n 漢字 😀"
SAMPLES: dict[type[Any], Any] = {
    int: 2**31 - 1,
    float: 0.1 + 0.2,
    bool: True,
    dict: {"a": [1, None, STRANGE], "ü": {"deep": [True, 1.5]}},
    datetime: NOON + timedelta(microseconds=123457),
}
RESTRICTED: dict[str, dict[str, Any]] = {
    "job_inputs": {"output_id": None},
    "delivered_spans": {"span_start": 3, "span_end": 2**40},
    "instance": {"singleton": 1},
}


@pytest.fixture
def link(url: str) -> Iterator[Link]:
    link = open_links(parse_url(url), writer=True, busy_seconds=1)()
    link.begin()
    yield link
    link.rollback()
    link.close()


def sample(column: Column[Any]) -> Any:
    if isinstance(column.type, EnumText):
        kind: type[StrEnum] = column.type.enum
        members = list(kind)
        return members[-1]
    if isinstance(column.type, UtcDateTime):
        return SAMPLES[datetime]
    kind = column.type.python_type
    return SAMPLES.get(kind, new_id() if getattr(column.type, "length", None) == 32 else STRANGE)


def rows_of(table: Table, parents: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row with a value in every column, and one with NULL wherever that may be."""
    full = {column.key: sample(column) for column in table.c}
    for column in table.c:
        for key in column.foreign_keys:
            full[column.key] = parents[key.column.table.name][key.column.key]
    full |= RESTRICTED.get(table.name, {})
    if table.name in {"instance", "batches", "kept_clips"}:
        return [full]  # there is one row, a session has one batch, an owner one clip of a key
    bare = full | {column.key: None for column in table.c if column.nullable}
    bare |= {key.name: new_id() for key in table.primary_key if isinstance(key.type, String)}
    if table.name == "job_inputs":
        bare |= {"position": 1, "output_id": new_id(), "job_id": full["job_id"]}
    if table.name == "delivered_spans":
        bare |= {"output_id": full["output_id"]}
    return [full, bare]


def by_key(table: Table, values: dict[str, Any]) -> list[ColumnElement[bool]]:
    return [column == values[column.key] for column in table.primary_key]


def test_every_column_of_every_table_takes_and_gives_what_it_does_for_sqlalchemy(
    link: Link, engine: Engine
) -> None:
    parents: dict[str, dict[str, Any]] = {}
    written: list[tuple[Table, dict[str, Any]]] = []
    for table in metadata.sorted_tables:
        rows = rows_of(table, parents)
        parents[table.name] = rows[0]
        for values in rows:
            link.change(Statement(insert(table)), values)
            written.append((table, values))
    link.commit()
    with engine.connect() as connection:
        for table, values in written:
            query = select(table).where(*by_key(table, values))
            expected = [dict(row) for row in connection.execute(query).mappings()]
            assert expected == [values], table.name
            found = link.rows(Statement(query))
            assert found == expected, table.name
            assert [type(value) for value in found[0].values()] == [
                type(value) for value in expected[0].values()
            ], table.name


def test_one_statement_sets_what_its_values_name(link: Link) -> None:
    pending = {column.key: sample(column) for column in cleanup_pending.c} | {"attempts": 1}
    add = Statement(insert(cleanup_pending))
    link.insert_all(add, [pending | {"path": path} for path in "abc"])
    change = Statement(update(cleanup_pending).where(cleanup_pending.c.path == bindparam("path_")))
    assert link.change(change, {"path_": "a", "reason": "because"}) == 1
    assert link.change(change, {"path_": "a", "attempts": 7, "last_error": None}) == 1
    assert link.change(change, {"path_": "gone", "attempts": 8}) == 0
    found = Statement(select(cleanup_pending).order_by(cleanup_pending.c.path))
    changed = {"path": "a", "reason": "because", "attempts": 7, "last_error": None}
    assert link.rows(found) == [
        pending | changed,
        pending | {"path": "b"},
        pending | {"path": "c"},
    ]
    assert link.change(Statement(delete(cleanup_pending)), {}) == 3
    assert link.rows(found) == []
    assert link.first(found) is None
    assert link.value(Statement(select(func.count()).select_from(cleanup_pending))) == 0


def test_a_list_may_have_any_length(link: Link) -> None:
    pending = {column.key: sample(column) for column in cleanup_pending.c}
    paths = [f"{number:04}" for number in range(1100)]
    link.insert_all(Statement(insert(cleanup_pending)), [pending | {"path": p} for p in paths])
    path = cleanup_pending.c.path
    query = Statement(select(path).where(path.in_(bindparam("paths_", expanding=True))))
    for count in (1, 2, 3, 9, 600, 1100):
        found = [
            row["path"]
            for some in in_lists(paths[:count])
            for row in link.rows(query, {"paths_": some})
        ]
        assert sorted(found) == paths[:count]
    assert link.rows(query, {"paths_": []}) == []


def test_a_list_of_enums_and_a_list_that_is_fixed_mean_what_they_say(link: Link) -> None:
    report = {column.key: sample(column) for column in sweep_reports.c}
    add = Statement(insert(sweep_reports))
    link.insert_all(add, [report | {"id": new_id(), "sweep": sweep} for sweep in SweepName])
    one, other = list(SweepName)[:2]
    sweep = sweep_reports.c.sweep
    fixed = Statement(select(sweep).where(sweep.in_([one, other])))
    given = Statement(select(sweep).where(sweep.in_(bindparam("sweeps_", expanding=True))))
    assert {row["sweep"] for row in link.rows(fixed)} == {one, other}
    assert {row["sweep"] for row in link.rows(given, {"sweeps_": [other]})} == {other}


@given(st.lists(st.uuids().map(str), max_size=1300))
def test_lists_have_few_lengths_and_all_ids(ids: list[str]) -> None:
    lists = in_lists(ids)
    assert {each for some in lists for each in some} == set(ids)
    assert {len(some) for some in lists} <= {2**power for power in range(10)}


def test_what_the_driver_refuses_is_raised_as_sqlalchemy_does(link: Link) -> None:
    pending = {column.key: sample(column) for column in cleanup_pending.c}
    add = Statement(insert(cleanup_pending))
    link.change(add, pending)
    link.commit()
    link.begin()
    with pytest.raises(IntegrityError) as twice:
        link.change(add, pending)
    assert isinstance(translate(twice.value), ConflictingUpdate)
    link.rollback()
    link.begin()
    with pytest.raises((OperationalError, ProgrammingError)) as unknown:
        link.rows(Statement(text("SELECT nothing FROM nowhere")))
    assert isinstance(translate(unknown.value), InternalError)
    link.rollback()


def test_a_value_that_no_column_takes_is_an_error_of_the_statement(link: Link) -> None:
    pending = {column.key: sample(column) for column in cleanup_pending.c}
    add = Statement(insert(cleanup_pending))
    naive = pending | {"created_at": datetime(2026, 1, 1)}  # noqa: DTZ001
    for run in (lambda: link.change(add, naive), lambda: link.insert_all(add, [pending, naive])):
        with pytest.raises(StatementError) as caught:
            run()
        assert isinstance(caught.value.orig, ValueError)


def test_a_value_that_is_missing_is_an_error_and_not_null(link: Link) -> None:
    query = Statement(select(cleanup_pending).where(cleanup_pending.c.path == bindparam("path_")))
    with pytest.raises(InvalidRequestError, match="path_"):
        link.rows(query)
