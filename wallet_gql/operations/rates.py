"""What each caller may ask for in a while: a budget of points, which an operation's cost is taken from.

A budget is a bucket that fills up steadily. A document is charged before it is prepared, an operation before it is
executed; what an operation's answer turned out not to need is given back. Budgets are kept in the worker's memory, or
in Redis or Valkey for all workers together; while that is away, each worker keeps its own. A worker takes a hundredth
of a budget at a time into a purse, and charges from it: so the store, however far away, is asked once for some
operations.
"""

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import structlog
from throttled.asyncio import BaseRateLimiter, MemoryStore, RateLimiterRegistry, RateLimitState, RedisStore, per_sec

from wallet_gql.domain.access import Budget, Caller
from wallet_gql.domain.errors import BadUserInput, RateLimited
from wallet_gql.settings import Settings

CALLERS_MAX: Final = 100_000
"""Of how many callers a worker knows the budgets; who asked longest ago is forgotten first."""

LOTS: Final = 100
"""A worker takes this share of a budget at a time: so much may lie in a purse of a caller who asks nothing more."""

ANSWER_WITHIN_SECONDS: Final = 0.25
TRY_AGAIN_SECONDS: Final = 5
"""How long a store that did not answer is left alone."""

_log = structlog.get_logger()


@dataclass(slots=True)
class Charge:
    """What an operation was charged, or why it was not; points and seconds."""

    caller: Caller
    budget: Budget
    requested: int
    actual: int
    """What the answer needed; nothing where it was refused."""
    remaining: int
    full_in_seconds: int
    retry_after_seconds: int
    """When there is enough for it; 0 where there was."""

    def refusal(self) -> RateLimited:
        """Say that it was not taken."""
        return RateLimited(
            f"Your budget has {self.remaining} points, and this needs {self.requested}:"
            f" send it again in {self.retry_after_seconds} s, or ask for less.",
            retry_after_seconds=self.retry_after_seconds,
        )


@dataclass(slots=True)
class _Purse:
    """What a worker has taken of a caller's budget and not charged yet, and what its bucket had left then."""

    points: int = 0
    in_bucket: int = 0
    filling: asyncio.Lock = field(default_factory=asyncio.Lock)


class Rates:
    """The budgets of all callers."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings: the usual budget, and where budgets are kept."""
        self._usual = Budget(settings.rate_burst, settings.rate_per_second)
        self._url = settings.rate_url
        self._memory = MemoryStore(options={"MAX_SIZE": CALLERS_MAX})
        self._limiters: dict[tuple[Budget, bool], BaseRateLimiter] = {}
        self._purses: dict[str, _Purse] = {}
        self._away_until = float("-inf")

    @cached_property
    def _shared(self) -> RedisStore | None:
        if self._url is None:
            return None
        url = self._url.get_secret_value().replace("valkey", "redis", 1)
        seconds = ANSWER_WITHIN_SECONDS
        return RedisStore(server=url, options={"SOCKET_TIMEOUT": seconds, "SOCKET_CONNECT_TIMEOUT": seconds})

    async def charge(self, caller: Caller, points: int) -> Charge | None:
        """Take points from a caller's budget; None for one without a budget.

        Raises `BadUserInput` where there can never be enough.
        """
        if caller.budget_id is None:
            return None
        budget = caller.budget or self._usual
        if points > budget.burst:
            raise BadUserInput(
                "query", f"costs {points} points, and your budget never has more than {budget.burst}", "ask for less"
            )
        purse = self._purses.get(caller.budget_id) or self._purse(caller.budget_id)
        wait = 0 if purse.points >= points else await self._fill(purse, caller.budget_id, budget, points)
        if not wait:
            purse.points -= points
        remaining = min(budget.burst, purse.points + purse.in_bucket)
        full_in_seconds = -((remaining - budget.burst) // budget.per_second)  # rounded up
        return Charge(caller, budget, points, 0 if wait else points, remaining, full_in_seconds, wait)

    def may_be_empty(self, budget_id: str) -> bool:
        """Say whether the worker has no point of a budget at hand, so that `refused` tells; it asks nobody."""
        purse = self._purses.get(budget_id)
        return purse is None or purse.points < 1

    async def refused(self, caller: Caller) -> Charge | None:
        """Return why the least operation would be refused; None where a point is left, which stays in the budget."""
        charge = await self.charge(caller, 1)
        if charge is None or charge.retry_after_seconds:
            return charge
        self._purse(str(caller.budget_id)).points += 1
        return None

    async def settle(self, charge: Charge, needed: int) -> None:
        """Give back what was charged beyond the points that turned out to be needed."""
        charge.actual = min(charge.requested, needed)
        id_, refund, lot = str(charge.caller.budget_id), charge.requested - charge.actual, _lot(charge.budget)
        purse = self._purse(id_)
        charge.remaining += refund
        purse.points += refund
        if purse.points > 2 * lot:
            over, purse.points = purse.points - lot, lot
            _, state = await self._limit(id_, charge.budget, -over)
            purse.in_bucket = state.remaining

    def _purse(self, id_: str) -> _Purse:
        purse = self._purses.get(id_)
        if purse is None:
            if len(self._purses) >= CALLERS_MAX:
                self._purses.clear()
            purse = self._purses[id_] = _Purse()
        return purse

    async def _fill(self, purse: _Purse, id_: str, budget: Budget, points: int) -> int:
        """Take what is missing into a purse, a lot at least where the bucket has so much; returns how long to wait."""
        async with purse.filling:
            while (missing := points - purse.points) > 0:
                for wanted in sorted({missing, max(missing, _lot(budget))}, reverse=True):
                    is_limited, state = await self._limit(id_, budget, wanted)
                    purse.in_bucket = state.remaining
                    if not is_limited:
                        purse.points += wanted
                        break
                else:
                    return max(1, int(state.retry_after))
        return 0

    async def aclose(self) -> None:
        """Close the connections to the store."""
        if self._shared is not None:
            client: Any = self._shared._backend.get_client()
            await client.aclose(close_connection_pool=True)

    async def _limit(self, key: str, budget: Budget, points: int) -> tuple[bool, RateLimitState]:
        if self._shared is not None and asyncio.get_running_loop().time() >= self._away_until:
            try:
                async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
                    found = await self._limiter(budget, is_shared=True).limit(key, points)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, callers are served
                self._away_until = asyncio.get_running_loop().time() + TRY_AGAIN_SECONDS
                _log.warning("budgets are kept by each worker alone: their store is away", reason=type(error).__name__)
            else:
                return found.limited, found.state
        found = await self._limiter(budget, is_shared=False).limit(key, points)
        return found.limited, found.state

    def _limiter(self, budget: Budget, *, is_shared: bool) -> BaseRateLimiter:
        limiter = self._limiters.get((budget, is_shared))
        if limiter is None:
            quota = per_sec(budget.per_second, burst=budget.burst)
            store = self._shared if is_shared and self._shared is not None else self._memory
            limiter = self._limiters[budget, is_shared] = RateLimiterRegistry.get("token_bucket")(quota, store)
        return limiter


def _lot(budget: Budget) -> int:
    return max(1, budget.burst // LOTS)
