"""Which limits a batch is decided on: those in force."""

from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import pytest
from factories import new_owner, post

from wallet_gql.domain.limits import Enforcement, LimitFlow, LimitsSet, Window
from wallet_gql.domain.postings import Posted, Refused
from wallet_gql.domain.refusals import BalanceLimitExceeded, LimitExceeded
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.limits import LimitInput, set_limit
from wallet_gql.operations.opening import Ledger

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
