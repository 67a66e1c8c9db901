"""Books with all that can happen to lots, made by the operations themselves beside a clock that tests move."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from damaged import SHARD, owners_of
from factories import new_owner, post

from wallet_gql.db.engine import connect
from wallet_gql.domain.holds import Hold
from wallet_gql.domain.lots import CreditSource, LotTerms
from wallet_gql.domain.postings import (
    Changed,
    Held,
    Nothing,
    Posted,
    Refused,
    Remainder,
    Shortfall,
    TransactionView,
)
from wallet_gql.domain.wallets import WalletStatus
from wallet_gql.ledger.reads import EntryName
from wallet_gql.operations.assets import set_asset
from wallet_gql.operations.clock import advance_clock
from wallet_gql.operations.holds import (
    ChangeHoldInput,
    PlaceHoldInput,
    adjust_hold,
    capture_hold,
    place_hold,
    void_hold,
)
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.reversals import ReverseInput, clawback, refund
from wallet_gql.operations.states import StateInput, close, freeze
from wallet_gql.operations.sweeper import sweep
from wallet_gql.operations.transfers import TransferInput, transfer

OTHER_SHARD: Final = 2
DAY_SECONDS: Final = 86_400
BONUS, PURCHASED = CreditSource.BONUS, CreditSource.PURCHASED

ALICE, BOB, DAVE, ERIN, *_ = owners_of(SHARD)
CAROL, FRANK, *_ = owners_of(OTHER_SHARD)

Outcome = TypeVar("Outcome")


def as_a(kind: type[Outcome], outcome: object) -> Outcome:
    """Return an outcome, which must be of a kind."""
    assert isinstance(outcome, kind), outcome
    return outcome


@dataclass
class Play:
    """What owners do to lots of GOLD, and the transactions and holds that came of it, by the names of the steps."""

    ledger: Ledger
    now: datetime
    posted: dict[str, TransactionView] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    refused: list[UUID] = field(default_factory=list)
    """The keys of what was refused."""

    def ends(self, days: float) -> datetime:
        """Return the time in so many days, to the microsecond."""
        return self.now + timedelta(days=days, microseconds=1)

    async def wait(self, days: float) -> None:
        """Let time pass."""
        now = await advance_clock(self.ledger, round(days * DAY_SECONDS))
        assert now is not None
        self.now = now

    async def post(self, name: str, verb: str, owner: str, amount: int, **more: Any) -> None:
        """Top up, give a bonus, or spend."""
        self.posted[name] = as_a(Posted, await post(self.ledger, verb, owner, amount, **more)).transaction

    async def ask_too_much(self, verb: str, owner: str, amount: int, **more: Any) -> None:
        """Ask for what is refused."""
        self.refused.append(uuid4())
        as_a(Refused, await post(self.ledger, verb, owner, amount, self.refused[-1], **more))

    async def give(
        self, name: str, owner: str, amount: int, days: float | None = None, priority: int = 50, **more: Any
    ) -> None:
        """Give a bonus that ends in so many days, or never."""
        until = None if days is None else self.ends(days)
        terms = LotTerms(BONUS, priority, more.pop("campaign", None), until)
        await self.post(name, "bonus", owner, amount, terms=terms, **more)

    async def send(self, name: str, sender: str, receiver: str, amount: int, **more: Any) -> None:
        """Transfer."""
        asked = TransferInput(sender, receiver, "GOLD", Decimal(amount), uuid4(), **more)
        self.posted[name] = as_a(Posted, await transfer(self.ledger, asked)).transaction

    async def place(self, name: str, owner: str, amount: int, **more: Any) -> None:
        """Place a hold."""
        asked = PlaceHoldInput(owner, "GOLD", Decimal(amount), uuid4(), **more)
        self.holds[name] = as_a(Held, await place_hold(self.ledger, asked)).hold

    async def change(self, verb: str, name: str, amount: int | None = None, **more: Any) -> None:
        """Capture, void or adjust a hold."""
        change = {"capture": capture_hold, "void": void_hold, "adjust": adjust_hold}[verb]
        named = None if amount is None else Decimal(amount)
        held = as_a(Held, await change(self.ledger, ChangeHoldInput(self.holds[name].name, "", uuid4(), named, **more)))
        if held.transaction is not None:
            self.posted[f"{name}, {amount}"] = held.transaction

    def _reversing(self, original: TransactionView, amount: int | None, **more: Any) -> ReverseInput:
        name = EntryName(original.shard, original.account_id, original.seq)
        named = None if amount is None else Decimal(amount)
        return ReverseInput(name, "", uuid4(), named, description="Why", **more)

    async def refund(self, name: str, of: str, amount: int | None = None, **more: Any) -> None:
        """Give back what was paid."""
        outcome = await refund(self.ledger, self._reversing(self.posted[of], amount, **more))
        self.posted[name] = as_a(Posted, outcome).transaction

    async def claw(self, name: str, of: TransactionView, amount: int | None = None, **more: Any) -> None:
        """Take back what was credited."""
        outcome = await clawback(self.ledger, self._reversing(of, amount, **more))
        if isinstance(outcome, Posted):
            self.posted[name] = outcome.transaction
        else:
            as_a(Nothing, outcome)

    async def received(self, name: str) -> TransactionView:
        """Return what the receiver of a transfer sees of it."""
        counterpart = self.posted[name].counterpart
        assert counterpart is not None
        owner = await self.ledger.reads.owners_of_transactions.load(counterpart)
        rows = await _entry_of(self.ledger, *counterpart)
        found = await self.ledger.reads.transactions.load(EntryName(counterpart.shard, *rows))
        assert found is not None, owner
        return found

    async def sweep(self, shards: Sequence[int] = (SHARD, OTHER_SHARD)) -> None:
        """Book what is over."""
        await sweep(self.ledger.engine, dict.fromkeys(shards, datetime(2000, 1, 1, tzinfo=self.now.tzinfo)))


async def _entry_of(ledger: Ledger, shard: int, id_: UUID) -> tuple[int, int]:
    """Return the account and the number of the owner's entry of a transaction."""
    async with connect(ledger.engine) as connection:
        row = await connection.fetchrow(
            "SELECT e.account_id, e.seq FROM entry e JOIN account a ON (a.shard, a.id) = (e.shard, e.account_id)"
            " WHERE (e.shard, e.transaction_id, a.wallet_kind) = ($1, $2, 1)",
            shard,
            id_,
        )
    return row["account_id"], row["seq"]


