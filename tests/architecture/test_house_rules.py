"""The rules of the house that no linter knows, checked on the source itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = ROOT / "app"
MODULES = sorted(p for p in APP.rglob("*.py") if "migrations/versions" not in p.as_posix())
NAMES = [p.relative_to(ROOT).as_posix() for p in MODULES]

LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
"""Lines with the docstring; about 40 without."""

BARRED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "part2"}


def _tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text())


def _imports(name: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("name", NAMES)
def test_a_module_says_in_one_sentence_what_it_is(name: str) -> None:
    assert ast.get_docstring(_tree(name)), f"{name} has no docstring"


@pytest.mark.parametrize("name", NAMES)
def test_a_module_fits_in_four_hundred_lines(name: str) -> None:
    if name == "app/domain/errors.py":
        return  # a catalogue: one page on purpose
    lines = (ROOT / name).read_text().count("\n")
    assert lines <= LONGEST_MODULE, f"{name} has {lines} lines: split it by noun or by use case"


@pytest.mark.parametrize("name", NAMES)
def test_a_function_fits_on_a_screen(name: str) -> None:
    too_long = {
        f.name: (f.end_lineno or 0) - f.lineno + 1
        for f in _functions(name)
        if (f.end_lineno or 0) - f.lineno + 1 > LONGEST_FUNCTION
    }
    assert not too_long, f"{name}: {too_long}"


def test_no_module_is_named_after_nothing() -> None:
    stems = {p.stem for p in MODULES} | {p.parent.name for p in MODULES}
    assert not stems & BARRED_NAMES


def test_only_the_process_runner_starts_processes() -> None:
    allowed = {"app/infrastructure/media/process_runner.py"}
    # The command starts its own server for the demo; the exec wrapper becomes the child.
    allowed |= {n for n in NAMES if n.startswith("app/cli/demo")}
    offenders = [
        n for n in NAMES if n not in allowed and _imports(n) & {"subprocess", "multiprocessing"}
    ]
    assert offenders == []


def test_only_the_tus_package_imports_tuspyserver() -> None:
    users = [n for n in NAMES if any(i.split(".")[0] == "tuspyserver" for i in _imports(n))]
    assert users
    assert all(n.startswith("app/api/tus/") for n in users)


def test_only_the_settings_read_the_environment() -> None:
    pattern = re.compile(r"\bos\.(environ|getenv)\b")
    offenders = [
        n
        for n in NAMES
        if pattern.search((ROOT / n).read_text()) and not n.startswith("app/settings")
    ]
    # A child process inherits or gets an environment; that is not reading a setting.
    assert [
        n
        for n in offenders
        if not n.startswith(
            ("app/infrastructure/media/", "app/infrastructure/moodle/child", "app/cli/")
        )
    ] == []


def test_log_events_are_static_noun_verb_names() -> None:
    event = re.compile(r"[a-z_]+\.[a-z_]+\Z")
    bad: list[str] = []
    for name in NAMES:
        for node in ast.walk(_tree(name)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            target = node.func.value
            is_log = isinstance(target, ast.Name) and target.id in {
                "log",
                "_log",
                "logger",
                "_logger",
            }
            if not is_log or node.func.attr not in {
                "debug",
                "info",
                "warning",
                "error",
                "exception",
                "critical",
            }:
                continue
            first = node.args[0] if node.args else None
            if not (isinstance(first, ast.Constant) and event.match(str(first.value))):
                bad.append(f"{name}:{node.lineno}")
    assert bad == []


def test_every_exception_is_caught_at_the_edges_only() -> None:
    handlers: list[str] = []
    for name in NAMES:
        for node in ast.walk(_tree(name)):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None
                or (
                    isinstance(node.type, ast.Name)
                    and node.type.id in {"Exception", "BaseException"}
                )
            ):
                reraises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
                if not reraises:
                    handlers.append(name)
    edges = (
        "app/api/",
        "app/services/job_runner",
        "app/infrastructure/worker/",
        "app/services/sweeps/",
        "app/infrastructure/scheduler/",
    )
    assert [n for n in handlers if not n.startswith(edges)] == []
