"""What clips are: probed on first need in a limited child, and remembered with the upload."""

from app.domain import layout
from app.domain.errors import AppError, StorageFailed
from app.domain.media import MediaInfo, media_from_json
from app.domain.outputs import Output
from app.domain.uploads import Upload
from app.services.ports import Database, Files, MediaProbe, Transaction


class MediaService:
    """Probes uploads and outputs. Raises what ``MediaProbe.probe`` raises, naming the input."""

    def __init__(self, db: Database, files: Files, probe: MediaProbe) -> None:
        self._db = db
        self._files = files
        self._probe = probe

    async def media_of(self, upload: Upload) -> MediaInfo:
        """Return what is known of a completed upload, else probe it and keep the result.

        Two callers at once probe twice and store the same; a failed probe stores nothing.
        """
        if upload.media is not None:
            return media_from_json(upload.media)
        media = await self._look(layout.upload_path(upload.id), upload_id=upload.id)

        def keep(tx: Transaction) -> None:
            if tx.uploads.find(upload.id) is not None:
                tx.uploads.set_media(upload.id, media.as_json())

        await self._db.write(keep)
        return media

    async def media_of_output(self, output: Output) -> MediaInfo:
        """Probe an output that serves as an input."""
        return await self._look(layout.output_path(output.id), output_id=output.id)

    async def _look(self, path: str, **names: str) -> MediaInfo:
        if self._files.size(path) is None:
            raise StorageFailed("The bytes of an input are missing.", extra=names)
        try:
            return await self._probe.probe(self._files.absolute(path))
        except FileNotFoundError as error:
            raise StorageFailed("The bytes of an input are missing.", extra=names) from error
        except AppError as error:
            # With several inputs a client must learn which of them it is.
            for key, value in names.items():
                error.extra.setdefault(key, value)
            raise
