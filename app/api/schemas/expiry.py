"""A new end for a thing, as clients ask for one."""

from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticCustomError

_EXAMPLE = "2031-05-04T12:00:00Z"


def _must_be_written_out(value: Any) -> Any:
    # Numbers, and digits in a string, would otherwise pass as seconds since 1970.
    if isinstance(value, str) and "T" in value.upper():
        return value
    facts = {"example": _EXAMPLE}
    raise PydanticCustomError("time_not_written_out", "Must be a time such as {example}", facts)


Expiry = Annotated[
    AwareDatetime,
    BeforeValidator(_must_be_written_out),
    Field(
        description="When it is to go: an RFC 3339 time with its offset from UTC, in the future, at"
        " most `TIDEMILL_TTL_MAX_HOURS` from now.",
        examples=[_EXAMPLE],
    ),
]


def left_out() -> Any:
    """Stand in for a field that may be left out but not be null: see ``model_fields_set``."""
    return None
