"""docs/renders.md says of each synchronous call what it takes, as the operations have it."""

import re
from pathlib import Path

from app.api.render_fields import Shape, fields_of
from app.api.routes.renders import CALLS
from app.operations.registry import default_registry

PAGE = Path(__file__).parents[2] / "docs" / "renders.md"
ROW = re.compile(r"^\| `POST /api(/[a-z/-]+)` \|[^|]*\|([^|]*)\|([^|]*)\|$", re.MULTILINE)


class AnyText:
    def lacking(self, text: str) -> tuple[str, ...]:
        del text
        return ()


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([a-z_0-9]+)`", cell))


def test_the_table_has_every_call_with_its_files_and_fields() -> None:
    rows = {
        path: (names(files), names(fields)) for path, files, fields in ROW.findall(PAGE.read_text())
    }
    registry, wanted = default_registry(AnyText()), {}
    for call in CALLS:
        fields = fields_of(registry.get(call.operation), call.shape)
        files = {"segment_0"} if call.shape is Shape.FORM_SEGMENTS else set(fields.files)
        wanted[call.path] = (files, set(fields.params))
    assert rows == wanted


def test_there_is_a_line_to_try_for_every_call() -> None:
    tried = set(re.findall(r"^\$ curl .*localhost:8000/api(/\S+)", PAGE.read_text(), re.MULTILINE))
    assert tried == {call.path for call in CALLS}
