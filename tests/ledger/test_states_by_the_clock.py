"""What becomes of wallets, decided without a database: clocks that jump."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from decisions import GOLD, MICROSECOND, NOW, account, assert_unavailable, batch

from wallet_gql.domain.postings import Changed, Remainder, RequestKind, StateRequest
from wallet_gql.domain.wallets import OwnerName, WalletKind, WalletStatus
from wallet_gql.ledger.batch import Remains, StateItem
from wallet_gql.ledger.decide import decide
from wallet_gql.ledger.heads import Account, KeyName
from wallet_gql.ledger.judge import HEAD_AHEAD_MAX
from wallet_gql.ledger.rows import WalletStateRow


def item(kind: RequestKind, owner: Account, receiver: Account | None = None, **more: Any) -> StateItem:
    wallet = owner.wallet
    to = None if receiver is None else OwnerName(receiver.wallet.shard, receiver.wallet.owner_id)
    request = StateRequest(kind, OwnerName(wallet.shard, wallet.owner_id), GOLD, uuid4(), receiver=to, **more)
    key = KeyName(wallet.shard, wallet.id, request.idempotency_key)
    stripes = [account(1, 0, each) for each in (WalletKind.TREASURY, WalletKind.CLEARING, WalletKind.CLEARING)]
    remains = (Remains(owner, stripes[0], stripes[1], receiver, stripes[2]),)
    other = None if receiver is None else receiver.wallet
    return StateItem(request, key, owner, other, remains if kind is RequestKind.CLOSE else ())


@pytest.mark.parametrize("ahead", [0, 1], ids=["the owner", "the receiver"])
def test_who_is_ahead_of_the_clock_is_not_closed(ahead: int) -> None:
    owners = [account(1, 100), account(1, 5)]
    owners[ahead].executed_at = NOW + HEAD_AHEAD_MAX + MICROSECOND
    wallet = owners[ahead].wallet
    closing = item(RequestKind.CLOSE, *owners, remainder=Remainder.TRANSFER)
    where = {"shard": 1, "wallet_id": wallet.id, "ahead_seconds": 60}
    assert_unavailable(batch(), closing, "wallet_ahead_of_clock", **where)


def test_what_a_closing_posts_follows_both_owners() -> None:
    owner, receiver = account(1, 100), account(1, 5, executed_at=NOW + HEAD_AHEAD_MAX)
    made = batch()
    outcome = decide(made, item(RequestKind.CLOSE, owner, receiver, remainder=Remainder.TRANSFER, description="why"))
    assert isinstance(outcome, Changed)
    sent, received = made.transactions
    assert sent.executed_at == received.executed_at == NOW + HEAD_AHEAD_MAX
    # Why it was closed is not told to both.
    assert (sent.description, received.description) == (None, None)


def test_a_freeze_does_not_wait_for_the_clock() -> None:
    owner = account(1, 100, executed_at=NOW + timedelta(days=1))
    made = batch()
    outcome = decide(made, item(RequestKind.FREEZE, owner, status=WalletStatus.FROZEN_ALL))
    assert isinstance(outcome, Changed)
    [row] = made.others[WalletStateRow]
    assert isinstance(row, WalletStateRow)
    assert (row.status, row.since, row.at) == (WalletStatus.FROZEN_ALL, NOW, NOW)
