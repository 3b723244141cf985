"""The log: one stream on stderr, ours and the libraries', for people or machines."""

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog

from app.infrastructure.logging import configure_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers = [each for each in root.handlers if each.get_name() != "tidemill"]
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_events_carry_time_level_logger_facts_and_what_is_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("json", "info")
    structlog.contextvars.bind_contextvars(request_id="abc")

    structlog.get_logger("app.somewhere").info("upload.completed", size_bytes=3)

    (line,) = lines(capsys)
    assert line["event"] == "upload.completed"
    assert line["size_bytes"] == 3
    assert line["request_id"] == "abc"
    assert (line["level"], line["logger"]) == ("info", "app.somewhere")
    assert str(line["timestamp"]).endswith("Z")


def test_lines_of_libraries_come_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")

    logging.getLogger("some.package").warning("odd %s", "thing", extra={"color_message": "x"})

    (line,) = lines(capsys)
    assert (line["event"], line["logger"], line["level"]) == (
        "odd thing",
        "some.package",
        "warning",
    )
    assert "color_message" not in line


def test_chatter_is_left_out_and_its_warnings_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    for name in ("apscheduler.executors.default", "alembic.runtime.migration", "uvicorn.error"):
        logging.getLogger(name).info("Running job")
        logging.getLogger(name).error("trouble")
    logging.getLogger("uvicorn.access").info("GET /?token=secret")

    assert [line["event"] for line in lines(capsys)] == ["trouble"] * 3
    assert not logging.getLogger("uvicorn.access").hasHandlers()


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "warning")
    structlog.get_logger("app").info("a.told")
    logging.getLogger("lib").info("told")
    structlog.get_logger("app").warning("b.told")
    assert [line["event"] for line in lines(capsys)] == ["b.told"]


def test_a_second_configuration_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("console", "info")
    configure_logging("json", "info")
    structlog.get_logger("app").info("a.told")
    assert len(lines(capsys)) == 1


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_has_no_local_variables(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(log_format, "info")

    def fail() -> None:
        key = "hunter2"
        raise RuntimeError(len(key))

    try:
        fail()
    except RuntimeError:
        structlog.get_logger("app").exception("thing.failed")

    written = capsys.readouterr().err
    assert "RuntimeError: 7" in written
    assert "hunter2" not in written


def test_the_console_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("console", "info")
    structlog.get_logger("app").info("upload.completed", size_bytes=3)
    written = capsys.readouterr().err
    assert "upload.completed" in written
    assert "size_bytes=3" in written
    assert "\x1b[" not in written


def test_our_lines_and_those_of_libraries_have_the_same_members(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("json", "info", with_pid=True)
    structlog.get_logger("app").info("a.told")
    logging.getLogger("lib").info("told")
    ours, theirs = lines(capsys)
    members = {"event", "level", "logger", "pid", "timestamp"}
    # The test runner formats the record too, which leaves its text behind.
    assert set(ours) == set(theirs) - {"message"} == members


def test_facts_of_any_kind_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    structlog.get_logger("app").info(
        "a.told", at=datetime(2026, 1, 2, tzinfo=UTC), name="a\udcff\n"
    )
    (line,) = lines(capsys)
    assert str(line["at"]).startswith("datetime.datetime(2026, 1, 2")
    assert line["name"] == "a\udcff\n"


def test_a_log_that_nobody_takes_any_more_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    configure_logging("json", "info")
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed):
        monkeypatch.setattr(sys, "stderr", stream)
        structlog.get_logger("app").info("a.told")


def test_lines_of_several_threads_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")

    def tell(number: int) -> None:
        for _ in range(200):
            structlog.get_logger(f"app.{number}").info("a.told", text="x" * 300)
            logging.getLogger(f"lib.{number}").info("told")

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(capsys)) == 4 * 400


@pytest.mark.parametrize(
    "piece", ["\x1b[2J", "\x85", "\u2028", "\x0b", "\x0c", "\x00", "\u202e", "\n"]
)
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_a_client_names_neither_begins_a_line_nor_moves_the_cursor(
    log_format: str, piece: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(log_format, "info")
    log = structlog.get_logger("app.somewhere")
    log.info("request.finished", path=f"/a{piece}b")
    try:
        int(f"a{piece}b")
    except ValueError:
        log.exception("request.crashed")
    logging.getLogger("another.package").warning("a%sb", piece)
    written = capsys.readouterr().err
    assert "request.crashed" in written
    assert "another.package" in written
    assert all(each.isprintable() for each in written.split("\n")) or piece == "\n"
    assert "b\nb" not in written
    if log_format == "json":
        assert all(json.loads(line) for line in written.splitlines())


def test_a_log_without_a_stream_and_facts_of_strange_names_fail_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("json", "info")
    structlog.get_logger("app.somewhere").info("thing.told", facts={b"a": 1, (1, 2): 3})
    (line,) = lines(capsys)
    assert line["event"] == "thing.told"
    monkeypatch.setattr(sys, "stderr", None)
    for log_format in ("console", "json"):
        configure_logging(log_format, "info")
        structlog.get_logger("app.somewhere").info("thing.told")
