"""Deadlines of many at once, with one timer for all: nearly each is taken out before it passes.

A timer for each request would be armed and cancelled for nothing, which is a hundredth of what a posting costs.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key")

LATE_SECONDS_MAX: Final = 0.02
"""All deadlines are looked at when one has passed, and then not again for so long: thousands may pass one by one."""


class Deadlines(Generic[Key]):
    """Deadlines by what they are for, in one event loop."""

    def __init__(self, on_passed: Callable[[Key], object]) -> None:
        """Take what is called, once, with a key whose deadline has passed; it may put the key in again."""
        self._on_passed = on_passed
        self._ends: dict[Key, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf

    def put(self, key: Key, deadline: float) -> None:
        """Put a key in, with a time of the event loop's clock."""
        self._ends[key] = deadline
        if deadline < self._looks_at:
            self._look_at(deadline)

    def take_out(self, key: Key) -> bool:
        """Take a key out; says whether it was in, so its deadline had not passed."""
        return self._ends.pop(key, None) is not None

    def _look_at(self, time: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = time
        self._timer = asyncio.get_running_loop().call_at(time, self._look)

    def _look(self) -> None:
        self._looks_at, self._timer = math.inf, None
        now = asyncio.get_running_loop().time()
        for key in [key for key, deadline in self._ends.items() if deadline <= now]:
            # What is told to one may take out another.
            if self.take_out(key):
                self._on_passed(key)
        first = min(self._ends.values(), default=math.inf)
        if first < math.inf:
            self._look_at(max(first, now + LATE_SECONDS_MAX))
