"""The three steps of the log job in this process: what goes in, what comes out, in constant memory."""

import csv
import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import LogWithoutEvents
from app.infrastructure.moodle import records
from app.infrastructure.moodle.reading import read_export
from app.infrastructure.moodle.sorting import sort_events
from app.infrastructure.moodle.writing import write_results
from app.operations.moodle.columns import CODES
from app.operations.moodle.export_head import HEAD_BYTES, look_at_export
from tests.fakes.moodle_logs import ANNA, HEADER, as_csv, header_of, many_rows, row


class Result:
    """What one ZIP has inside."""

    def __init__(self, path: Path, reported: list[float]) -> None:
        self.reported = reported
        self.bytes = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            self.names = archive.namelist()
            self.files = {name: archive.read(name) for name in self.names}
        self.events = table(self.files["events.csv"])
        self.rejected = table(self.files["rejected.csv"])
        self.summary: dict[str, Any] = json.loads(self.files["summary.json"])

    @property
    def reasons(self) -> Counter[str]:
        return Counter(each["reason"] for each in self.rejected)


def table(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def process(folder: Path, data: bytes, *, anonymise: bool = False, **wish: Any) -> Result:
    """Run all three steps on ``data``."""
    source, raw, ordered, target = (
        folder / name for name in ("log", "raw.db", "sorted.db", "out.zip")
    )
    for path in (raw, ordered, target):
        path.unlink(missing_ok=True)
    source.write_bytes(data)
    reported: list[float] = []
    head = look_at_export(data[:HEAD_BYTES], len(data))
    read_export(source, raw, head, anonymise=anonymise, report=reported.append)
    wishes = {"case": "user-course", "timezone": "Europe/Berlin", "date_order": None, **wish}
    sort_events(raw, ordered, wishes, report=reported.append)
    write_results(raw, ordered, target, report=reported.append)
    return Result(target, reported)


def test_a_log_becomes_events_sorted_by_case_and_time(tmp_path: Path) -> None:
    rows = [
        row(when="6/03/26, 9:00:00", event="Quiz attempt submitted", context="Quiz: Final"),
        row(when="5/03/26, 11:00:00", user="Bo Li", what="The user with id '7' viewed the page."),
        ANNA,
    ]
    result = process(tmp_path, as_csv(rows))
    assert result.names == ["events.csv", "events.xes", "summary.json", "rejected.csv"]
    assert [tuple(each.values()) for each in result.events] == [
        (
            *("Anna Ågren / Algebra", "Course viewed", "2026-03-05T09:15:00Z", "Anna Ågren"),
            *("System", "Course: Algebra", "web"),
        ),
        (
            *("Anna Ågren / Algebra", "Quiz attempt submitted", "2026-03-06T08:00:00Z"),
            *("Anna Ågren", "System", "Quiz: Final", "web"),
        ),
        (
            *("Bo Li / Algebra", "Course viewed", "2026-03-05T10:00:00Z", "Bo Li"),
            *("System", "Course: Algebra", "web"),
        ),
    ]
    summary = result.summary
    assert (summary["events"], summary["cases"], summary["users"], summary["courses"]) == (
        3,
        2,
        2,
        1,
    )
    assert (summary["first"], summary["last"]) == ("2026-03-05T09:15:00Z", "2026-03-06T08:00:00Z")
    assert summary["activities"][0] == {"activity": "Course viewed", "events": 2}
    assert summary["decisions"]["date_order_by"] == "assumed"
    assert result.rejected == []


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(",", "utf-8-sig"), (";", "utf-16"), ("\t", "windows")]
)
def test_every_language_gives_the_same_events(
    tmp_path: Path, language: str, delimiter: str, encoding: str
) -> None:
    pages = {"pl": "cp1250", "cs": "cp1250", "ru": "cp1251", "el": "cp1253", "tr": "cp1254"}
    written = pages.get(language, "cp1252") if encoding == "windows" else encoding
    name = "Öztürk" if language in {"tr", "de", "sv"} else "Anna"
    rows = [row(user=name, when=f"{day}/03/26, 10:15") for day in (20, 19, 1)]
    data = as_csv(rows, header=header_of(language), delimiter=delimiter, encoding=written)
    result = process(tmp_path, data)
    assert [each["timestamp"] for each in result.events] == [
        f"2026-03-{day:02}T09:15:00Z" for day in (1, 19, 20)
    ]
    assert {each["resource"] for each in result.events} == {name}
    assert result.summary["decisions"]["language"] == language


@pytest.mark.parametrize(
    ("case", "cases"),
    [
        ("user", {"Anna", "Bo"}),
        ("course", {"Algebra", "Biology"}),
        ("user-course", {"Anna / Algebra", "Anna / Biology", "Bo / Algebra"}),
    ],
)
def test_a_case_is_a_user_a_course_or_both(tmp_path: Path, case: str, cases: set[str]) -> None:
    rows = [
        row(user="Anna", context="Course: Algebra", what=""),
        row(user="Anna", context="Course: Biology", what=""),
        row(user="Bo", context="Course: Algebra", what=""),
    ]
    assert {each["case"] for each in process(tmp_path, as_csv(rows), case=case).events} == cases


