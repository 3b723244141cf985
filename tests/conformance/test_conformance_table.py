"""No statement is left without a test, and each test carries the name of its section."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.statements import STATEMENTS

HERE = Path(__file__).parent


def _tests() -> Iterator[tuple[str, list[str]]]:
    """Each test of this folder but those here, with the statements it shows."""
    for path in sorted(HERE.glob("test_tus_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.name, [key for mark in node.decorator_list for key in _keys(mark)]


def _keys(mark: ast.expr) -> list[str]:
    if not (isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "states"):
        return []
    return [str(arg.value) for arg in mark.args if isinstance(arg, ast.Constant)]


def test_every_statement_has_a_test() -> None:
    shown = {key for _, keys in _tests() for key in keys}
    assert set(STATEMENTS) - shown == set()


def test_every_test_shows_statements_of_the_section_it_is_named_by() -> None:
    for name, keys in _tests():
        assert keys, f"{name} shows nothing"
        section = STATEMENTS[keys[0]].section.replace("-", "_")
        assert name.startswith(f"test_{section}_"), name


def test_no_name_is_used_twice() -> None:
    names = [name for name, _ in _tests()]
    assert len(names) == len(set(names))
