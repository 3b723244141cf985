"""Work that a cancellation waits for."""

import asyncio

import pytest

from app.services.cancellation import uninterrupted


async def test_the_result_comes_through() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await uninterrupted(work()) == 7


async def test_an_error_comes_through() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await uninterrupted(work())


async def test_a_cancellation_waits_for_the_end_and_then_goes_on() -> None:
    gate, seen = asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        seen.append("end")

    async def call() -> None:
        try:
            await uninterrupted(work())
        finally:
            seen.append("cancelled")

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["end", "cancelled"]


async def test_a_cancellation_hides_a_failure_that_nobody_waits_for() -> None:
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()
        raise ZeroDivisionError

    task = asyncio.create_task(uninterrupted(work()))
    await asyncio.sleep(0)
    task.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
