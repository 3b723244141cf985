"""Every setting reaches what it is for: read and then ignored is worse than unknown."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.bootstrap import policies
from app.domain.sweeps import SweepName
from app.settings import Settings, variables

POLICIES: tuple[Callable[[Settings], Any], ...] = (
    policies.upload_policy,
    policies.session_policy,
    policies.job_policy,
    policies.hold_policy,
    policies.retention_policy,
    policies.kept_clip_policy,
    policies.media_limits,
    policies.sweep_intervals,
)
# Those that are given to the server, the stores, the engine or FFmpeg directly.
ELSEWHERE = {
    "FSYNC",
    "WORKERS",
    "FFMPEG_PATH",
    "SANDBOX",
    "DATA_DIR",
    "DATABASE_URL",
    "MULTIPART_MAX_BYTES",
    "LOG_MAX_BYTES",
    "CONCAT_MAX_CLIPS",
    "MEDIA_MAX_OUTPUT_BYTES",
    "SYNC_TIMEOUT_SECONDS",
}


@pytest.mark.parametrize(
    "variable",
    [
        each
        for each in variables()
        if each.group not in {"service", "access"} and each.bare not in ELSEWHERE
    ],
    ids=lambda each: each.bare,
)
def test_every_setting_of_the_services_changes_a_policy(variable: Any) -> None:
    larger = {"METADATA_MAX_BYTES", "LEASE_SECONDS", "JOB_TIMEOUT_MAX_SECONDS"}
    value = "1000" if variable.bare in larger else "7"
    changed = Settings.load({variable.name: value})

    before = [policy(Settings()) for policy in POLICIES]
    after = [policy(changed) for policy in POLICIES]

    assert before != after


def test_every_sweep_has_an_interval_of_its_setting() -> None:
    settings = Settings.load(
        {
            "TIDEMILL_UPLOAD_GC_INTERVAL_SECONDS": "1",
            "TIDEMILL_UNCLAIMED_INTERVAL_SECONDS": "2",
            "TIDEMILL_SESSION_SWEEP_INTERVAL_SECONDS": "3",
            "TIDEMILL_SPENT_INPUTS_INTERVAL_SECONDS": "4",
            "TIDEMILL_JOB_CHECK_INTERVAL_SECONDS": "5",
            "TIDEMILL_CLEANUP_INTERVAL_SECONDS": "6",
            "TIDEMILL_DELIVERED_INTERVAL_SECONDS": "7",
            "TIDEMILL_RECORDS_INTERVAL_SECONDS": "8",
            "TIDEMILL_KEPT_CLIPS_INTERVAL_SECONDS": "9",
        }
    )
    assert policies.sweep_intervals(settings) == {
        SweepName.GC_FILES: 1,
        SweepName.UNCLAIMED_UPLOADS: 2,
        SweepName.STALE_SESSIONS: 3,
        SweepName.SPENT_INPUTS: 4,
        SweepName.JOB_TIMEOUTS: 5,
        SweepName.UNDISPATCHED_JOBS: 5,
        SweepName.EXPIRED_JOBS: 6,
        SweepName.EXPIRED_BATCHES: 6,
        SweepName.DELIVERED_OUTPUTS: 7,
        SweepName.OLD_RECORDS: 8,
        SweepName.KEPT_CLIPS: 9,
    }


def test_hours_become_times_and_the_expiry_is_capped_at_seven_times() -> None:
    settings = Settings.load(
        {
            "TIDEMILL_UPLOAD_EXPIRES_HOURS": "0.5",
            "TTL_FAILED_HOURS": "0",
            "TTL_COMPLETED_HOURS": "2",
        }
    )
    uploads = policies.upload_policy(settings)
    assert uploads.expires_after == timedelta(minutes=30)
    assert uploads.expires_cap == timedelta(minutes=210)
    assert policies.job_policy(settings).failed_ttl == timedelta(0)
    assert policies.hold_policy(settings).failed_ttl == timedelta(0)
    assert policies.job_policy(settings).completed_ttl == timedelta(hours=2)


def test_the_longest_times_allowed_are_times_that_can_be_reckoned_with() -> None:
    settings = Settings.load(
        {
            "TIDEMILL_UPLOAD_EXPIRES_HOURS": "87600",
            "TIDEMILL_SESSION_MAX_AGE_HOURS": "87600",
            "TTL_COMPLETED_HOURS": "87600",
        }
    )
    assert policies.upload_policy(settings).expires_cap < timedelta(days=36_500)
