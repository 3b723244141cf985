"""The servers and clips of the end-to-end tests, to be hurt."""

from tests.e2e.conftest import clip, make_own_server, make_server, server, short_clip

__all__ = ["clip", "make_own_server", "make_server", "server", "short_clip"]
