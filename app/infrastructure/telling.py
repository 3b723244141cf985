"""How a step tells the service of its progress and its end: one JSON object a line on stdout."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

TELL_SECONDS = 0.2


class Teller:
    """Tells of the finished fraction now and then, and of what was learned at the end."""

    def __init__(self) -> None:
        self._told_at = 0.0

    def reach(self, fraction: float) -> None:
        """Say how far the step is, 0..1, unless that was told a moment ago."""
        now = time.monotonic()
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            _say({"progress": round(min(max(fraction, 0.0), 1.0), 4)})


def tell_facts(
    result: Mapping[str, Any],
    warnings: Sequence[str] = (),
    *,
    numbers: Mapping[str, int] | None = None,
) -> None:
    """Say what the job's result and warnings are to hold; ``numbers`` are for the steps after."""
    facts = {"result": dict(result), "warnings": list(warnings), "numbers": dict(numbers or {})}
    _say({"facts": facts})


def tell_refusal(code: str, detail: str, extra: Mapping[str, Any]) -> None:
    """Say why the step cannot be done: ``code`` is an error's of the catalogue."""
    _say({"refused": {"code": code, "detail": detail, "extra": dict(extra)}})


def _say(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
