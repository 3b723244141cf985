"""The file with the admin key: read once at start, never logged."""

import os
import stat
from pathlib import Path

import structlog

from app.infrastructure.storage.paths import StartRefused

log = structlog.get_logger(__name__)

MIN_KEY_CHARACTERS = 20
_RECIPE = (
    "To make one: umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > {path}"
)


def key_required(reason: str) -> StartRefused:
    """Return the refusal of a start that has no key although ``reason`` asks for one."""
    recipe = _RECIPE.format(path="key")
    return StartRefused(
        f"A key is required, since {reason}, but TIDEMILL_ADMIN_KEY_FILE names no file. {recipe}; "
        "then set TIDEMILL_ADMIN_KEY_FILE=key. Bound to 127.0.0.1 alone, none is needed."
    )


def read_key(path: Path) -> str:
    """Return the key in the file at ``path``. Raises ``StartRefused`` for one that protects nothing."""
    key, mode = inspect_key(path)
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        # Not refused: secrets that an orchestrator mounts are often readable inside the container.
        log.warning("key_file.readable_by_others", path=str(path), mode=f"{mode:04o}")
    return key


def inspect_key(path: Path) -> tuple[str, int]:
    """Return the key and the file's mode. Raises ``StartRefused`` as ``read_key`` does."""
    recipe = _RECIPE.format(path=path)
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(4096)
    except OSError as error:
        msg = f"TIDEMILL_ADMIN_KEY_FILE={path} cannot be read ({error.strerror}). {recipe}"
        raise StartRefused(msg) from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        msg = f"TIDEMILL_ADMIN_KEY_FILE={path} can be written by others: chmod 600 {path}"
        raise StartRefused(msg)
    key = content.decode("utf-8", errors="replace").strip()
    if len(key) < MIN_KEY_CHARACTERS or not key.isascii() or any(map(str.isspace, key)):
        msg = (
            f"TIDEMILL_ADMIN_KEY_FILE={path} must hold one key of at least {MIN_KEY_CHARACTERS} "
            f"characters without spaces. {recipe}"
        )
        raise StartRefused(msg)
    return key, mode
