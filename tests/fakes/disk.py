"""A disk that refuses: for tests of what happens to bytes that cannot be deleted."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def undeletable(path: Path) -> Iterator[None]:
    """Make a folder that even root cannot remove."""
    made = subprocess.run(["chattr", "+i", path], check=False, capture_output=True)
    if made.returncode == 0:
        try:
            yield
        finally:
            subprocess.run(["chattr", "-i", path], check=True)
    elif os.getuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", path], check=True)
    else:
        path.parent.chmod(0o500)
        try:
            yield
        finally:
            path.parent.chmod(0o700)
