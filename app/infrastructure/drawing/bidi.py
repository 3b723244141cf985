"""In which direction each piece of a line runs, and in which order they stand: UAX #9 for one line.

Embeddings, overrides and isolates are left out: they are cleaned away before text gets here.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

STRONG = {"L": 0, "R": 1, "AL": 1}
_NEUTRAL = frozenset({"B", "S", "WS", "ON"})
_IGNORED = frozenset({"BN", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
_BRACKETS = {"(": ")", "[": "]", "{": "}", "⟨": "⟩", "⁅": "⁆", "༺": "༻"}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a line, from ``start`` up to ``end``, that runs in one direction."""

    start: int
    end: int
    is_rtl: bool


def first_strong(text: str) -> bool | None:
    """Whether the first letter that has a direction runs leftwards; None when there is none."""
    for character in text:
        level = STRONG.get(unicodedata.bidirectional(character))
        if level is not None:
            return bool(level)
    return None


def in_visual_order(text: str, *, is_rtl: bool) -> list[Stretch]:
    """Return the stretches of a line from left to right. ``is_rtl``: what the paragraph is."""
    levels = embedding_levels(text, is_rtl=is_rtl)
    runs: list[tuple[int, int, int]] = []
    for index, level in enumerate(levels):
        if runs and runs[-1][2] == level:
            runs[-1] = (runs[-1][0], index + 1, level)
        else:
            runs.append((index, index + 1, level))
    # L2: from the highest level down to the lowest odd one, turn what is at it or above.
    for level in range(max(levels, default=0), 0, -1):
        first = 0
        while first < len(runs):
            last = first
            while last < len(runs) and runs[last][2] >= level:
                last += 1
            runs[first:last] = reversed(runs[first:last])
            first = last + 1
    return [Stretch(start, end, bool(level % 2)) for start, end, level in runs]


def embedding_levels(text: str, *, is_rtl: bool) -> list[int]:
    """Return each character's level: even runs rightwards, odd leftwards."""
    base = int(is_rtl)
    kinds = [unicodedata.bidirectional(character) or "L" for character in text]
    if not is_rtl and not any(kind in {"R", "AL", "AN"} for kind in kinds):
        return [0] * len(text)
    outer = "R" if is_rtl else "L"
    resolved = _neutral(text, _weak(kinds, outer), outer)
    levels = [_level(kind, base) for kind in resolved]
    for index in range(len(text) - 1, -1, -1):  # L1: the end of a line belongs to the paragraph
        if kinds[index] not in {"WS", "S", "B"} and kinds[index] not in _IGNORED:
            break
        levels[index] = base
    return levels


def _level(kind: str, base: int) -> int:
    if base == 0:
        return {"L": 0, "R": 1}.get(kind, 2)
    return 1 if kind == "R" else 2


def _weak(kinds: Sequence[str], outer: str) -> list[str]:
    """W1..W7: marks take after what they stand on, numbers and their signs find their sides."""
    result = _after_strong(kinds, outer)
    for index in range(1, len(result) - 1):
        around = {result[index - 1], result[index + 1]}
        if (result[index] == "ES" and around == {"EN"}) or (
            result[index] == "CS" and around in ({"EN"}, {"AN"})
        ):
            result[index] = result[index - 1]
    _terminators(result)
    strong = outer
    for index, kind in enumerate(result):
        if kind in {"ES", "CS", "ET"}:
            result[index] = "ON"
        elif kind in STRONG:
            strong = kind
        elif kind == "EN" and strong == "L":
            result[index] = "L"
    return result


def _after_strong(kinds: Sequence[str], outer: str) -> list[str]:
    """W1..W3: marks become what they stand on, numbers behind Arabic letters Arabic ones."""
    result: list[str] = []
    strong = outer
    for given in kinds:
        is_mark = given == "NSM" or given in _IGNORED
        kind = (result[-1] if result else outer) if is_mark else given
        if kind == "EN" and strong == "AL":
            kind = "AN"
        if kind in STRONG:
            strong = kind
        result.append(kind)
    return ["R" if kind == "AL" else kind for kind in result]


def _terminators(kinds: list[str]) -> None:
    """W5: signs such as % beside a number belong to it."""
    index = 0
    while index < len(kinds):
        end = index
        while end < len(kinds) and kinds[end] == "ET":
            end += 1
        touches = (index > 0 and kinds[index - 1] == "EN") or (
            end < len(kinds) and kinds[end] == "EN"
        )
        if end > index and touches:
            kinds[index:end] = ["EN"] * (end - index)
        index = max(end, index + 1)


def _side(kind: str) -> str:
    return "R" if kind in {"R", "AN", "EN"} else kind


def _neutral(text: str, kinds: list[str], outer: str) -> list[str]:
    """N0..N2: brackets, then spaces and signs, take the side of what is around them."""
    _brackets(text, kinds, outer)
    index = 0
    while index < len(kinds):
        end = index
        while end < len(kinds) and kinds[end] in _NEUTRAL:
            end += 1
        if end > index:
            before = _side(kinds[index - 1]) if index else outer
            after = _side(kinds[end]) if end < len(kinds) else outer
            kinds[index:end] = [before if before == after else outer] * (end - index)
        index = max(end, index + 1)
    return kinds


def _brackets(text: str, kinds: list[str], outer: str) -> None:
    """N0: both brackets of a pair get the direction of what they hold."""
    for opening, closing in _pairs(text, kinds):
        inside = {_side(kind) for kind in kinds[opening + 1 : closing]} & {"L", "R"}
        if outer in inside:
            side = outer
        elif inside:
            found = (_side(kind) for kind in reversed(kinds[:opening]))
            context = next((kind for kind in found if kind in {"L", "R"}), outer)
            side = context if context in inside else outer
        else:
            continue
        kinds[opening] = kinds[closing] = side


def _pairs(text: str, kinds: list[str]) -> list[tuple[int, int]]:
    waiting: list[tuple[str, int]] = []
    pairs: list[tuple[int, int]] = []
    for index, character in enumerate(text):
        if kinds[index] != "ON":
            continue
        if character in _BRACKETS:
            waiting.append((_BRACKETS[character], index))
        for depth in range(len(waiting) - 1, -1, -1):
            if waiting[depth][0] == character:
                pairs.append((waiting[depth][1], index))
                del waiting[depth:]
                break
    return sorted(pairs)
