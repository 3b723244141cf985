"""When each error happens and what to do about it; docs/errors.md and /docs/errors are made of it."""

from typing import NamedTuple

from app.api.errors import STATUS
from app.domain.errors import AppError, every_error


class Advice(NamedTuple):
    """``when`` it happens and the ``remedy``, each a sentence or two of Markdown."""

    when: str
    remedy: str


def catalogue() -> list[type[AppError]]:
    """Return every error there is, by status and then by code."""
    return sorted(every_error(), key=lambda error: (STATUS[error.kind], error.code))


def as_markdown() -> str:
    """Return docs/errors.md."""
    rows = "\n".join(
        f"| `{error.code}` | {STATUS[error.kind]} | {error.title} | {GUIDE[error.code].when} |"
        f" {GUIDE[error.code].remedy} |"
        for error in catalogue()
    )
    return f"{_HEAD}\n{rows}\n"


_HEAD = """# Errors

Every error is a problem document (RFC 9457, `application/problem+json`): `type`, `title`, `status`,
`code`, `detail`, `request_id`, and for some codes more members, named below. Decide by `code`, which
never changes; `detail` is for people. `request_id` is also in the header `X-Request-ID` and in the log.
A running service shows this table at `/docs/errors`, where `type` leads.

A job that fails carries one of these codes as `error.code`; its status is then that of the job's own
response, not the one in this table.

This file is made from `app/api/error_guide.py`; a test keeps the two equal.

| code | status | title | when | what to do |
|---|---|---|---|---|"""