async def play(ledger: Ledger) -> Play:
    """Let everything happen to lots that can."""
    for owner in (ALICE, BOB, CAROL, DAVE, ERIN, FRANK):
        await new_owner(ledger, owner_id=owner)
    now = await advance_clock(ledger, 1)
    assert now is not None
    it = Play(ledger, now)
    await it.post("before lots", "bonus", ALICE, 20)
    await set_asset(ledger, "GOLD", has_lots=True)
    await it.wait(1)
    for act in (_of_bonuses, _of_holds, _of_transfers, _of_refunds, _of_clawbacks, _of_closings):
        await act(it)
    await it.wait(1)
    return it


async def _of_bonuses(it: Play) -> None:
    await it.post("pool", "top_up", ALICE, 100)
    await it.give("ends", ALICE, 30, 10, 10, campaign="Fête: é🎮", metadata={"a": "b"})
    await it.give("ends later", ALICE, 30, 20, 10)
    await it.give("lasts", ALICE, 5, None, 60, campaign="c")
    await it.give("joins", ALICE, 6, None, 60, campaign="c", description="joined", reference="r")
    await it.give("plain", ALICE, 7)
    await it.post("over several", "spend", ALICE, 65, description="Sword")
    await it.post("of bonuses", "spend", ALICE, 4, sources=BONUS)
    await it.post("of the pool", "spend", ALICE, 3, sources=PURCHASED)
    for source in (BONUS, PURCHASED):
        await it.ask_too_much("spend", ALICE, 1000, sources=source)
    await it.ask_too_much("spend", BOB, 1, sources=BONUS)
    past = LotTerms(BONUS, 50, None, it.now - timedelta(days=1))
    await it.ask_too_much("bonus", ALICE, 1, terms=past)


