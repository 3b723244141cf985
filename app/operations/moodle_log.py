"""The operation ``moodle-log``: a Moodle activity log becomes an event log for process mining."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field

from app.domain.errors import TimezoneRequired
from app.domain.jobs import InputRole
from app.operations.base import InputRule, LogInput, Params, Plan, PlannedOutput, PythonStep
from app.operations.filenames import output_name
from app.operations.moodle.identities import CaseNotion
from app.operations.moodle.moments import DateOrder

PROGRAM = "moodle-log"
RAW_FILE, SORTED_FILE, ZIP_FILE = "raw.db", "sorted.db", "event-log.zip"
LONGEST_ZONE = 64


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        msg = f"there is no timezone {name!r}"
        raise ValueError(msg) from error
    return name


Timezone = Annotated[str, Field(max_length=LONGEST_ZONE), AfterValidator(_known_zone)]


class MoodleLogParams(Params):
    """How to read the log, and what to make of it."""

    case: CaseNotion = Field(
        default=CaseNotion.USER_COURSE,
        description="What a case is: all events of one user, of one course, or of one user in one"
        " course.",
    )
    timezone: Timezone | None = Field(
        default=None,
        description="The timezone of the times in the log, that of the account that exported it:"
        " a name such as Europe/Berlin. Needed unless the times themselves say how far from UTC"
        " they are.",
        examples=["Europe/Berlin", "UTC"],
    )
    anonymise: bool = Field(
        default=False,
        strict=True,
        description="Put pseudonyms in the place of names, ids and addresses. Their key is thrown"
        " away with the job.",
    )
    date_order: DateOrder | None = Field(
        default=None,
        description="Which figure of a date such as 3/04/26 is the day. Left out: as the whole file"
        " shows, else the day.",
    )


class MoodleLog:
    """Normalises a log in three steps: reads it, sorts it by case and time, writes the results."""

    name: ClassVar[str] = "moodle-log"
    description: ClassVar[str] = (
        "Make an event log for process mining of a Moodle activity log (the CSV export of a log"
        " report). Answers a ZIP with events.csv, the same as events.xes, summary.json and"
        " rejected.csv. The log itself is removed as soon as the job has ended, however it did."
    )
    inputs: ClassVar[tuple[InputRule, ...]] = (InputRule(InputRole.LOG, 1, 1),)
    params_model: ClassVar[type[Params]] = MoodleLogParams
    work_factor: ClassVar[float] = 1.5
    releases_inputs: ClassVar[bool] = True

    def plan(self, params: MoodleLogParams, sources: Sequence[LogInput]) -> Plan:
        """Return the three steps. Raises TimezoneRequired."""
        (log,) = sources
        if params.timezone is None and not log.head.names_offsets:
            raise timezone_required()
        anonymise = params.anonymise
        reading = {
            "do": "read",
            "file": log.name,
            "head": log.head.as_json(),
            "anonymise": anonymise,
        }
        sorting = {
            "do": "sort",
            "case": params.case.value,
            "timezone": params.timezone,
            "date_order": params.date_order.value if params.date_order else None,
        }
        return Plan(
            steps=(
                _step("reading", 0.5, reading, (log.name,), RAW_FILE),
                _step("sorting", 0.2, sorting, (RAW_FILE,), SORTED_FILE),
                _step("writing", 0.3, {"do": "write"}, (RAW_FILE, SORTED_FILE), ZIP_FILE),
            ),
            outputs=(
                PlannedOutput(
                    ZIP_FILE,
                    output_name(
                        "" if anonymise else log.filename,
                        "event-log",
                        otherwise="moodle",
                        ending="zip",
                    ),
                    "application/zip",
                ),
            ),
            result={
                "case": params.case.value,
                "timezone": params.timezone,
                "anonymised": anonymise,
            },
        )


def timezone_required() -> TimezoneRequired:
    """Return the refusal of a log whose times nobody can place."""
    return TimezoneRequired(
        "The times of the log do not say how far from UTC they are: give `timezone`, such as"
        " Europe/Berlin."
    )


def _step(
    name: str, weight: float, arguments: dict[str, Any], inputs: tuple[str, ...], output: str
) -> PythonStep:
    return PythonStep(name, weight, PROGRAM, arguments, inputs, (output,))