GUIDE: dict[str, Advice] = {
    # --- the request itself
    "malformed_request": Advice(
        "The body or a parameter cannot be read: not JSON, not UTF-8, no form, cut short, stalled.",
        "Fix the client; `detail` says where reading stopped.",
    ),
    "not_supported": Advice(
        "A header asks for something that this call does not do, such as `Idempotency-Key` where"
        " nothing is made from a JSON body, or a checksum that only follows the body.",
        "Send the request without it.",
    ),
    "invalid_request": Advice(
        "Fields or query parameters are missing, unknown or out of range; `errors` lists each with"
        " `loc`, `message` and what is `allowed`.",
        "Correct the fields named.",
    ),
    "idempotency_key_reused": Advice(
        "The `Idempotency-Key` was sent before with another body to the same address.",
        "Make a new key for a new request; send the same body again to repeat one.",
    ),
    "unsupported_media_type": Advice(
        "The content type is not `application/json` (API), `multipart/form-data` (files for a session)"
        " or `application/offset+octet-stream` (tus).",
        "Send the right one. Large files go to `/files/` by tus.",
    ),
    "request_too_large": Advice(
        "A JSON body or a form is over a limit, which `maximum_bytes` or `detail` tells.",
        "Send less at once, and large files to `/files/` by tus.",
    ),
    "route_not_found": Advice(
        "There is nothing at this address.", "See `/docs` for what there is."
    ),
    "method_not_allowed": Advice(
        "The address exists, the method does not; `allow` and the header list those that do.",
        "Use one of them.",
    ),
    "host_not_allowed": Advice(
        "Without keys, the service answers only for loopback names and the host of"
        " `TIDEMILL_PUBLIC_URL`.",
        "Use http://127.0.0.1, or set `TIDEMILL_PUBLIC_URL`.",
    ),
    "origin_not_allowed": Advice(
        "A web page of another origin sent the request.",
        "Add the page's origin to `TIDEMILL_CORS_ORIGINS`.",
    ),
    "credentials_required": Advice(
        "The service needs a key and the request has none.", "Send `Authorization: Bearer KEY`."
    ),
    "credentials_invalid": Advice(
        "The key is not one of this service.", "Use the key of `TIDEMILL_ADMIN_KEY_FILE`."
    ),
    "precondition_failed": Advice(
        "`If-Match` or `If-Unmodified-Since` names another file than the one that is there.",
        "Ask again without it, and take the tag of that answer.",
    ),
    "range_not_satisfiable": Advice(
        "The range asked for holds no byte of the file; `size_bytes` is its length.",
        "Ask for a range inside the file.",
    ),
    # --- uploads
    "tus_version_unsupported": Advice(
        "`Tus-Resumable` is missing or not `1.0.0`.", "Send `Tus-Resumable: 1.0.0`."
    ),
    "upload_not_found": Advice(
        "No upload has this id, or it was terminated by its client.", "Create the upload anew."
    ),
    "upload_gone": Advice(
        "The upload was deleted on purpose; `reason` and `deleted_at` say why and when.",
        "Create the upload anew.",
    ),
    "invalid_header": Advice(
        "A tus header is missing, negative, garbage or contradicts another.", "Fix the client."
    ),
    "invalid_metadata": Advice(
        "`Upload-Metadata` cannot be read or is too long.", "Send `key base64` pairs, by commas."
    ),
    "checksum_algorithm_unsupported": Advice(
        "`Upload-Checksum` names an algorithm that is not known here; `allowed` lists those that are.",
        "Use one of them, or leave the header out.",
    ),
    "checksum_mismatch": Advice(
        "The body is not the one that `Upload-Checksum` is of; nothing of it was kept.",
        "Send the same bytes again, from `Upload-Offset`.",
    ),
    "offset_mismatch": Advice(
        "`Upload-Offset` is not the number of bytes that are there.",
        "Ask with HEAD and go on from its `Upload-Offset`; tus clients do so by themselves.",
    ),
    "upload_too_large": Advice(
        "The declared length, or a file in a form, is over `Tus-Max-Size`.",
        "Upload less, or raise `TIDEMILL_MAX_UPLOAD_BYTES`.",
    ),
    "body_too_long": Advice(
        "The body ran past the upload's length; it was cut back to where the request began.",
        "Send exactly what is missing.",
    ),
    "upload_locked": Advice(
        "Another request writes this upload and did not let go in time.",
        "Try again after `Retry-After`.",
    ),
    "temporarily_unavailable": Advice(
        "Temporary trouble behind a tus address (starting, draining, database busy).",
        "Try again after `Retry-After`; no byte is lost.",
    ),
    "upload_in_batch": Advice(
        "The upload belongs to a batch and cannot be terminated by itself.", "Delete the batch."
    ),
    "upload_is_final": Advice(
        "A PATCH on an upload that was put together of parts with `Upload-Concat: final`.",
        "Send the bytes to its parts before, and ask for a final of them.",
    ),
    "invalid_parts": Advice(
        "`Upload-Concat: final` names a `url` that cannot be a part of it; `reason`: `unknown`,"
        " `not_partial`, `unfinished`, `deleted` or `used` (by another final already).",
        "Upload the part (again) with `Upload-Concat: partial`, to its end, and name that.",
    ),
    "upload_incomplete": Advice(
        "The bytes were asked for before all of them were there.", "Finish the upload first."
    ),
    "no_space": Advice(
        "The bytes do not fit beside what is already promised, or the disk is full.",
        "Try again later, or make room; `tidemill storage` says what takes it.",
    ),
    "storage_failed": Advice(
        "The disk refused a read, write or sync.", "Try again; if it stays, look at the disk."
    ),
    # --- sessions and batches
    "session_not_found": Advice("No session has this id.", "Open one: `POST /api/v1/upload`."),
    "session_gone": Advice(
        "The session was deleted or expired; `reason` and `deleted_at` say more.", "Open another."
    ),
    "session_closed": Advice(
        "The session is full or a batch already and takes no more uploads.", "Open another."
    ),
    "session_batched": Advice(
        "The session has become a batch (`batch_id`) and cannot be deleted.", "Delete the batch."
    ),
    "session_empty": Advice(
        "A batch was asked for, and nothing was uploaded into the session.", "Upload first."
    ),
    "uploads_unfinished": Advice(
        "A batch was asked for while `uploads` (each with `offset` and `length`) are unfinished.",
        "Finish them, or terminate them by tus.",
    ),
    "batch_not_found": Advice("No batch has this id.", "Check the id."),
    "batch_gone": Advice(
        "The batch was deleted or expired; `reason` and `deleted_at` say more.", "Upload again."
    ),
    "inputs_deleted": Advice(
        "Files that the job would read have been removed; `inputs` lists them with the reason.",
        "Upload them again.",
    ),
    # --- jobs and outputs
    "unknown_operation": Advice(
        "No operation has this name.", "`GET /api/v1/operations` lists them."
    ),
    "invalid_params": Advice(
        "Parameters do not fit the operation's schema; `errors` lists each.",
        "`GET /api/v1/operations` has the schema.",
    ),
    "invalid_inputs": Advice(
        "Number, role or kind of the inputs is wrong, or one is not complete or in no batch yet.",
        "See `inputs` of the operation; finish uploads first.",
    ),
    "job_not_found": Advice("No job has this id.", "Check the id."),
    "job_gone": Advice(
        "The job was deleted or its retention ended; `reason` and `deleted_at` say more.",
        "Start it again.",
    ),
    "job_finished": Advice(
        "The job has ended and cannot be cancelled, or has completed and cannot be tried again.",
        "Look at it; start a new one for other results.",
    ),
    "job_running": Advice(
        "Something was to be deleted that jobs which have not finished need; or a job that has not"
        " ended was to be tried again or kept longer.",
        "Wait, cancel them, or delete with `?cancel=true`.",
    ),
    "would_exceed_timeout": Advice(
        "At the rate of earlier jobs of this operation the job cannot end within its time limit;"
        " `estimated_seconds` and `timeout_seconds` are the figures.",
        "Ask for a longer `timeout_seconds`, up to the maximum, or for less work.",
    ),
    "queue_full": Advice(
        "Too many jobs wait (`queued`, `limit`).", "Try again after `Retry-After`."
    ),
    "output_not_found": Advice(
        "No output has this id.", "Check the id; the job lists its outputs."
    ),
    "output_gone": Advice(
        "The output was deleted; `reason` and `deleted_at` say more.", "Start the job again."
    ),
    "output_not_ready": Advice(
        "The job has not finished (`Retry-After` says when to ask again), failed (`error_code`), was"
        " cancelled, or has several outputs (`outputs`).",
        "Wait, or see the job.",
    ),
    # --- media
    "not_media": Advice(
        "The file is no video container that is read here; `allowed` lists those.",
        "Upload a video.",
    ),
    "empty_file": Advice("The file has no bytes.", "Upload the whole file."),
    "no_video_stream": Advice("The file has sound only, or nothing.", "Upload a video."),
    "media_over_limits": Advice(
        "The clip is too long, too large or has too many streams; `limit`, `value`, `maximum`.",
        "Use a smaller clip, or raise the `TIDEMILL_MEDIA_` limit.",
    ),
    "not_an_image": Advice(
        "A still or a logo is no PNG, JPEG or WebP.",
        "Send one of the formats in `allowed`; convert others first.",
    ),
    "unsupported_characters": Advice(
        "A text has characters that no font here can draw; `characters` lists them by field.",
        "Leave them out or write them otherwise. Emoji need not be: they are left out with a warning.",
    ),
    "trim_out_of_range": Advice(
        "`start` or `end` lie outside the clip, or in the wrong order; `duration_seconds` is its "
        "length where a clip is known.",
        "Choose times inside it.",
    ),
    "cannot_copy": Advice(
        "The part cannot be copied without re-encoding: an MP4 does not take the clip's coding, or "
        "nothing says where its decoding can begin.",
        "Ask for `mode` `exact`, or `auto`, which copies where it can.",
    ),
    "input_damaged": Advice(
        "The file is truncated or has flipped bits: decoding stopped early.",
        "Upload an intact file.",
    ),
    "render_failed": Advice(
        "The encoder failed, or its result did not pass the check.",
        "Start the job again; if it stays, the log has the encoder's last words.",
    ),
    "timeout": Advice(
        "The job met one of its time limits, or a synchronous call its own; the message names which.",
        "Use a shorter clip or a larger `timeout_seconds`; wait for long work as a job.",
    ),
    "render_cancelled": Advice(
        "Somebody cancelled the job behind a synchronous call while its client waited.",
        "Ask again.",
    ),
    "worker_lost": Advice(
        "The worker vanished and the attempts are used up.",
        "Start the job again; look at the machine's memory.",
    ),
    # --- logs
    "log_not_text": Advice(
        "The file sent as a Moodle log is no text, such as a video or a spreadsheet; `encodings` lists"
        " what is read.",
        "Send the CSV export, not XLSX or ODS.",
    ),
    "log_header_missing": Advice(
        "The first line of the log is an event already.", "Export it again, with its header line."
    ),
    "log_header_unknown": Advice(
        "The first line is no header of a Moodle log in the `languages` known, or required columns are"
        " `missing`.",
        "Export the log in one of them, with its columns as they are.",
    ),
    "log_delimiter_unknown": Advice(
        "The columns of the log are separated by something else than comma, semicolon or tab.",
        "Export it with one of these.",
    ),
    "log_without_events": Advice(
        "The log has nothing below its header, or nothing that can be read; `reasons` counts why.",
        "Look at the file; a wrong `date_order` or `timezone` can be the cause too.",
    ),
    "log_too_large": Advice(
        "The log is larger than `maximum_bytes`.",
        "Export a shorter span, or raise `TIDEMILL_LOG_MAX_BYTES`.",
    ),
    "timezone_required": Advice(
        "The log's times do not say how far from UTC they are, and the request names no `timezone`.",
        "Send `timezone`, such as `Europe/Berlin`: that of the account that exported the log.",
    ),
    "log_failed": Advice(
        "The processing of the log died.",
        "Send the log again; if it stays, the service's log has the last words.",
    ),
    # --- inside
    "conflicting_update": Advice(
        "Somebody else changed the same thing at the same moment.", "Look again and retry."
    ),
    "database_busy": Advice(
        "The database did not answer in time.", "Try again after `Retry-After`."
    ),
    "not_ready": Advice("The service is starting or stopping.", "Try again after `Retry-After`."),
    "draining": Advice(
        "The service has been told to stop: it ends what it has and begins nothing new.",
        "Ask again after `Retry-After`: it is soon back, or another one answers.",
    ),
    "sweep_running": Advice(
        "The sweep is running already, here or in another process.", "Look at its report later."
    ),
    "internal_error": Advice(
        "A bug. The log has the traceback under `request_id`.", "Report it with the request id."
    ),
}
