"""Every refusal and failure a user can meet, as one catalogue.

Each class has a stable ``code`` (documented in docs/errors.md, tested against it) and a ``kind``;
``app.api.errors`` maps kinds to HTTP statuses and is the only place that knows any.

    AppError
    |-- request      InvalidRequest, NotSupported, HostNotAllowed, CredentialsRequired, ...
    |-- uploads      UploadNotFound, OffsetMismatch, UploadTooLarge, UploadLocked, NoSpace, ...
    |-- sessions     SessionNotFound, SessionClosed, UploadsUnfinished, ...
    |-- batches      BatchNotFound, BatchGone, InputsDeleted
    |-- jobs         JobNotFound, JobFinished, JobRunning, QueueFull, UnknownOperation, ...
    |-- media        NotMedia, NoVideoStream, TrimOutOfRange, ...   (also codes of failed jobs)
    |-- logs         LogNotText, LogHeaderUnknown, TimezoneRequired, ...       (likewise)
    '-- internal     ConflictingUpdate, StorageFailed, DatabaseBusy
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, ClassVar


class Kind(Enum):
    """What sort of trouble an error is; the API turns it into a status, the worker into a verdict."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD = "method"
    CONFLICT = "conflict"
    GONE = "gone"
    PRECONDITION = "precondition"
    TOO_LARGE = "too_large"
    MEDIA_TYPE = "media_type"
    RANGE = "range"
    MISDIRECTED = "misdirected"
    INVALID = "invalid"
    LOCKED = "locked"
    CHECKSUM = "checksum"
    TOO_MANY = "too_many"
    INTERNAL = "internal"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    NO_SPACE = "no_space"


class AppError(Exception):
    """Base of everything a caller may be told.

    ``detail`` is one or two sentences for a person: what was wrong and what is allowed.
    ``extra`` holds machine-readable members that are added to the problem document
    (JSON-serialisable, never secrets or paths). ``retry_after_seconds`` asks to come back.
    """

    code: ClassVar[str]
    kind: ClassVar[Kind]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str = "",
        *,
        extra: Mapping[str, Any] | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        self.detail = detail or self.title
        self.extra: dict[str, Any] = dict(extra or {})
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.detail)


def every_error(base: type[AppError] = AppError) -> Iterator[type[AppError]]:
    """Return all errors of the catalogue: each that has a code of its own."""
    for child in base.__subclasses__():
        if "code" in child.__dict__:
            yield child
        yield from every_error(child)


# --- the request itself -------------------------------------------------------------------------


class InvalidRequest(AppError):
    """Fields of a well-formed request that do not validate; ``extra["errors"]`` lists them."""

    code, kind, title = "invalid_request", Kind.INVALID, "The request is not valid"


class MalformedRequest(AppError):
    """A body or parameter that cannot be parsed at all."""

    code, kind, title = "malformed_request", Kind.MALFORMED, "The request cannot be read"


class NotSupported(AppError):
    """A header or feature that is not built yet is refused, never ignored."""

    code, kind, title = "not_supported", Kind.MALFORMED, "Not supported"


class IdempotencyKeyReused(AppError):
    """The ``Idempotency-Key`` belongs to a request with another body."""

    code, kind, title = "idempotency_key_reused", Kind.INVALID, "The Idempotency-Key is taken"


class UnsupportedMediaType(AppError):
    code, kind, title = "unsupported_media_type", Kind.MEDIA_TYPE, "Wrong content type"


class RequestTooLarge(AppError):
    """A JSON body over the limit."""

    code, kind, title = "request_too_large", Kind.TOO_LARGE, "The request is too large"


class RouteNotFound(AppError):
    code, kind, title = "route_not_found", Kind.NOT_FOUND, "There is nothing at this address"


class MethodNotAllowed(AppError):
    code, kind, title = "method_not_allowed", Kind.METHOD, "Method not allowed here"


class HostNotAllowed(AppError):
    """The Host header names a host this service does not answer for (DNS rebinding)."""

    code, kind, title = "host_not_allowed", Kind.MISDIRECTED, "Unknown host"


class OriginNotAllowed(AppError):
    """A page on another site tries to drive the service."""

    code, kind, title = "origin_not_allowed", Kind.FORBIDDEN, "Origin not allowed"


