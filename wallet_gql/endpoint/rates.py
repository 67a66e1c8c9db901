"""What an answer says of its caller's budget."""

import math

from wallet_gql.operations.rates import Charge


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
    budget = charge.budget
    return (
        (b"ratelimit-policy", b'"points";q=%d;w=%d' % (budget.burst, math.ceil(budget.burst / budget.per_second))),
        (b"ratelimit", b'"points";r=%d;t=%d' % (charge.remaining, charge.full_in_seconds)),
    )