async def _of_holds(it: Play) -> None:
    await it.give("held, first", DAVE, 10, 3)
    await it.give("held, second", DAVE, 20, 1)
    await it.give("held, lasts", DAVE, 10)
    await it.post("held, pool", "top_up", DAVE, 50)
    await it.place("of bonuses", DAVE, 3, sources=BONUS)
    await it.place("sword", DAVE, 45, ttl_seconds=9 * DAY_SECONDS)
    await it.change("capture", "sword", 5, keep_remainder=True)
    await it.change("adjust", "sword", 42)
    await it.change("adjust", "sword", 44, ttl_seconds=9 * DAY_SECONDS)
    await it.place("of the pool", DAVE, 2, sources=PURCHASED)
    await it.place("brief", DAVE, 1, ttl_seconds=60)
    await it.place("escrow", DAVE, 1, to_owner_id=CAROL)
    # The lots that it is earmarked for are over; what is captured of them is spent, what is released lapses.
    await it.wait(4)
    await it.change("capture", "sword", 17, keep_remainder=True)
    await it.change("capture", "sword", 6)
    await it.change("void", "of bonuses")
    await it.change("capture", "escrow")
    await it.give("to Carol", DAVE, 9, 5)
    await it.place("escrow of lots", DAVE, 6, to_owner_id=CAROL, ttl_seconds=6 * DAY_SECONDS)
    await it.place("open", DAVE, 2, ttl_seconds=20 * DAY_SECONDS)
    await it.change("capture", "escrow of lots", 4, keep_remainder=True)
    await it.wait(5.5)
    # Over in the receiver's hands at once.
    await it.change("capture", "escrow of lots", 1)


async def _of_transfers(it: Play) -> None:
    await it.give("gift", BOB, 10, 4, 20, campaign="g")
    await it.give("gift, again", BOB, 10, 4, 20, campaign="g")
    await it.give("gift, lasts", BOB, 10, None, 30)
    await it.post("gift, pool", "top_up", BOB, 10)
    await it.send("there", BOB, CAROL, 27)
    await it.send("and back", CAROL, BOB, 5)
    await it.send("joined", BOB, CAROL, 8, sources=BONUS, description="Lots")
    await it.send("of Bob's pool", BOB, ALICE, 2, sources=PURCHASED)


async def _of_refunds(it: Play) -> None:
    await it.post("refund, pool", "top_up", ERIN, 5)
    await it.give("refund, first", ERIN, 10, 1, 1, campaign="x")
    await it.give("refund, second", ERIN, 10, 30, 2)
    await it.give("refund, lasts", ERIN, 10, None, 3)
    await it.post("bought", "spend", ERIN, 33)
    await it.post("bought, again", "spend", ERIN, 2)
    await it.refund("part", "bought", 7)
    await it.refund("another part", "bought", 8)
    await it.wait(2)
    await it.refund("lapses", "bought", 12)
    await it.refund("with an end", "bought", 4, lapsed_until=it.ends(10))
    await it.refund("the rest", "bought", lapsed_until=it.ends(11))
    await it.refund("all of the pool", "bought, again", lapsed_until=it.ends(11))


async def _of_clawbacks(it: Play) -> None:
    await it.post("clawed, pool", "top_up", FRANK, 10)
    await it.give("clawed, first", FRANK, 20, 50, 10)
    await it.give("clawed, second", FRANK, 20, 60, 5)
    await it.post("clawed, spent", "spend", FRANK, 25)
    await it.claw("LOT_ONLY", it.posted["clawed, first"], on_shortfall=Shortfall.LOT_ONLY)
    await it.give("clawed, third", FRANK, 5, 1, 90)
    await it.claw("AVAILABLE", it.posted["clawed, second"], 12, on_shortfall=Shortfall.AVAILABLE)
    await it.give("clawed, sent", BOB, 6, 70, 1)
    await it.send("sent", BOB, FRANK, 6)
    await it.claw("returned", await it.received("sent"))
    await it.post("spent all", "spend", FRANK, 1)
    await it.wait(2)
    await it.claw("DEBT", it.posted["clawed, pool"], on_shortfall=Shortfall.DEBT)
    await it.give("repays", FRANK, 3, 5)
    await it.wait(1)
    # Gives back what is over, which lapses before anything is repaid of the rest.
    await it.refund("repays, too", "clawed, spent", 9)


async def _of_closings(it: Play) -> None:
    for owner in (ERIN, FRANK):
        await it.give(f"closed, {owner}", owner, 9, 3)
        await it.place(f"closed, held, {owner}", owner, 4)
    await it.wait(4)
    asked = StateInput(ERIN, uuid4(), "Why")
    as_a(Changed, await close(it.ledger, asked, Remainder.TRANSFER, ALICE, voids_holds=True))
    asked = StateInput(FRANK, uuid4(), "Why")
    as_a(Changed, await close(it.ledger, asked, Remainder.FORFEIT, None, voids_holds=True))
    as_a(Changed, await freeze(it.ledger, StateInput(CAROL, uuid4(), "Why"), WalletStatus.FROZEN_ALL, None))
    await it.give("swept", BOB, 3, 1)
    await it.wait(2)
    await it.sweep()
