"""Statements that are compiled once, and the shapes that repositories share.

SQLAlchemy is what statements are written in, and what turns them into text and values into what the
driver takes and back. Executing through it costs ten times what SQLite does for a row, so that part
is done here and in ``link``: a call costs a look-up, its parameters and the driver.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import ClauseElement, Dialect, Select, Table, bindparam, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from app.services.ports import Cursor

Values = Mapping[str, Any]
"""The parameters of a statement; for an insert or update those of columns, too."""

Row = dict[str, Any]
"""One row of an answer by the names of its columns."""

_Process = Callable[[Any], Any]


class Statement:
    """A statement and the forms it has been given; made once, and used by any thread.

    ``others``: what reads differently in a dialect, by its name. An insert or update sets the columns
    that its values name. A value for an expanding parameter is a list, and each length of it makes
    one form more: callers see to it that there are few.
    """

    __slots__ = ("_core", "_forms", "_others")

    def __init__(self, core: ClauseElement, **others: ClauseElement) -> None:
        self._core = core
        self._others = others
        self._forms: dict[tuple[str, ...], Form | dict[tuple[int, ...], Form]] = {}

    def form(self, dialect: Dialect, values: Values) -> "Form":
        """Return what to run for values of these names."""
        key = (dialect.name, *values)
        form = self._forms.get(key)
        if form is None:
            # Two threads may come here at once: they make the same.
            form = self._compile(dialect, values)
            self._forms[key] = {_lengths(values): form} if form.has_lists else form
        elif isinstance(form, dict):
            lengths = _lengths(values)
            if lengths not in form:
                form[lengths] = self._compile(dialect, values)
            return form[lengths]
        return form

    def _compile(self, dialect: Dialect, values: Values) -> "Form":
        core = self._others.get(dialect.name, self._core)
        return Form(core, dialect, values)


class Form:
    """A statement as one driver takes it: its text, its parameters and its columns."""

    __slots__ = (
        "_columns",
        "_constants",
        "_dialect",
        "_inputs",
        "_lists",
        "_names",
        "_outputs",
        "text",
    )

    def __init__(self, core: ClauseElement, dialect: Dialect, values: Values) -> None:
        compiled = cast("SQLCompiler", core.compile(dialect=dialect, column_keys=list(values)))
        state = compiled.construct_expanded_state(dict(values))
        self.text: str = state.statement
        self._dialect = dialect
        self._lists = {
            name: tuple(parts)
            for name, parts in state.parameter_expansion.items()
            if name in values
        }
        given = {*values, *(part for parts in self._lists.values() for part in parts)}
        # A driver takes parameters by their places in the text, or by their names.
        places: list[tuple[Any, str]] = (
            list(enumerate(state.positiontup))
            if state.positiontup is not None
            else [(name, name) for name in state.parameters]
        )
        # Those of lists are told by the state, for each part; the others by the types.
        processes = cast("dict[str, _Process | None]", dict(state.processors))
        for bind, name in compiled.bind_names.items():
            processes[name] = bind.type.dialect_impl(dialect).bind_processor(dialect)
        self._inputs = tuple(
            (place, name, processes.get(name)) for place, name in places if name in given
        )
        self._constants: Any = {} if state.positiontup is None else [None] * len(places)
        for place, name in places:
            if name not in given:
                process, value = processes.get(name), state.parameters[name]
                self._constants[place] = value if process is None else process(value)
        chosen = core.selected_columns if isinstance(core, Select) else ()
        self._names = tuple(str(column.key) for column in chosen)
        self._columns: tuple[TypeEngine[Any], ...] = tuple(column.type for column in chosen)
        self._outputs: tuple[tuple[int, _Process], ...] | None = None

    @property
    def has_lists(self) -> bool:
        """Whether the text depends on the lengths of lists among the values."""
        return bool(self._lists)

    def parameters(self, values: Values) -> Any:
        """Return what the driver takes for the values."""
        if self._lists:
            values = dict(values)
            for name, parts in self._lists.items():
                values |= zip(parts, values[name], strict=True)
        parameters = self._constants.copy()
        for place, name, process in self._inputs:
            value = values[name]
            parameters[place] = value if process is None else process(value)
        return parameters

    def rows(self, cursor: DBAPICursor) -> list[Row]:
        """Return all rows that the driver has for the statement."""
        found = cursor.fetchall()
        if not found:
            return []
        outputs = self._outputs
        if outputs is None:
            # Only now the driver tells what it makes of the columns.
            outputs = self._outputs = self._find_outputs(cursor)
        names = self._names
        rows = []
        for each in found:
            cells = list(each)
            for place, process in outputs:
                cells[place] = process(cells[place])
            rows.append(dict(zip(names, cells, strict=True)))
        return rows

    def _find_outputs(self, cursor: DBAPICursor) -> tuple[tuple[int, _Process], ...]:
        described = cursor.description or ()
        found = (
            (place, column.dialect_impl(self._dialect).result_processor(self._dialect, told[1]))
            for place, (column, told) in enumerate(zip(self._columns, described, strict=True))
        )
        return tuple((place, process) for place, process in found if process is not None)


def _lengths(values: Values) -> tuple[int, ...]:
    return tuple(len(value) for value in values.values() if isinstance(value, list))


def insert_missing(table: Table) -> Statement:
    """Return the insert that does nothing where a row's like is there."""
    # ON CONFLICT DO NOTHING reads the same on both; only SQLAlchemy has a class for each.
    return Statement(
        sqlite.insert(table).on_conflict_do_nothing(),
        postgresql=postgresql.insert(table).on_conflict_do_nothing(),
    )


def newest_first(table: Table, query: Select[Any]) -> tuple[Statement, Statement]:
    """Return the statements for the first page and for a page after a cursor, newest first.

    Both take ``limit_``; the second also ``after_at`` and ``after_id`` (see ``page_values``).
    """
    created_at, row_id = table.c.created_at, table.c.id
    first = query.order_by(created_at.desc(), row_id.desc()).limit(bindparam("limit_"))
    after = tuple_(
        bindparam("after_at", type_=created_at.type), bindparam("after_id", type_=row_id.type)
    )
    return Statement(first), Statement(first.where(tuple_(created_at, row_id) < after))


def page_values(cursor: Cursor | None, limit: int) -> dict[str, Any]:
    """Return the parameters of one page."""
    values: dict[str, Any] = {"limit_": limit}
    if cursor is not None:
        values |= {"after_at": cursor.created_at, "after_id": cursor.id}
    return values


_LONGEST = 512
"""Ids per IN list: old builds of SQLite take no more than 999 parameters."""


def in_lists(ids: Sequence[str]) -> list[list[str]]:
    """Return ids in lists for an expanding parameter: of few lengths, the last id repeated."""
    lists = []
    for start in range(0, len(ids), _LONGEST):
        some = list(ids[start : start + _LONGEST])
        lists.append(some + some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some)))
    return lists
