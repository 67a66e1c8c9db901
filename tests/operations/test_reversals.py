"""Refunds and clawbacks: what each ends with, and that never more is reversed than was moved."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

from asyncpg import Connection
from batches import new_owner_in
from direct import insert, movement
from factories import balance, new_owner, post
from holds import change, held, place
from tables import count_rows

from wallet_gql.domain.money import BALANCE_MINOR_MAX, MINOR_MAX
from wallet_gql.domain.postings import (
    KeyReused,
    Nothing,
    Posted,
    Refused,
    Shortfall,
    TransactionMissing,
    TransactionType,
    TransactionView,
)
from wallet_gql.domain.refusals import BalanceLimitExceeded, InsufficientBalance, NotRefundable, RefundExceedsOriginal
from wallet_gql.ledger.reads import EntryName
from wallet_gql.operations.holds import capture_hold, place_hold
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.reversals import ReverseInput, clawback, refund
from wallet_gql.operations.transfers import TransferInput, transfer


def of(view: TransactionView, amount: int | None = None, **more: Any) -> ReverseInput:
    name = EntryName(view.shard, view.account_id, view.seq)
    asked = ReverseInput(name, "shown", uuid4(), None if amount is None else Decimal(amount), description="Why")
    return replace(asked, **more)


async def moved(ledger: Ledger, verb: str, owner: str, amount: int) -> TransactionView:
    outcome = await post(ledger, verb, owner, amount)
    assert isinstance(outcome, Posted)
    return outcome.transaction


def posted(outcome: object) -> TransactionView:
    assert isinstance(outcome, Posted), outcome
    return outcome.transaction


async def test_a_spend_is_given_back_in_parts(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    spend = await moved(ledger, "spend", owner, 60)
    asked = of(spend, 25)
    given = posted(await refund(ledger, asked))
    assert (given.type, given.amount_minor) == (TransactionType.REFUND, 25)
    again = await refund(ledger, asked)
    assert isinstance(again, Posted)
    assert (again.already_processed, again.transaction) == (True, given)
    exceeded = await refund(ledger, of(spend, 36))
    assert isinstance(exceeded, Refused)
    assert exceeded.facts == RefundExceedsOriginal(spend.asset, 35, 36)
    assert posted(await refund(ledger, of(spend))).amount_minor == 35
    nothing_left = await refund(ledger, of(spend))
    assert isinstance(nothing_left, Refused)
    assert nothing_left.facts == RefundExceedsOriginal(spend.asset, 0, 60)
    assert await balance(ledger, owner) == 100
    assert [name.id for name in await ledger.reads.reversing.load(spend.name)][-1] == given.id
    reversal = await ledger.reads.reversals.load(given.name)
    assert reversal is not None
    assert reversal.original == spend.name


async def test_what_cannot_be_given_back(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    top_up = await moved(ledger, "top_up", owner, 5)
    spend = await moved(ledger, "spend", owner, 5)
    for reverse, view in ((refund, top_up), (clawback, spend)):
        outcome = await reverse(ledger, of(view))
        assert isinstance(outcome, Refused)
        assert outcome.facts == NotRefundable(view.asset, view.shard, view.id)
    missing = of(spend)
    missing = replace(missing, name=missing.name._replace(seq=99))
    assert await refund(ledger, missing) == TransactionMissing("shown")


async def test_a_refund_that_the_account_cannot_hold_is_refused(ledger: Ledger, server_connection: Connection) -> None:
    owner = await new_owner_in(ledger, 1, gold=100)
    spend = await moved(ledger, "spend", owner, 60)
    # More than the API posts at once, so by SQL.
    await insert(server_connection, await movement(server_connection, 1, owner, BALANCE_MINOR_MAX - 50))
    assert posted(await refund(ledger, of(spend, 15))).balance_after_minor == BALANCE_MINOR_MAX + 5
    await insert(server_connection, await movement(server_connection, 1, owner, MINOR_MAX - BALANCE_MINOR_MAX - 15))
    outcome = await refund(ledger, of(spend))
    assert isinstance(outcome, Refused)
    assert outcome.facts == BalanceLimitExceeded(spend.asset, MINOR_MAX - 10, 45)
    assert posted(await refund(ledger, of(spend, 10))).balance_after_minor == MINOR_MAX


async def test_a_capture_is_given_back(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = held(await place_hold(ledger, place(owner, 60)))
    outcome = await capture_hold(ledger, change(hold))
    assert held(outcome).captured_minor == 60
    capture = getattr(outcome, "transaction", None)
    assert isinstance(capture, TransactionView)
    assert posted(await refund(ledger, of(capture, 10))).balance_after_minor == 50


async def test_a_top_up_is_taken_back_as_far_as_it_is_available(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = await moved(ledger, "top_up", owner, 100)
    held(await place_hold(ledger, place(owner, 30)))
    await moved(ledger, "spend", owner, 20)
    refused = await clawback(ledger, of(top_up))
    assert isinstance(refused, Refused)
    assert refused.facts == InsufficientBalance(top_up.asset, 50, 100)
    taken = posted(await clawback(ledger, of(top_up, on_shortfall=Shortfall.AVAILABLE)))
    assert (taken.type, taken.amount_minor) == (TransactionType.CLAWBACK, -50)
    asked = of(top_up, 50, on_shortfall=Shortfall.AVAILABLE)
    nothing = await clawback(ledger, asked)
    assert isinstance(nothing, Nothing)
    assert (nothing.forgone_minor, nothing.already_processed) == (50, False)
    await moved(ledger, "bonus", owner, 7)
    late = await clawback(ledger, asked)
    assert isinstance(late, Nothing)
    assert late.already_processed
    assert isinstance(await clawback(ledger, replace(asked, amount=Decimal(49))), KeyReused)
    assert await balance(ledger, owner) == 37


async def test_what_was_received_goes_back_to_its_sender(ledger: Ledger) -> None:
    sender, receiver = await new_owner(ledger, gold=100), await new_owner(ledger)
    sent = await transfer(ledger, TransferInput(sender, receiver, "GOLD", Decimal(40), uuid4()))
    assert isinstance(sent, Posted)
    assert sent.transaction.counterpart is not None
    name = sent.transaction.counterpart
    wallet = await ledger.reads.owners_of_transactions.load(name)
    assert wallet == receiver
    entry = await ledger.reads.transactions.load(EntryName(name.shard, await account_of(ledger, receiver), 1))
    assert entry is not None
    taken = posted(await clawback(ledger, of(entry, 15)))
    assert taken.counterpart is not None
    assert (await balance(ledger, sender), await balance(ledger, receiver)) == (75, 25)


async def account_of(ledger: Ledger, owner: str) -> int:
    """Return the account of an owner, by a posting that changes nothing in the end."""
    view = await moved(ledger, "top_up", owner, 1)
    await moved(ledger, "spend", owner, 1)
    return view.account_id


async def test_many_refunds_at_once_never_exceed_the_original(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    spend = await moved(ledger, "spend", owner, 60)
    before = await count_rows(ledger.settings)
    outcomes = await asyncio.gather(*(refund(ledger, of(spend, 25)) for _ in range(10)))
    assert sum(isinstance(outcome, Posted) for outcome in outcomes) == 2
    assert await balance(ledger, owner) == 90
    assert await count_rows(ledger.settings) == before._replace(
        transactions=before.transactions + 2, entries=before.entries + 4, keys=before.keys + 10
    )
