"""Which of the processes of one service this is, and its share of what they have together."""

from dataclasses import dataclass

from app.infrastructure.metrics_board import MetricsBoard
from app.infrastructure.metrics_sum import SharedCounts


@dataclass(frozen=True, slots=True)
class Seat:
    """One of ``count`` processes, from 0; whoever replaces a dead one takes its seat.

    ``board`` is where they add up their metrics, None for a service of one process.
    """

    index: int = 0
    count: int = 1
    board: MetricsBoard | None = None

    def share_of(self, total: int) -> int:
        """Return the part of ``total`` that is this process's; those of all of them make it up."""
        whole, rest = divmod(total, self.count)
        return whole + (1 if self.index < rest else 0)

    def counts(self) -> SharedCounts | None:
        """Return what adds up the metrics of all processes, None for a single one."""
        return SharedCounts(self.board, self.index) if self.board else None


ALONE = Seat()
