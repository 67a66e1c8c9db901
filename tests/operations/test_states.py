"""Freezing, closing and reopening wallets: what each lets through, and what becomes of what remains."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import uuid4

import pytest
from factories import balance, new_owner, new_owner_id, post
from holds import change, held, place

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.holds import Hold, HoldState
from wallet_gql.domain.postings import (
    Changed,
    Held,
    KeyReused,
    Nothing,
    Posted,
    ReceiverIsSender,
    Refused,
    Remainder,
    Shortfall,
    TransactionType,
    TransactionView,
    WalletMissing,
)
from wallet_gql.domain.refusals import (
    Facts,
    HoldNotOpen,
    ReceiverCause,
    ReceiverRefused,
    WalletClosed,
    WalletFrozen,
    WalletNotEmpty,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName, WalletState, WalletStatus
from wallet_gql.graphql import ids
from wallet_gql.ledger.reads import EntryName, OwnTransaction
from wallet_gql.operations.holds import adjust_hold, capture_hold, place_hold, void_hold
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.reversals import ReverseInput, clawback, refund
from wallet_gql.operations.states import StateInput, StateOutcome, close, freeze, reopen, unfreeze
from wallet_gql.operations.transfers import TransferInput, transfer

OUT: Final = WalletStatus.FROZEN_OUT
ALL: Final = WalletStatus.FROZEN_ALL


def asked(owner: str, note: str | None = "because") -> StateInput:
    return StateInput(owner, uuid4(), note)


def state(outcome: object, *, again: bool = False) -> WalletState:
    assert isinstance(outcome, Changed), outcome
    assert outcome.already_processed is again
    assert outcome.state is not None
    return outcome.state


def facts(outcome: object) -> Facts:
    assert isinstance(outcome, Refused), outcome
    return outcome.facts


async def frozen(ledger: Ledger, owner: str, status: WalletStatus, until: datetime | None = None) -> WalletState:
    return state(await freeze(ledger, asked(owner), status, until))


async def closed(
    ledger: Ledger,
    owner: str,
    remainder: Remainder = Remainder.REFUSE,
    to: str | None = None,
    *,
    voids_holds: bool = False,
) -> StateOutcome:
    return await close(ledger, asked(owner), remainder, to, voids_holds=voids_holds)


async def reversing(ledger: Ledger, verb: str, view: TransactionView, shortfall: Shortfall) -> object:
    name = EntryName(view.shard, view.account_id, view.seq)
    request = ReverseInput(name, "", uuid4(), Decimal(1), shortfall, "Why")
    return await (refund if verb == "refund" else clawback)(ledger, request)


class World:
    """An owner with credits, a hold, and something to reverse; and another owner."""

    def __init__(self, ledger: Ledger, owner: str, other: str, hold: Hold, views: dict[str, TransactionView]) -> None:
        self.ledger, self.owner, self.other, self.hold, self.views = ledger, owner, other, hold, views

    @classmethod
    async def make(cls, ledger: Ledger) -> "World":
        owner, other = await new_owner(ledger), await new_owner(ledger, gold=50)
        views = {}
        for verb, amount in (("top_up", 100), ("spend", 10)):
            outcome = await post(ledger, verb, owner, amount)
            assert isinstance(outcome, Posted)
            views[verb] = outcome.transaction
        return cls(ledger, owner, other, held(await place_hold(ledger, place(owner, 40))), views)

    async def play(self, verb: str) -> object:
        ledger, owner, other = self.ledger, self.owner, self.other
        plays: dict[str, Callable[[], Awaitable[object]]] = {
            "spend": lambda: post(ledger, "spend", owner, 1),
            "send": lambda: transfer(ledger, TransferInput(owner, other, "GOLD", Decimal(1), uuid4())),
            "place": lambda: place_hold(ledger, place(owner, 1)),
            "raise": lambda: adjust_hold(ledger, change(self.hold, 41)),
            "top_up": lambda: post(ledger, "top_up", owner, 1),
            "bonus": lambda: post(ledger, "bonus", owner, 1),
            "receive": lambda: transfer(ledger, TransferInput(other, owner, "GOLD", Decimal(1), uuid4())),
            "capture": lambda: capture_hold(ledger, replace(change(self.hold, 1), keep_remainder=True)),
            "refund": lambda: reversing(ledger, "refund", self.views["spend"], Shortfall.REFUSE),
            "lower": lambda: adjust_hold(ledger, change(self.hold, 20)),
            "clawback": lambda: reversing(ledger, "clawback", self.views["top_up"], Shortfall.REFUSE),
            "void": lambda: void_hold(ledger, change(self.hold)),
        }
        return await plays[verb]()


LEAVES: Final = ("spend", "send", "place", "raise")
COMES_IN: Final = ("top_up", "bonus", "receive", "capture", "refund")
ALWAYS: Final = ("lower", "clawback", "void")


def is_done(outcome: object) -> bool:
    return isinstance(outcome, Posted | Held | Nothing)


@pytest.mark.parametrize(("status", "stopped"), [(OUT, LEAVES), (ALL, LEAVES + COMES_IN)], ids=["OUT", "ALL"])
async def test_a_freeze_stops_what_it_says(ledger: Ledger, status: WalletStatus, stopped: tuple[str, ...]) -> None:
    world = await World.make(ledger)
    since = await frozen(ledger, world.owner, status)
    for verb in LEAVES + COMES_IN + ALWAYS:
        outcome = await world.play(verb)
        if verb not in stopped:
            assert is_done(outcome), verb
        elif verb == "receive":
            refusal = facts(outcome)
            assert isinstance(refusal, ReceiverRefused)
            assert refusal.cause is ReceiverCause.FROZEN
        else:
            refusal = facts(outcome)
            assert isinstance(refusal, WalletFrozen), verb
            assert (refusal.status, refusal.until_us) == (status, 0)
    after = state(await unfreeze(ledger, asked(world.owner)))
    assert (after.status, after.step) == (WalletStatus.OPEN, since.step + 1)
    for verb in ("spend", "send", "place", "top_up", "receive"):
        assert is_done(await world.play(verb)), verb


async def test_a_closed_wallet_stops_all_but_clawbacks(ledger: Ledger) -> None:
    world = await World.make(ledger)
    state(await closed(ledger, world.owner, Remainder.FORFEIT, voids_holds=True))
    for verb in LEAVES + COMES_IN:
        refusal = facts(await world.play(verb))
        if verb == "receive":
            assert isinstance(refusal, ReceiverRefused)
            assert refusal.cause is ReceiverCause.CLOSED
        else:
            assert isinstance(refusal, WalletClosed), verb
    assert isinstance(facts(await world.play("void")), HoldNotOpen)
    taken = await reversing(ledger, "clawback", world.views["top_up"], Shortfall.AVAILABLE)
    assert isinstance(taken, Nothing)
    owed = await reversing(ledger, "clawback", world.views["top_up"], Shortfall.DEBT)
    assert isinstance(owed, Nothing)
    assert owed.balance.debt_minor == 1
    again = state(await reopen(ledger, asked(world.owner)))
    assert again.status is WalletStatus.OPEN
    assert await balance(ledger, world.owner) == 0
    assert is_done(await world.play("refund"))


async def test_a_refusal_by_a_freeze_is_kept(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    await frozen(ledger, owner, OUT)
    key = uuid4()
    refusal = facts(await post(ledger, "spend", owner, 1, key))
    state(await unfreeze(ledger, asked(owner)))
    late = await post(ledger, "spend", owner, 1, key)
    assert facts(late) == refusal
    assert isinstance(late, Refused)
    assert late.already_processed
    assert is_done(await post(ledger, "spend", owner, 1))


async def test_a_freeze_ends_by_itself(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    until = datetime.now(UTC) + timedelta(seconds=1)
    assert (await frozen(ledger, owner, OUT, until)).until == until
    refusal = facts(await post(ledger, "spend", owner, 1))
    assert isinstance(refusal, WalletFrozen)
    assert refusal.until_us > 0
    await asyncio.sleep((until - datetime.now(UTC)).total_seconds() + 0.1)
    assert is_done(await post(ledger, "spend", owner, 1))
    # What was over can be frozen again, at its own time.
    assert (await frozen(ledger, owner, ALL)).since > until


async def test_a_late_unfreeze_does_not_undo_a_newer_freeze(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    await frozen(ledger, owner, OUT)
    first = asked(owner)
    state(await unfreeze(ledger, first))
    newer = await frozen(ledger, owner, ALL)
    late = await unfreeze(ledger, first)
    assert state(late, again=True) == newer
    assert await unfreeze(ledger, replace(first, note="other")) == KeyReused(first.idempotency_key)
    assert await post(ledger, "spend", owner, 1, first.idempotency_key) == KeyReused(first.idempotency_key)


async def test_what_is_so_already_is_answered(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    outcome = await unfreeze(ledger, asked(owner))
    assert isinstance(outcome, Changed)
    assert (outcome.state, outcome.already_processed) == (None, False)
    first = await frozen(ledger, owner, OUT)
    assert await frozen(ledger, owner, OUT) == first
    assert (await frozen(ledger, owner, ALL)).step == first.step + 1
    shut = state(await closed(ledger, owner))
    assert state(await closed(ledger, owner)) == shut
    assert isinstance(facts(await freeze(ledger, asked(owner), OUT, None)), WalletClosed)
    assert isinstance(facts(await unfreeze(ledger, asked(owner))), WalletClosed)
    assert state(await reopen(ledger, asked(owner))).status is WalletStatus.OPEN


async def test_a_wallet_that_is_not_empty_stays_open(ledger: Ledger) -> None:
    world = await World.make(ledger)
    assert facts(await closed(ledger, world.owner)) == WalletNotEmpty(ledger.assets["GOLD"], 1)
    for remainder, to in ((Remainder.FORFEIT, None), (Remainder.TRANSFER, world.other)):
        assert isinstance(facts(await closed(ledger, world.owner, remainder, to)), WalletNotEmpty)
    assert isinstance(facts(await closed(ledger, world.owner, voids_holds=True)), WalletNotEmpty)
    assert await balance(ledger, world.owner) == 90


async def test_what_remains_is_forfeited(ledger: Ledger) -> None:
    world = await World.make(ledger)
    request = asked(world.owner)
    outcome = await close(ledger, request, Remainder.FORFEIT, None, voids_holds=True)
    assert state(outcome).status is WalletStatus.CLOSED
    assert isinstance(outcome, Changed)
    [view] = await posted_by(ledger, outcome)
    assert (view.type, view.amount_minor, view.balance_after_minor) == (TransactionType.FORFEIT, -90, 0)
    hold = await ledger.reads.holds.load(world.hold.name)
    assert hold is not None
    assert hold.state is HoldState.VOIDED
    again = await close(ledger, request, Remainder.FORFEIT, None, voids_holds=True)
    assert isinstance(again, Changed)
    assert (again.already_processed, again.transactions) == (True, outcome.transactions)


async def test_what_remains_in_every_asset_is_forfeited(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    for asset, amount in (("DIAMOND", 3), ("POINTS", 2)):
        assert isinstance(await post(ledger, "top_up", owner, amount, asset_code=asset), Posted)
    outcome = await closed(ledger, owner, Remainder.FORFEIT)
    assert isinstance(outcome, Changed)
    views = await posted_by(ledger, outcome)
    assert {(view.asset.code, view.amount_minor) for view in views} == {
        ("GOLD", -10),
        ("DIAMOND", -3),
        ("POINTS", -200),
    }


async def test_what_remains_is_given_to_another_owner(ledger: Ledger) -> None:
    world = await World.make(ledger)
    outcome = await closed(ledger, world.owner, Remainder.TRANSFER, world.other, voids_holds=True)
    assert isinstance(outcome, Changed)
    [view] = await posted_by(ledger, outcome)
    assert (view.type, view.amount_minor, view.counterpart is not None) == (TransactionType.TRANSFER_OUT, -90, True)
    assert (await balance(ledger, world.owner), await balance(ledger, world.other)) == (0, 140)


async def posted_by(ledger: Ledger, changed: Changed) -> list[TransactionView]:
    wallet_id = changed.balance.wallet.id
    views = [
        await ledger.reads.own_transactions.load(OwnTransaction(*each, wallet_id)) for each in changed.transactions
    ]
    return [view for view in views if view is not None]


async def test_what_is_owed_is_written_off_or_keeps_a_wallet_open(ledger: Ledger) -> None:
    world = await World.make(ledger)
    state(await closed(ledger, world.owner, Remainder.FORFEIT, voids_holds=True))
    state(await reopen(ledger, asked(world.owner)))
    await reversing(ledger, "clawback", world.views["top_up"], Shortfall.DEBT)
    for remainder, to in ((Remainder.REFUSE, None), (Remainder.TRANSFER, world.other)):
        assert isinstance(facts(await closed(ledger, world.owner, remainder, to)), WalletNotEmpty)
    outcome = await closed(ledger, world.owner, Remainder.FORFEIT)
    assert isinstance(outcome, Changed)
    assert await posted_by(ledger, outcome) == []
    state(await reopen(ledger, asked(world.owner)))
    credit = await post(ledger, "top_up", world.owner, 5)
    assert isinstance(credit, Posted)
    assert (credit.balance.amount_minor, credit.balance.debt_minor) == (5, 0)


async def test_a_frozen_wallet_gives_nothing_away_but_can_be_closed(ledger: Ledger) -> None:
    owner, other = await new_owner(ledger, gold=10), await new_owner(ledger)
    await frozen(ledger, owner, OUT)
    assert isinstance(facts(await closed(ledger, owner, Remainder.TRANSFER, other)), WalletFrozen)
    state(await closed(ledger, owner, Remainder.FORFEIT))


async def test_a_receiver_that_takes_nothing_keeps_a_wallet_open(ledger: Ledger) -> None:
    owner, other = await new_owner(ledger, gold=10), await new_owner(ledger)
    await frozen(ledger, other, ALL)
    refusal = facts(await closed(ledger, owner, Remainder.TRANSFER, other))
    assert isinstance(refusal, ReceiverRefused)
    assert (refusal.owner_id, refusal.cause) == (other, ReceiverCause.FROZEN)
    assert await balance(ledger, owner) == 10


async def test_who_cannot_be_found_and_bad_input(ledger: Ledger) -> None:
    owner, nobody = await new_owner(ledger, gold=1), new_owner_id()
    assert await freeze(ledger, asked(nobody), OUT, None) == WalletMissing(nobody)
    assert await closed(ledger, owner, Remainder.TRANSFER, nobody) == WalletMissing(nobody)
    assert await closed(ledger, owner, Remainder.TRANSFER, owner) == ReceiverIsSender(owner)
    for remainder, to in ((Remainder.TRANSFER, None), (Remainder.FORFEIT, nobody)):
        with pytest.raises(BadUserInput, match="toOwnerId"):
            await closed(ledger, owner, remainder, to)
    for until in (datetime(2030, 1, 1), datetime(9999, 1, 1, tzinfo=UTC)):  # noqa: DTZ001 - that is the fault
        with pytest.raises(BadUserInput, match="until"):
            await freeze(ledger, asked(owner), OUT, until)
    with pytest.raises(BadUserInput, match="note"):
        await freeze(ledger, asked(owner, "x" * 501), OUT, None)


async def test_a_freeze_in_the_middle_of_a_burst(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    spends = [asyncio.create_task(post(ledger, "spend", owner, 1)) for _ in range(30)]
    freezing = asyncio.create_task(freeze(ledger, asked(owner), OUT, None))
    spends += [asyncio.create_task(post(ledger, "spend", owner, 1)) for _ in range(30)]
    state(await freezing)
    outcomes = await asyncio.gather(*spends)
    done = [isinstance(outcome, Posted) for outcome in outcomes]
    # One owner's requests are decided in order, so what came after it is refused.
    assert done == [True] * 30 + [False] * 30
    assert await balance(ledger, owner) == 70


async def test_a_freeze_with_another_note_says_so_since_then_as_before(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    first = await frozen(ledger, owner, OUT)
    again = state(await freeze(ledger, asked(owner, "another reason"), OUT, None))
    assert (again.step, again.note, again.since) == (first.step + 1, "another reason", first.since)


@pytest.mark.parametrize("note", [None, "", "  \n"])
async def test_a_freeze_and_a_closing_say_why(ledger: Ledger, note: str | None) -> None:
    owner = await new_owner(ledger)
    with pytest.raises(BadUserInput, match="note is blank"):
        await freeze(ledger, asked(owner, note), OUT, None)
    with pytest.raises(BadUserInput, match="note is blank"):
        await close(ledger, asked(owner, note), Remainder.REFUSE, None, voids_holds=False)


async def test_a_balance_s_cursor_has_the_position_among_its_wallet_s_states(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=1)
    step = (await frozen(ledger, owner, OUT)).step
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    found = await ledger.reads.owners_balances.load((name, ledger.assets["GOLD"]))
    credit = await post(ledger, "bonus", owner, 1)
    assert isinstance(credit, Posted)
    assert found is not None
    assert found.state_step == credit.balance.state_step == step
    cursor = ids.cursor(name.shard, found.wallet.id, found.asset.id, found.seq, found.state_step)
    assert ids.decode(cursor).parts == (name.shard, found.wallet.id, found.asset.id, found.seq, step)
