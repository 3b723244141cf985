"""Ends the process when its stop takes too long, whatever hangs: the loop, a thread, a disk."""

import os
import queue
import threading

import structlog

log = structlog.get_logger(__name__)

_LOG_SECONDS = 0.5


class Watchdog:
    """Sleeps until it is told how much time is left; made before the first signal can come."""

    def __init__(self) -> None:
        # A SimpleQueue may be fed by a signal handler, whatever it interrupted.
        self._orders: queue.SimpleQueue[tuple[float, int]] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def allow(self, seconds: float, exit_code: int) -> None:
        """End the process with ``exit_code`` after ``seconds``, unless told otherwise before."""
        self._orders.put((seconds, exit_code))

    def _watch(self) -> None:
        seconds, exit_code = self._orders.get()
        while True:
            try:
                seconds, exit_code = self._orders.get(timeout=seconds)
            except queue.Empty:
                break
        # In a thread, since what hangs may be whoever holds the log.
        told = threading.Thread(target=_tell, args=(exit_code,), daemon=True)
        told.start()
        told.join(_LOG_SECONDS)
        os._exit(exit_code)


def _tell(exit_code: int) -> None:
    log.warning("service.stop_cut_short", exit_code=exit_code)
