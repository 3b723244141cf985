"""Times as Moodle writes them in its languages; what is day and what is month is told apart later."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import lru_cache

from app.operations.moodle.months import MONTHS

EPOCH = date(1970, 1, 1).toordinal()
DAY_SECONDS = 86400
CENTURY = 2000
PIVOT = 70
"""Two digits from here on are of the last century."""
OLDEST, NEWEST = 1990, 2100
LONGEST_TEXT = 80
REMEMBERED = 4096


class DateOrder(StrEnum):
    DAY_FIRST = "day-first"
    MONTH_FIRST = "month-first"


@dataclass(frozen=True, slots=True)
class Moment:
    """One time. Local seconds since 1970 in either reading, None in which there is no such day.

    ``offset`` is in seconds east of UTC where the text names one. ``is_numeric``: day and month are
    both figures, so that the readings may differ. ``has_half`` for a time with AM or PM.
    """

    day_first: int | None
    month_first: int | None
    offset: int | None = None
    is_numeric: bool = False
    has_half: bool = False


def _months() -> dict[str, int]:
    """Return the number of every name of a month; none means two months in two languages."""
    return {
        _plain(name): number
        for months in MONTHS.values()
        for number, names in enumerate(months, start=1)
        for name in names.split()
    }


def _plain(text: str) -> str:
    """Return ``text`` in lower case without accents, so that spelling variants meet."""
    decomposed = unicodedata.normalize("NFKD", text.replace("İ", "i").lower())
    return "".join(c for c in decomposed if not unicodedata.combining(c)).replace("ı", "i")


_MONTHS = _months()
_HALVES = {
    **dict.fromkeys(("am", "a.m.", "a. m.", "πμ", "π.μ.", "oo"), 0),
    **dict.fromkeys(("pm", "p.m.", "p. m.", "μμ", "μ.μ.", "os"), 12),
}
"""AM and PM; Turkish ÖÖ and ÖS lose their dots in ``_plain``."""

_CLOCK = (
    r"(?P<hour>\d{1,2})[:.h](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,]\d{1,9})?)?"
    r"\s*(?P<half>[ap]\.?\s?m\.?|[πμ]\.?μ\.?|o[os])?"
    r"\s*(?P<offset>z|utc|gmt|(?:utc|gmt)?[+-]\d{2}:?\d{2})?"
)
_BETWEEN = (
    r"(?:\s*,\s*|\s*t\s*|\s+(?:as|a las|alle|at|um|om|kl\.?|o|v|в|στις|γ\.,?|г\.,?|-)\s+|\s+)"
)
_DAYNAME = r"(?:[^\W\d]+\.?,?\s+)?"
_NUMERIC = re.compile(
    rf"{_DAYNAME}(?P<a>\d{{1,4}})(?P<sep>[./-])\s?(?P<b>\d{{1,2}})(?P=sep)\s?(?P<c>\d{{1,4}})\.?"
    rf"{_BETWEEN}{_CLOCK}"
)
_NAMED = re.compile(
    rf"{_DAYNAME}(?P<day>\d{{1,2}})(?:\.|er|º|°)?\s*(?:de |d'|-)?\s*"
    rf"(?P<month>[^\W\d]+)\.?\s*(?:de |del |-)?"
    rf"\s*,?\s*(?P<year>\d{{4}}|\d{{2}})\.?(?:\s?(?:г|γ|r)\.?)?{_BETWEEN}{_CLOCK}"
)
_MONTH_DAY = re.compile(
    rf"{_DAYNAME}(?P<month>[^\W\d]+)\.?\s+"
    rf"(?P<day>\d{{1,2}}),?\s+(?P<year>\d{{4}}){_BETWEEN}{_CLOCK}"
)
_PLAIN_CLOCK = re.compile(r"(.*[^\d:.+-])(\d{1,2}):(\d\d)(?::(\d\d))?")
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})")


def read_moment(text: str) -> Moment | None:
    """Return the moment that ``text`` names, None when it is no time."""
    if len(text) > LONGEST_TEXT:
        return None
    # Of most times only the hour differs from the line before: what comes before it is remembered.
    clock = _PLAIN_CLOCK.fullmatch(text)
    midnight = _midnight(clock[1]) if clock else None
    if clock is None or midnight is None:
        return _read(text)
    hour, minute, second = int(clock[2]), int(clock[3]), int(clock[4] or 0)
    if hour > 23 or minute > 59 or second > 60:  # noqa: PLR2004 - a clock
        return None
    passed = hour * 3600 + minute * 60 + min(second, 59)
    day, month = midnight.day_first, midnight.month_first
    return Moment(
        None if day is None else day + passed,
        None if month is None else month + passed,
        is_numeric=midnight.is_numeric,
    )


@lru_cache(maxsize=REMEMBERED)
def _midnight(text: str) -> Moment | None:
    return _read(f"{text}00:00")


def _read(text: str) -> Moment | None:
    plain = " ".join(_plain(text).replace("\u200e", "").replace("\u200f", "").split())
    if match := _NUMERIC.fullmatch(plain):
        return _numeric(match)
    match = _NAMED.fullmatch(plain) or _MONTH_DAY.fullmatch(plain)
    if match is None:
        return None
    month = _MONTHS.get(match["month"])
    if month is None:
        return None
    seconds = _seconds(match, _day(_year(match["year"]), month, int(match["day"])))
    return None if seconds is None else Moment(seconds, seconds, _offset(match))


def _numeric(match: re.Match[str]) -> Moment | None:
    a, b, c = match["a"], int(match["b"]), match["c"]
    has_half = match["half"] is not None
    if len(a) == 4:  # noqa: PLR2004 - digits of a year
        seconds = _seconds(match, _day(int(a), b, int(c)))
        return None if seconds is None else Moment(seconds, seconds, _offset(match))
    if len(a) > 2 or len(c) not in {2, 4}:  # noqa: PLR2004 - digits of a day and of a year
        return None
    year, first = _year(c), int(a)
    day_first = _seconds(match, _day(year, b, first))
    month_first = _seconds(match, _day(year, first, b))
    if day_first is None and month_first is None:
        return None
    return Moment(day_first, month_first, _offset(match), is_numeric=True, has_half=has_half)


def _year(text: str) -> int:
    number = int(text)
    if len(text) > 2:  # noqa: PLR2004 - digits
        return number
    return number + (CENTURY if number < PIVOT else CENTURY - 100)


def _day(year: int, month: int, day: int) -> int | None:
    """Return days since 1970, None when there is no such day or it cannot be of a Moodle."""
    if not OLDEST <= year <= NEWEST:
        return None
    try:
        return date(year, month, day).toordinal() - EPOCH
    except ValueError:
        return None


def _seconds(match: re.Match[str], day: int | None) -> int | None:
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    half = match["half"]
    if half is not None:
        key = half.replace(" ", "").replace(".", "")
        # Some language packs print the marker behind a 24 hour clock.
        hour = hour % 12 + _HALVES[key] if hour <= 12 else hour  # noqa: PLR2004 - hours
    if day is None or hour > 23 or minute > 59 or second > 60:  # noqa: PLR2004 - a clock
        return None
    return day * DAY_SECONDS + hour * 3600 + minute * 60 + min(second, 59)


def _offset(match: re.Match[str]) -> int | None:
    text = match["offset"]
    if text is None:
        return None
    found = _OFFSET.search(text)
    if found is None:
        return 0
    seconds = int(found[2]) * 3600 + int(found[3]) * 60
    return -seconds if found[1] == "-" else seconds


@dataclass(slots=True)
class DateEvidence:
    """What the times of a whole file say of the order of day and month, and of its own order.

    Counts of a fixed size: memory does not grow with the file.
    """

    n_times: int = 0
    n_numeric: int = 0
    n_halves: int = 0
    n_offsets: int = 0
    only_day_first: int = 0
    only_month_first: int = 0
    ups: int = 0
    downs: int = 0
    month_ups: int = 0
    month_downs: int = 0
    _last_day_first: int | None = None
    _last_month_first: int | None = None

    def take(self, moment: Moment) -> None:
        """Count one more time, in the order of the file."""
        self.n_times += 1
        self.n_numeric += moment.is_numeric
        self.n_halves += moment.has_half
        self.n_offsets += moment.offset is not None
        day, month = moment.day_first, moment.month_first
        if day is None or month is None:
            self.only_day_first += month is None
            self.only_month_first += day is None
        if day is not None:
            last, self._last_day_first = self._last_day_first, day
            if last is not None and last != day:
                self.ups += day > last
                self.downs += day < last
        if month is not None:
            last, self._last_month_first = self._last_month_first, month
            if last is not None and last != month:
                self.month_ups += month > last
                self.month_downs += month < last

    def decide(self, *, is_english: bool) -> tuple[DateOrder, str]:
        """Return the order of day and month, and by what it was decided.

        Days above 12 prove it, by majority; else in one reading alone the file runs in one direction,
        as exports do; else Moodle's own way: day first, but for English with AM and PM.
        """
        if self.n_numeric == 0:
            return DateOrder.DAY_FIRST, "unambiguous"
        if self.only_day_first != self.only_month_first:
            is_day = self.only_day_first > self.only_month_first
            return (DateOrder.DAY_FIRST if is_day else DateOrder.MONTH_FIRST), "days above 12"
        turns, month_turns = min(self.ups, self.downs), min(self.month_ups, self.month_downs)
        if turns == 0 and month_turns > 0:
            return DateOrder.DAY_FIRST, "sequence"
        if month_turns == 0 and turns > 0:
            return DateOrder.MONTH_FIRST, "sequence"
        if is_english and self.n_halves > self.n_times // 2:
            return DateOrder.MONTH_FIRST, "assumed"
        return DateOrder.DAY_FIRST, "assumed"

    def is_newest_first(self, order: DateOrder) -> bool:
        """Whether the file runs backwards in time, as exports do, in the order decided."""
        if order is DateOrder.DAY_FIRST:
            return self.downs >= self.ups
        return self.month_downs >= self.month_ups


def has_offsets(texts: Iterable[str]) -> bool:
    """Whether every readable time of ``texts`` names its offset from UTC, and one is there."""
    found = [moment for moment in map(read_moment, texts) if moment is not None]
    return bool(found) and all(moment.offset is not None for moment in found)


def as_utc(seconds: int) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC, such as 2026-03-05T09:15:00Z."""
    day, rest = divmod(seconds, DAY_SECONDS)
    minutes, second = divmod(rest, 60)
    return f"{_shown_day(day)}T{minutes // 60:02}:{minutes % 60:02}:{second:02}Z"


@lru_cache(maxsize=REMEMBERED)
def _shown_day(day: int) -> str:
    return date.fromordinal(EPOCH + day).isoformat()
