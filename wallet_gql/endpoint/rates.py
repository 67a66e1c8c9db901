"""What is charged to a request's caller, and what the answer says of its budget."""

import math
from functools import lru_cache
from typing import Any, Final

from graphql import GraphQLError

from wallet_gql.domain.access import Caller
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.operations.rates import Charge, Rates

POSTING_POINTS: Final = 10
"""What a field of Mutation costs at least."""

REFUNDED_FROM_POINTS: Final = 100
"""What costs less costs what it may: a page and a list of ids may cost far more than they turn out to."""

PREPARED_CHARACTERS: Final = 1000
"""A point buys the preparation of so many characters, and the first one is due for any text."""


def preparation_points(text: str) -> int:
    """Return what parsing, measuring and validating a text costs; it is never given back."""
    return 1 + len(text) // PREPARED_CHARACTERS


async def check_left(rates: Rates, caller: Caller, state: dict[str, Any]) -> None:
    """Raise `RateLimited` where a budget is empty; the request's state then has the charge that was refused."""
    refused = await rates.refused(caller)
    if refused is not None:
        state["charge"] = refused
        raise refused.refusal()


async def charge(rates: Rates, caller: Caller, points: int, state: dict[str, Any]) -> Charge | None:
    """Take points from a caller's budget, and note it in the request's state; None for one without a budget.

    Raises `RateLimited` where there are not enough now, GraphQLError where there never can be.
    """
    try:
        taken = state["charge"] = await rates.charge(caller, points)
    except BadUserInput as fault:
        raise GraphQLError(str(fault), original_error=fault) from None
    if taken is not None and taken.retry_after_seconds:
        raise taken.refusal()
    return taken


def needed(data: object, rows: int) -> int:
    """Return how many points an answer was worth: its fields, and the rows that it has or was asked for.

    What was looked for in vain was looked for; whether it is another's or does not exist makes no difference.
    """
    fields, members, waiting = 0, 0, [data]
    while waiting:
        match waiting.pop():
            case dict() as values:
                fields += len(values)
                waiting += values.values()
            case list() as values:
                members += len(values)
                waiting += values
            case _:
                pass
    return fields + max(members, rows)


def extension(charge: Charge) -> dict[str, int]:
    """Return what stands in `extensions.cost`."""
    return {
        "requested": charge.requested,
        "actual": charge.actual,
        "limit": charge.budget.burst,
        "remaining": charge.remaining,
        "restoreRate": charge.budget.per_second,
    }


def headers(charge: Charge) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header fields of draft-ietf-httpapi-ratelimit-headers-10; the window is the time to fill a bucket."""
    return _policy(*charge.budget), (b"ratelimit", b'"points";r=%d;t=%d' % (charge.remaining, charge.full_in_seconds))


@lru_cache(maxsize=1000)
def _policy(burst: int, per_second: int) -> tuple[bytes, bytes]:
    return b"ratelimit-policy", b'"points";q=%d;w=%d' % (burst, math.ceil(burst / per_second))
