"""The tree itself: every setting in its group, with its default and its one line of description."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.settings.kinds import (
    LOOPBACK,
    Allowed,
    Bytes,
    Choice,
    DatabaseUrl,
    Days,
    Folder,
    Host,
    Hours,
    MetadataBytes,
    OptionalFile,
    Origins,
    Pixels,
    Port,
    PositiveBytes,
    PositiveNumber,
    PositiveSeconds,
    PositiveWhole,
    Processes,
    Proxies,
    PublicUrl,
    RootPath,
    Seconds,
    Workers,
)

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Fsync = Literal["patch", "complete", "off"]
Sandbox = Literal["auto", "require", "off"]


def half_the_cores() -> int:
    """Return half the cores this process may use, at least one."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def setting(
    default: Any, description: str, *, shown: str | None = None, example: str | None = None
) -> Any:
    """Declare one setting.

    ``shown`` is its default in words where the value itself says little, ``example`` a value to
    start from where the default is none to write down.
    """
    said = {"shown": shown, "example": example}
    extra: JsonDict = {name: text for name, text in said.items() if text is not None}
    if callable(default):
        return Field(default_factory=default, description=description, json_schema_extra=extra)
    return Field(default=default, description=description, json_schema_extra=extra)


class Group(BaseSettings):
    """Base of the groups: frozen, and fed only by what ``load`` read, never by itself."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the hook's signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take nothing behind the back of ``load``, which knows unknown names and origins."""
        return (init_settings,)


class ServiceSettings(Group):
    host: Host = setting("127.0.0.1", "Address to listen on; other than loopback needs a key.")
    port: Port = setting(8000, "Port to listen on.")
    processes: Processes = setting(
        1,
        "Processes that serve side by side (`serve --workers`); they share TIDEMILL_WORKERS jobs.",
    )
    root_path: RootPath = setting(
        "", "Path under which a proxy serves Tidemill; the proxy takes it off.", shown="empty"
    )
    public_url: PublicUrl = setting(
        None, "Address clients use, when a proxy stands before the service.", shown="none"
    )
    trusted_proxies: Proxies = setting(
        (), "Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.", shown="none"
    )
    cors_origins: Origins = setting(
        (LOOPBACK,), "Origins of the web pages that may use the service from a browser."
    )
    drain_seconds: Seconds = setting(
        10.0,
        "How long a stop waits for answers and jobs under way (behind a proxy, always); uploads are"
        " parked at once, and what came is kept.",
    )
    log_format: Annotated[LogFormat, Choice, Allowed("console or json")] = setting(
        "console", "Log lines for people (console) or for machines (json)."
    )
    log_level: Annotated[LogLevel, Choice, Allowed("debug, info, warning or error")] = setting(
        "info", "The least severe log lines to write."
    )


class DataSettings(Group):
    data_dir: Folder = setting(
        Path("data"), "Folder that holds everything Tidemill keeps.", shown="./data"
    )
    database_url: DatabaseUrl = setting(
        None,
        "Database; `serve` runs on SQLite only until the cluster exists.",
        shown="SQLite in DATA_DIR",
    )
    fsync: Annotated[Fsync, Choice, Allowed("patch, complete or off")] = setting(
        "complete",
        "When uploaded bytes are forced to disk: each PATCH, at completion, or never. With off, the"
        " last rows are as mortal as the last bytes when the machine crashes.",
    )


class UploadSettings(Group):
    max_upload_bytes: PositiveBytes = setting(20 * 2**30, "Largest upload.")
    multipart_max_bytes: PositiveBytes = setting(
        512 * 2**20, "Largest multipart request; larger files go by tus."
    )
    log_max_bytes: PositiveBytes = setting(
        2**30, "Largest Moodle log; one sent as a form may not be over MULTIPART_MAX_BYTES either."
    )
    metadata_max_bytes: MetadataBytes = setting(
        8 * 2**10, "Largest Upload-Metadata header of an upload."
    )
    upload_expires_hours: Hours = setting(
        24.0,
        "How long an unfinished upload lives after its last PATCH, at most 7 times that; idle, it goes"
        " with its session (SESSION_MAX_AGE_HOURS) at the latest.",
    )
    upload_read_timeout_seconds: PositiveSeconds = setting(
        60.0, "Silence after which a stalled upload body is cut off; what arrived is kept."
    )
    lock_wait_seconds: Seconds = setting(
        5.0, "How long a PATCH waits for the one before it to let go of the upload."
    )


class SessionSettings(Group):
    session_max_age_hours: Hours = setting(
        24.0, "Idle time after which an upload session goes with its files."
    )
    batch_ttl_hours: Hours = setting(24.0, "Life of a batch after its last use.")
    keep_inputs_hours: Hours = setting(
        1.0, "How long inputs stay after the last job that used them has completed."
    )


