"""For every test: a test that was skipped should have run, so it fails the session."""

import signal

import pytest


def pytest_configure() -> None:
    """A shell that runs the tests in the background has them, and all their children, ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A missing component is a failure, not a skip."""
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
