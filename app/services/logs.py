"""A first look at the logs that jobs are to read, so that what cannot work is refused before."""

from app.domain import layout
from app.domain.errors import AppError, LogTooLarge, StorageFailed
from app.domain.outputs import Output
from app.domain.uploads import Upload
from app.operations.base import LogInput
from app.operations.moodle.export_head import HEAD_BYTES, look_at_export
from app.services.ports import Files


class LogLooks:
    """Looks at the head of a file. ``max_bytes``: the largest log that is taken."""

    def __init__(self, files: Files, max_bytes: int) -> None:
        self._files = files
        self.max_bytes = max_bytes

    async def look(self, source: Upload | Output) -> LogInput:
        """Return what a log is. Raises LogTooLarge, StorageFailed without a file, and what
        ``look_at_export`` raises, naming the input.
        """
        is_upload = isinstance(source, Upload)
        path = layout.upload_path(source.id) if is_upload else layout.output_path(source.id)
        names = {"upload_id" if is_upload else "output_id": source.id}
        size_bytes = self._files.size(path)
        if size_bytes is None:
            raise StorageFailed("The bytes of an input are missing.", extra=names)
        self.check_size(size_bytes)
        head = await self._files.read_head(path, HEAD_BYTES)
        try:
            found = look_at_export(head, size_bytes)
        except AppError as error:
            for key, value in names.items():
                error.extra.setdefault(key, value)
            raise
        return LogInput(source.id, found, source.filename, size_bytes)

    def check_size(self, size_bytes: int) -> None:
        """Raise LogTooLarge for a file over the limit."""
        if size_bytes > self.max_bytes:
            msg = f"The log has {size_bytes} bytes; at most {self.max_bytes} are taken."
            facts = {"size_bytes": size_bytes, "maximum_bytes": self.max_bytes}
            raise LogTooLarge(msg, extra=facts)