class JobSettings(Group):
    workers: Workers = setting(
        half_the_cores,
        "Jobs that run at once; 0 runs none here.",
        shown="half the cores",
        example="2",
    )
    queue_limit: PositiveWhole = setting(1000, "Queued jobs beyond which new ones get 429.")
    job_timeout_seconds: PositiveSeconds = setting(
        600.0, "Time limit of one attempt of a job that names none itself."
    )
    job_timeout_max_seconds: PositiveSeconds = setting(
        7200.0, "Largest time limit a job may ask for."
    )
    sync_timeout_seconds: PositiveSeconds = setting(
        300.0, "How long a synchronous call waits for its render before it answers 504."
    )
    stall_seconds: PositiveSeconds = setting(
        60.0, "Time without a sign of life after which a running step is stopped."
    )
    heartbeat_seconds: PositiveSeconds = setting(2.0, "How often a running job renews its lease.")
    lease_seconds: PositiveSeconds = setting(
        15.0, "Silence after which a job's worker counts as lost; over 2 heartbeats."
    )
    max_attempts: PositiveWhole = setting(3, "Attempts a job gets before it fails.")
    queued_ttl_hours: Hours = setting(24.0, "How long a job may wait that nobody runs.")


class RetentionSettings(Group):
    ttl_completed_hours: Hours = setting(24.0, "Life of a completed job with its outputs.")
    ttl_failed_hours: Hours = setting(
        1.0, "Life of a failed or cancelled job, and of its inputs for a retry."
    )
    ttl_max_hours: Hours = setting(
        720.0, "Furthest that a client may move the life of a job, an output or a batch."
    )
    delivery_grace_seconds: Seconds = setting(
        600.0, "How long a one-time output stays readable after it was delivered in full."
    )
    kept_clips_hours: Hours = setting(
        1.0,
        "How long a normalised clip stays after its last use, for other jobs of its owner; 0 keeps"
        " none.",
    )
    kept_clips_max_bytes: Bytes = setting(
        5 * 2**30, "Most bytes of normalised clips; what was used longest ago goes first."
    )
    tombstone_days: Days = setting(
        30.0, "How long a deleted thing answers 410 with the reason, before it is a 404."
    )


class IntervalSettings(Group):
    upload_gc_interval_seconds: PositiveSeconds = setting(
        600.0, "Between runs of `gc_files`, which ends expired unfinished uploads."
    )
    unclaimed_interval_seconds: PositiveSeconds = setting(
        60.0, "Between runs of `unclaimed_uploads`, which completes whole uploads."
    )
    session_sweep_interval_seconds: PositiveSeconds = setting(
        3600.0, "Between runs of `stale_sessions`, which removes idle sessions."
    )
    job_check_interval_seconds: PositiveSeconds = setting(
        15.0, "Between runs of `job_timeouts` and `undispatched_jobs`."
    )
    cleanup_interval_seconds: PositiveSeconds = setting(
        3600.0, "Between runs of `expired_jobs` and `expired_batches`."
    )
    spent_inputs_interval_seconds: PositiveSeconds = setting(
        60.0, "Between runs of `spent_inputs`, which removes inputs that have served."
    )
    delivered_interval_seconds: PositiveSeconds = setting(
        60.0, "Between runs of `delivered_outputs`, which removes delivered one-time outputs."
    )
    kept_clips_interval_seconds: PositiveSeconds = setting(
        60.0, "Between runs of `kept_clips`, which removes normalised clips past their time."
    )
    records_interval_seconds: PositiveSeconds = setting(
        86400.0, "Between runs of `old_records`: tombstones, reports, idempotency keys."
    )


class DiskSettings(Group):
    disk_reserve_bytes: Bytes = setting(2**30, "Free space that uploads never use.")


class MediaSettings(Group):
    ffmpeg_path: OptionalFile = setting(
        None, "FFmpeg to use.", shown="PATH, else the one that came with the packages"
    )
    sandbox: Annotated[Sandbox, Choice, Allowed("auto, require or off")] = setting(
        "auto", "Isolation of FFmpeg: the best there is, only the full one, or limits alone."
    )
    media_max_seconds: PositiveSeconds = setting(1800.0, "Longest clip.")
    media_max_pixels: Pixels = setting(16_777_216, "Most pixels in a frame of a clip.")
    media_max_streams: PositiveWhole = setting(16, "Most streams in a clip.")
    concat_max_clips: PositiveWhole = setting(20, "Most clips in a concatenation.")
    media_max_frame_rate: PositiveNumber = setting(120.0, "Most frames a second in a clip.")
    media_max_gigapixels: PositiveNumber = setting(
        224.0,
        "Most pixels in all frames of a clip together, in thousands of millions; 224 is half an"
        " hour of 1920x1080 at 60 frames a second.",
    )
    media_max_output_bytes: PositiveBytes = setting(
        64 * 2**30, "Largest file that a job may write; one that would write more fails."
    )


class AccessSettings(Group):
    admin_key_file: OptionalFile = setting(
        None, "File with the key that callers must show; setting it requires the key.", shown="none"
    )
