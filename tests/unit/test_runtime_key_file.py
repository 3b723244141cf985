"""The file with the admin key: what is taken for a key, and what is refused."""

from pathlib import Path

import pytest

from app.infrastructure.key_file import read_key
from app.infrastructure.storage.paths import StartRefused


def test_the_key_is_what_the_file_holds_without_the_end_of_the_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("k" * 43 + "\n")
    path.chmod(0o600)
    assert read_key(path) == "k" * 43


def test_a_secret_that_others_can_read_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("k" * 43)
    path.chmod(0o444)
    assert read_key(path) == "k" * 43


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "cannot be read"),
        ("", 0o600, "at least 20 characters"),
        ("\n\n", 0o600, "at least 20 characters"),
        ("k" * 19, 0o600, "at least 20 characters"),
        ("two words are not one key at all", 0o600, "without spaces"),
        ("schlüssel" * 5, 0o600, "at least 20 characters"),
        ("k" * 32, 0o622, "can be written by others"),
    ],
)
def test_a_file_that_protects_nothing_is_refused_without_showing_it(
    tmp_path: Path, content: str | None, mode: int, reason: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(StartRefused) as caught:
        read_key(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (content and content.strip()) or content not in str(caught.value)


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="cannot be read"):
        read_key(tmp_path)
