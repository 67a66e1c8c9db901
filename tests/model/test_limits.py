"""Runs of steps: every movement under limits is compared with the model, to the microsecond.

The clock stands still but for its jumps: mostly to the very moment at which a limit gives something back, or to just
before or after it. Two ledgers take the steps in turn, as two server processes do, each with what it remembers.
`LIMITS_EXAMPLES=1000 pytest -n 1 tests/model/test_limits.py` runs it for long.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import plain
from factories import new_owner
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from model.limits import (
    DAY,
    DAY_SECONDS,
    FAR,
    FLOWS,
    RULES_MAX,
    SECOND,
    Ask,
    Books,
    Remove,
    Rule,
    Set,
    Terms,
    Use,
    Window,
    calendar_of,
)
from model.movements import OF_HOLDS, REVERSIBLE
from model.test_lots import tell
from model.test_movements import POSTINGS, answer_of, read_clock

from wallet_gql.db import migrations
from wallet_gql.domain import limits as domain
from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.limits import CalendarUnit, Enforcement, LimitFlow, LimitsSet, RuleName, TooManyLimits, Used
from wallet_gql.domain.postings import Held, KeyReused, Refused, Shortfall
from wallet_gql.domain.refusals import BalanceLimitExceeded, LimitExceeded, ReceiverRefused
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.limit_reads import ResetRequest, reset_of
from wallet_gql.ledger.reads import EntryName, PageRequest, WalletAsset
from wallet_gql.operations import holds, limits, reversals, transfers
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.clock import ADVANCE_SECONDS_MAX, advance_clock
from wallet_gql.operations.limits import LimitInput
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.postings import PostingInput
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

OWNERS = ("ann", "ben")
STEPS = 112
"""About half of them are taken."""

# How often each kind of step comes.
OFTEN = {
    "top_up": 6, "bonus": 4, "spend": 10, "transfer": 8, "place": 8, "capture": 5, "adjust": 4, "void": 2, "refund": 2,
    "clawback": 2, "wait": 8, "set": 4, "remove": 1, "again": 3, "reset": 6,
}  # fmt: skip
VERBS = [verb for verb, times in OFTEN.items() for _ in range(times)]

# Where clocks change at night, at midnight, over midnight and to it; by half an hour; and not at all.
ZONES = (
    "Europe/Berlin", "America/New_York", "Asia/Beirut", "America/Santiago", "America/Havana", "Atlantic/Azores",
    "America/Nuuk", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo", "UTC",
)  # fmt: skip
ROLLING = (1, 60, 3600, DAY_SECONDS, DAY_SECONDS, 30 * DAY_SECONDS, 366 * DAY_SECONDS)
TTLS = (1, 3600, DAY_SECONDS, DAY_SECONDS, 31 * DAY_SECONDS)
JUMPS = (1, SECOND, 60 * SECOND, 3600 * SECOND, 5 * 3600 * SECOND, DAY, 7 * DAY, 31 * DAY)
JUMPS_LONG = (183 * DAY, 366 * DAY)
YEARS = 5 * 366 * DAY


class Step(NamedTuple):
    """A step before it is known what there is: `which` chooses a hold, a transaction, a moment or a request by it.

    `is_whole` asks for all that there is, `is_odd` for what is mostly refused.
    """

    verb: str
    owners: tuple[str, ...]
    amount: int
    which: int
    is_whole: bool
    flag: bool
    is_odd: bool
    how: str
    ttl: int
    jump: int
    terms: Terms


def step_of(random: Random, zones: tuple[str, ...]) -> Step:
    return Step(
        random.choice(VERBS),
        owners=random.choice((OWNERS, OWNERS[::-1])),
        amount=random.randint(1, 20),
        which=random.randrange(1000),
        is_whole=random.random() < 0.5,
        flag=random.random() < 0.5,
        is_odd=random.random() < 0.07,
        how=random.choice(("REFUSE", "AVAILABLE", "DEBT")),
        ttl=random.choice(TTLS),
        jump=random.choice(JUMPS_LONG if random.random() < 0.03 else JUMPS),
        terms=terms_of(random, zones),
    )


def terms_of(random: Random, zones: tuple[str, ...]) -> Terms:
    flow, warns = random.choice(("BALANCE", "IN", "OUT", *FLOWS)), random.random() < 0.1
    if flow == "BALANCE":
        return Terms(flow, None, random.randint(30, 150), None, warns)
    unit = random.choice(("DAY", "DAY", "WEEK", "MONTH"))
    window: Window = random.choice(ROLLING) if random.random() < 0.5 else (unit, random.choice(zones))
    amount, times = random.randint(5, 40), random.randint(1, 4)
    kind = random.randrange(3)
    return Terms(flow, window, amount if kind else None, times if kind != 1 else None, warns)


def beginning(random: Random) -> tuple[int, tuple[str, ...]]:
    """Return when a run begins: before the clocks of a zone change, or before a leap day; and the zones in it."""
    zones = tuple(random.sample(ZONES, 2))
    year = datetime.now(UTC).year
    changes = [
        at for zone in zones for at, _ in calendar_of(zone).changes if 2 <= at / DAY_SECONDS / 365.25 + 1970 - year <= 4
    ]
    leap_day = datetime(year + 4 - year % 4, 2, 29, tzinfo=UTC)
    near = random.choice([*changes, int(leap_day.timestamp())])
    return near * SECOND - random.choice((1, SECOND, 1800 * SECOND, DAY - 1, 2 * DAY)), zones


class Clock:
    """Stands in for the clock of the database: it shows what it is set to."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.latest = 0

    async def stop(self, server_role: str | None) -> None:
        self.running = await self.connection.fetchval("SELECT pg_get_functiondef('wallet_now()'::regprocedure)")
        await self.connection.execute(
            "CREATE TABLE stopped_clock AS SELECT clock_timestamp() AS shows;"
            f" GRANT SELECT ON stopped_clock TO {server_role};"
            " CREATE OR REPLACE FUNCTION wallet_now() RETURNS timestamptz LANGUAGE sql VOLATILE"
            " RETURN (SELECT shows FROM stopped_clock)"
        )

    async def set(self, now: int) -> None:
        self.latest = max(self.latest, now)
        await self.connection.execute("UPDATE stopped_clock SET shows = $1", instant(now))

    async def go_on(self, ledger: Ledger) -> None:
        """Let it run again, later than all that it showed."""
        await self.connection.execute(self.running)
        while (behind := instant(self.latest) - await read_clock(ledger)) > timedelta():
            await advance_clock(ledger, min(int(behind.total_seconds()) + 1, ADVANCE_SECONDS_MAX))


