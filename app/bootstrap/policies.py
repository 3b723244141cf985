"""Turns settings into the policies that services go by: they never see a setting."""

from collections.abc import Mapping
from datetime import timedelta

from app.domain.holds import HoldPolicy
from app.domain.jobs import JobPolicy
from app.domain.kept_clips import KeptClipPolicy
from app.domain.media import MediaLimits
from app.domain.retention import RetentionPolicy
from app.domain.sessions import SessionPolicy
from app.domain.sweeps import SweepName
from app.domain.uploads import UploadPolicy
from app.settings import Settings

EXPIRY_CAP_FACTOR = 7
"""An upload's expiry slides with each PATCH, up to this many times its length after creation."""


def upload_policy(settings: Settings) -> UploadPolicy:
    """Return the limits and times of uploads."""
    uploads = settings.uploads
    # What is idle goes with its session at the latest: no later time may be promised.
    idle_hours = min(uploads.upload_expires_hours, settings.sessions.session_max_age_hours)
    expires_after = timedelta(hours=idle_hours)
    return UploadPolicy(
        max_upload_bytes=uploads.max_upload_bytes,
        metadata_max_bytes=uploads.metadata_max_bytes,
        expires_after=expires_after,
        expires_cap=timedelta(hours=uploads.upload_expires_hours) * EXPIRY_CAP_FACTOR,
        read_timeout_seconds=uploads.upload_read_timeout_seconds,
        lock_wait_seconds=uploads.lock_wait_seconds,
        reserve_bytes=settings.disk.disk_reserve_bytes,
    )


def session_policy(settings: Settings) -> SessionPolicy:
    """Return the times of sessions and of the batches they become."""
    return SessionPolicy(
        max_age=timedelta(hours=settings.sessions.session_max_age_hours),
        batch_ttl=timedelta(hours=settings.sessions.batch_ttl_hours),
    )


def job_policy(settings: Settings) -> JobPolicy:
    """Return the limits of jobs and how long ended ones stay."""
    jobs = settings.jobs
    return JobPolicy(
        queue_limit=jobs.queue_limit,
        timeout_seconds=jobs.job_timeout_seconds,
        timeout_max_seconds=jobs.job_timeout_max_seconds,
        stall_seconds=jobs.stall_seconds,
        heartbeat_seconds=jobs.heartbeat_seconds,
        lease_seconds=jobs.lease_seconds,
        max_attempts=jobs.max_attempts,
        queued_ttl=timedelta(hours=jobs.queued_ttl_hours),
        completed_ttl=timedelta(hours=settings.retention.ttl_completed_hours),
        failed_ttl=timedelta(hours=settings.retention.ttl_failed_hours),
    )


def hold_policy(settings: Settings, released_at_once: frozenset[str] = frozenset()) -> HoldPolicy:
    """Return how long inputs stay after a job that used them; those of some operations do not."""
    return HoldPolicy(
        keep_inputs=timedelta(hours=settings.sessions.keep_inputs_hours),
        failed_ttl=timedelta(hours=settings.retention.ttl_failed_hours),
        released_at_once=released_at_once,
    )


def retention_policy(settings: Settings) -> RetentionPolicy:
    """Return how far lives may be moved, and how long delivered outputs and tombstones stay."""
    retention = settings.retention
    return RetentionPolicy(
        max_ttl=timedelta(hours=retention.ttl_max_hours),
        delivery_grace=timedelta(seconds=retention.delivery_grace_seconds),
        tombstones=timedelta(days=retention.tombstone_days),
    )


def kept_clip_policy(settings: Settings) -> KeptClipPolicy:
    """Return how long and how many clips are kept for other jobs of their owner."""
    return KeptClipPolicy(
        kept_for=timedelta(hours=settings.retention.kept_clips_hours),
        max_bytes=settings.retention.kept_clips_max_bytes,
        reserve_bytes=settings.disk.disk_reserve_bytes,
    )


def media_limits(settings: Settings) -> MediaLimits:
    """Return the most a foreign clip may be."""
    media = settings.media
    return MediaLimits(
        max_seconds=media.media_max_seconds,
        max_pixels=media.media_max_pixels,
        max_streams=media.media_max_streams,
        max_frame_rate=media.media_max_frame_rate,
        max_gigapixels=media.media_max_gigapixels,
    )


def sweep_intervals(settings: Settings) -> Mapping[SweepName, float]:
    """Return the seconds between two runs of each sweep."""
    intervals = settings.intervals
    return {
        SweepName.GC_FILES: intervals.upload_gc_interval_seconds,
        SweepName.UNCLAIMED_UPLOADS: intervals.unclaimed_interval_seconds,
        SweepName.STALE_SESSIONS: intervals.session_sweep_interval_seconds,
        SweepName.SPENT_INPUTS: intervals.spent_inputs_interval_seconds,
        SweepName.JOB_TIMEOUTS: intervals.job_check_interval_seconds,
        SweepName.UNDISPATCHED_JOBS: intervals.job_check_interval_seconds,
        SweepName.EXPIRED_JOBS: intervals.cleanup_interval_seconds,
        SweepName.EXPIRED_BATCHES: intervals.cleanup_interval_seconds,
        SweepName.DELIVERED_OUTPUTS: intervals.delivered_interval_seconds,
        SweepName.KEPT_CLIPS: intervals.kept_clips_interval_seconds,
        SweepName.OLD_RECORDS: intervals.records_interval_seconds,
    }
