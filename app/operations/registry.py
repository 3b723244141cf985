"""The operations there are, by name."""

from collections.abc import Iterable

from app.domain.errors import UnknownOperation
from app.operations.base import Operation
from app.operations.concatenate import MOST_CLIPS, Concatenate
from app.operations.moodle_log import MoodleLog
from app.operations.templates.announcement import Announcement
from app.operations.templates.closing import Closing
from app.operations.templates.demo import Demo
from app.operations.templates.how_it_works import HowItWorks
from app.operations.templates.intro import Intro
from app.operations.templates.persona import Persona
from app.operations.templates.text import Alphabet
from app.operations.trim import Trim
from app.operations.trim_preview import TrimPreview


class Registry:
    """Finds operations by name, in the order they were given."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._operations = {operation.name: operation for operation in operations}

    def get(self, name: str) -> Operation:
        """Return the operation, or raise ``UnknownOperation`` naming those there are."""
        operation = self._operations.get(name)
        if operation is None:
            known = list(self._operations)
            msg = f"There is no operation of that name; there is: {', '.join(known)}."
            raise UnknownOperation(msg, extra={"operations": known})
        return operation

    def releasing(self) -> frozenset[str]:
        """Return the names of those that nothing holds the inputs of, once they have ended."""
        return frozenset(name for name, each in self._operations.items() if each.releases_inputs)

    def all(self) -> tuple[Operation, ...]:
        return tuple(self._operations.values())


def default_registry(alphabet: Alphabet, *, concat_max_clips: int = MOST_CLIPS) -> Registry:
    """Return every operation of this version; ``alphabet`` knows what text can be drawn."""
    templates = (Intro, Announcement, HowItWorks, Persona, Demo, Closing)
    return Registry(
        [
            *(template(alphabet) for template in templates),
            *(Trim(), TrimPreview(), Concatenate(concat_max_clips), MoodleLog()),
        ]
    )
