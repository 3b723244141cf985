"""Drawing titles, shapes and pictures, in a limited child process; the service knows the fonts only."""

from pathlib import Path

CHILD = Path(__file__).with_name("child.py")
"""The script that draws a scene, or looks at a picture."""
