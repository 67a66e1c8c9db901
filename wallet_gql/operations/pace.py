"""How long batches take: what each costs, and what each of its postings adds.

A line is fitted to the last few batches, the newest counting most. Neither part alone would do: taken for all of it,
the first promises that a thousand postings take as long as one, and the second that they take a thousand times as long.
"""

from dataclasses import dataclass
from typing import Final

MEMORY: Final = 0.8
"""How much what was measured before counts beside the newest batch."""


@dataclass(slots=True)
class Pace:
    """Seconds per batch and per posting; zero until something was measured."""

    batch_seconds: float = 0.0
    posting_seconds: float = 0.0
    _weight: float = 0.0
    _counts: float = 0.0
    _seconds: float = 0.0
    _squares: float = 0.0
    _products: float = 0.0

    def measure(self, count: int, seconds: float) -> None:
        """Take a batch of so many postings that took so long."""
        self._weight = MEMORY * self._weight + 1
        self._counts = MEMORY * self._counts + count
        self._seconds = MEMORY * self._seconds + seconds
        self._squares = MEMORY * self._squares + count * count
        self._products = MEMORY * self._products + count * seconds
        spread = self._weight * self._squares - self._counts**2
        slope = (self._weight * self._products - self._counts * self._seconds) / spread if spread > 0.01 else 0.0
        # Neither part is negative, whatever the noise: from all of it in the batches to all of it in the postings.
        self.posting_seconds = min(max(slope, 0.0), self._seconds / self._counts)
        self.batch_seconds = (self._seconds - self.posting_seconds * self._counts) / self._weight

    def seconds(self, batch_count: int, posting_count: int) -> float:
        """Return how long so many batches with so many postings in all will take."""
        return batch_count * self.batch_seconds + posting_count * self.posting_seconds

    def count_within(self, seconds: float, count_max: int) -> int:
        """Return how many postings a batch may have to take so long, at most `count_max`.

        Where a batch takes most of that time itself, it may have as many postings as double it.
        """
        if not self.posting_seconds:
            return count_max
        left_seconds = max(seconds - self.batch_seconds, self.batch_seconds)
        return max(1, min(count_max, int(left_seconds / self.posting_seconds)))