class CredentialsRequired(AppError):
    code, kind, title = "credentials_required", Kind.UNAUTHENTICATED, "A key is required"


class CredentialsInvalid(AppError):
    code, kind, title = "credentials_invalid", Kind.UNAUTHENTICATED, "The key is not valid"


class PreconditionFailed(AppError):
    """The file is not the one that If-Match or If-Unmodified-Since names."""

    code, kind, title = "precondition_failed", Kind.PRECONDITION, "Not the file that was named"


class RangeNotSatisfiable(AppError):
    code, kind, title = "range_not_satisfiable", Kind.RANGE, "Range not satisfiable"


# --- uploads ------------------------------------------------------------------------------------


class TusVersionUnsupported(AppError):
    code, kind, title = "tus_version_unsupported", Kind.PRECONDITION, "Unsupported tus version"


class UploadNotFound(AppError):
    code, kind, title = "upload_not_found", Kind.NOT_FOUND, "No such upload"


class UploadGone(AppError):
    """The upload was deleted on purpose; ``extra`` has reason and deleted_at."""

    code, kind, title = "upload_gone", Kind.GONE, "The upload is gone"


class InvalidHeader(AppError):
    """A tus header that is missing, negative, garbage or contradictory."""

    code, kind, title = "invalid_header", Kind.MALFORMED, "Invalid header"


class InvalidMetadata(AppError):
    code, kind, title = "invalid_metadata", Kind.MALFORMED, "Invalid Upload-Metadata"


class ChecksumAlgorithmUnsupported(AppError):
    """``extra["allowed"]`` lists the names of those that are known."""

    code, kind = "checksum_algorithm_unsupported", Kind.MALFORMED
    title = "Unknown checksum algorithm"


class ChecksumMismatch(AppError):
    """A body is not the one its Upload-Checksum is of; none of it was kept."""

    code, kind, title = "checksum_mismatch", Kind.CHECKSUM, "The checksum does not match"


class OffsetMismatch(AppError):
    """Upload-Offset is not the number of bytes that are there; ask HEAD and go on from its answer."""

    code, kind, title = "offset_mismatch", Kind.CONFLICT, "Upload-Offset does not match"


class UploadTooLarge(AppError):
    """The declared length is over the maximum."""

    code, kind, title = "upload_too_large", Kind.TOO_LARGE, "The upload is too large"


class BodyTooLong(AppError):
    """A body ran past the upload's length; it was cut back to where the request began."""

    code, kind, title = "body_too_long", Kind.TOO_LARGE, "The body is longer than the upload"


class UploadLocked(AppError):
    """Another request writes this upload and did not let go in time."""

    code, kind, title = "upload_locked", Kind.LOCKED, "The upload is being written"


class TemporarilyUnavailable(AppError):
    """Temporary trouble on a tus URL: 423, since clients start over on anything else."""

    code, kind, title = "temporarily_unavailable", Kind.LOCKED, "Not available at the moment"


class UploadInBatch(AppError):
    code, kind, title = "upload_in_batch", Kind.FORBIDDEN, "The upload belongs to a batch"


class UploadIsFinal(AppError):
    """A final upload is made of its parts (tus: concatenation); no bytes can be sent to it."""

    code, kind, title = "upload_is_final", Kind.FORBIDDEN, "The upload is made of its parts"


class InvalidParts(AppError):
    """Upload-Concat names something that is no whole part of the caller's, or too much of it;
    ``extra`` has the ``url`` and ``reason``: unknown, not_partial, unfinished, deleted, used.
    """

    code, kind, title = "invalid_parts", Kind.INVALID, "The parts cannot be put together"


class UploadIncomplete(AppError):
    code, kind, title = "upload_incomplete", Kind.CONFLICT, "The upload is not complete"


class NoSpace(AppError):
    """The bytes do not fit beside what is already promised; ``extra`` has the figures in bytes."""

    code, kind, title = "no_space", Kind.NO_SPACE, "Not enough space"


class StorageFailed(AppError):
    """The disk refused a read, write or sync for a reason other than space."""

    code, kind, title = "storage_failed", Kind.INTERNAL, "The storage failed"


