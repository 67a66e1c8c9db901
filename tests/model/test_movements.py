"""A Hypothesis state machine runs every movement against the model, with a clock that jumps and sweeps in between."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from batches import connected
from factories import new_owner, request
from hypothesis import HealthCheck, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from model.movements import DAY, OF_STATES, REVERSIBLE, Ask, Books

from wallet_gql.db import migrations
from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.postings import Changed, Held, KeyReused, Nothing, Posted, Refused, Remainder, Shortfall
from wallet_gql.domain.refusals import (
    HoldExceeded,
    HoldNotOpen,
    InsufficientBalance,
    RefundExceedsOriginal,
    WalletFrozen,
    WalletNotEmpty,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName, WalletStatus
from wallet_gql.ledger.reads import EntryName, PageRequest, WalletAsset
from wallet_gql.ledger.states import WalletId
from wallet_gql.ledger.sweeping import read_places
from wallet_gql.operations import holds, postings, reversals, states, transfers
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.clock import advance_clock
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.sweeper import sweep
from wallet_gql.settings import Settings

POSTINGS = {"top_up": postings.top_up, "bonus": postings.bonus, "spend": postings.spend}
OWNERS = ("ann", "ben", "cy")
KEYS = tuple(f"k{n}" for n in range(100))
AMOUNTS = st.integers(1, 40)
# Longer than a day: what is held may be over, or not, but is never near its end.
JUMPS = st.sampled_from((DAY // 3, DAY + 60))


class Machine(RuleBasedStateMachine):
    """Every answer, balance, hold and history equals the model's."""

    runner: asyncio.Runner
    ledger: Ledger
    until: dict[int, datetime]

    @initialize()
    def begin(self) -> None:
        self.books = Books()
        self.keys = {key: uuid4() for key in KEYS}
        self.suffix = uuid4().hex[:12]
        self.asked: list[Ask] = []
        self.hold_names: list[HoldName] = []
        self.places: dict[str, list[int]] = {}
        self.accounts: dict[str, WalletAsset] = {}
        self.began_at = self.runner.run(read_clock(self.ledger))
        for owner in OWNERS:
            name = f"{owner}-{self.suffix}"
            self.runner.run(new_owner(self.ledger, owner_id=name))
            self.books.balances[name] = 0
            # Else most that is asked for would fail for want of credits.
            self.compare(Ask("top_up", KEYS[0], name, amount=60))

    def name(self, owner: str) -> str:
        return f"{owner}-{self.suffix}"

    def compare(self, ask: Ask) -> None:
        # The books first: an original is looked for in the history as it is before.
        answer = self.runner.run(self.really(ask))
        note(f"{ask} -> {answer}")
        self.asked.append(ask)
        assert answer == self.books.ask(ask)

    @rule(which=st.integers(0, 100))
    def ask_again(self, which: int) -> None:
        self.compare(self.asked[which % len(self.asked)])

    @rule(verb=st.sampled_from(("top_up", "bonus", "spend", "spend")), owner=st.sampled_from(OWNERS), amount=AMOUNTS,
          key=st.sampled_from(KEYS))  # fmt: skip
    def post(self, verb: str, owner: str, amount: int, key: str) -> None:
        self.compare(Ask(verb, key, self.name(owner), amount=amount))

    @rule(owners=st.permutations(OWNERS), amount=AMOUNTS, key=st.sampled_from(KEYS))
    def transfer(self, owners: list[str], amount: int, key: str) -> None:
        self.compare(Ask("transfer", key, self.name(owners[0]), self.name(owners[1]), amount))

    @rule(owners=st.permutations(OWNERS), amount=AMOUNTS, key=st.sampled_from(KEYS), is_escrow=st.booleans())
    def place(self, owners: list[str], amount: int, key: str, *, is_escrow: bool) -> None:
        to = self.name(owners[1]) if is_escrow else None
        self.compare(Ask("place", key, self.name(owners[0]), to, amount))

    @rule(verb=st.sampled_from(("capture", "capture", "void", "adjust")), which=st.integers(0, 50), amount=AMOUNTS,
          is_whole=st.booleans(), flag=st.booleans(), key=st.sampled_from(KEYS))  # fmt: skip
    def change(self, verb: str, which: int, amount: int, key: str, *, is_whole: bool, flag: bool) -> None:
        if self.books.holds:
            named = None if verb == "void" or (verb == "capture" and is_whole) else amount
            what = which % len(self.books.holds)
            self.compare(Ask(verb, key, amount=named, what=what, flag=flag and verb == "capture"))

    @rule(verb=st.sampled_from(("refund", "clawback", "clawback", "clawback")), which=st.integers(0, 50),
          amount=AMOUNTS, is_whole=st.booleans(), is_fit=st.sampled_from((True, True, True, False)),
          how=st.sampled_from(("DEBT", "DEBT", "AVAILABLE", "REFUSE")), key=st.sampled_from(KEYS))  # fmt: skip
    def reverse(self, verb: str, which: int, amount: int, key: str, how: str, *, is_whole: bool, is_fit: bool) -> None:
        fit = REVERSIBLE[verb] if is_fit else {moved.type for moved in self.books.moved}
        originals = [what for what, moved in enumerate(self.books.moved) if moved.type in fit]
        if originals:
            what = originals[which % len(originals)]
            named = None if is_whole else amount
            self.compare(Ask(verb, key, amount=named, what=what, how=how if verb == "clawback" else ""))

    @rule(verb=st.sampled_from(("unfreeze", "freeze", "freeze")), owner=st.sampled_from(OWNERS),
          how=st.sampled_from(("OUT", "ALL")), days=st.sampled_from((1, 0, -1, None)),
          key=st.sampled_from(KEYS))  # fmt: skip
    def freeze(self, verb: str, owner: str, how: str, days: int | None, key: str) -> None:
        if verb == "unfreeze":
            self.compare(Ask(verb, key, self.name(owner)))
            return
        # At noon, while jumps end in the evening, at night or in the morning: a freeze is never near its end.
        until = None if days is None else (self.books.now // DAY + days) * DAY + DAY // 2
        self.compare(Ask(verb, key, self.name(owner), how=how, until=until))

    @rule(verb=st.sampled_from(("reopen", "reopen", "close")), owners=st.permutations(OWNERS), flag=st.booleans(),
          how=st.sampled_from(("REFUSE", "FORFEIT", "TRANSFER")), key=st.sampled_from(KEYS))  # fmt: skip
    def close(self, verb: str, owners: list[str], how: str, key: str, *, flag: bool) -> None:
        if verb == "reopen":
            closed = [name for name in self.books.balances if self.books.status(name) == "CLOSED"]
            self.compare(Ask(verb, key, (closed or [self.name(owners[0])])[0]))
            return
        to = self.name(owners[1]) if how == "TRANSFER" else None
        self.compare(Ask(verb, key, self.name(owners[0]), to, how=how, flag=flag))

    @rule(owner=st.sampled_from(OWNERS), amount=AMOUNTS, is_held=st.booleans(), keys=st.permutations(KEYS))
    def let_owe(self, owner: str, amount: int, keys: list[str], *, is_held: bool) -> None:
        """Take back what was just credited, when all is spent or held: too rare to come about by chance."""
        name = self.name(owner)
        self.compare(Ask("top_up", keys[0], name, amount=amount))
        what = len(self.books.moved) - 1
        if available := self.books.available(name):
            self.compare(Ask("place" if is_held else "spend", keys[1], name, amount=available))
        if self.books.moved[what].owner == name:
            self.compare(Ask("clawback", keys[2], what=what, how="DEBT"))

    @rule(seconds=JUMPS)
    def let_time_pass(self, seconds: int) -> None:
        self.runner.run(advance_clock(self.ledger, seconds))
        self.books.advance(seconds)

    @rule()
    def sweep(self) -> None:
        self.runner.run(sweep(self.ledger.engine, self.until))
        self.books.book(*self.books.balances)

    async def really(self, ask: Ask) -> tuple[Any, ...]:
        key = self.keys[ask.key]
        amount = None if ask.amount is None else Decimal(ask.amount)
        if ask.verb in OF_STATES:
            return answer_of(await self.really_change(ask, key))
        if ask.verb in POSTINGS:
            return answer_of(await POSTINGS[ask.verb](self.ledger, request(ask.owner, ask.amount or 0, key)))
        if ask.verb == "transfer":
            assert ask.to is not None
            assert amount is not None
            asked = transfers.TransferInput(ask.owner, ask.to, "GOLD", amount, key)
            return answer_of(await transfers.transfer(self.ledger, asked))
        if ask.verb == "place":
            assert amount is not None
            place = holds.PlaceHoldInput(ask.owner, "GOLD", amount, key, DAY, ask.to)
            outcome = await holds.place_hold(self.ledger, place)
            if isinstance(outcome, Held) and not outcome.already_processed:
                self.hold_names.append(outcome.hold.name)
            return answer_of(outcome)
        if ask.verb in REVERSIBLE:
            reverse = reversals.refund if ask.verb == "refund" else reversals.clawback
            shortfall = Shortfall(ask.how or "REFUSE")
            name = await self.entry(ask.what)
            return answer_of(
                await reverse(self.ledger, reversals.ReverseInput(name, "", key, amount, shortfall, "Why"))
            )
        change = holds.ChangeHoldInput(self.hold_names[ask.what], "", key, amount, ask.flag)
        verbs = {"capture": holds.capture_hold, "void": holds.void_hold, "adjust": holds.adjust_hold}
        return answer_of(await verbs[ask.verb](self.ledger, change))

    async def really_change(self, ask: Ask, key: UUID) -> states.StateOutcome:
        asked = states.StateInput(ask.owner, key, "because")
        if ask.verb == "freeze":
            until = None if ask.until is None else self.began_at + timedelta(seconds=ask.until)
            return await states.freeze(self.ledger, asked, WalletStatus[f"FROZEN_{ask.how}"], until)
        if ask.verb == "close":
            return await states.close(self.ledger, asked, Remainder(ask.how), ask.to, voids_holds=ask.flag)
        open_again = states.unfreeze if ask.verb == "unfreeze" else states.reopen
        return await open_again(self.ledger, asked)

    async def account(self, owner: str) -> WalletAsset:
        if owner not in self.accounts:
            name = OwnerName(shard_of(owner, self.ledger.shard_count), owner)
            wallet = await self.ledger.reads.wallets.load(name)
            assert wallet is not None
            self.accounts[owner] = WalletAsset(wallet, self.ledger.assets["GOLD"])
        return self.accounts[owner]

    async def entry(self, what: int) -> EntryName:
        """Return the entry of a transaction, which is in the same place of its owner's history."""
        moved = self.books.moved[what]
        later = sum(each.owner == moved.owner for each in self.books.moved[what + 1 :])
        page = await self.ledger.reads.pages.load(PageRequest(await self.account(moved.owner), first=100))
        view = page.transactions[later]
        return EntryName(view.shard, view.account_id, view.seq)

    @invariant()
    def balances_holds_and_histories_agree(self) -> None:
        if hasattr(self, "books"):
            self.runner.run(self.agree())

    async def agree(self) -> None:
        await asyncio.gather(*map(self.owner_agrees, self.books.balances), self.holds_agree())

    async def owner_agrees(self, owner: str) -> None:
        books, account, reads = self.books, await self.account(owner), self.ledger.reads
        wallet = WalletId(account.wallet.shard, account.wallet.id)
        page, state, found = await asyncio.gather(
            reads.pages.load(PageRequest(account, first=100)),
            reads.states.load(wallet),
            reads.balances.load(account),
        )
        assert (found.amount_minor, found.held_minor) == (books.balances[owner], books.held(owner))
        assert found.debt_minor == books.debt(owner) >= 0
        # What ended and is not booked yet repays it before anything else.
        assert not (found.debt_minor and found.available_minor) or owner in books.ended
        assert ("OPEN" if state is None else state.status.name) == books.status(owner)
        shown = [(view.type.name.lower(), view.balance_after_minor) for view in page.transactions]
        history = books.history(owner)
        assert (shown, page.total_count) == (history[:100], len(history))

    async def holds_agree(self) -> None:
        kept = await asyncio.gather(*map(self.ledger.reads.holds.load, self.hold_names))
        shown = [each and (each.state.name, each.captured_minor, each.amount_minor) for each in kept]
        assert shown == [(hold.state, hold.captured, hold.amount) for hold in self.books.holds]


def answer_of(outcome: object) -> tuple[Any, ...]:
    """Return an outcome as the model says it."""
    replayed = ("replayed",) if getattr(outcome, "already_processed", False) else ()
    match outcome:
        case KeyReused():
            return ("key reused",)
        case Changed():
            return (*replayed, "changed", len(outcome.transactions))
        case Posted() | Held(transaction=None) | Nothing() | Refused() | Held():
            return (*replayed, *_answer(outcome))
    raise AssertionError(outcome)


def _answer(outcome: Posted | Held | Nothing | Refused) -> tuple[Any, ...]:
    if isinstance(outcome, Nothing):
        return "nothing", outcome.forgone_minor, outcome.indebted_minor
    if isinstance(outcome, Refused):
        facts = outcome.facts
        match facts:
            case InsufficientBalance():
                return "InsufficientBalance", facts.balance_before_minor
            case HoldNotOpen():
                return "HoldNotOpen", facts.state.name
            case HoldExceeded():
                return "HoldExceeded", facts.remaining_minor
            case RefundExceedsOriginal():
                return "RefundExceedsOriginal", facts.refundable_minor
            case WalletFrozen():
                return "WalletFrozen", facts.status.name
            case WalletNotEmpty():
                return "WalletNotEmpty", facts.open_holds
            case _:
                return (type(facts).__name__,)
    transaction = outcome.transaction
    return ("held",) if transaction is None else ("posted", transaction.balance_after_minor)


async def read_clock(ledger: Ledger) -> datetime:
    async with connected(ledger.settings) as connection:
        now: datetime = await connection.fetchval("SELECT wallet_now()")
        return now


async def read_until(ledger: Ledger) -> dict[int, datetime]:
    async with connected(ledger.settings) as connection:
        return await read_places(connection, ledger.shard_count)


LIMITS = hypothesis_settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    print_blob=True,
)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_every_movement_agrees_with_the_model(
    runner: asyncio.Runner, new_database: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WALLET_MODE", "test")
    settings = new_database("movements", template="template0")
    migrations.upgrade(settings.owner_url(), settings.server_role(), "head")
    settings = settings.model_copy(update={"mode": "test"})
    opening = open_ledger(settings)
    ledger = runner.run(opening.__aenter__())
    try:
        runner.run(add_asset(ledger, "GOLD", "Gold Coins", 0))
        until = runner.run(read_until(ledger))
        bound = type("Bound", (Machine,), {"runner": runner, "ledger": ledger, "until": until})
        run_state_machine_as_test(bound, settings=LIMITS)
    finally:
        runner.run(opening.__aexit__(None, None, None))
    assert runner.run(prove(settings)).findings == []
