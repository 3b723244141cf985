"""A probe that knows clips by their first bytes, for tests of what happens around it."""

import asyncio
from pathlib import Path

from app.domain.errors import EmptyFile, NotAnImage, NotMedia
from app.domain.media import AudioInfo, MediaInfo, StillInfo, VideoInfo
from app.services.ports import MediaProbe, StillProbe

CLIP = b"clip "
"""A file that begins so is a clip of ten seconds to ``FakeProbe``."""
STILL = b"still "
"""A file that begins so is a picture to ``FakeStills``."""


def make_media(*, duration_seconds: float = 10.0, size_bytes: int = 100) -> MediaInfo:
    """A plain H.264 and AAC clip at 30 frames a second."""
    return MediaInfo(
        container="mov",
        duration_seconds=duration_seconds,
        size_bytes=size_bytes,
        stream_count=2,
        video=VideoInfo(
            codec="h264",
            profile="High",
            width=320,
            height=180,
            pixel_format="yuv420p",
            rotation=0,
            sample_aspect="1/1",
            frame_rate="30/1",
            time_base="1/15360",
            start_pts=0,
            color_primaries=None,
            color_transfer=None,
            color_space=None,
            color_range=None,
        ),
        audio=AudioInfo(codec="aac", sample_rate=48000, channels=2, layout="stereo"),
    )


class FakeStills(StillProbe):
    """Files that begin with ``STILL`` are pictures of 640 x 360, empty and other ones are refused."""

    async def probe_still(self, path: Path) -> StillInfo:
        content = await asyncio.to_thread(path.read_bytes)
        if not content:
            raise EmptyFile
        if not content.startswith(STILL):
            raise NotAnImage
        return StillInfo("png", 640, 360, has_alpha=False)


class FakeProbe(MediaProbe):
    """Files that begin with ``CLIP`` are media, empty and other ones are refused as by the real one."""

    def __init__(self) -> None:
        self.looked_at: list[Path] = []

    async def probe(self, path: Path) -> MediaInfo:
        self.looked_at.append(path)
        content = await asyncio.to_thread(path.read_bytes)
        if not content:
            raise EmptyFile
        if not content.startswith(CLIP):
            raise NotMedia
        return make_media(size_bytes=len(content))
