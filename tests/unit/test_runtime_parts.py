"""Small parts of the runtime: looks at parts, the tuned malloc, sockets, the welcome."""

import asyncio
import errno
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.domain.errors import StorageFailed
from app.infrastructure.readiness import PartChecks
from app.server.malloc import tune_malloc
from app.server.running import bind
from app.server.welcome import base_url, command_here
from app.services.readiness import Part, PartState
from app.settings import Settings


async def test_a_part_that_hangs_fails_and_is_not_asked_again_before_it_came_back() -> None:
    checks, release, asked = PartChecks(limit_seconds=0.05), asyncio.Event(), 0

    async def hang() -> Part:
        nonlocal asked
        asked += 1
        await release.wait()
        return Part("disk", PartState.OK)

    async def fine() -> Part:
        return Part("other", PartState.OK)

    checks.add("disk", hang)
    checks.add("other", fine)
    for _ in range(3):
        disk, other = await checks.check()
        assert (disk.state, other.state) == (PartState.FAILING, PartState.OK)
        assert "no answer within" in disk.detail
    assert asked == 1

    release.set()
    assert [part.state for part in await checks.check()] == [PartState.OK, PartState.OK]
    release.clear()
    await checks.check()
    await checks.close()


async def test_expected_trouble_of_a_look_becomes_a_failing_part() -> None:
    checks = PartChecks()

    async def storage() -> Part:
        raise StorageFailed("The disk said no.")

    async def system() -> Part:
        raise OSError(errno.EROFS, "Read-only file system")

    checks.add("storage", storage)
    checks.add("system", system)
    assert list(await checks.check()) == [
        Part("storage", PartState.FAILING, "storage_failed: The disk said no."),
        Part("system", PartState.FAILING, "Read-only file system"),
    ]
    await checks.close()


async def test_no_parts_are_no_trouble() -> None:
    assert list(await PartChecks().check()) == []


@pytest.mark.parametrize("library", ["", "musl"])
def test_malloc_is_left_alone_where_there_is_no_glibc(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    assert tune_malloc() is False


def test_with_the_tuned_malloc_large_blocks_are_not_mapped_anew_each_time() -> None:
    script = """
import resource, sys
size = 300_000
from app.server.malloc import tune_malloc
if sys.argv[1] == "tuned":
    assert tune_malloc()
for _ in range(50):
    b"x" * size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(500):
    b"x" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", script, how],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
                env={"MALLOC_MMAP_THRESHOLD_": "131072"} if how == "plain" else {},
            ).stdout
        )
        for how in ("tuned", "plain")
    }
    if platform.libc_ver()[0] == "glibc":
        assert faults["tuned"] < 1000 < faults["plain"]


def test_a_name_with_two_addresses_listens_on_both_with_one_port() -> None:
    sockets = bind("localhost", 0)
    try:
        assert len({each.getsockname()[1] for each in sockets}) == 1
        assert socket.AF_INET in {each.family for each in sockets}
    finally:
        for each in sockets:
            each.close()


def test_a_name_that_nobody_knows_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match=r"\S"):
        bind("no-such-host.invalid", 0)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "http://127.0.0.1:81"),
        ({"TIDEMILL_HOST": "0.0.0.0"}, "http://127.0.0.1:81"),
        ({"TIDEMILL_HOST": "::1"}, "http://[::1]:81"),
        ({"TIDEMILL_ROOT_PATH": "/tide"}, "http://127.0.0.1:81/tide"),
        ({"TIDEMILL_PUBLIC_URL": "https://v.example"}, "https://v.example"),
    ],
)
def test_the_address_to_open_is_one_that_works(environ: dict[str, str], expected: str) -> None:
    assert base_url(Settings.load(environ), 81) == expected


def test_the_command_to_try_is_one_that_is_found_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "bin" / "tidemill"
    installed.parent.mkdir()
    installed.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_here("bin/tidemill") == "bin/tidemill"
    assert command_here(str(installed)) == "bin/tidemill"
    monkeypatch.chdir(tmp_path / "bin")
    assert command_here("./tidemill") == "./tidemill"
    monkeypatch.chdir("/")
    assert command_here(str(installed)) == str(installed).lstrip("/")
    monkeypatch.setenv("PATH", str(installed.parent))
    assert command_here(str(installed)) == "tidemill"
    assert command_here("/elsewhere/python -m something") == "tidemill"
