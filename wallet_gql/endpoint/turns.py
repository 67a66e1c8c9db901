"""Turns: what would keep the event loop from everyone else is done one at a time, and a bounded line waits for it.

A connection has one request under way at a time, so each waits with one. The lightest goes first, so that an ordinary
page does not stand behind whoever asks for everything; every other turn is that of who has waited longest, so that
nobody is passed for ever. Where the line would grow too heavy, the heaviest in it is refused, the last of equals.
Whoever waits for the database meanwhile, or for a wallet's lock, does not hold the loop: the turn is passed on soon.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from wallet_gql.domain.errors import Overloaded

HELD_SECONDS_MAX: Final = 1
"""Whoever is not done by then goes on beside the next."""


class _Waiting(NamedTuple):
    weight: int
    came: asyncio.Future[None]


class Turns:
    """A turn, and the line before it; what weight is, its user says."""

    def __init__(self, waiting_weight_max: int, within_seconds: float) -> None:
        """Take how much may wait, and how long; one that is heavier than that may wait alone."""
        self._waiting_weight_max: Final = waiting_weight_max
        self._within_seconds: Final = within_seconds
        self._line: list[_Waiting] = []
        self._is_taken = False
        self._is_for_the_lightest = True

    @asynccontextmanager
    async def turn(self, weight: int) -> AsyncIterator[None]:
        """Hold the turn while the block lasts. Raises `Overloaded` where it does not come, or the line is full."""
        if self._is_taken:
            await self._wait(weight)
        self._is_taken = True
        is_held = True

        def pass_on() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._pass_on()

        timer = asyncio.get_running_loop().call_later(HELD_SECONDS_MAX, pass_on)
        try:
            yield
        finally:
            timer.cancel()
            pass_on()

    async def _wait(self, weight: int) -> None:
        waiting = _Waiting(weight, asyncio.get_running_loop().create_future())
        line = self._present()
        line.append(waiting)
        while len(line) > 1 and sum(each.weight for each in line) > self._waiting_weight_max:
            heaviest = max(reversed(line), key=_weight)
            line.remove(heaviest)
            heaviest.came.set_exception(Overloaded("The queue is full: try again after a pause."))
        try:
            async with asyncio.timeout(self._within_seconds):
                await waiting.came
        except BaseException as error:
            if not waiting.came.cancelled() and waiting.came.exception() is None:
                # The turn came just as its caller went.
                self._pass_on()
            if isinstance(error, TimeoutError):
                raise Overloaded("The request waited too long for its turn: try again after a pause.") from None
            raise

    def _present(self) -> list[_Waiting]:
        """Return the line without those who went away: their futures are cancelled some time before they run."""
        self._line = [each for each in self._line if not each.came.done()]
        return self._line

    def _pass_on(self) -> None:
        line = self._present()
        self._is_taken = bool(line)
        if line:
            following = min(line, key=_weight) if self._is_for_the_lightest else line[0]
            self._is_for_the_lightest = not self._is_for_the_lightest
            line.remove(following)
            following.came.set_result(None)


def _weight(waiting: _Waiting) -> int:
    return waiting.weight
