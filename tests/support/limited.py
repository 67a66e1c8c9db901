"""Books with all that can happen under limits, made by the operations themselves beside a clock that tests move."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

from factories import new_owner, post
from lotted import ALICE, BOB, CAROL, DAVE, DAY_SECONDS, ERIN, FRANK, Play, as_a

from wallet_gql.domain.limits import (
    LIMITS_MAX,
    CalendarUnit,
    Enforcement,
    LimitFlow,
    LimitsSet,
    NewLimit,
    Rule,
    TooManyLimits,
    Window,
)
from wallet_gql.domain.postings import Changed, Refused, Remainder, Shortfall
from wallet_gql.domain.refusals import BalanceLimitExceeded, LimitExceeded, ReceiverCause, ReceiverRefused
from wallet_gql.operations.assets import set_asset
from wallet_gql.operations.clock import advance_clock
from wallet_gql.operations.holds import ChangeHoldInput, PlaceHoldInput, adjust_hold, place_hold
from wallet_gql.operations.limits import LimitInput, remove_limit, set_limit
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.states import StateInput, close
from wallet_gql.operations.transfers import TransferInput, transfer

DAY: Final = Window(DAY_SECONDS)
HOUR: Final = Window(3600)


@dataclass
class LimitPlay(Play):
    """What owners do under limits, and by the names of the steps the versions of limits, and what was refused."""

    rules: dict[str, Rule] = field(default_factory=dict)
    keys: dict[str, UUID] = field(default_factory=dict)
    """The keys that asked for limits."""
    exceeded: dict[str, LimitExceeded] = field(default_factory=dict)
    refusals: dict[str, UUID] = field(default_factory=dict)
    """The keys of what was refused."""

    async def limit(self, name: str, of: str | None, flow: LimitFlow, window: Window | None, **more: Any) -> None:
        """Set a limit of an owner, or of all wallets."""
        self.keys[name] = uuid4()
        new = NewLimit(flow, window, more.get("most"), more.get("count"), more.get("enforcement", Enforcement.REFUSE))
        most = None if new.max_minor is None else Decimal(new.max_minor)
        asked = LimitInput(
            more.get("asset", "GOLD"), of, flow, window, most, new.max_count, new.enforcement, self.keys[name]
        )
        rule = as_a(LimitsSet, await set_limit(self.ledger, asked)).rule
        assert rule is not None
        self.rules[name] = rule

    async def lift(self, name: str, of: str | None, limit: str) -> None:
        """Remove a limit; where there is none any more, that is answered as well."""
        self.keys[name] = uuid4()
        as_a(LimitsSet, await remove_limit(self.ledger, self.rules[limit].name, of, self.keys[name]))

    async def refuse(self, name: str, key: UUID, outcome: Awaitable[object]) -> Refused:
        """Ask for what is refused."""
        self.refusals[name] = key
        return as_a(Refused, await outcome)

    async def exceed(self, name: str, key: UUID, outcome: Awaitable[object]) -> None:
        """Ask for what exceeds a limit of what moves."""
        self.exceeded[name] = as_a(LimitExceeded, (await self.refuse(name, key, outcome)).facts)

    async def post_too_much(self, name: str, verb: str, owner: str, amount: int, **more: Any) -> None:
        """Post what exceeds a limit."""
        key = uuid4()
        await self.exceed(name, key, post(self.ledger, verb, owner, amount, key, **more))

    async def place_too_much(self, name: str, owner: str, amount: int, **more: Any) -> None:
        """Place a hold that exceeds a limit."""
        key = uuid4()
        await self.exceed(
            name, key, place_hold(self.ledger, PlaceHoldInput(owner, "GOLD", Decimal(amount), key, **more))
        )

    async def raise_too_much(self, name: str, hold: str, amount: int) -> None:
        """Raise a hold to more than a limit lets through."""
        key = uuid4()
        asked = ChangeHoldInput(self.holds[hold].name, "", key, Decimal(amount))
        await self.exceed(name, key, adjust_hold(self.ledger, asked))

    async def send_too_much(self, name: str, sender: str, receiver: str, amount: int) -> None:
        """Transfer what exceeds a limit of the sender."""
        key = uuid4()
        asked = TransferInput(sender, receiver, "GOLD", Decimal(amount), key)
        await self.exceed(name, key, transfer(self.ledger, asked))


def _wednesday(now: datetime) -> datetime:
    """Return a later time from which on some days pass in which no week and no month begins."""
    day = now.replace(hour=10, minute=0, second=0, microsecond=0) + timedelta(days=1)
    while day.weekday() != 2 or not 10 <= day.day <= 20:
        day += timedelta(days=1)
    return day


async def play(ledger: Ledger) -> LimitPlay:
    """Let everything happen to limits that can."""
    for owner in (ALICE, BOB, CAROL, DAVE, ERIN, FRANK):
        await new_owner(ledger, owner_id=owner)
    now = await advance_clock(ledger, 1)
    assert now is not None
    await advance_clock(ledger, round((_wednesday(now) - now).total_seconds()))
    await set_asset(ledger, "GOLD", has_lots=True)
    it = LimitPlay(ledger, _wednesday(now))
    acts = (
        _before_limits,
        _of_versions,
        _of_what_goes_out,
        _of_what_comes_in,
        _of_calendars,
        _of_what_comes_back,
        _of_too_many,
    )
    for act in acts:
        await act(it)
    await it.wait(1)
    return it


async def _before_limits(it: LimitPlay) -> None:
    await it.post("pool", "top_up", ALICE, 1000)
    await it.post("first spend", "spend", ALICE, 15)
    await it.send("first sent", ALICE, CAROL, 10)
    await it.place("captured before", ALICE, 5)
    await it.change("capture", "captured before", 5)
    await it.place("open before", ALICE, 7, ttl_seconds=9 * DAY_SECONDS)
    for owner in (BOB, CAROL, DAVE):
        await it.post(f"pool of {owner}", "top_up", owner, 500)


async def _of_versions(it: LimitPlay) -> None:
    await it.limit("out", None, LimitFlow.OUT, DAY, most=100)
    await it.limit("in", None, LimitFlow.IN, Window(unit=CalendarUnit.MONTH, time_zone="UTC"), most=5000)
    berlin = Window(unit=CalendarUnit.DAY, time_zone="Europe/Berlin")
    await it.limit("top-ups", None, LimitFlow.TOP_UP, berlin, count=4)
    week = Window(unit=CalendarUnit.WEEK, time_zone="America/New_York")
    await it.limit("bonuses", None, LimitFlow.BONUS, week, most=1, enforcement=Enforcement.WARN)
    await it.limit("balance", None, LimitFlow.BALANCE, None, most=3000)
    await it.limit("own", ALICE, LimitFlow.OUT, DAY, most=150, count=7)
    await it.limit("spends", ALICE, LimitFlow.SPEND, HOUR, most=60)
    await it.limit("sent", BOB, LimitFlow.TRANSFER_OUT, Window(2 * DAY_SECONDS), count=2)
    await it.limit("got", CAROL, LimitFlow.TRANSFER_IN, DAY, most=50)
    # One that is changed, set again as it is, removed, and set again; and what is not there to be removed.
    await it.limit("first", BOB, LimitFlow.SPEND, HOUR, most=10)
    await it.limit("second", BOB, LimitFlow.SPEND, HOUR, most=20)
    await it.limit("same", BOB, LimitFlow.SPEND, HOUR, most=20)
    await it.lift("removed", BOB, "second")
    await it.lift("not there", BOB, "first")
    await it.limit("again", BOB, LimitFlow.SPEND, HOUR, most=30, count=3, enforcement=Enforcement.WARN)
    await it.limit("of gems", None, LimitFlow.BALANCE, None, most=10, asset="DIAMOND")
    await it.lift("gems removed", None, "of gems")
    await it.limit("own gems", CAROL, LimitFlow.SPEND, DAY, most=9, asset="DIAMOND")


async def _of_what_goes_out(it: LimitPlay) -> None:
    await it.post_too_much("not counted yet", "spend", ALICE, 100)
    await it.post("counted", "spend", ALICE, 20)
    await it.place("held", ALICE, 3, ttl_seconds=9 * DAY_SECONDS)
    await it.place("escrow", ALICE, 4, to_owner_id=CAROL)
    await it.change("adjust", "held", 5)
    await it.post_too_much("beside holds", "spend", ALICE, 100)
    await it.place_too_much("placing", ALICE, 100)
    await it.place_too_much("placing an escrow", ALICE, 100, to_owner_id=BOB)
    await it.raise_too_much("raising", "held", 100)
    await it.change("capture", "held", 2, keep_remainder=True)
    await it.change("capture", "escrow", 4)
    await it.send_too_much("one movement too many", ALICE, BOB, 1)
    await it.post("gives way", "spend", DAVE, 90)
    await it.post_too_much("of all", "spend", DAVE, 11)
    await it.change("void", "open before")
    for name in ("sent, once", "sent, twice"):
        await it.send(name, BOB, DAVE, 5)
    await it.send_too_much("sent, thrice", BOB, DAVE, 5)
    await it.post("warned", "spend", BOB, 31)
    await it.post_too_much("never opened", "spend", ERIN, 101)
    await it.wait(2)
    await it.post("a new window", "spend", ALICE, 55)
    await it.post_too_much("in a new window", "spend", ALICE, 6)
    await it.post_too_much("nothing moved yet", "spend", DAVE, 101)


async def _of_what_comes_in(it: LimitPlay) -> None:
    await it.post("opened", "top_up", ERIN, 10)
    await it.send("got", ALICE, CAROL, 50)
    key = uuid4()
    asked = TransferInput(ALICE, CAROL, "GOLD", Decimal(1), key)
    facts = as_a(ReceiverRefused, (await it.refuse("not taken", key, transfer(it.ledger, asked))).facts)
    assert facts.cause is ReceiverCause.LIMIT
    key = uuid4()
    outcome = await it.refuse("too rich", key, post(it.ledger, "top_up", ERIN, 2991, key))
    assert as_a(BalanceLimitExceeded, outcome.facts).limit_minor == 3000
    await it.give("given", DAVE, 7, 1)
    for name, owner in (("gems", ERIN), ("counted gems", CAROL)):
        await it.post(name, "top_up", owner, 100, asset_code="DIAMOND")


async def _of_calendars(it: LimitPlay) -> None:
    for n in range(3):
        await it.post(f"again, {n}", "top_up", ERIN, 5)
    await it.post_too_much("of a day", "top_up", ERIN, 5)
    await it.wait(1)
    await it.post("of another day", "top_up", ERIN, 5)
    await it.post("much", "top_up", FRANK, 2500)
    await it.post("much is spent", "spend", FRANK, 100)
    await it.post("more", "top_up", FRANK, 600)
    await it.post_too_much("of a month", "top_up", FRANK, 4000)


async def _of_what_comes_back(it: LimitPlay) -> None:
    # What was refused by a limit stays so when it is changed.
    await it.limit("own, later", ALICE, LimitFlow.OUT, DAY, most=200)
    await it.lift("sent, no more", BOB, "sent")
    await it.refund("paid back", "counted", 20)
    await it.claw("clawed", it.posted["pool"], 10)
    await it.claw("owed", it.posted["again, 0"], on_shortfall=Shortfall.DEBT)
    await it.claw("returned", await it.received("got"), 5)
    await it.wait(1)
    await it.give("lapsed", DAVE, 3, 1)
    await it.wait(2)
    await it.sweep()
    asked = StateInput(DAVE, uuid4(), "Why")
    as_a(Changed, await close(it.ledger, asked, Remainder.TRANSFER, BOB, voids_holds=True))
    asked = StateInput(FRANK, uuid4(), "Why")
    as_a(Changed, await close(it.ledger, asked, Remainder.FORFEIT, None, voids_holds=True))


async def _of_too_many(it: LimitPlay) -> None:
    for owner in (None, BOB):
        for seconds in range(1, LIMITS_MAX + 1):
            window = Window(seconds)
            await it.limit(f"one of many, {owner}", owner, LimitFlow.TRANSFER_IN, window, most=9, asset="DIAMOND")
        asked = LimitInput("DIAMOND", owner, LimitFlow.TRANSFER_IN, DAY, Decimal(9), None, Enforcement.REFUSE, uuid4())
        as_a(TooManyLimits, await set_limit(it.ledger, asked))
