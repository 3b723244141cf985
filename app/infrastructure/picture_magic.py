"""Tells from the first bytes whether a file may be a picture that is read here. Decodes nothing."""

from app.domain.errors import NotAnImage

HEAD_BYTES = 16
ALLOWED = ("PNG", "JPEG", "WebP")


def is_picture(head: bytes) -> bool:
    """Whether ``head`` begins a PNG, a JPEG or a WebP."""
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return True
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP"


def not_an_image() -> NotAnImage:
    """Return the refusal, with the formats that are allowed."""
    return NotAnImage(
        f"The file is no picture that is read here. Allowed are {', '.join(ALLOWED)}.",
        extra={"allowed": list(ALLOWED)},
    )
