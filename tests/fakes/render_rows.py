"""One row for each endpoint that renders while its client waits, and for each operation of the jobs.

A new endpoint or operation is a new row here; the tests that go through the rows fail without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """How to ask for one synchronous render of short clips.

    ``files`` are the names of the form's files; none: the clips are uploaded before and named by id.
    ``seconds`` is how long the result is, of clips of ``CLIP_SECONDS``.
    """

    name: str
    path: str
    fields: Mapping[str, str]
    files: tuple[str, ...] = ("video",)
    seconds: float | None = None
    has_aspect: bool = False

    @property
    def is_by_id(self) -> bool:
        return not self.files


@dataclass(frozen=True, slots=True)
class OperationRow:
    """How to ask for one job: ``clips`` is how many it takes (0: a log)."""

    name: str
    params: Mapping[str, Any]
    clips: int = 1
    last_stage: str = ""
    facts: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


CLIP_SECONDS = 1.0
PEOPLE = {"team": "Tidewater", "full_name": "Ada Lovelace", "role": "Navigator"}

ENDPOINTS = {
    row.name: row
    for row in (
        EndpointRow("trim", "/api/trim", {"start": "0.2", "end": "0.8"}, seconds=0.6),
        EndpointRow(
            "trim-preview", "/api/trim/preview", {"start": "0.2", "end": "0.8"}, seconds=0.6
        ),
        EndpointRow("concatenate", "/api/concatenate", {}, files=(), seconds=2 * CLIP_SECONDS),
        EndpointRow(
            "concatenate-multipart",
            "/api/concatenate-multipart",
            {"order_0": "1", "order_1": "0", "final_filename": "both"},
            files=("segment_0", "segment_1"),
            seconds=2 * CLIP_SECONDS,
        ),
        EndpointRow("intro", "/api/intro/render", PEOPLE, has_aspect=True),
        EndpointRow(
            "announcement",
            "/api/announcement/render",
            {"title": "High water", "body": "The mill opens at noon."},
            has_aspect=True,
        ),
        EndpointRow(
            "how-it-works",
            "/api/how-it-works/render",
            {"title": "How it works", "steps": '["Fill the pond", "Open the gate"]'},
            has_aspect=True,
        ),
        EndpointRow(
            "persona",
            "/api/persona/render",
            {"full_name": "Ada Lovelace", "role": "Navigator"},
            has_aspect=True,
        ),
        EndpointRow(
            "demo",
            "/api/demo/render",
            {"title": "The wheel", "captions": '[{"text": "It turns", "start": 0, "end": 0.8}]'},
            has_aspect=True,
        ),
        EndpointRow("closing", "/api/closing/render", {"message": "Thank you"}, has_aspect=True),
    )
}

OPERATIONS = {
    row.name: row
    for row in (
        OperationRow("trim", {"start": 0.2, "end": 0.8}),
        OperationRow("trim-preview", {"start": 0.2, "end": 0.8}),
        OperationRow("concatenate", {}, clips=2),
        OperationRow("intro", PEOPLE),
        OperationRow("announcement", {"title": "High water", "body": "The mill opens at noon."}),
        OperationRow(
            "how-it-works", {"title": "How it works", "steps": ["Fill the pond", "Open the gate"]}
        ),
        OperationRow("persona", {"full_name": "Ada Lovelace", "role": "Navigator"}),
        OperationRow(
            "demo",
            {"title": "The wheel", "captions": [{"text": "It turns", "start": 0, "end": 0.8}]},
        ),
        OperationRow("closing", {"message": "Thank you"}),
        OperationRow("moodle-log", {"timezone": "Europe/Berlin"}, clips=0),
    )
}
