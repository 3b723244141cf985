"""For every test: a test that was skipped should have run, so it fails the session; and every process
that the service started is one whose arguments pass the rule of media.md. And for all of them
together: files that take long begin first, so that no processor waits for the last of them.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest
import structlog

from tests.fakes import recorder

WEIGHTS = Path(__file__).with_name("weights.json")
"""Seconds that files of tests took, as they were measured; of the others their tests are counted."""
TOLD = "TEST_WEIGHTS"
"""Set in the environment, has a run measure its files anew."""
_taken = pytest.StashKey["Counter[str]"]()
_started = pytest.StashKey[recorder.Reader]()


def pytest_configure(config: pytest.Config) -> None:
    """A shell that runs the tests in the background has them, and all their children, ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get(TOLD) and not hasattr(config, "workerinput"):
        config.stash[_taken] = Counter()
        config.pluginmanager.register(_Scales(config.stash[_taken]))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the heaviest files first; those of one weight stay in the order that chance gave them."""
    weights: dict[str, int] = json.loads(WEIGHTS.read_text())
    counts = Counter(item.path for item in items)
    names = {path: path.relative_to(config.rootpath).as_posix() for path in counts}
    files = sorted(counts, key=lambda path: -weights.get(names[path], counts[path]))
    places = {path: place for place, path in enumerate(files)}
    items.sort(key=lambda item: places[item.path])


@pytest.fixture(scope="session", autouse=True)
def recorded_arguments(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The file in which every process that the service starts from now on is written down."""
    sheet = tmp_path_factory.mktemp("recorded") / "arguments.jsonl"
    recorder.begin(sheet)
    request.config.stash[_started] = recorder.Reader(sheet)
    return sheet


@pytest.fixture(scope="session", autouse=True)
def one_ffmpeg(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All tests but those of both use the bundled FFmpeg, whatever the system has: it stands first."""
    folder = tmp_path_factory.mktemp("ffmpeg")
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module", autouse=True)
def log_as_it_comes() -> Iterator[None]:
    """What a module makes of the log, itself or by starting a service, is not the next one's."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """After each test and what it takes down: judge the processes that were started meanwhile."""
    yield
    if (reader := item.config.stash.get(_started, None)) is not None:
        own_commands = item.get_closest_marker("own_commands") is not None
        if wrong := recorder.judge(reader.read(), own_commands=own_commands):
            pytest.fail("\n".join(wrong), pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A missing component is a failure, not a skip."""
    if (taken := session.config.stash.get(_taken, None)) is not None:
        _write(taken)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or exitstatus not in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped:
        reporter.write_line(f"{len(skipped)} skipped: nothing may be skipped here", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class _Scales:
    """Adds up what the tests of each file took."""

    def __init__(self, taken: Counter[str]) -> None:
        self._taken = taken

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._taken[report.nodeid.partition("::")[0]] += report.duration  # type: ignore[assignment]


def _write(taken: Counter[str]) -> None:
    known: dict[str, int] = json.loads(WEIGHTS.read_text())
    found = known | {name: round(seconds) for name, seconds in taken.items()}
    ordered = dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))
    WEIGHTS.write_text(json.dumps(ordered, indent=1) + "\n")
