"""Running applications for the API's tests, and clips to send them."""

from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.described import Described
from tests.fakes.served import Served, settings_for

KEY = "made-up-key-0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The open service without workers: jobs stay queued."""
    data = tmp_path_factory.mktemp("served") / "data"
    settings = settings_for(
        data,
        jobs={"workers": 0, "queue_limit": 40},
        uploads={"max_upload_bytes": 2**50, "lock_wait_seconds": 1.0},
        media={"media_max_seconds": 3},
    )
    with Served(settings) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that asks for a key, and whose queue takes one job."""
    folder = tmp_path_factory.mktemp("keyed")
    key_file = folder / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    settings = settings_for(
        folder / "data",
        jobs={"workers": 0, "queue_limit": 1},
        access={"admin_key_file": key_file},
    )
    with Served(settings, authorization=f"Bearer {KEY}") as running:
        yield running


@pytest.fixture(scope="module")
def described(served: Served) -> Described:
    return Described(served.http.get("/openapi.json").json())


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> bytes:
    """Two seconds of real H.264 and AAC."""
    return _clip(clip_folder, ClipSpec(seconds=2)).read_bytes()


@pytest.fixture(scope="session")
def long_clip(clip_folder: Path) -> bytes:
    """More seconds than the service takes."""
    return _clip(clip_folder, ClipSpec(seconds=4)).read_bytes()


def _clip(folder: Path, spec: ClipSpec) -> Path:
    return make_clip(folder, imageio_ffmpeg.get_ffmpeg_exe(), spec)
