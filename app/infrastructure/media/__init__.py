"""FFmpeg and the probe: found, started, limited, watched and checked. Nothing else starts a process."""

from pathlib import Path

COPY_CHILD = Path(__file__).with_name("copy_child.py")
"""The script that copies a part of a clip."""
JOIN_CHILD = Path(__file__).with_name("join_child.py")
"""The script that puts clips one behind the other."""
