"""A batch is decided on the limits that are in force, for every wallet and whatever a worker remembers."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import pytest
from batches import ask, new_owner_in
from cachetools import LRUCache
from factories import new_owner, post

from wallet_gql.domain.limits import Enforcement, LimitFlow, LimitsSet, Window
from wallet_gql.domain.postings import Posted, PostingRequest, Refused
from wallet_gql.domain.refusals import BalanceLimitExceeded, LimitExceeded
from wallet_gql.ledger.limits import KnownLimits
from wallet_gql.ledger.posting import post_batch
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.limits import LimitInput, set_limit
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import unit_of_work

ASSET: Final = "LIMITED"
"""An asset that each wallet may hold 100 of, and get 50 of in a day."""


async def limit(ledger: Ledger, owner: str | None, flow: LimitFlow, most: int, asset: str = ASSET) -> None:
    window = None if flow is LimitFlow.BALANCE else Window(86_400)
    asked = LimitInput(asset, owner, flow, window, Decimal(most), None, Enforcement.REFUSE, uuid4())
    assert isinstance(await set_limit(ledger, asked), LimitsSet)


@pytest.fixture
async def limited(ledger: Ledger) -> Ledger:
    if ASSET not in ledger.assets:
        await add_asset(ledger, ASSET, "Limited", 0)
        await limit(ledger, None, LimitFlow.BALANCE, 100)
        await limit(ledger, None, LimitFlow.TOP_UP, 50)
    return ledger


@pytest.mark.parametrize(
    ("verb", "amount", "facts"),
    [("top_up", 51, LimitExceeded), ("bonus", 101, BalanceLimitExceeded), ("top_up", 50, None)],
)
async def test_the_first_posting_of_a_wallet_is_limited(
    limited: Ledger, verb: str, amount: int, facts: type[Any] | None
) -> None:
    outcome = await post(limited, verb, await new_owner(limited), amount, asset_code=ASSET)
    if facts is None:
        assert isinstance(outcome, Posted)
    else:
        assert isinstance(outcome, Refused)
        assert isinstance(outcome.facts, facts)


async def test_what_a_batch_needs_is_not_forgotten_by_what_it_reads(limited: Ledger) -> None:
    """A worker remembers so many versions of limits; a batch may need one of them while it learns another."""
    known = KnownLimits()
    known.rules = LRUCache(1)
    owners = [await new_owner_in(limited, 1) for _ in range(2)]
    for owner in owners:
        await limit(limited, owner, LimitFlow.SPEND, 5, "GOLD")

    async def spend(*names: str) -> None:
        requests: list[PostingRequest] = [ask(limited, name, 6, "SPEND") for name in names]
        async with unit_of_work(limited.engine) as connection:
            outcomes = await post_batch(connection, requests, limited.slot, known=known)
        for outcome in outcomes:
            assert isinstance(outcome, Refused)
            assert isinstance(outcome.facts, LimitExceeded)

    await spend(owners[0])
    await spend(*owners)


async def test_what_is_remembered_of_a_window_is_given_up_where_the_log_is_another(limited: Ledger) -> None:
    """A fail-over lost an entry: what a worker remembers may have been pushed out by then, too."""
    known = KnownLimits()
    owners = [await new_owner_in(limited, 1, 100) for _ in range(2)]
    for owner in owners:
        await limit(limited, owner, LimitFlow.SPEND, 5, "GOLD")

    async def spend(*names: str) -> None:
        requests: list[PostingRequest] = [ask(limited, name, 1, "SPEND") for name in names]
        async with unit_of_work(limited.engine) as connection:
            for outcome in await post_batch(connection, requests, limited.slot, known=known):
                assert isinstance(outcome, Posted)

    await spend(owners[1])
    [(place, before)] = known.before.items()
    known.before = LRUCache(1)
    known.before[place] = before._replace(marks=before.marks._replace(uncounted=datetime.now(UTC)))
    await spend(*owners)
