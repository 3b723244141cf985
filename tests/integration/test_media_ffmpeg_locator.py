"""Which FFmpeg is used: the configured, the system's, the wheel's; and what is said without one."""

from pathlib import Path

import pytest

from app.infrastructure.media import ffmpeg_locator
from app.infrastructure.media.ffmpeg_locator import FFmpegUnusableError, locate_ffmpeg
from tests.fakes.media_bench import scripted_ffmpeg


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_bundled_one_is_used_when_the_system_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = locate_ffmpeg(None)
    assert found.source == "bundled"
    assert found.version
    assert found.path.is_file()


def test_a_capable_system_ffmpeg_goes_before_the_bundled_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = scripted_ffmpeg(tmp_path / "ffmpeg", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = locate_ffmpeg(None)
    assert (found.source, found.path) == ("system", mine.resolve())


def test_a_system_ffmpeg_that_lacks_an_encoder_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(tmp_path / "ffmpeg", 'case "$1" in -version) echo ffmpeg version 5.1;; esac')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert locate_ffmpeg(None).source == "bundled"


def test_a_configured_one_goes_before_all(tmp_path: Path) -> None:
    mine = scripted_ffmpeg(tmp_path / "my-ffmpeg", "exit 0")
    found = locate_ffmpeg(str(mine))
    assert (found.source, found.path) == ("configured", mine.resolve())
    assert found.major >= 4 or not found.version[0].isdigit()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 1", "does not answer"),
        ("echo something else", "does not answer"),
        ('case "$1" in -version) echo ffmpeg version n7.1;; esac', "it lacks libx264, aac"),
        ("sleep 600", "in time"),
    ],
)
def test_a_configured_one_that_cannot_work_is_refused_and_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    monkeypatch.setattr(ffmpeg_locator, "ANSWER_SECONDS", 0.5)
    mine = script(tmp_path / "ffmpeg", body)
    with pytest.raises(FFmpegUnusableError, match=words) as refused:
        locate_ffmpeg(str(mine))
    assert "TIDEMILL_FFMPEG_PATH" in str(refused.value)
    assert "unset it" in str(refused.value)


def test_a_configured_path_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FFmpegUnusableError, match="no executable file"):
        locate_ffmpeg(str(tmp_path / "nothing"))


def test_without_any_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    def none() -> str:
        raise RuntimeError

    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", none)
    with pytest.raises(FFmpegUnusableError, match="apt-get install ffmpeg"):
        locate_ffmpeg(None)