def test_two_of_one_name_are_two_and_one_is_one(tmp_path: Path) -> None:
    seen = "The user with id '{}' viewed the course with id '2'."
    rows = [
        *(row(user="Anna", what=seen.format(5)), row(user="Anna", what=seen.format(6))),
        *(row(user="Bo", what=seen.format(7)), row(user="Bo", what="Something.")),
    ]
    events = process(tmp_path, as_csv(rows), case="user").events
    assert {each["case"] for each in events} == {"Anna (5)", "Anna (6)", "Bo"}


def test_a_course_known_by_its_id_alone_has_the_name_it_has_elsewhere(tmp_path: Path) -> None:
    rows = [
        row(context="Course: Algebra", what="The user with id '5' viewed the course with id '2'."),
        row(context="Quiz: One", what="The user with id '5' did it in the course with id '2'."),
        row(context="Quiz: Two", what="The user with id '5' did it in the course with id '3'."),
        row(context="Quiz: Three", what="Nothing is said."),
    ]
    events = process(tmp_path, as_csv(rows), case="course").events
    found = {each["context"]: each["case"] for each in events}
    assert found == {
        "Course: Algebra": "Algebra",
        "Quiz: One": "Algebra",
        "Quiz: Two": "course 3",
        "Quiz: Three": "(no course)",
    }


def test_within_a_second_what_happened_first_comes_first(tmp_path: Path) -> None:
    newest_first = [
        row(event="third", when="5/03/26, 10:15:01"),
        *(row(event="second"), row(event="first")),
    ]
    events = process(tmp_path, as_csv(newest_first)).events
    assert [each["activity"] for each in events] == ["first", "second", "third"]
    oldest_first = newest_first[::-1]
    events = process(tmp_path, as_csv(oldest_first)).events
    assert [each["activity"] for each in events] == ["first", "second", "third"]


def test_hours_that_the_clocks_show_twice_or_skip_are_counted(tmp_path: Path) -> None:
    rows = [
        row(when="25/10/26, 2:30:00"),  # twice: summer time comes first
        row(when="29/03/26, 2:30:00"),  # never
        row(when="29/03/26, 1:59:59"),
    ]
    result = process(tmp_path, as_csv(rows))
    stamps = [each["timestamp"] for each in result.events]
    assert stamps == ["2026-03-29T00:59:59Z", "2026-03-29T01:30:00Z", "2026-10-25T00:30:00Z"]
    decisions = result.summary["decisions"]
    assert (decisions["times_twice"], decisions["times_skipped"]) == (1, 1)


def test_times_with_an_offset_go_by_it_and_others_need_a_timezone(tmp_path: Path) -> None:
    rows = [row(when="2026-03-05T10:15:00+05:30"), row(when="2026-03-05T10:15:00")]
    result = process(tmp_path, as_csv(rows))
    assert [each["timestamp"] for each in result.events] == [
        "2026-03-05T04:45:00Z",
        "2026-03-05T09:15:00Z",
    ]
    result = process(tmp_path, as_csv(rows), timezone=None)
    assert len(result.events) == 1
    assert result.reasons == {"no_timezone": 1}


def test_the_order_of_day_and_month_may_be_told(tmp_path: Path) -> None:
    rows = [row(when="3/04/26, 10:00"), row(when="13/04/26, 10:00")]
    result = process(tmp_path, as_csv(rows), date_order="month-first", timezone="UTC")
    assert [each["timestamp"] for each in result.events] == ["2026-03-04T10:00:00Z"]
    assert [(each["line"], each["reason"]) for each in result.rejected] == [("3", "no_such_day")]


def test_what_cannot_be_read_is_rejected_with_its_line_and_reason(tmp_path: Path) -> None:
    good = as_csv([ANNA], header=None)
    data = b"".join(
        (
            as_csv([ANNA]),  # 1, 2
            b"only,three,fields\r\n",  # 3
            as_csv([(*ANNA, "and", "more")], header=None),  # 4
            as_csv([(*ANNA, "", "")], header=None),  # 5: empty ones are no harm
            as_csv([row(when="some day")], header=None),  # 6
            as_csv([row(event="")], header=None),  # 7
            as_csv([HEADER], header=None),  # 8
            b"\r\n\r\n",  # 9, 10: empty lines are nobody's loss
            as_csv([row(user='two\r\nlines, "quoted"')], header=None),  # 11, 12
            b'"never closed\r\n',  # 13
            good * 3,  # 14 to 16
        )
    )
    result = process(tmp_path, data)
    assert [(each["line"], each["reason"]) for each in result.rejected] == [
        *(("3", "too_few_fields"), ("4", "too_many_fields"), ("6", "unreadable_time")),
        *(("7", "no_event_name"), ("8", "repeated_header"), ("13", "quote_never_closed")),
    ]
    assert result.rejected[0]["detail"] == "3 fields where 9 were expected"
    assert len(result.events) == 6
    assert 'two lines, "quoted"' in {each["resource"] for each in result.events}


