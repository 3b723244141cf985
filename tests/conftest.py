"""For every test: a test that was skipped should have run, so it fails the session. And for all of
them together: files that take long begin first, so that no processor waits for the last of them.
"""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

WEIGHTS = Path(__file__).with_name("weights.json")
"""Seconds that files of tests took, as they were measured; of the others their tests are counted."""
TOLD = "TEST_WEIGHTS"
"""Set in the environment, has a run measure its files anew."""
_taken = pytest.StashKey["Counter[str]"]()


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
