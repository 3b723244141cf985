"""The phases of a stop: limited, told, and none of them in the way of the next."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest
import structlog
from structlog.testing import capture_logs

from app.domain.errors import DatabaseBusy
from app.services.cancellation import uninterrupted
from app.services.stop_phases import stop_phase


async def _quick() -> None:
    await asyncio.sleep(0)


async def _endless() -> None:
    await asyncio.Event().wait()


async def _busy() -> None:
    raise DatabaseBusy


async def _broken() -> None:
    raise RuntimeError("a bug")


SHORT = (_quick, _busy)
"""What is over soon, also on a machine that has much to do."""


def _deaf() -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        await uninterrupted(asyncio.sleep(3))

    return work


@contextmanager
def everything_logged() -> Iterator[None]:
    """Whatever another test of this process has made of the log's level."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        yield
    finally:
        structlog.configure(**before)


async def _run(*works: Callable[[], Awaitable[None]]) -> list[dict[str, object]]:
    """Run phases named by their number, in this order; returns what they logged."""
    with everything_logged(), capture_logs() as lines:
        async with AsyncExitStack() as stack:
            for number, work in reversed(list(enumerate(works))):
                limit = 1.0 if work in SHORT else 0.05
                stack.push_async_callback(stop_phase, str(number), limit, work)
    return [dict(line) for line in lines]


async def test_each_phase_says_how_long_it_took() -> None:
    lines = await _run(_quick, _quick)
    assert [(line["event"], line["phase"]) for line in lines] == [
        ("stop.phase_ended", "0"),
        ("stop.phase_ended", "1"),
    ]
    assert all(isinstance(line["seconds"], float) for line in lines)


async def test_a_phase_past_its_limit_is_cancelled_and_the_next_one_runs() -> None:
    lines = await _run(_endless, _quick)
    assert [(line["event"], line["phase"]) for line in lines] == [
        ("stop.phase_late", "0"),
        ("stop.phase_ended", "1"),
    ]


async def test_a_phase_that_heeds_no_cancellation_is_left_behind() -> None:
    began = time.monotonic()
    lines = await _run(_deaf(), _quick)
    assert time.monotonic() - began < 10
    assert [line["event"] for line in lines] == ["stop.phase_late", "stop.phase_ended"]


async def test_expected_trouble_is_told_and_the_next_phase_runs() -> None:
    lines = await _run(_busy, _quick)
    assert [line["event"] for line in lines] == ["stop.phase_failed", "stop.phase_ended"]
    assert lines[0]["code"] == DatabaseBusy.code


async def test_a_bug_in_a_phase_comes_out_after_the_next_ones_have_run() -> None:
    ran = []

    async def last() -> None:
        ran.append(True)

    with pytest.raises(RuntimeError, match="a bug"):
        await _run(_broken, last)
    assert ran == [True]
