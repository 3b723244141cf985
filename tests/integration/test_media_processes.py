"""Children under real kills, cancellations and limits, at every level of isolation there is here."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from app.domain.errors import NotReady
from app.infrastructure.media.process_output import activity
from app.infrastructure.media.process_runner import Command, Finished, ProcessLimits, ProcessRunner
from app.infrastructure.media.sandbox import (
    Sandbox,
    SandboxLevel,
    SandboxUnavailableError,
    candidates,
    detect_sandbox,
    works,
)
from tests.fakes.measured import assert_soon_within

pytestmark = pytest.mark.own_commands

LEVELS = [s for s in [*candidates(), Sandbox(SandboxLevel.LIMITS)] if works(s)]
ROOT = Path(__file__).parents[2]
FAMILY = "sleep 600 & sleep 601 & echo ready; wait"


def members(session: int) -> list[psutil.Process]:
    """Return the living processes of a session; a zombie that nobody reaped counts."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


async def until_gone(session: int, *, seconds: float = 3.0) -> None:
    async with asyncio.timeout(seconds):
        while members(session):  # noqa: ASYNC110  (processes have no event)
            await asyncio.sleep(0.02)


@pytest.fixture(params=LEVELS, ids=lambda s: s.level.value)
async def runner(request: pytest.FixtureRequest) -> AsyncIterator[ProcessRunner]:
    opened = ProcessRunner(request.param)
    yield opened
    await opened.close()


def shell(folder: Path, script: str, **limits: int) -> Command:
    return Command(("/bin/sh", "-c", script), folder, limits=ProcessLimits(**limits))


async def run(runner: ProcessRunner, command: Command) -> tuple[Finished, bytes]:
    out = bytearray()
    async with runner.start(command, on_stdout=out.extend) as child:
        finished = await child.wait()
    return finished, bytes(out)


