"""The form of a log and its answer in the OpenAPI; nothing of a form passes through FastAPI."""

from typing import Any

from pydantic import Field

from app.api.schemas.base import EXAMPLE_JOB, Out
from app.api.schemas.downloads import Responses, made
from app.domain.errors import (
    AppError,
    EmptyFile,
    LogDelimiterUnknown,
    LogHeaderMissing,
    LogHeaderUnknown,
    LogNotText,
    LogTooLarge,
    LogWithoutEvents,
    TimezoneRequired,
)
from app.operations.moodle.identities import CaseNotion
from app.operations.moodle.moments import DateOrder
from app.operations.moodle_log import LONGEST_ZONE, MoodleLogParams

LOOKS: tuple[type[AppError], ...] = (
    *(EmptyFile, LogNotText, LogHeaderMissing, LogHeaderUnknown, LogDelimiterUnknown),
    *(LogWithoutEvents, LogTooLarge, TimezoneRequired),
)
"""What a look at a log's first bytes may refuse."""


class LogAccepted(Out):
    """The job that makes an event log of the log that came."""

    job_id: str = Field(examples=[EXAMPLE_JOB])


def _told(name: str) -> str:
    return MoodleLogParams.model_fields[name].description or ""


_FIELDS: dict[str, Any] = {
    "file": {
        "type": "string",
        "format": "binary",
        "description": "The log as Moodle exports it (CSV), with a file name.",
    },
    "case": {
        "type": "string",
        "enum": [each.value for each in CaseNotion],
        "default": CaseNotion.USER_COURSE.value,
        "description": _told("case"),
    },
    "timezone": {
        "type": "string",
        "maxLength": LONGEST_ZONE,
        "examples": ["Europe/Berlin"],
        "description": _told("timezone"),
    },
    "anonymise": {"type": "boolean", "default": False, "description": _told("anonymise")},
    "date_order": {
        "type": "string",
        "enum": [each.value for each in DateOrder],
        "description": _told("date_order"),
    },
    "timeout_seconds": {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "Limit of one attempt; left out: the default.",
    },
}
LOG_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": _FIELDS,
                    "required": ["file"],
                    "additionalProperties": False,
                }
            }
        },
    }
}


def accepted() -> Responses:
    """Return the response of a log that was taken."""
    return made(202, "Queued.", f"/api/v1/jobs/{EXAMPLE_JOB}")
