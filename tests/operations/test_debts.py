"""Debts: what a clawback finds too little for is owed, and repaid by whatever becomes available next."""

import asyncio
from decimal import Decimal
from uuid import UUID, uuid4

from batches import connected
from factories import new_owner, new_owner_id, post
from holds import change, held, place

from wallet_gql.domain.postings import (
    Changed,
    Entry,
    Nothing,
    Posted,
    Remainder,
    Shortfall,
    TransactionName,
    TransactionType,
    TransactionView,
    repayment_id,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import Balance, OwnerName, WalletKind
from wallet_gql.ledger.reads import EntryName, OwnTransaction
from wallet_gql.operations.holds import place_hold, void_hold
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.reversals import ReverseInput, clawback, refund
from wallet_gql.operations.states import StateInput, close
from wallet_gql.operations.transfers import TransferInput, transfer


def owed(view: TransactionView, amount: int | None = None, key: UUID | None = None) -> ReverseInput:
    name = EntryName(view.shard, view.account_id, view.seq)
    asked = None if amount is None else Decimal(amount)
    return ReverseInput(name, "shown", key or uuid4(), asked, Shortfall.DEBT, "Why")


async def moved(ledger: Ledger, verb: str, owner: str, amount: int) -> TransactionView:
    return posted(await post(ledger, verb, owner, amount))


def posted(outcome: object) -> TransactionView:
    assert isinstance(outcome, Posted), outcome
    return outcome.transaction


async def figures(ledger: Ledger, view: TransactionView) -> tuple[int, int, int]:
    """Return amount, available and debt."""
    wallet = await ledger.reads.wallets_by_id.load((view.shard, view.wallet_id))
    assert wallet is not None
    balance = await ledger.reads.owners_balances.load((OwnerName(view.shard, wallet.owner_id), view.asset))
    assert isinstance(balance, Balance)
    return balance.amount_minor, balance.available_minor, balance.debt_minor


async def repayment_of(ledger: Ledger, view: TransactionView) -> TransactionView | None:
    return await ledger.reads.own_transactions.load(OwnTransaction(view.shard, repayment_id(view.id), view.wallet_id))


async def in_debt(ledger: Ledger, owed_minor: int = 70) -> tuple[str, TransactionView]:
    """Return an owner who spent a top-up that was taken back."""
    owner = await new_owner(ledger)
    top_up = await moved(ledger, "top_up", owner, 100)
    await moved(ledger, "spend", owner, owed_minor)
    taken = posted(await clawback(ledger, owed(top_up)))
    assert taken.amount_minor == owed_minor - 100
    assert await figures(ledger, top_up) == (0, 0, owed_minor)
    return owner, top_up


async def test_what_is_not_there_is_owed(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = await moved(ledger, "top_up", owner, 100)
    await moved(ledger, "spend", owner, 70)
    asked = owed(top_up)
    first = await clawback(ledger, asked)
    taken = posted(first)
    assert await ledger.reads.entries.load(taken) == [
        Entry(WalletKind.USER, -30), Entry(WalletKind.TREASURY, 100), Entry(WalletKind.DEBT, -70),
    ]  # fmt: skip
    reversal = await ledger.reads.reversals.load(taken.name)
    assert reversal is not None
    assert (reversal.amount_minor, reversal.reversed_after_minor) == (100, 100)
    again = await clawback(ledger, asked)
    assert isinstance(again, Posted)
    assert (again.already_processed, again.transaction, again.balance.debt_minor) == (True, taken, 70)


async def test_what_is_all_gone_is_all_owed(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = await moved(ledger, "top_up", owner, 100)
    await moved(ledger, "spend", owner, 100)
    asked = owed(top_up, 40)
    outcome = await clawback(ledger, asked)
    assert isinstance(outcome, Nothing)
    assert (outcome.forgone_minor, outcome.indebted_minor, outcome.balance.debt_minor) == (0, 40, 40)
    again = await clawback(ledger, asked)
    assert isinstance(again, Nothing)
    assert (again.already_processed, again.indebted_minor, again.balance.debt_minor) == (True, 40, 40)
    assert await ledger.reads.reversed_minor.load(top_up.name) == 40
    # The same debt grows by the next one.
    more = await clawback(ledger, owed(top_up))
    assert isinstance(more, Nothing)
    assert (more.indebted_minor, more.balance.debt_minor) == (60, 100)


async def test_what_is_credited_next_repays_it(ledger: Ledger) -> None:
    owner, _ = await in_debt(ledger)
    bonus = await moved(ledger, "bonus", owner, 50)
    assert (bonus.amount_minor, bonus.balance_after_minor) == (50, 50)
    repayment = await repayment_of(ledger, bonus)
    assert repayment is not None
    assert (repayment.type, repayment.seq) == (TransactionType.REPAYMENT, bonus.seq + 1)
    assert (repayment.amount_minor, repayment.balance_after_minor) == (-50, 0)
    assert repayment.executed_at == bonus.executed_at
    assert await ledger.reads.entries.load(repayment) == [Entry(WalletKind.USER, -50), Entry(WalletKind.DEBT, 50)]
    top_up = await moved(ledger, "top_up", owner, 50)
    assert await figures(ledger, top_up) == (30, 30, 0)
    assert await repayment_of(ledger, await moved(ledger, "top_up", owner, 5)) is None


async def test_a_refund_repays_it(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = await moved(ledger, "top_up", owner, 100)
    spend = await moved(ledger, "spend", owner, 70)
    posted(await clawback(ledger, owed(top_up)))
    given = posted(await refund(ledger, ReverseInput(EntryName(spend.shard, spend.account_id, spend.seq), "", uuid4())))
    assert given.balance_after_minor == 70
    assert await figures(ledger, top_up) == (0, 0, 0)


async def test_what_is_received_repays_it(ledger: Ledger) -> None:
    owner, top_up = await in_debt(ledger)
    sender = await new_owner(ledger, gold=100)
    sent = posted(await transfer(ledger, TransferInput(sender, owner, "GOLD", Decimal(80), uuid4())))
    assert await figures(ledger, top_up) == (10, 10, 0)
    assert sent.balance_after_minor == 20


async def test_what_is_held_is_not_taken_and_repays_it_when_it_is_released(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = await moved(ledger, "top_up", owner, 100)
    hold = held(await place_hold(ledger, place(owner, 80)))
    assert posted(await clawback(ledger, owed(top_up))).amount_minor == -20
    assert await figures(ledger, top_up) == (80, 0, 80)
    held(await void_hold(ledger, change(hold)))
    assert await figures(ledger, top_up) == (0, 0, 0)


async def test_a_transfer_that_is_taken_back_returns_what_was_there(ledger: Ledger) -> None:
    sender, owner = await new_owner(ledger, gold=100), await new_owner(ledger)
    sent = posted(await transfer(ledger, TransferInput(sender, owner, "GOLD", Decimal(60), uuid4())))
    spend = await moved(ledger, "spend", owner, 40)
    received = await ledger.reads.transactions.load(EntryName(spend.shard, spend.account_id, 1))
    assert received is not None
    taken = posted(await clawback(ledger, owed(received)))
    assert await ledger.reads.entries.load(taken) == [
        Entry(WalletKind.USER, -20), Entry(WalletKind.TREASURY, 40), Entry(WalletKind.CLEARING, 20),
        Entry(WalletKind.DEBT, -40),
    ]  # fmt: skip
    assert await figures(ledger, received) == (0, 0, 40)
    assert await figures(ledger, sent) == (60, 60, 0)


async def test_debts_are_of_one_asset(ledger: Ledger) -> None:
    owner, top_up = await in_debt(ledger)
    gems = posted(await post(ledger, "top_up", owner, 9, asset_code="POINTS"))
    assert await figures(ledger, gems) == (900, 900, 0)
    assert await figures(ledger, top_up) == (0, 0, 70)
    posted(await post(ledger, "spend", owner, 9, asset_code="POINTS"))
    assert isinstance(await clawback(ledger, owed(gems)), Nothing)
    assert await figures(ledger, gems) == (0, 0, 900)


async def test_a_wallet_that_was_opened_by_another_clock_can_owe(ledger: Ledger) -> None:
    owner = new_owner_id()
    async with connected(ledger.settings) as connection:
        await connection.execute(
            "INSERT INTO wallet (shard, kind, owner_id, opened_at) VALUES ($1, 1, $2, now() + interval '50 s')",
            shard_of(owner, ledger.shard_count), owner,
        )  # fmt: skip
    top_up = await moved(ledger, "top_up", owner, 10)
    await moved(ledger, "spend", owner, 10)
    assert isinstance(await clawback(ledger, owed(top_up)), Nothing)
    assert await figures(ledger, top_up) == (0, 0, 10)


async def test_a_closed_wallet_gives_to_one_in_debt(ledger: Ledger) -> None:
    (owner, top_up), sender = await in_debt(ledger), await new_owner(ledger, gold=90)
    asked = StateInput(sender, uuid4(), "x")
    outcome = await close(ledger, asked, Remainder.TRANSFER, owner, voids_holds=False)
    assert isinstance(outcome, Changed)
    assert await figures(ledger, top_up) == (20, 20, 0)


async def test_a_closing_voids_repays_and_forfeits(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = await moved(ledger, "top_up", owner, 100)
    for amount in (50, 40):
        held(await place_hold(ledger, place(owner, amount)))
    await clawback(ledger, owed(top_up, 70))
    assert await figures(ledger, top_up) == (90, 0, 60)
    outcome = await close(ledger, StateInput(owner, uuid4(), "x"), Remainder.FORFEIT, None, voids_holds=True)
    assert isinstance(outcome, Changed)
    [forfeit] = outcome.transactions
    view = await ledger.reads.own_transactions.load(OwnTransaction(*forfeit, top_up.wallet_id))
    assert view is not None
    assert (view.amount_minor, view.balance_after_minor) == (-30, 0)
    assert await figures(ledger, top_up) == (0, 0, 0)


async def test_credits_and_clawbacks_at_once(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_ups = [await moved(ledger, "top_up", owner, 10) for _ in range(10)]
    await moved(ledger, "spend", owner, 100)
    await asyncio.gather(
        *(clawback(ledger, owed(top_up)) for top_up in top_ups),
        *(post(ledger, "bonus", owner, 7) for _ in range(10)),
    )
    assert await figures(ledger, top_ups[0]) == (0, 0, 30)
    name = TransactionName(top_ups[0].shard, top_ups[0].id)
    assert await ledger.reads.reversed_minor.load(name) == 10