def instant(at: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)


def number(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class Run:
    """A run of steps in an asset of its own: every answer, limit and moment of more equals the model's."""

    def __init__(self, runner: asyncio.Runner, ledgers: list[Ledger], clock: Clock, now: int) -> None:
        self.runner, self.ledgers, self.clock = runner, ledgers, clock
        self.books, self.began_at = Books(now=now), now
        self.keys: dict[str, UUID] = {}
        self.suffix = uuid4().hex[:12]
        self.asset = f"X{self.suffix.upper()}"
        self.asked: list[Ask | Set | Remove] = []
        self.answers: dict[tuple[str | None, str], Any] = {}
        self.resets: dict[tuple[str, str], int | None] = {}
        self.hold_names: list[HoldName] = []
        self.refused: tuple[Ask, int] | None = None
        """What was refused last, and when the same would pass."""
        runner.run(self._open())

    async def _open(self) -> None:
        await self.clock.set(self.books.now)
        self.asset_id = (await add_asset(self.ledgers[0], self.asset, "Gold Coins", 0)).id
        self.accounts: dict[str, WalletAsset] = {}
        for owner in map(self.name, OWNERS):
            await new_owner(self.ledgers[0], owner_id=owner)
            wallet = await self.ledgers[0].reads.wallets.load(self.owner_name(owner))
            assert wallet is not None
            self.accounts[owner] = WalletAsset(wallet, self.ledgers[0].assets[self.asset])
            self.books.balances[owner] = 0

    @property
    def ledger(self) -> Ledger:
        """The ledger whose turn it is."""
        return self.ledgers[len(self.asked) % len(self.ledgers)]

    def name(self, owner: str) -> str:
        return f"{owner}-{self.suffix}"

    def owner_name(self, owner: str) -> OwnerName:
        return OwnerName(shard_of(owner, self.ledgers[0].shard_count), owner)

    def new_key(self) -> str:
        key = f"k{len(self.keys)}"
        self.keys[key] = uuid4()
        return key

    # What is asked.

    def ask(self, verb: str, owner: str = "", to: str | None = None, **more: Any) -> Any:
        """Ask for something under a new key; returns what the ledger answers."""
        return self.compare(Ask(verb, self.new_key(), owner, to, **more))

    def limit(self, owner: str | None, *terms: Any) -> Rule | None:
        """Set a limit; returns its version, None where there are too many."""
        answer, *rule = self.compare(Set(self.new_key(), owner, Terms(*terms)))
        return rule[0] if answer == "set" else None

    def lift(self, rule: Rule) -> None:
        self.compare(Remove(self.new_key(), rule.owner, rule.n))

    def compare(self, asked: Ask | Set | Remove) -> Any:
        return self.runner.run(self._compare(asked))

    async def _compare(self, asked: Ask | Set | Remove) -> Any:
        # The ledger first: an original is looked for in the history as it is before.
        answer = await (self.really(asked) if isinstance(asked, Ask) else self.really_set(asked))
        tell(f"{instant(self.books.now)}: {asked} -> {answer}")
        self.asked.append(asked)
        place = self.books.owner_of(asked) if isinstance(asked, Ask) else asked.owner, asked.key
        expected = self.books.ask(asked) if isinstance(asked, Ask) else self.books.set_limit(asked)
        if "LimitExceeded" in expected:
            # Of several that let equally little through each may be told.
            *start, uses = expected
            assert answer[:-1] == tuple(start)
            assert answer[-1] in uses
        else:
            assert answer == expected
        if answer[0] == "replayed":
            assert answer[1:] == self.answers[place]
        elif answer != ("key reused",):
            self.answers[place] = answer
        await self.agree()
        return answer

    def wait(self, microseconds: int) -> None:
        # Years are enough.
        self.books.advance(min(microseconds, DAY) if self.books.now > self.began_at + YEARS else microseconds)
        tell(f"{microseconds} microseconds pass, until {instant(self.books.now)}")
        self.runner.run(self.clock.set(self.books.now))
        self.runner.run(self.agree())

    # What the ledger answers, in the model's words.

    async def really_set(self, asked: Set | Remove) -> tuple[Any, ...]:
        ledger, key = self.ledger, self.keys[asked.key]
        if isinstance(asked, Remove):
            wallet = None if asked.owner is None else self.accounts[asked.owner].wallet
            of = (0, 0) if wallet is None else (wallet.shard, wallet.id)
            outcome = await limits.remove_limit(ledger, RuleName(self.asset_id, *of, asked.n), asked.owner, key)
        else:
            flow, window, amount, times, warns = asked.terms
            most, enforcement = None if amount is None else Decimal(amount), Enforcement(1 + warns)
            asking = LimitInput(
                self.asset, asked.owner, LimitFlow[flow], window_of(window), most, times, enforcement, key
            )
            outcome = await limits.set_limit(ledger, asking)
        match outcome:
            case KeyReused():
                return ("key reused",)
            case LimitsSet():
                answer: tuple[Any, ...] = "set", None if outcome.rule is None else self.rule_of(outcome.rule)
            case TooManyLimits():
                answer = ("too many",)
            case _:
                raise AssertionError(outcome)
        return ("replayed", *answer) if outcome.already_processed else answer

    def rule_of(self, rule: domain.Rule) -> Rule:
        """Return a rule as the model has it."""
        owners = {account.wallet.id: owner for owner, account in self.accounts.items()}
        window: Window | None = None
        if rule.window is not None and rule.window.unit is None:
            window = rule.window.rolling_seconds
        elif rule.window is not None:
            assert rule.window.unit is not None
            assert rule.window.time_zone is not None
            window = rule.window.unit.name, rule.window.time_zone
        owner = owners[rule.name.wallet_id] if rule.name.wallet_id else None
        warns = rule.enforcement is Enforcement.WARN
        assert rule.name.asset_id == self.asset_id
        return Rule(owner, rule.name.step, Terms(rule.flow.name, window, rule.max_minor, rule.max_count, warns))

    async def really(self, ask: Ask) -> tuple[Any, ...]:
        outcome = await self.send(ask)
        answer = answer_of(outcome)
        if not isinstance(outcome, Refused):
            return answer
        match outcome.facts:
            case LimitExceeded():
                return (*answer, outcome.facts.amount_minor, await self.told(ask, outcome, outcome.facts))
            case BalanceLimitExceeded(balance_before_minor=before, limit_minor=most):
                return (*answer, before, most)
            case ReceiverRefused(cause=cause):
                return (*answer, cause.name)
        return answer

    async def told(self, ask: Ask, outcome: Refused, facts: LimitExceeded) -> Use:
        """Return which limit was told, with its use; when the same would pass is tried out by the model."""
        name = RuleName(self.asset_id, facts.rule_shard, facts.rule_wallet_id, facts.rule_step)
        rule = await self.ledger.reads.limit_rules.load(name)
        assert rule is not None
        known = self.rule_of(rule)
        reset = await self.read_reset(reset_of(facts, rule, outcome.balance.wallet.shard))
        owner = self.books.owner_of(ask)
        if outcome.already_processed:
            assert reset == self.resets[owner, ask.key]
        else:
            self.resets[owner, ask.key] = reset
            self.refused = None if reset is None else (ask, reset)
            assert facts.at_us == self.books.now

            def is_over(at: int) -> bool:
                return self.books.exceeds(owner, known, at, facts.amount_minor, facts.number)

            if reset is None:
                assert is_over(self.books.now + FAR)
            else:
                assert is_over(reset - 1)
                assert not is_over(reset)
        used = Used(facts.used_minor, facts.used_count)
        return Use(known, *used, rule.remaining_minor(used))

    async def read_reset(self, request: ResetRequest | None) -> int | None:
        return None if request is None else number(await self.ledger.reads.limit_resets.load(request))

    async def send(self, ask: Ask) -> object:
        key, ledger = self.keys[ask.key], self.ledger
        amount = None if ask.amount is None else Decimal(ask.amount)
        if ask.verb in REVERSIBLE:
            reverse = reversals.refund if ask.verb == "refund" else reversals.clawback
            entry, shortfall = await self.entry(ask.what), Shortfall(ask.how or "REFUSE")
            return await reverse(ledger, reversals.ReverseInput(entry, "", key, amount, shortfall, "Why"))
        if ask.verb in OF_HOLDS:
            change = holds.ChangeHoldInput(self.hold_names[ask.what], "", key, amount, ask.flag, ask.ttl)
            verbs = {"capture": holds.capture_hold, "void": holds.void_hold, "adjust": holds.adjust_hold}
            return await verbs[ask.verb](ledger, change)
        assert amount is not None
        if ask.verb in POSTINGS:
            return await POSTINGS[ask.verb](ledger, PostingInput(ask.owner, self.asset, amount, key))
        if ask.verb == "transfer":
            assert ask.to is not None
            return await transfers.transfer(ledger, transfers.TransferInput(ask.owner, ask.to, self.asset, amount, key))
        assert ask.ttl is not None
        place = holds.PlaceHoldInput(ask.owner, self.asset, amount, key, ask.ttl, ask.to)
        outcome = await holds.place_hold(ledger, place)
        if isinstance(outcome, Held) and not outcome.already_processed:
            self.hold_names.append(outcome.hold.name)
        return outcome

    async def entry(self, what: int) -> EntryName:
        """Return the entry of a transaction: among those of its type it is in the same place of its owner's history."""
        moved = self.books.moved[what]
        later = sum((each.owner, each.type) == (moved.owner, moved.type) for each in self.books.moved[what + 1 :])
        page = await self.ledger.reads.pages.load(PageRequest(self.accounts[moved.owner], first=100))
        view = [each for each in page.transactions if each.type.name.lower() == moved.type][later]
        return EntryName(view.shard, view.account_id, view.seq)

    async def agree(self) -> None:
        """What is shown of limits is what the model says; and so is when time gives something back first."""
        await asyncio.gather(*(self._agree(*each) for each in self.accounts.items()))

    async def _agree(self, owner: str, account: WalletAsset) -> None:
        books = self.books
        shown = await self.ledger.reads.limit_uses.load(account)
        resets = await asyncio.gather(*(self.read_reset(use.reset) for use in shown))
        found = [Use(self.rule_of(use.rule), *use.used, use.rule.remaining_minor(use.used)) for use in shown]
        assert set(found) == {books.use(owner, rule, books.now) for rule in books.limits(owner)}
        assert len(found) == len(set(found))
        for use, reset in zip(found, resets, strict=True):
            if reset is None:
                assert books.use(owner, use.rule, books.now + FAR) == use
            else:
                assert books.use(owner, use.rule, reset - 1) == use
                assert books.use(owner, use.rule, reset) != use

    # Steps.

    def take(self, step: Step) -> None:
        """Take one step, if there is something that it can be about."""
        named = getattr(self, f"_{step.verb}", None)
        if named is not None:
            named(step)
        elif (ask := self.ask_of(step)) is not None:
            # Now and then under a key that was used for something else.
            used = self.asked[step.which % len(self.asked)].key if self.asked and step.which % 20 == 0 else None
            self.compare(replace(ask, key=used or self.new_key()))

    def ask_of(self, step: Step) -> Ask | None:
        """Return what a step asks for, as things are; without a key."""
        verb, owner, other = step.verb, *map(self.name, step.owners)
        if verb in OF_HOLDS:
            return self.change_of(step)
        if verb in REVERSIBLE:
            return self.reversal_of(step)
        to = other if verb == "transfer" or (verb == "place" and step.flag) else None
        return Ask(verb, "", owner, to, step.amount, ttl=step.ttl if verb == "place" else None)

    def change_of(self, step: Step) -> Ask | None:
        """Return a change of a hold, mostly of an open one."""
        those = [what for what, hold in enumerate(self.books.holds) if step.is_odd or hold.state == "OPEN"]
        if not those:
            return None
        what, verb = those[step.which % len(those)], step.verb
        if verb == "void":
            return Ask(verb, "", what=what)
        if verb == "capture":
            return Ask(verb, "", amount=None if step.is_whole else step.amount, what=what, flag=step.flag)
        # The new total is near the old one: lower, or higher.
        amount = max(1, self.books.holds[what].amount + step.amount - 7)
        return Ask(verb, "", amount=amount, what=what, ttl=step.ttl if step.flag else None)

    def reversal_of(self, step: Step) -> Ask | None:
        """Return a refund or a clawback of what can be reversed so, and mostly not more than there is."""
        moved, verb = self.books.moved, step.verb
        those = [what for what, each in enumerate(moved) if each.type in REVERSIBLE[verb]]
        those = [what for what in those if step.is_odd or abs(moved[what].amount) > moved[what].reversed]
        if not those:
            return None
        what = those[step.which % len(those)]
        left = abs(moved[what].amount) - moved[what].reversed
        amount = None if step.is_whole else step.amount if step.is_odd else min(step.amount, left)
        return Ask(verb, "", amount=amount, what=what, how=step.how if verb == "clawback" else "")

    def _again(self, step: Step) -> None:
        if self.asked:
            self.compare(self.asked[step.which % len(self.asked)])

    def _wait(self, step: Step) -> None:
        """Let time pass: mostly up to a moment at which a limit gives something back, or just before it or after it."""
        moments = sorted({at for owner in self.accounts for at in self.books.moments(owner)})
        if not moments or step.is_odd or step.which % 4 == 0:
            self.wait(step.jump)
            return
        moment = moments[min(len(moments) - 1, step.which % 3)]
        self.wait(max(1, moment + step.which % 5 // 2 - 1 - self.books.now))

    def _reset(self, _step: Step) -> None:
        """Try what was refused last when it would pass; and just before."""
        if self.refused is None:
            return
        (ask, reset), self.refused = self.refused, None
        for at in (reset - 1, reset):
            if at > self.books.now:
                self.wait(at - self.books.now)
            if at == self.books.now:
                self.compare(replace(ask, key=self.new_key()))

    def _set(self, step: Step) -> None:
        self.compare(Set(self.new_key(), None if step.flag else self.name(step.owners[0]), self.like(step)))

    def like(self, step: Step) -> Terms:
        """Return a limit to set: every other time one that takes the place of another."""
        those = [rule for owner in (None, *self.accounts) for rule in self.books.rules.get(owner, [])]
        if not those or step.is_whole or step.terms.window is None:
            return step.terms
        flow, window, *_ = those[step.which % len(those)].terms
        return step.terms if window is None else step.terms._replace(flow=flow, window=window)

    def _remove(self, step: Step) -> None:
        owner = None if step.flag else self.name(step.owners[0])
        those = [rule.n for rule in self.books.rules.get(owner, [])]
        n = those[step.which % len(those)] if those and not step.is_odd else 1 + step.which % 5
        if n <= self.books.versions.get(owner, 0):
            self.compare(Remove(self.new_key(), owner, n))


def window_of(window: Window | None) -> domain.Window | None:
    if window is None:
        return None
    return limits.rolling(window) if isinstance(window, int) else limits.calendar(CalendarUnit[window[0]], window[1])


LIMITS = hypothesis_settings(
    max_examples=int(os.environ.get("LIMITS_EXAMPLES", "8")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    print_blob=True,
)


@pytest.fixture(scope="module")
def limits_settings(new_database: Callable[..., Settings]) -> Settings:
    """The settings of a database of its own, in test mode."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WALLET_MODE", "test")
        settings = new_database("limits", template="template0")
        migrations.upgrade(settings.owner_url(), settings.server_role(), "head")
    return settings.model_copy(update={"mode": "test"})


@asynccontextmanager
async def two_ledgers(settings: Settings) -> AsyncIterator[tuple[list[Ledger], Clock]]:
    """Two ledgers, as two server processes have them, under a clock that stands still."""
    async with AsyncExitStack() as stack:
        ledgers = [await stack.enter_async_context(open_ledger(settings)) for _ in range(2)]
        connection = await asyncpg.connect(plain(settings.owner_url().render_as_string(hide_password=False)))
        stack.push_async_callback(connection.close)
        clock = Clock(connection)
        await clock.stop(settings.server_role())
        yield ledgers, clock
        await clock.go_on(ledgers[0])
        assert (await prove(settings)).findings == []


@pytest.fixture(scope="module")
def new_run(limits_settings: Settings) -> Iterator[Callable[..., Run]]:
    """Begin runs: all in the same ledgers, each in an asset of its own. At the end all is proved."""
    with asyncio.Runner() as runner:
        opening = two_ledgers(limits_settings)
        ledgers, clock = runner.run(opening.__aenter__())
        yield lambda now=NOON: Run(runner, ledgers, clock, now)
        runner.run(opening.__aexit__(None, None, None))


NOON: Final = number(datetime(datetime.now(UTC).year + 1, 6, 1, 12, tzinfo=UTC))


@LIMITS
@given(st.binary(min_size=STEPS // 8 + 4, max_size=STEPS // 8 + 4))
def test_every_movement_under_limits_agrees_with_the_model(new_run: Callable[..., Run], drawn: bytes) -> None:
    # As in `test_lots`: steps are of a seed, and bits say which of them are taken.
    taken, random = int.from_bytes(drawn[:-4]), Random(drawn[-4:])  # noqa: S311 - nothing secret
    now, zones = beginning(random)
    run = new_run(now)
    for owner in run.accounts:
        # Mostly something is there before there are limits.
        if random.random() < 0.8:
            run.ask("top_up", owner, amount=100)
    limited_from = random.choice((0, 0, STEPS // 4, STEPS))
    for n, step in enumerate([step_of(random, zones) for _ in range(STEPS)]):
        if n == limited_from:
            for owner_id in (None, *run.accounts):
                run.limit(owner_id, *terms_of(random, zones))
        if taken >> n & 1:
            run.take(step)


def test_what_moved_while_there_was_no_limit_counts(new_run: Callable[..., Run]) -> None:
    run = new_run()
    ann, _ = run.accounts
    terms = "SPEND", DAY_SECONDS, 10
    run.ask("top_up", ann, amount=60)
    run.wait(2 * DAY)
    for _ in run.ledgers:
        rule = run.limit(ann, *terms)
        assert rule is not None
        # Each ledger has looked for the beginning of the window, as far as it is known then.
        assert [run.ask("spend", ann, amount=11)[0] for _ in run.ledgers] == ["LimitExceeded"] * 2
        run.lift(rule)
        run.ask("spend", ann, amount=4)
    run.limit(ann, *terms)
    assert [run.ask("spend", ann, amount=3)[0] for _ in run.ledgers] == ["LimitExceeded"] * 2
    assert run.ask("spend", ann, amount=2) == ("posted", 50)


def test_what_moved_before_a_limit_leaves_its_window(new_run: Callable[..., Run]) -> None:
    run = new_run()
    ann, _ = run.accounts
    run.ask("top_up", ann, amount=100)
    for amount in range(1, 9):
        run.wait(3600 * SECOND)
        run.ask("spend", ann, amount=amount)
    run.limit(ann, "SPEND", 6 * 3600, 40)
    # Six spends of it are in the window, then five, then four: each ledger has seen where it began before.
    for in_window in (33, 30, 26):
        assert [run.ask("spend", ann, amount=41 - in_window)[0] for _ in run.ledgers] == ["LimitExceeded"] * 2
        run.wait(3600 * SECOND)
    run.ask("spend", ann, amount=1)
    assert [run.ask("spend", ann, amount=20)[0] for _ in run.ledgers] == ["LimitExceeded"] * 2
    run.wait(3600 * SECOND)
    assert run.ask("spend", ann, amount=25)[0] == "LimitExceeded"
    assert run.ask("spend", ann, amount=24) == ("posted", 39)


def test_what_a_hold_takes_counts_once(new_run: Callable[..., Run]) -> None:
    run = new_run()
    ann, ben = run.accounts
    run.ask("top_up", ann, amount=100)
    run.limit(None, "OUT", 3600, 20)
    run.ask("place", ann, ben, amount=10, ttl=DAY_SECONDS)
    run.ask("capture", amount=4, what=0, flag=True)
    run.wait(1800 * SECOND)
    run.ask("capture", amount=1, what=0, flag=True)
    # Five are captured, five are held.
    assert run.ask("adjust", amount=21, what=0)[0] == "LimitExceeded"
    assert run.ask("adjust", amount=20, what=0) == ("held",)
    assert run.ask("spend", ann, amount=1)[0] == "LimitExceeded"
    # Captures are not refused: what they take was counted.
    assert run.ask("capture", amount=13, what=0) == ("posted", 82)
    assert run.ask("spend", ann, amount=3)[0] == "LimitExceeded"
    assert run.ask("spend", ann, amount=2) == ("posted", 80)
    run.wait(1800 * SECOND)
    assert run.ask("spend", ann, amount=4) == ("posted", 76)


@pytest.mark.parametrize("window", [3600, ("DAY", "Asia/Kathmandu")])
def test_when_what_moved_and_holds_are_in_the_way(new_run: Callable[..., Run], window: Window) -> None:
    run = new_run()
    ann, ben = run.accounts
    run.ask("top_up", ann, amount=100)
    run.limit(ann, "OUT", window, 10, 4)
    run.ask("spend", ann, amount=2)
    run.ask("place", ann, amount=3, ttl=DAY_SECONDS)
    run.ask("place", ann, ben, amount=2, ttl=2 * DAY_SECONDS)
    run.wait(60 * SECOND)
    run.ask("spend", ann, amount=2)
    # One, both, or all of what moved, and one or both holds have to go: whichever is later tells when.
    for amount in range(1, 12):
        assert run.ask("spend", ann, amount=amount)[0] == "LimitExceeded"
    run.limit(ann, "OUT", window, 10)
    for amount in range(2, 12):
        assert run.ask("place", ann, amount=amount, ttl=60)[0] == "LimitExceeded"


def test_limits_do_not_refuse_what_comes_back(new_run: Callable[..., Run]) -> None:
    run = new_run()
    ann, ben = run.accounts
    run.ask("top_up", ann, amount=60)
    run.ask("transfer", ann, ben, amount=20)
    run.limit(ann, "BALANCE", None, 40)
    run.limit(ann, "IN", 60, None, 1)
    received = next(n for n, moved in enumerate(run.books.moved) if moved.type == "transfer_in")
    assert run.ask("top_up", ann, amount=1)[0] == "LimitExceeded"
    assert run.ask("clawback", what=received, amount=15) == ("posted", 5)
    assert run.ask("transfer", ben, ann, amount=5) == ("ReceiverRefused", "LIMIT")
    run.wait(60 * SECOND)
    assert run.ask("transfer", ben, ann, amount=5) == ("ReceiverRefused", "FULL")


def test_more_limits_than_there_may_be(new_run: Callable[..., Run]) -> None:
    run = new_run()
    ann, _ = run.accounts
    for owner, first in ((None, 1), (ann, 100)):
        rules = [run.limit(owner, "IN", first + n, 100) for n in range(RULES_MAX + 1)]
        assert rules.index(None) == RULES_MAX
        # To take the place of another needs no room of its own; nor does what follows one that is lifted.
        assert run.limit(owner, "IN", first, 50)
        assert rules[1]
        run.lift(rules[1])
        assert run.limit(owner, "IN", first + RULES_MAX, 100)
    assert len(run.books.limits(ann)) == 2 * RULES_MAX


def test_limits_of_a_wallet_that_has_had_nothing(new_run: Callable[..., Run]) -> None:
    run = new_run()
    ann, ben = run.accounts
    run.limit(None, "IN", DAY_SECONDS, 10)
    run.limit(None, "BALANCE", None, 15)
    run.limit(ben, "OUT", DAY_SECONDS, 5)
    for owner in (ann, ben):
        assert run.ask("top_up", owner, amount=11)[0] == "LimitExceeded"
        assert run.ask("top_up", owner, amount=10) == ("posted", 10)
    assert run.ask("spend", ben, amount=6)[0] == "LimitExceeded"
