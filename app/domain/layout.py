"""Where bytes live below the data folder, as relative paths. One place, so that rows, deletion and
the storage report agree.

    tidemill.db  instance.json  run/  uploads/<id>  outputs/<id>
    work/<job>/<attempt>/  work/<worker>/<request>/  cache/<id>
"""

import re

UPLOADS = "uploads"
WORK = "work"
OUTPUTS = "outputs"
CACHE = "cache"
RUN = "run"
MARKER = "instance.json"
DATABASE = "tidemill.db"

_ATTEMPT = re.compile(rf"{WORK}/([0-9a-f]{{32}})/([1-9][0-9]{{0,8}})\Z")


def upload_path(upload_id: str) -> str:
    """Return the path of an upload's bytes, from the first byte to deletion."""
    return f"{UPLOADS}/{upload_id}"


def output_path(output_id: str) -> str:
    """Return the path of a published output."""
    return f"{OUTPUTS}/{output_id}"


def kept_clip_path(clip_id: str) -> str:
    """Return the path of a kept clip."""
    return f"{CACHE}/{clip_id}"


def scratch_path(job_id: str, attempt: int) -> str:
    """Return the folder in which one attempt of a job works."""
    return f"{WORK}/{job_id}/{attempt}"


def attempt_of(path: str) -> tuple[str, int] | None:
    """Return the job and the attempt whose folder ``path`` is, None for everything else."""
    found = _ATTEMPT.match(path)
    return (found[1], int(found[2])) if found else None


def request_path(worker: str, request_id: str) -> str:
    """Return the folder of what one request brings, below its process's name while that lives."""
    return f"{WORK}/{worker}/{request_id}"
