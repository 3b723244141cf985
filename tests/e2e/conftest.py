"""Servers of the installed command and clips for it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.frames import make_clip
from tests.e2e.harness import COMMAND, Server


@contextmanager
def _servers_in(folder: Path) -> Iterator[Callable[..., Server]]:
    """A maker of servers on data folders of their own; at the end they stop and must have behaved."""
    assert COMMAND.is_file(), f"{COMMAND} is not installed: run `make setup`"
    servers: list[Server] = []

    def make(
        settings: Mapping[str, object] | None = None, *, wrapper: tuple[str, ...] = ()
    ) -> Server:
        server = Server(folder / f"data{len(servers)}", settings, wrapper=wrapper)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.close()
        assert "Traceback" not in server.log_text(), server.log_text()[-8000:]


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Make servers for one test."""
    with _servers_in(tmp_path) as make:
        yield make


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A running server with the settings as they come, for one test."""
    return make_server().start()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server for a module's tests that look only at what they made themselves."""
    with _servers_in(tmp_path_factory.mktemp("shared")) as make:
        yield make().start()


@pytest.fixture(scope="module")
def make_own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Make servers for a module's tests, which may stop and kill and must start them again."""
    with _servers_in(tmp_path_factory.mktemp("own")) as make:
        yield make


@pytest.fixture(scope="module")
def own_server(make_own_server: Callable[..., Server]) -> Server:
    """A running server with the settings as they come, for a module."""
    return make_own_server().start()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of H.264 and AAC at 30 fps, several megabytes."""
    return make_clip(tmp_path_factory.mktemp("clip"), seconds=10, width=640, height=360)


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, for tests that are not about the picture."""
    folder = tmp_path_factory.mktemp("short")
    return make_clip(folder, seconds=2, width=320, height=180)
