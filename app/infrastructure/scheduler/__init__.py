"""The clock that calls the sweeps."""

from app.infrastructure.scheduler.cleanup_scheduler import (
    CleanupScheduler,
    start_cleanup_scheduler,
    stop_cleanup_scheduler,
)

__all__ = ["CleanupScheduler", "start_cleanup_scheduler", "stop_cleanup_scheduler"]
