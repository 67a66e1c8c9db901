from factories import balance, new_owner, post

from wallet_gql.domain.model import (
    OutcomeCode,
    Posted,
    Refused,
)
from wallet_gql.operations.opening import Ledger


async def test_top_up_credits_the_owner(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    outcome = await post(ledger, "top_up", owner, 100)
    assert isinstance(outcome, Posted)
    assert (outcome.balance.amount_minor, outcome.already_processed) == (100, False)
    assert await balance(ledger, owner) == 100


async def test_spend_more_than_there_is_moves_nothing(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    outcome = await post(ledger, "spend", owner, 11)
    assert isinstance(outcome, Refused)
    assert outcome.code is OutcomeCode.INSUFFICIENT_BALANCE
    assert await balance(ledger, owner) == 10
