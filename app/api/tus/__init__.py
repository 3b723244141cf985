"""tus 1.0.0 below /files: one ASGI app of ours, inside which tuspyserver's router works."""

from app.api.tus.app import TusOptions, mount_tus
from app.api.tus.headers import ALLOWED_HEADERS, EXPOSED_HEADERS

__all__ = ["ALLOWED_HEADERS", "EXPOSED_HEADERS", "TusOptions", "mount_tus"]
