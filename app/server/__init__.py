"""The uvicorn server we run: tuned, limited, and stopped the way uploads and jobs need it."""

from app.server.running import serve

__all__ = ["serve"]