# --- sessions and batches -----------------------------------------------------------------------


class SessionNotFound(AppError):
    code, kind, title = "session_not_found", Kind.NOT_FOUND, "No such session"


class SessionGone(AppError):
    code, kind, title = "session_gone", Kind.GONE, "The session is gone"


class SessionClosed(AppError):
    """The session is batched or full: no more uploads."""

    code, kind, title = "session_closed", Kind.INVALID, "The session takes no more uploads"


class SessionBatched(AppError):
    """The session has become a batch and cannot be deleted."""

    code, kind, title = "session_batched", Kind.CONFLICT, "The session is a batch already"


class SessionEmpty(AppError):
    code, kind, title = "session_empty", Kind.CONFLICT, "The session has no completed upload"


class UploadsUnfinished(AppError):
    """``extra["uploads"]`` lists the uploads that are still receiving."""

    code, kind, title = "uploads_unfinished", Kind.CONFLICT, "Some uploads are not finished"


class BatchNotFound(AppError):
    code, kind, title = "batch_not_found", Kind.NOT_FOUND, "No such batch"


class BatchGone(AppError):
    code, kind, title = "batch_gone", Kind.GONE, "The batch is gone"


class InputsDeleted(AppError):
    """The files a job would read have been removed; ``extra["inputs"]`` lists them."""

    code, kind, title = "inputs_deleted", Kind.GONE, "The inputs are gone"


# --- jobs and outputs ---------------------------------------------------------------------------


class UnknownOperation(AppError):
    code, kind, title = "unknown_operation", Kind.INVALID, "No such operation"


class InvalidParams(AppError):
    """Parameters that do not fit the operation's schema; ``extra["errors"]`` lists them."""

    code, kind, title = "invalid_params", Kind.INVALID, "Invalid parameters"


class InvalidInputs(AppError):
    """Wrong number, role or kind of inputs, or an input that is not complete."""

    code, kind, title = "invalid_inputs", Kind.INVALID, "Invalid inputs"


class JobNotFound(AppError):
    code, kind, title = "job_not_found", Kind.NOT_FOUND, "No such job"


class JobGone(AppError):
    code, kind, title = "job_gone", Kind.GONE, "The job is gone"


class JobFinished(AppError):
    code, kind, title = "job_finished", Kind.CONFLICT, "The job has finished"


class JobRunning(AppError):
    """Queued or processing: cancel it first, or ask with ``?cancel=true``."""

    code, kind, title = "job_running", Kind.CONFLICT, "The job has not finished"


class QueueFull(AppError):
    code, kind, title = "queue_full", Kind.TOO_MANY, "The queue is full"


class WouldExceedTimeout(AppError):
    """At the measured rate the job cannot end in time; ``extra`` has both figures in seconds."""

    code, kind, title = "would_exceed_timeout", Kind.INVALID, "The job would run out of time"


class OutputNotFound(AppError):
    code, kind, title = "output_not_found", Kind.NOT_FOUND, "No such output"


class OutputGone(AppError):
    code, kind, title = "output_gone", Kind.GONE, "The output is gone"


class OutputNotReady(AppError):
    """The job has not finished (come back after ``Retry-After``) or failed and has no output."""

    code, kind, title = "output_not_ready", Kind.CONFLICT, "There is no output yet"


# --- media: refused at POST /jobs, or the code of a failed job ----------------------------------


class NotMedia(AppError):
    """No container this service reads; ``extra["allowed"]`` lists them."""

    code, kind, title = "not_media", Kind.INVALID, "Not a video file"


class EmptyFile(AppError):
    code, kind, title = "empty_file", Kind.INVALID, "The file is empty"


class NoVideoStream(AppError):
    code, kind, title = "no_video_stream", Kind.INVALID, "The file has no video"


class MediaOverLimits(AppError):
    """Too long, too many pixels, frames or streams; ``extra`` names limit, value and maximum."""

    code, kind, title = "media_over_limits", Kind.INVALID, "The media is over the limits"


class NotAnImage(AppError):
    """No picture this service reads; ``extra["allowed"]`` lists the formats."""

    code, kind, title = "not_an_image", Kind.INVALID, "Not an image file"


