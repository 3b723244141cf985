"""A look at the pictures that jobs are to show, so that what is none is refused before."""

from app.domain import layout
from app.domain.errors import AppError, StorageFailed
from app.domain.jobs import InputRole
from app.domain.outputs import Output
from app.domain.uploads import Upload
from app.operations.base import StillInput
from app.services.ports import Files, StillProbe


class StillLooks:
    """Looks at stills and logos in a limited child. Nothing is remembered: it takes a moment."""

    def __init__(self, files: Files, probe: StillProbe) -> None:
        self._files = files
        self._probe = probe

    async def look(self, source: Upload | Output, role: InputRole) -> StillInput:
        """Return what a picture is. Raises StorageFailed without a file, and what
        ``StillProbe.probe_still`` raises, naming the input.
        """
        is_upload = isinstance(source, Upload)
        path = layout.upload_path(source.id) if is_upload else layout.output_path(source.id)
        names = {"upload_id" if is_upload else "output_id": source.id}
        if self._files.size(path) is None:
            raise StorageFailed("The bytes of an input are missing.", extra=names)
        try:
            still = await self._probe.probe_still(self._files.absolute(path))
        except FileNotFoundError as error:
            raise StorageFailed("The bytes of an input are missing.", extra=names) from error
        except AppError as error:
            for key, value in names.items():
                error.extra.setdefault(key, value)
            raise
        return StillInput(source.id, role, still, source.filename)
