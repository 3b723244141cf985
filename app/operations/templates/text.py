"""Text that people give, made fit to be drawn: cleaned, capped, of characters that are there."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from pydantic import AfterValidator, Field

from app.domain.errors import UnsupportedCharacters

TITLE_LENGTH, LINE_LENGTH, BODY_LENGTH, TRAIT_LENGTH = 80, 120, 280, 40
"""The most characters of a title, a line, a paragraph and a trait."""
MOST_BODY_LINES = 6
LISTED = 12
"""Characters that a sentence names at most; the answer's field has all."""

LINE_END = re.compile(r"\r\n|[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]")
BLANKS = re.compile(r"[^\S\n]+")
MANY_LINE_ENDS = re.compile(r"\n{3,}")

TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Embeddings, overrides and isolates: they can make text read as something else than it is."""

_FORM = "\ufe0f"
_PICTOGRAPH = (
    "\U0001f000-\U0001f1e5\U0001f200-\U0001faff"
    "\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1"
    "\u26aa\u26ab\u26bd\u26be\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705"
    "\u270a\u270b\u2728\u274c\u274e\u2753-\u2755\u2757\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50"
    "\u2b55"
)
"""What is shown as a coloured picture wherever it stands."""
_EITHER = "\u2300-\u27bf\u2b00-\u2bff\u3030\u303d\u3297\u3299"
"""What is shown as a coloured picture where the form for it is asked for, and as a sign elsewhere."""
_ONE = f"(?:[{_PICTOGRAPH}]{_FORM}?|[{_EITHER}]{_FORM}|[{_EITHER}](?=[\U0001f3fb-\U0001f3ff]))"
_MODIFIED = f"{_ONE}[\U0001f3fb-\U0001f3ff]?[\U000e0020-\U000e007f]*"
EMOJI = re.compile(
    f"[\U0001f1e6-\U0001f1ff]{{1,2}}|[0-9#*]{_FORM}?\u20e3"
    f"|{_MODIFIED}(?:\u200d(?:{_MODIFIED}|[{_EITHER}]))*"
)
"""Flags, keycaps, and pictures with their skin tones, joined into families or not."""
FORMS = re.compile("[\ufe00-\ufe0f]")
"""Selectors of a form: unseen, and of use only to emoji."""


class Alphabet(Protocol):
    """What can be drawn here."""

    def lacking(self, text: str) -> tuple[str, ...]:
        """Return the characters of ``text`` that cannot be drawn, each once, in their order.

        Those that are never seen (spaces, joiners, direction marks) lack nothing.
        """
        ...


def clean_line(text: str) -> str:
    """Return one line of NFC: line ends and runs of blanks are one space.

    Raises ``ValueError`` for control characters, for marks that turn the direction of text around,
    and when nothing is left to be drawn.
    """
    return _clean(LINE_END.sub(" ", text))


def clean_paragraph(text: str) -> str:
    """Like ``clean_line``, with up to ``MOST_BODY_LINES`` lines of their own."""
    cleaned = _clean(LINE_END.sub("\n", text))
    if cleaned.count("\n") >= MOST_BODY_LINES:
        msg = f"has more than {MOST_BODY_LINES} lines"
        raise ValueError(msg)
    return cleaned


def _clean(text: str) -> str:
    normal = unicodedata.normalize("NFC", text)
    for character in normal:
        if character in "\n\t":
            continue
        if unicodedata.category(character) in {"Cc", "Cs"}:
            msg = f"has the control character {_name(character)}"
            raise ValueError(msg)
        if character in TURNING:
            msg = f"has {_name(character)}, which turns the direction of text around"
            raise ValueError(msg)
    lines = (BLANKS.sub(" ", line).strip() for line in normal.split("\n"))
    cleaned = MANY_LINE_ENDS.sub("\n\n", "\n".join(lines)).strip()
    if not is_visible(without_emoji(cleaned)):
        msg = "has nothing that can be drawn (emoji are left out)"
        raise ValueError(msg)
    return cleaned


def _name(character: str) -> str:
    return f"U+{ord(character):04X}"


def without_emoji(text: str) -> str:
    """Return ``text`` without emoji and the gaps that they leave."""
    kept = FORMS.sub("", EMOJI.sub("", text))
    return "\n".join(BLANKS.sub(" ", line).strip() for line in kept.split("\n")).strip()


def is_visible(text: str) -> bool:
    """Whether anything of it leaves a mark."""
    return any(unicodedata.category(character)[0] not in "CZM" for character in text)


Title = Annotated[
    str, Field(min_length=1, max_length=TITLE_LENGTH, strict=True), AfterValidator(clean_line)
]
Line = Annotated[
    str, Field(min_length=1, max_length=LINE_LENGTH, strict=True), AfterValidator(clean_line)
]
Trait = Annotated[
    str, Field(min_length=1, max_length=TRAIT_LENGTH, strict=True), AfterValidator(clean_line)
]
Paragraph = Annotated[
    str, Field(min_length=1, max_length=BODY_LENGTH, strict=True), AfterValidator(clean_paragraph)
]


@dataclass
class Wording:
    """Makes the texts of one render fit to be drawn, and remembers what was wrong with them.

    ``lacking`` by field; ``emoji`` that were left out, by field.
    """

    alphabet: Alphabet
    lacking: dict[str, list[str]] = field(default_factory=dict)
    emoji: dict[str, list[str]] = field(default_factory=dict)

    def draw(self, name: str, text: str | None) -> str:
        """Return the text of the field ``name`` as it is drawn, empty when there is none."""
        if text is None:
            return ""
        left_out = list(dict.fromkeys(EMOJI.findall(text)))
        plain = without_emoji(text)
        missing = self.alphabet.lacking(plain)
        # Signs that some fonts show as pictures are emoji to people: not worth a refusal.
        signs = [each for each in missing if re.fullmatch(f"[{_EITHER}]", each)]
        rest = plain
        for sign in signs:
            rest = rest.replace(sign, "")
        letters = [each for each in missing if each not in signs]
        if letters:
            self.lacking[name] = letters
        if left_out or signs:
            self.emoji[name] = [*left_out, *signs]
        drawn = without_emoji(rest)
        if not letters and not is_visible(drawn):
            self.lacking[name] = signs
        return drawn

    def draw_all(self, name: str, texts: Iterable[str]) -> tuple[str, ...]:
        """Return the texts of a list; each is the field ``name.0``, ``name.1`` and so on."""
        return tuple(self.draw(f"{name}.{index}", text) for index, text in enumerate(texts))

    def check(self) -> None:
        """Raise UnsupportedCharacters when any of the texts has characters that no font has."""
        if not self.lacking:
            return
        fields = [f"{name}: {_listed(missing)}" for name, missing in self.lacking.items()]
        msg = f"No font here has these characters. {'; '.join(fields)}."
        raise UnsupportedCharacters(msg, extra={"characters": dict(self.lacking)})

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(
            f"Emoji cannot be drawn and were left out of {name}: {_listed(found)}."
            for name, found in self.emoji.items()
        )


def _listed(characters: list[str]) -> str:
    named = [
        f"{each} ({' '.join(map(_name, each))})" if is_visible(each) else _name(each[0])
        for each in characters[:LISTED]
    ]
    return ", ".join(named) + (" and others" if len(characters) > LISTED else "")


def reads_leftwards(texts: Iterable[str]) -> bool:
    """Whether the first letter with a direction of its own runs from right to left."""
    for text in texts:
        for character in text:
            direction = unicodedata.bidirectional(character)
            if direction in {"R", "AL"}:
                return True
            if direction == "L":
                return False
    return False
