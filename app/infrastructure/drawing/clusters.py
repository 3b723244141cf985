"""Cuts text into what a reader takes for one sign: a letter with its marks, a whole conjunct."""

import unicodedata

JOINERS = "\u200c\u200d"
VIRAMA = 9
"""The combining class of the sign that joins two consonants of an Indic script."""


def clusters(text: str) -> list[str]:
    """Cut text where a reader would: marks stay on their letters, conjuncts stay whole."""
    result: list[str] = []
    for character in text:
        if result and _belongs(result[-1], character):
            result[-1] += character
        else:
            result.append(character)
    return result


def _belongs(before: str, character: str) -> bool:
    if unicodedata.category(character)[0] == "M" or character in JOINERS:
        return not before.isspace()
    last = before.rstrip(JOINERS)[-1:] or before[-1]
    is_letter = unicodedata.category(character) == "Lo"
    return is_letter and unicodedata.combining(last) == VIRAMA
