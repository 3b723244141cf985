"""JSON as clients may send it: what Python reads but a database or another client would choke on is
refused.
"""

import json
import math
from typing import Any

from app.domain.errors import MalformedRequest


def parse_json(given: bytes, what: str) -> Any:
    """Return the value that ``given`` says. ``what`` begins the sentence of a refusal: "The body".

    Raises MalformedRequest.
    """
    try:
        text = given.decode("utf-8")
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        msg = f"{what} is nested too deeply."
        raise MalformedRequest(msg) from error
    except UnicodeError as error:
        msg = f"{what} is not valid UTF-8 text."
        raise MalformedRequest(msg) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        msg = f"{what} is not valid JSON: {error.msg} ({where})."
        raise MalformedRequest(msg) from error
    except ValueError as error:
        msg = f"{what} is not valid JSON: {error}."
        raise MalformedRequest(msg) from error
    if "\x00" in text or "\\u0000" in text:
        msg = f"{what} holds the character U+0000, which no field may have."
        raise MalformedRequest(msg)
    return value


def _no_number(name: str) -> float:
    msg = f"{name} is no JSON number"
    raise ValueError(msg)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        msg = f"{digits[:40]} is too large a number"
        raise ValueError(msg)
    return number