async def test_a_command_gives_back_its_output_and_whether_it_succeeded(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    finished, out = await run(runner, shell(tmp_path, "echo out; echo err >&2; echo x > made"))
    assert (finished.succeeded, finished.stderr, out) == (True, "err", b"out\n")
    assert (tmp_path / "made").read_text() == "x\n"
    finished, _ = await run(runner, shell(tmp_path, "exit 3"))
    assert not finished.succeeded


async def test_a_flood_on_stderr_neither_blocks_nor_fills_memory(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo /secret/path/$i line $i >&2; i=$((i+1)); done"
    finished, _ = await run(runner, shell(tmp_path, script))
    assert finished.succeeded
    assert finished.stderr.endswith("<file> line 19999")
    assert "/secret" not in finished.stderr
    assert len(finished.stderr) < 2000


async def test_leaving_the_block_kills_a_whole_family_that_ignores_term(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    async def leave() -> list[float]:
        begun = asyncio.Event()
        script = f"trap '' TERM; {FAMILY}"
        async with runner.start(shell(tmp_path, script), on_stdout=lambda _: begun.set()) as child:
            await begun.wait()
            assert len(members(child.pid)) >= 3
            started = time.monotonic()
        assert members(child.pid) == []
        return [time.monotonic() - started]

    await assert_soon_within(3, leave)


async def test_cancelling_the_caller_reaps_the_family_before_it_returns(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        command = shell(tmp_path, FAMILY)
        ready = asyncio.Event()
        async with runner.start(command, on_stdout=lambda _: ready.set()) as child:
            await ready.wait()
            begun.set_result(child.pid)
            await child.wait()

    task = asyncio.ensure_future(work())
    session = await begun
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert members(session) == []


def children_since(before: set[psutil.Process]) -> set[psutil.Process]:
    """Child processes that were not there before: other tests keep a database server running."""
    return set(psutil.Process().children(recursive=True)) - before


async def test_a_cancel_while_the_child_is_being_started_leaves_nothing(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    before = children_since(set())
    for delay in (0, 0.001, 0.005, 0.02):
        task = asyncio.ensure_future(run(runner, shell(tmp_path, FAMILY)))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert children_since(before) == set()


async def test_what_a_command_leaves_behind_ends_with_it(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    before = children_since(set())
    script = "sleep 600 & setsid sleep 601 & echo done"
    finished, out = await run(runner, shell(tmp_path, script))
    assert (finished.succeeded, out) == (True, b"done\n")
    assert children_since(before) == set()


async def test_closing_ends_everything_and_starts_nothing_more(tmp_path: Path) -> None:
    before = children_since(set())
    runner = ProcessRunner(detect_sandbox())
    tasks = [asyncio.ensure_future(run(runner, shell(tmp_path, FAMILY))) for _ in range(3)]
    async with asyncio.timeout(20):
        while len(children_since(before)) < 3:  # noqa: ASYNC110  (processes have no event)
            await asyncio.sleep(0.01)
    await runner.close()
    assert children_since(before) == set()
    assert [r[0].succeeded for r in await asyncio.gather(*tasks)] == [False] * 3
    with pytest.raises(NotReady):
        await run(runner, shell(tmp_path, "true"))


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 20])
async def test_closing_while_a_child_is_being_started_leaves_nothing(
    tmp_path: Path, turns: int
) -> None:
    before = children_since(set())
    runner = ProcessRunner(Sandbox(SandboxLevel.LIMITS))
    task = asyncio.ensure_future(run(runner, shell(tmp_path, FAMILY)))
    for _ in range(turns):
        await asyncio.sleep(0)
    await runner.close()
    assert children_since(before) == set()
    assert not (await task)[0].succeeded


HOST = """
import asyncio, sys
from pathlib import Path
from app.infrastructure.media.process_runner import Command, ProcessRunner
from app.infrastructure.media.sandbox import Sandbox, SandboxLevel
async def main():
    level, bubblewrap, folder, family = sys.argv[1:]
    sandbox = Sandbox(SandboxLevel(level), Path(bubblewrap) if bubblewrap else None)
    runner = ProcessRunner(sandbox)
    command = Command(("/bin/sh", "-c", family), Path(folder))
    ready = asyncio.Event()
    async with runner.start(command, on_stdout=lambda _: ready.set()) as child:
        await ready.wait()
        print(child.pid, flush=True)
        await child.wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("sandbox", LEVELS, ids=lambda s: s.level.value)
async def test_no_child_and_no_grandchild_survives_a_kill_of_the_service(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    level, bubblewrap = sandbox.level.value, str(sandbox.bubblewrap or "")
    host = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOST, level, bubblewrap, str(tmp_path), FAMILY),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert host.stdout is not None
    try:
        session = int(await host.stdout.readline())
        family = members(session)
    finally:
        host.kill()
        await host.wait()
    assert len(family) >= 4
    await until_gone(session)


async def test_a_killed_guard_takes_its_command_along(tmp_path: Path) -> None:
    runner = ProcessRunner(Sandbox(SandboxLevel.LIMITS))
    ready = asyncio.Event()
    command = shell(tmp_path, "echo ready; exec sleep 600")
    async with runner.start(command, on_stdout=lambda _: ready.set()) as child:
        await ready.wait()
        os.kill(child.pid, signal.SIGKILL)
        assert not (await child.wait()).succeeded
        await until_gone(child.pid)
    await runner.close()


async def test_limits_hold_in_the_child(runner: ProcessRunner, tmp_path: Path) -> None:
    python = ("import sys; sys.stdout.write('ok'); sys.stdout.flush(); bytearray(1 << 30)",)
    command = Command(
        (sys.executable, "-I", "-S", "-c", *python),
        tmp_path,
        readable=tuple({Path(sys.prefix), Path(sys.base_prefix), ROOT}),
        limits=ProcessLimits(address_space_bytes=1 << 29),
    )
    finished, out = await run(runner, command)
    assert (finished.succeeded, out) == (False, b"ok")
    assert "MemoryError" in finished.stderr
    large = shell(tmp_path, "head -c 200000 /dev/zero > large", file_size_bytes=100_000)
    finished, _ = await run(runner, large)
    assert not finished.succeeded
    assert (tmp_path / "large").stat().st_size <= 100_000
    spin, started = shell(tmp_path, "while :; do :; done", cpu_seconds=1), time.monotonic()
    finished, _ = await run(runner, spin)
    assert not finished.succeeded
    assert time.monotonic() - started < 30


async def test_privileges_cannot_grow_and_the_environment_is_bare(
    runner: ProcessRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_SECRET", "leaked")
    _, out = await run(runner, shell(tmp_path, "grep NoNewPrivs /proc/self/status; env"))
    assert b"NoNewPrivs:\t1" in out
    assert b"leaked" not in out


@pytest.fixture
async def shut_in(tmp_path: Path) -> AsyncIterator[ProcessRunner]:
    """A runner with bubblewrap, which test machines have."""
    found = [s for s in LEVELS if s.level is SandboxLevel.BUBBLEWRAP]
    assert found, "bubblewrap is not installed, or does not work here"
    opened = ProcessRunner(found[0])
    yield opened
    await opened.close()


async def test_a_service_that_is_root_gives_its_children_no_power_over_the_system(
    shut_in: ProcessRunner, tmp_path: Path
) -> None:
    _, out = await run(shut_in, shell(tmp_path, "grep ^Cap /proc/self/status"))
    powers = dict(line.split(":\t") for line in out.decode().splitlines())
    # At most that of reading and writing what it sees, whoever owns it.
    assert {int(powers[name], 16) & ~0b10 for name in ("CapEff", "CapPrm", "CapBnd")} <= {0}


async def test_libraries_that_the_system_names_through_alternatives_are_found(
    shut_in: ProcessRunner, tmp_path: Path
) -> None:
    listing = ("/bin/sh", "-c", "ls /etc/alternatives 2>/dev/null")
    outside = await asyncio.to_thread(
        subprocess.run, listing, capture_output=True, check=False, env={"LC_ALL": "C"}
    )
    _, out = await run(shut_in, Command(listing, tmp_path))
    assert sorted(out.split()) == sorted(outside.stdout.split())


@pytest.mark.parametrize("sandbox", LEVELS, ids=lambda s: s.level.value)
async def test_there_is_no_network_unless_only_limits_are_to_be_had(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('in')"
    command = Command(
        (sys.executable, "-I", "-c", code),
        tmp_path,
        readable=tuple({Path(sys.prefix), Path(sys.base_prefix), ROOT}),
    )
    runner = ProcessRunner(sandbox)
    _, out = await run(runner, command)
    await runner.close()
    listener.close()
    assert out == (b"in\n" if sandbox.level is SandboxLevel.LIMITS else b"")


async def test_a_binary_that_is_not_there_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    runner = ProcessRunner(Sandbox(SandboxLevel.LIMITS))
    finished, _ = await run(runner, Command(("/no/such/binary",), tmp_path))
    await runner.close()
    assert not finished.succeeded
    assert finished.stderr == "cannot start binary: No such file or directory"


async def test_activity_grows_while_a_child_works_and_stands_still_while_it_sleeps(
    runner: ProcessRunner, tmp_path: Path
) -> None:
    ready = asyncio.Event()
    lazy = shell(tmp_path, "echo ready; exec sleep 600")
    async with runner.start(lazy, on_stdout=lambda _: ready.set()) as child:
        await ready.wait()
        before = -1
        async with asyncio.timeout(20):  # on a busy machine it takes its time to fall asleep
            while before != (before := activity(child.pid)):  # noqa: ASYNC110  (a counter has no event)
                await asyncio.sleep(0.3)
    async with runner.start(
        shell(tmp_path, "while :; do :; done"), on_stdout=lambda _: None
    ) as child:
        before = activity(child.pid)
        async with asyncio.timeout(10):
            while activity(child.pid) <= before:  # noqa: ASYNC110  (a counter has no event)
                await asyncio.sleep(0.05)


def test_a_level_in_which_our_own_interpreter_cannot_run_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Else every clip would be called damaged.
    assert detect_sandbox("auto").level is SandboxLevel.BUBBLEWRAP
    monkeypatch.setattr("app.infrastructure.media.sandbox.python_folders", lambda: ())
    assert detect_sandbox("auto").level is not SandboxLevel.BUBBLEWRAP


def test_the_modes_choose_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    assert detect_sandbox("off").level is SandboxLevel.LIMITS
    assert detect_sandbox("auto").level is LEVELS[0].level
    monkeypatch.setattr("app.infrastructure.media.sandbox.works", lambda _: False)
    assert detect_sandbox("auto").level is SandboxLevel.LIMITS
    with pytest.raises(SandboxUnavailableError, match="Install bubblewrap"):
        detect_sandbox("require")
