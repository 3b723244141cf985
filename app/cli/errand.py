"""One errand of ``tidemill upload``: send a file, wait for what is made of it, fetch the result."""

import mimetypes
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from app.cli.client import Api, GaveUpError, Patience, RefusedError, make_server
from app.cli.fetching import DamagedError, Fetching
from app.cli.progress import Display
from app.cli.sending import Receipt, Sending
from app.cli.terminal import FAILED, INTERRUPTED, complain
from app.cli.wish import Place, Wish, resume_command

GAVE_UP = 3
"""Exit code when the server was away for longer than was asked for."""

BATCH_WAIT_SECONDS = 90.0
"""A completion that was lost is repaired within a minute."""
POLL_SECONDS = (0.2, 1.0)
"""Between two looks at a job: at first, and later."""


class JobFailedError(Exception):
    """The job ended without a result."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, as printed."""

    upload_id: str
    batch_id: str | None
    job_ids: tuple[str, ...]
    files: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """For people and for ``cut -d' ' -f2``."""
        yield f"upload {self.upload_id}"
        if self.batch_id:
            yield f"batch {self.batch_id}"
        yield from (f"job {job_id}" for job_id in self.job_ids)
        yield from (f"output {url}" for url in self.outputs)
        yield from (f"file {path}" for path in self.files)


class Errand:
    """One run of the command against one server. ``upload_id`` is known once there is one."""

    def __init__(self, api: Api, display: Display) -> None:
        self._api = api
        self._display = display
        self.upload_id: str | None = None

    def run(self, wish: Wish) -> Outcome:
        """Do all of it. Raises RefusedError, GaveUpError, JobFailedError, DamagedError and OSError."""
        receipt = self._send(wish)
        outcome = Outcome(receipt.upload_id, receipt.batch_id, receipt.job_ids)
        outputs = [output for job_id in receipt.job_ids for output in self._await_job(job_id)]
        outcome = replace(
            outcome, outputs=tuple(self._api.server.at(_output_path(o)) for o in outputs)
        )
        if wish.output is None:
            return outcome
        if not outputs:
            raise JobFailedError("nothing was asked to be made of this upload: there is no output")
        files = tuple(str(path) for path in self._fetch(outputs, wish.output))
        if wish.delete:
            self._delete(receipt)
        return replace(outcome, files=files)

    def _send(self, wish: Wish) -> Receipt:
        size = wish.file.stat().st_size
        title = f"Uploading {wish.file.name}"
        with wish.file.open("rb") as stream, self._display.bytes_meter(title, size) as meter:
            sending = Sending(
                self._api.server,
                self._api.http,
                self._api.patience,
                stream=stream,
                metadata={} if wish.resume else self._metadata(wish),
                on_bytes=meter.update,
            )
            self._begin(sending, wish)
            sending.send()
            meter.update(max(size, 1))
            return sending.receipt(Patience(BATCH_WAIT_SECONDS, self._display.say))

    def _begin(self, sending: Sending, wish: Wish) -> None:
        if wish.resume is None:
            self.upload_id = sending.create()
            return
        self.upload_id = wish.resume
        try:
            offset = sending.resume(wish.resume)
        except RefusedError as refused:
            if refused.code or refused.status == 0:
                raise
            detail = (
                "the server no longer has this upload: leave --resume out to send the file anew"
            )
            raise RefusedError(refused.status, "", detail) from refused
        self._display.say(f"Going on at byte {offset}.")

    def _metadata(self, wish: Wish) -> dict[str, str]:
        name = wish.file.name.encode("utf-8", "replace").decode()
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        metadata = {"filename": name, "filetype": media_type}
        if wish.operation is not None:
            metadata["session"] = self._api.open_session(wish.operation, wish.params)
        return metadata

    def _await_job(self, job_id: str) -> list[dict[str, Any]]:
        job = self._api.get_job(job_id)
        pause, longest = POLL_SECONDS
        with self._display.percent_meter(f"Running {job['operation']}") as meter:
            while job["status"] in {"queued", "processing"}:
                stage = job.get("stage") or job["status"]
                meter.update(float(job.get("progress") or 0.0), str(stage))
                time.sleep(pause)
                pause = min(longest, pause * 1.1)
                job = self._api.get_job(job_id)
            meter.update(float(job.get("progress") or 0.0), str(job["status"]))
        if job["status"] == "completed":
            return list(job["outputs"])
        error = job.get("error") or {}
        message = error.get("message") or f"the job is {job['status']}"
        raise JobFailedError(f"{message} ({error['code']})" if error.get("code") else message)

    def _fetch(self, outputs: list[dict[str, Any]], output: Path) -> Iterator[Path]:
        if len(outputs) > 1 and not output.is_dir():
            names = ", ".join(str(o["filename"]) for o in outputs)
            msg = f"there are {len(outputs)} outputs ({names}): name a folder with -o"
            raise JobFailedError(msg)
        for found in outputs:
            # The server's name for a file is data: only its last part, and never outside the folder.
            name = Path(str(found["filename"])).name or str(found["id"])
            yield self._fetch_one(_output_path(found), output / name if output.is_dir() else output)

    def _fetch_one(self, path: str, target: Path) -> Path:
        api = self._api
        source = Fetching(api.server, api.http, api.patience, lambda _: None).look(path)
        with self._display.bytes_meter(f"Downloading {target.name}", source.size_bytes) as meter:
            Fetching(api.server, api.http, api.patience, meter.update).fetch(source, target)
            meter.update(source.size_bytes)
        return target

    def _delete(self, receipt: Receipt) -> None:
        for job_id in receipt.job_ids:
            self._api.delete_if_there(f"/api/v1/jobs/{job_id}")
        if receipt.batch_id:
            self._api.delete_if_there(f"/api/v1/batches/{receipt.batch_id}")
        self._display.say("Removed the job, its output and the batch from the server.")


def _output_path(output: Mapping[str, Any]) -> str:
    return f"/api/v1/outputs/{output['id']}"


def carry_out(wish: Wish, place: Place, *, quiet: bool = False) -> Outcome:
    """Run an errand, showing how it goes. What goes wrong is said, and becomes an exit code."""
    display = Display(quiet=quiet)
    try:
        server = make_server(place.server, place.key_file)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    with server.connect() as http:
        errand = Errand(Api(server, http, Patience(place.timeout_seconds, display.say)), display)
        with _explained(errand, wish, place):
            return errand.run(wish)


@contextmanager
def _explained(errand: Errand, wish: Wish, place: Place) -> Iterator[None]:
    """Turn what can go wrong into one clear line, how to go on, and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        said, code = "stopped", INTERRUPTED
    except GaveUpError as error:
        said, code = f"gave up, {error}", GAVE_UP
    except OSError as error:
        said, code = str(error), FAILED
    except (RefusedError, JobFailedError, DamagedError) as error:
        complain([str(error)])
        raise typer.Exit(FAILED) from error
    else:
        return
    if errand.upload_id is None:
        complain([said])
    else:
        going_on = resume_command(errand.upload_id, wish, place)
        complain([said, "what has arrived stays on the server for a while; to go on:"])
        typer.echo(f"  {going_on}", err=True)
    raise typer.Exit(code)