def test_bytes_of_another_encoding_cost_their_line_alone(tmp_path: Path) -> None:
    lines = [as_csv([row(user=name)], header=None) for name in ("Ågren", "Łukasz")]
    wrong = as_csv([row(user="Ågren")], header=None, encoding="cp1252")
    result = process(tmp_path, as_csv([]) + lines[0] + wrong + lines[1])
    assert result.reasons == {"not_in_the_encoding": 1}
    assert {each["resource"] for each in result.events} == {"Ågren", "Łukasz"}
    # The first that is not ASCII decides: here it is Windows'.
    result = process(tmp_path, as_csv([ANNA[:1] + ("x",) * 8]) + wrong)
    assert result.summary["decisions"]["encoding"] == "cp1252"
    assert {each["resource"] for each in result.events} == {"x", "Ågren"}


def test_hostile_cells_become_harmless(tmp_path: Path) -> None:
    formula = '=HYPERLINK("http://127.0.0.1")'
    rows = [
        row(user=formula, event="+1", component="@SUM(A1)", context="-2", origin="\tx"),
        row(user="N\x00U\x07L\x85", event="<b>&\u2028"),
        row(user="=1", when="=1+1"),
    ]
    result = process(tmp_path, as_csv(rows), case="user")
    cells = {cell for each in (*result.events, *result.rejected) for cell in each.values()}
    assert f"'{formula}" in cells
    assert not [cell for cell in cells if cell and cell[0] in "=+-@\t\r"]
    assert "N U L" in {each["resource"] for each in result.events}
    assert b"&lt;b&gt;&amp;" in result.files["events.xes"]


def test_a_line_without_an_end_is_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_BYTES", 10_000)
    good = as_csv([ANNA], header=None)
    data = (
        as_csv([ANNA]) + b"x" * 300_000 + b"\n" + good + b'"' + good * 200 + b"x," * 4_500 + b"\n"
    )
    result = process(tmp_path, data)
    assert result.reasons == {"too_long": 1, "quote_never_closed": 1, "too_many_fields": 1}
    assert len(result.events) == 201


def test_a_log_of_which_nothing_is_left_fails_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(LogWithoutEvents) as caught:
        process(tmp_path, as_csv([row(when="never")] * 3))
    assert caught.value.extra == {"rejected": 3, "reasons": {"unreadable_time": 3}}
    with pytest.raises(LogWithoutEvents):
        process(tmp_path, as_csv([row(when="13/01/26, 10:00")]), date_order="month-first")


def test_with_pseudonyms_no_name_id_or_address_is_anywhere(tmp_path: Path) -> None:
    secrets = ("Anna", "Ågren", "Bo Li", "Algebra", "10.0.0.1", "4711", "'2'", "4712")
    rows = [
        row(what="The user with id '4711' viewed the course with id '2'."),
        row(user="Bo Li", affected="Anna Ågren", context="User: Anna Ågren", what="4712"),
        row(when="Anna Ågren"),
        ANNA[:3],
        (*ANNA, "Anna Ågren"),
    ]
    data = as_csv(rows)
    result = process(tmp_path, data, anonymise=True)
    raw = (tmp_path / "raw.db").read_bytes() + (tmp_path / "sorted.db").read_bytes()
    for secret in secrets:
        assert secret.encode() not in raw, secret
        for name, content in result.files.items():
            assert secret.encode() not in content, (name, secret)
    anna, bo = (next(e for e in result.events if e["context"].startswith(w)) for w in ("C", "U"))
    assert bo["context"] == f"User: {anna['resource']}"
    assert anna["resource"] != bo["resource"]
    again = process(tmp_path, data, anonymise=True)
    assert {each["resource"] for each in again.events}.isdisjoint({anna["resource"]})


def test_the_same_log_makes_the_same_bytes(tmp_path: Path) -> None:
    data = as_csv(many_rows(500))
    assert process(tmp_path, data).bytes == process(tmp_path, data).bytes


def test_process_mining_tools_open_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    data = as_csv(
        [*many_rows(300, courses=2, users=10), row(user="<&\"'>\x0b", event="Ünïcode 😀")]
    )
    result = process(tmp_path, data)
    path = tmp_path / "events.xes"
    path.write_bytes(result.files["events.xes"])
    found = open_with_pm4py(path)
    assert len(found) == 301
    assert found["case:concept:name"].nunique() == result.summary["cases"]
    for ours, theirs in (
        *(("case", "case:concept:name"), ("activity", "concept:name")),
        *(("resource", "org:resource"), ("component", "component")),
        *(("context", "context"), ("origin", "origin")),
    ):
        assert sorted(found[theirs]) == sorted(each[ours] for each in result.events)
    stamps = found["time:timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert sorted(stamps) == sorted(each["timestamp"] for each in result.events)
    assert set(found["lifecycle:transition"]) == {"complete"}


def open_with_pm4py(path: Path) -> Any:
    """Read a log as process miners do, and find something in it."""
    import pm4py  # noqa: PLC0415 - it takes seconds

    log = pm4py.read_xes(str(path))
    graph, starts, ends = pm4py.discover_dfg(log)
    assert graph
    assert sum(starts.values()) == sum(ends.values()) == log["case:concept:name"].nunique()
    return log