class UnsupportedCharacters(AppError):
    """Text with characters that no font here has; ``extra["characters"]`` lists them by field."""

    code, kind, title = "unsupported_characters", Kind.INVALID, "Characters that cannot be drawn"


class TrimOutOfRange(AppError):
    """start or end do not fit the clip; ``extra["duration_seconds"]`` is its length, if known."""

    code, kind, title = "trim_out_of_range", Kind.INVALID, "The cut lies outside the clip"


class CannotCopy(AppError):
    """The part asked for cannot be copied as it is stored; the detail says why. Re-encoding it can."""

    code, kind, title = "cannot_copy", Kind.INVALID, "The clip cannot be copied"


class InputDamaged(AppError):
    """Decoding ended early or with errors: the file is truncated or has flipped bits."""

    code, kind, title = "input_damaged", Kind.INVALID, "The file is damaged"


class RenderFailed(AppError):
    """The encoder failed or its result did not pass the check; a retry may help."""

    code, kind, title = "render_failed", Kind.INTERNAL, "The render failed"


class JobTimedOut(AppError):
    """One of the time limits; ``detail`` names which."""

    code, kind, title = "timeout", Kind.TIMEOUT, "The job ran out of time"


class RenderCancelled(AppError):
    """Somebody cancelled the job behind a synchronous call."""

    code, kind, title = "render_cancelled", Kind.CONFLICT, "The render was cancelled"


class WorkerLost(AppError):
    """The worker vanished and the attempts are used up."""

    code, kind, title = "worker_lost", Kind.INTERNAL, "The worker was lost"


# --- logs: refused at POST, or the code of a failed job -----------------------------------------


class LogNotText(AppError):
    code, kind, title = "log_not_text", Kind.INVALID, "Not a text file"


class LogHeaderMissing(AppError):
    code, kind, title = "log_header_missing", Kind.INVALID, "The log has no header"


class LogHeaderUnknown(AppError):
    """``extra`` has what was found, or which columns are missing, and the languages known."""

    code, kind, title = "log_header_unknown", Kind.INVALID, "Not the header of a Moodle log"


class LogDelimiterUnknown(AppError):
    code, kind, title = "log_delimiter_unknown", Kind.INVALID, "Unknown delimiter"


class LogWithoutEvents(AppError):
    """A header with nothing below it, or nothing that can be read as an event."""

    code, kind, title = "log_without_events", Kind.INVALID, "The log has no events"


class LogTooLarge(AppError):
    """``extra`` has the file's ``size_bytes``, where it is known, and the ``maximum_bytes``."""

    code, kind, title = "log_too_large", Kind.TOO_LARGE, "The log is too large"


class TimezoneRequired(AppError):
    """The times of the log do not say how far from UTC they are, and neither did the request."""

    code, kind, title = "timezone_required", Kind.INVALID, "A timezone is required"


class LogFailed(AppError):
    """The processing of a log died or did not answer; a retry may help."""

    code, kind, title = "log_failed", Kind.INTERNAL, "The log could not be processed"


# --- inside -------------------------------------------------------------------------------------


class ConflictingUpdate(AppError):
    """A conditional update met a row that has moved on; the caller looks again or gives up."""

    code, kind, title = "conflicting_update", Kind.CONFLICT, "Changed in the meantime, try again"


class DatabaseBusy(AppError):
    """The database did not answer within its limit."""

    code, kind, title = "database_busy", Kind.UNAVAILABLE, "The database is busy"


class NotReady(AppError):
    """Starting or stopping."""

    code, kind, title = "not_ready", Kind.UNAVAILABLE, "The service is not ready"


class Draining(AppError):
    """The service is stopping: it finishes what it has and begins nothing new."""

    code, kind, title = "draining", Kind.UNAVAILABLE, "The service is stopping"


class SweepRunning(AppError):
    """Another process holds the sweep's lease."""

    code, kind, title = "sweep_running", Kind.CONFLICT, "The sweep is running"


class InternalError(AppError):
    """A bug: the log has the traceback under the request id."""

    code, kind, title = "internal_error", Kind.INTERNAL, "Something went wrong inside"
