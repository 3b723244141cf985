"""What a run needs before its first step: a folder with its inputs under their ids, and a plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from app.domain import layout
from app.domain.errors import AppError, InputsDeleted, InvalidParams
from app.domain.jobs import InputRole, Job, JobInput
from app.domain.outputs import Output
from app.domain.uploads import Upload
from app.operations.base import ClipInput, JobSource, Operation, Plan, PythonStep
from app.operations.registry import Registry
from app.services.input_digests import InputDigests
from app.services.job_inputs import Inputs
from app.services.logs import LogLooks
from app.services.media import MediaService
from app.services.ports import Database, Files, Transaction
from app.services.stills import StillLooks


@dataclass(frozen=True, slots=True)
class Workplace:
    """A folder ready to be worked in, and what to do there."""

    folder: Path
    plan: Plan


@dataclass(frozen=True, slots=True)
class Looks:
    """Who looks at an input of each kind, before anything is done with it."""

    media: MediaService
    stills: StillLooks
    logs: LogLooks
    digests: InputDigests


class Workshop:
    """Gets inputs, folder and plan of a job together."""

    def __init__(
        self,
        db: Database,
        files: Files,
        looks: Looks,
        registry: Registry,
    ) -> None:
        self._db = db
        self._files = files
        self._looks = looks
        self._registry = registry

    async def prepare(self, job: Job) -> Workplace:
        """Return the workplace of the job's present attempt.

        Inputs are hard links, so that a deletion never pulls a file from under the work. Raises
        InputsDeleted, and whatever probing and planning raise.
        """
        operation = self._registry.get(job.operation)
        sources = await self._db.read(lambda tx: _sources(tx, job.inputs))
        links = {source.id: _path(source) for source in sources}
        folder = await self._files.make_scratch(job.id, job.attempt, links)
        sources = await self._looks.digests.complete(operation, job.inputs, sources, folder)
        found = await self.look_at(job.inputs, sources)
        try:
            params = operation.params_model.model_validate(job.params)
        except ValidationError as error:
            # Checked when the job was made; this is a row of an older version of the operation.
            msg = f"The parameters do not fit {job.operation} any more."
            raise InvalidParams(msg) from error
        return Workplace(folder, operation.plan(params, found))

    async def clear(self, job: Job, plan: Plan) -> None:
        """Delete what the steps of a plan have left in the folder of the job's present attempt.

        Raises StorageFailed.
        """
        folder = layout.scratch_path(job.id, job.attempt)
        for name in _written_by(plan):
            for path in (f"{folder}/{name}", f"{folder}/{name}.part"):
                await self._files.delete(path)

    async def look_at(
        self, inputs: Sequence[JobInput], sources: Sequence[Upload | Output]
    ) -> list[JobSource]:
        """Look at inputs one by one, as their roles ask: clips are probed unless that was done.

        What is raised for one of several says in ``extra["input"]`` and in words which it was.
        """
        found: list[JobSource] = []
        for number, (item, source) in enumerate(zip(inputs, sources, strict=True), 1):
            try:
                found.append(await self._look_at_one(item.role, source))
            except AppError as error:
                raise _named(error, number, source) if len(inputs) > 1 else error from None
        return found

    async def _look_at_one(self, role: InputRole, source: Upload | Output) -> JobSource:
        if role is InputRole.LOG:
            return await self._looks.logs.look(source)
        if role is InputRole.CLIP:
            return await self._look_at_clip(source)
        return await self._looks.stills.look(source, role)

    async def _look_at_clip(self, source: Upload | Output) -> ClipInput:
        if isinstance(source, Upload):
            media = await self._looks.media.media_of(source)
        else:
            media = await self._looks.media.media_of_output(source)
        return ClipInput(source.id, media, source.filename, source.sha256)

    async def try_plan(self, operation: Operation, params: object, inputs: Inputs) -> Plan:
        """Plan without doing, so that impossible work is refused at once."""
        return operation.plan(params, await self.look_at(inputs.items, inputs.sources))


def _written_by(plan: Plan) -> list[str]:
    """Return the names of the files that the steps of a plan write."""
    names: list[str] = []
    for step in plan.steps:
        names += step.outputs if isinstance(step, PythonStep) else (step.output,)
    return names


def _named(error: AppError, number: int, source: Upload | Output) -> AppError:
    """Return the same refusal, saying which of several inputs it is about."""
    which = {"number": number, "id": source.id, "filename": source.filename}
    return type(error)(
        f"Input {number} ({source.filename}): {error.detail}",
        extra={**error.extra, "input": which},
        retry_after_seconds=error.retry_after_seconds,
    )


def _sources(tx: Transaction, inputs: Sequence[JobInput]) -> list[Upload | Output]:
    found: list[Upload | Output] = []
    missing: list[str] = []
    for item in inputs:
        source = _source(tx, item)
        if source is None:
            missing.append(item.upload_id or item.output_id or "")
        else:
            found.append(source)
    if missing:
        error: AppError = InputsDeleted(
            f"{len(missing)} of {len(inputs)} inputs are gone.", extra={"inputs": missing}
        )
        raise error
    return found


def _source(tx: Transaction, item: JobInput) -> Upload | Output | None:
    if item.upload_id is not None:
        return tx.uploads.find(item.upload_id)
    output = tx.outputs.find(item.output_id or "")
    return output if output is not None and output.status.is_readable else None


def _path(source: Upload | Output) -> str:
    if isinstance(source, Upload):
        return layout.upload_path(source.id)
    return layout.output_path(source.id)
