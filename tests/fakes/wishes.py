"""One wish or more for every operation on clips, each text of which carries the same word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.domain.jobs import InputRole
from app.domain.media import MediaInfo, StillInfo
from app.operations.base import ClipInput, JobSource, StillInput
from tests.fakes.media import make_media

WORD = "Qzxuser"
"""No argument of any process that runs FFmpeg has it."""
NAMES = ("0" * 32, "1" * 32, "2" * 32)
TEXT = f"{WORD} %{{pts}} 'it:s' \\ , ; [a] /etc/hostname"


@dataclass(frozen=True)
class Wish:
    """What a client asks of an operation: how many clips, and which pictures beside."""

    operation: str
    params: Mapping[str, Any]
    clips: int = 1
    pictures: tuple[InputRole, ...] = ()


LOGO, IMAGE = (InputRole.LOGO,), (InputRole.IMAGE,)
WISHES: Sequence[Wish] = (
    Wish("trim", {"start": 1, "end": 2}),
    Wish("trim", {"start": 0, "mode": "auto"}),
    Wish("trim", {"start": 1, "mode": "copy"}),
    Wish("trim-preview", {"start": 1, "end": 2}),
    Wish("concatenate", {}, clips=2),
    Wish("concatenate", {"transition": "crossfade"}, clips=3),
    Wish("intro", {"team": TEXT, "full_name": TEXT, "role": TEXT}),
    Wish("intro", {"team": TEXT, "full_name": TEXT, "role": TEXT, "aspect": "9:16"}, pictures=LOGO),
    Wish("announcement", {"title": TEXT, "body": TEXT, "date": TEXT}),
    Wish("announcement", {"title": TEXT, "body": TEXT}, clips=0, pictures=IMAGE),
    Wish("announcement", {"title": TEXT, "body": TEXT}, clips=0),
    Wish("how-it-works", {"title": TEXT, "steps": [TEXT, TEXT, TEXT]}, clips=0),
    Wish("how-it-works", {"title": TEXT, "steps": [TEXT, TEXT], "aspect": "1:1"}, pictures=LOGO),
    Wish("persona", {"full_name": TEXT, "role": TEXT, "quote": TEXT, "traits": [WORD, WORD]}),
    Wish("persona", {"full_name": TEXT, "role": TEXT}, clips=0, pictures=(*IMAGE, *LOGO)),
    Wish("demo", {"title": TEXT, "captions": [{"text": TEXT, "start": 1, "end": 4}]}),
    Wish("closing", {"message": TEXT, "contact": TEXT, "url": TEXT, "team": TEXT}),
    Wish("closing", {"message": TEXT, "accent_color": "#ff8800"}, clips=0, pictures=LOGO),
)


def sources(wish: Wish, media: MediaInfo | None = None) -> list[JobSource]:
    """The inputs of a wish as its plan sees them; ``media`` is what the probe said of each clip."""
    seen = media or make_media()
    if seen.video.keyframes is None:
        seen = replace(seen, video=replace(seen.video, keyframes=tuple(range(0, 153600, 15360))))
    clips: list[JobSource] = [
        ClipInput(name, seen, f"{WORD}.mp4", sha256=name * 2) for name in NAMES[: wish.clips]
    ]
    still = StillInfo("png", 640, 360, has_alpha=True)
    pictures = [
        StillInput(f"{n}" * 32, role, still, f"{WORD}.png")
        for n, role in enumerate(wish.pictures, 7)
    ]
    return [*clips, *pictures]
