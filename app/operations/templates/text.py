"""Text that people give, made fit to be drawn: cleaned, capped, of characters that are there."""

from typing import Protocol


class Alphabet(Protocol):
    """What can be drawn here."""

    def lacking(self, text: str) -> tuple[str, ...]:
        """Return the characters of ``text`` that cannot be drawn, each once, in their order.

        Those that are never seen (spaces, joiners, direction marks) lack nothing.
        """
        ...
