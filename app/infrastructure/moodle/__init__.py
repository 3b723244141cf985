"""The work on Moodle's logs, done in a limited child process; nothing here runs in the service."""

from pathlib import Path

CHILD = Path(__file__).with_name("child.py")
"""The script that runs one step."""
