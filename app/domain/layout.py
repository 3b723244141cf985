"""Where bytes live below the data folder, as relative paths. One place, so that rows, deletion and
the storage report agree.

    tidemill.db  instance.json  run/  uploads/<id>  outputs/<id>
    work/<job>/<attempt>/  work/<worker>/<request>/
"""

UPLOADS = "uploads"
WORK = "work"
OUTPUTS = "outputs"
RUN = "run"
MARKER = "instance.json"
DATABASE = "tidemill.db"


def upload_path(upload_id: str) -> str:
    """Return the path of an upload's bytes, from the first byte to deletion."""
    return f"{UPLOADS}/{upload_id}"


def output_path(output_id: str) -> str:
    """Return the path of a published output."""
    return f"{OUTPUTS}/{output_id}"


def scratch_path(job_id: str, attempt: int) -> str:
    """Return the folder in which one attempt of a job works."""
    return f"{WORK}/{job_id}/{attempt}"


def request_path(worker: str, request_id: str) -> str:
    """Return the folder of what one request brings, below its process's name while that lives."""
    return f"{WORK}/{worker}/{request_id}"
