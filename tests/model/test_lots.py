"""Runs of steps: every movement of an asset with lots is compared with the model, while the clock jumps.

`LOTS_EXAMPLES=1000 pytest -n 1 tests/model/test_lots.py` runs it for long.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import plain
from factories import new_owner, request
from hypothesis import HealthCheck, currently_in_test_context, given, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from model.lots import HOUR, NEVER, TEN_YEARS, Answer, Ask, Books
from model.movements import DAY, OF_HOLDS, OF_STATES, REVERSIBLE
from model.test_movements import answer_of, read_clock, read_until

from wallet_gql.db import migrations
from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.postings import Held, Refused, Remainder, Shortfall
from wallet_gql.domain.refusals import InvalidExpiry
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName, WalletStatus
from wallet_gql.ledger.reads import EntryName, PageRequest, WalletAsset
from wallet_gql.ledger.states import WalletId
from wallet_gql.operations import holds, postings, reversals, states, transfers
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.clock import advance_clock
from wallet_gql.operations.lots import check_terms
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.sweeper import sweep
from wallet_gql.settings import Settings

OWNERS = ("ann", "ben")
STEPS = 96
"""About half of them are taken."""

# How often each kind of step comes.
OFTEN = {
    "bonus": 8, "top_up": 2, "spend": 3, "transfer": 3, "place": 6, "capture": 4, "adjust": 4, "void": 1, "refund": 4,
    "clawback": 4, "wait": 6, "sweep": 1, "freeze": 1, "close": 1, "open_again": 3, "again": 3, "let_owe": 1,
}  # fmt: skip
VERBS = [verb for verb, times in OFTEN.items() for _ in range(times)]
HOW = {
    "clawback": ("LOT_ONLY", "LOT_ONLY", "REFUSE", "AVAILABLE", "AVAILABLE", "DEBT", "DEBT"),
    "freeze": ("OUT", "ALL"),
    "close": ("TRANSFER", "TRANSFER", "TRANSFER", "FORFEIT", "REFUSE"),
}
SOURCES = (None, None, None, "BONUS", "PURCHASED")
# A step takes a moment, so only ends an hour or more from a jump are surely told apart.
ENDS = (HOUR, HOUR, DAY, 10 * DAY, None, None)
TTLS = (31 * DAY, 31 * DAY, DAY, HOUR)
# Up to the day on which an hour is missing, over a leap day; on to the day that has one too many; and small ones.
JUMPS = (*[HOUR] * 6, *[DAY] * 4, 1, 1, 10 * DAY, 10 * DAY, 40 * DAY, 250 * DAY)


class Step(NamedTuple):
    """A step before it is known what there is: `which` chooses a hold, a transaction or an earlier request by it.

    `end` is so long after the present; `is_whole` asks for all that there is, `is_odd` for what is mostly refused.
    """

    verb: str
    owners: tuple[str, ...]
    amount: int
    source: str | None
    which: int
    is_whole: bool
    flag: bool
    is_odd: bool
    how: str
    end: int | None
    ttl: int
    jump: int
    priority: int
    campaign: str | None


def step_of(random: Random) -> Step:
    verb = random.choice(VERBS)
    return Step(
        verb,
        owners=random.choice((OWNERS, OWNERS[::-1])),
        amount=random.randint(1, 20 if verb in {"bonus", "top_up", "let_owe"} else 15),
        source=random.choice(SOURCES),
        which=random.randrange(1000),
        is_whole=random.random() < (0.1 if verb in {"spend", "transfer", "place"} else 0.5),
        flag=random.random() < 0.5,
        is_odd=random.random() < 0.07,
        how=random.choice(HOW.get(verb, ("",))),
        end=random.choice(ENDS),
        ttl=random.choice(TTLS),
        jump=random.choice(JUMPS),
        priority=random.choice((50, 50, 10)),
        campaign=random.choice((None, None, "may")),
    )


_ACCOUNT: Final = "SELECT id FROM account WHERE shard = $1 AND wallet_id = $2"
_LOTS: Final = """
SELECT o.n, o.source, o.priority, o.campaign, o.expires_at, last.remaining, last.held
  FROM lot o
 CROSS JOIN LATERAL (SELECT * FROM lot_step s
                      WHERE s.shard = o.shard AND s.account_id = o.account_id AND s.lot = o.n
                      ORDER BY s.step DESC LIMIT 1) AS last
 WHERE o.shard = $1 AND o.account_id = $2
 ORDER BY o.n
"""
_HEAD: Final = """
SELECT balance_after, coalesce(held_after, 0), coalesce(lots_after, 0)
  FROM entry WHERE shard = $1 AND account_id = $2 ORDER BY seq DESC LIMIT 1
"""
_ALL: Final = """
SELECT coalesce(sum(head.balance_after), 0)::bigint
  FROM account a
 CROSS JOIN LATERAL (SELECT * FROM entry e WHERE e.shard = a.shard AND e.account_id = a.id
                      ORDER BY e.seq DESC LIMIT 1) AS head
"""


class BookedLot(NamedTuple):
    """A lot as the database has it."""

    n: int
    source: str
    priority: int
    campaign: str | None
    expires_at: datetime | None
    remaining: int
    held: int


def tell(what: str) -> None:
    """Show what was done, where it fails."""
    if currently_in_test_context():
        note(what)


class Run:
    """A run of steps: every answer, balance, lot, hold and history equals the model's."""

    def __init__(
        self, runner: asyncio.Runner, ledger: Ledger, connection: asyncpg.Connection, until: dict[int, datetime]
    ) -> None:
        self.runner, self.ledger, self.connection, self.until = runner, ledger, connection, until
        self.books = Books()
        self.keys: dict[str, UUID] = {}
        self.suffix = uuid4().hex[:12]
        self.asked: list[Ask] = []
        self.hold_names: list[HoldName] = []
        self.accounts: dict[str, WalletAsset] = {}
        self.began_at = runner.run(read_clock(ledger))
        for owner in map(self.name, OWNERS):
            runner.run(new_owner(ledger, owner_id=owner))
            self.books.open(owner)

    def name(self, owner: str) -> str:
        return f"{owner}-{self.suffix}"

    def new_key(self) -> str:
        key = f"k{len(self.keys)}"
        self.keys[key] = uuid4()
        return key

    def begin(self) -> None:
        """Let there be something: else most that is asked for would fail for want of credits."""
        for owner in self.books.lots:
            self.compare(Ask("top_up", self.new_key(), owner, amount=20))
            self.compare(Ask("bonus", self.new_key(), owner, amount=20, until=HOUR))

    def compare(self, ask: Ask) -> None:
        # The ledger first: an original is looked for in the history as it is before.
        outcome = self.runner.run(self.really(ask))
        answer, balance = said(outcome), getattr(outcome, "balance", None)
        tell(f"{ask} -> {answer}")
        self.asked.append(ask)
        assert answer == self.books.ask(ask)
        if balance is not None:
            books, owner = self.books, self.books.owner_of(ask)
            assert balance.amount_minor == books.balance(owner)
            assert (balance.held_minor, balance.debt_minor) == (books.held(owner), books.debt(owner))
            # What is due was booked first.
            assert balance.lapsed_minor == books.lapsed(owner) == 0
        self.runner.run(self.agree())

    def ask(self, verb: str, owner: str = "", to: str | None = None, **more: Any) -> Answer:
        """Ask for something under a new key; returns what both answer."""
        ask = Ask(verb, self.new_key(), owner, to, **more)
        self.compare(ask)
        return self.books.answered[self.books.owner_of(ask), ask.key][1]

    def wait(self, seconds: int) -> None:
        tell(f"{seconds} seconds pass")
        self.runner.run(advance_clock(self.ledger, seconds))
        self.books.advance(seconds)
        self.runner.run(self.agree())

    def take(self, step: Step) -> None:
        """Take one step, if there is something that it can be about."""
        named = getattr(self, f"_{step.verb}", None)
        if named is not None:
            named(step)
        elif (ask := self.ask_of(step)) is not None:
            # Now and then under a key that was used for something else.
            used = self.asked[step.which % len(self.asked)].key
            self.compare(replace(ask, key=used if step.which % 20 == 0 else self.new_key()))

    def ask_of(self, step: Step) -> Ask | None:
        """Return what a step asks for, as things are; without a key."""
        verb, owner, other = step.verb, *map(self.name, step.owners)
        until = None if step.end is None else self.books.now + step.end
        if verb in OF_HOLDS:
            return self.change_of(step)
        if verb in REVERSIBLE:
            return self.reversal_of(step, until)
        if verb in {"spend", "transfer", "place"}:
            return self.debit_of(step, owner, other)
        if verb == "top_up":
            return Ask(verb, "", owner, amount=step.amount)
        if verb == "bonus":
            if step.is_odd:
                until = self.books.now + (-HOUR if step.flag else TEN_YEARS + DAY)
            return Ask(verb, "", owner, None, step.amount, until=until, priority=step.priority, campaign=step.campaign)
        if verb == "freeze":
            return Ask(verb, "", owner, how=step.how, until=until)
        return Ask(verb, "", owner, other if step.how == "TRANSFER" else None, how=step.how, flag=step.flag)

    def debit_of(self, step: Step, owner: str, other: str) -> Ask:
        """Return what takes credits, or holds them; now and then all that there are."""
        verb = step.verb
        amount = max(1, self.books.available(owner, step.source)) if step.is_whole else step.amount
        to = other if verb == "transfer" or (verb == "place" and step.flag) else None
        return Ask(verb, "", owner, to, amount, step.source, ttl=step.ttl if verb == "place" else None)

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
        if step.is_odd:
            return Ask(verb, "", what=what, ttl=step.ttl)
        return Ask(verb, "", amount=amount, what=what, ttl=step.ttl if step.flag else None)

    def reversal_of(self, step: Step, until: int | None) -> Ask | None:
        """Return a refund or a clawback, mostly of what can be reversed so, and not more than there is."""
        moved, verb = self.books.moved, step.verb
        fit = [what for what, each in enumerate(moved) if step.is_odd or each.type in REVERSIBLE[verb]]
        those = [what for what in fit if step.is_odd or abs(moved[what].amount) > moved[what].reversed]
        if not those:
            return None
        what = those[step.which % len(those)]
        left = abs(moved[what].amount) - moved[what].reversed
        amount = None if step.is_whole else step.amount if step.is_odd else min(step.amount, left)
        if verb == "clawback":
            return Ask(verb, "", amount=amount, what=what, how=step.how)
        if step.is_odd:
            until = self.books.now - HOUR
        return Ask(verb, "", amount=amount, what=what, until=until if step.flag else None)

    def _again(self, step: Step) -> None:
        self.compare(self.asked[step.which % len(self.asked)])

    def _open_again(self, step: Step) -> None:
        """Let what was stopped move again: else nothing would for the rest of most examples."""
        for owner in self.books.lots:
            status = self.books.status(owner)
            if status != "OPEN" or step.is_odd:
                self.compare(Ask("reopen" if status == "CLOSED" else "unfreeze", self.new_key(), owner))

    def _let_owe(self, step: Step) -> None:
        """Take back what was just credited, when all is spent or held: too rare to come about by chance."""
        owner = self.name(step.owners[0])
        self.compare(Ask("top_up", self.new_key(), owner, amount=step.amount))
        what = len(self.books.moved) - 1
        if available := self.books.available(owner):
            if step.which % 2:
                self.compare(Ask("place", self.new_key(), owner, None, available, ttl=31 * DAY))
            else:
                self.compare(Ask("spend", self.new_key(), owner, amount=available))
        if (self.books.moved[what].owner, self.books.moved[what].type) == (owner, "top_up"):
            self.compare(Ask("clawback", self.new_key(), what=what, how="DEBT"))

    def _wait(self, step: Step) -> None:
        self.wait(step.jump)

    def _sweep(self, step: Step) -> None:  # noqa: ARG002 - as all steps
        tell("sweep")
        self.runner.run(sweep(self.ledger.engine, self.until))
        self.books.book(*self.books.lots)
        self.runner.run(self.agree())

    def instant(self, seconds: float | None) -> datetime | None:
        return None if seconds in {None, NEVER} else self.began_at + timedelta(seconds=seconds or 0)

    async def really(self, ask: Ask) -> object:
        key, ledger = self.keys[ask.key], self.ledger
        amount = None if ask.amount is None else Decimal(ask.amount)
        source = None if ask.source is None else CreditSource[ask.source]
        if ask.verb in OF_STATES:
            return await self.really_change(ask, key)
        if ask.verb in REVERSIBLE:
            reverse = reversals.refund if ask.verb == "refund" else reversals.clawback
            reversing = reversals.ReverseInput(
                await self.entry(ask.what), "", key, amount, Shortfall(ask.how or "REFUSE"), "Why",
                lapsed_until=self.instant(ask.until),
            )  # fmt: skip
            return await reverse(ledger, reversing)
        if ask.verb in OF_HOLDS:
            change = holds.ChangeHoldInput(self.hold_names[ask.what], "", key, amount, ask.flag, ask.ttl)
            verbs = {"capture": holds.capture_hold, "void": holds.void_hold, "adjust": holds.adjust_hold}
            return await verbs[ask.verb](ledger, change)
        assert amount is not None
        if ask.verb == "top_up":
            return await postings.top_up(ledger, request(ask.owner, ask.amount or 0, key))
        if ask.verb == "bonus":
            terms = check_terms(self.instant(ask.until), ask.priority, ask.campaign)
            return await postings.bonus(ledger, request(ask.owner, ask.amount or 0, key, terms=terms))
        if ask.verb == "spend":
            return await postings.spend(ledger, request(ask.owner, ask.amount or 0, key, sources=source))
        if ask.verb == "transfer":
            assert ask.to is not None
            asked = transfers.TransferInput(ask.owner, ask.to, "GOLD", amount, key, sources=source)
            return await transfers.transfer(ledger, asked)
        assert ask.ttl is not None
        place = holds.PlaceHoldInput(ask.owner, "GOLD", amount, key, ask.ttl, ask.to, sources=source)
        outcome = await holds.place_hold(ledger, place)
        if isinstance(outcome, Held) and not outcome.already_processed:
            self.hold_names.append(outcome.hold.name)
        return outcome

    async def really_change(self, ask: Ask, key: UUID) -> states.StateOutcome:
        asked = states.StateInput(ask.owner, key, "because")
        if ask.verb == "freeze":
            return await states.freeze(self.ledger, asked, WalletStatus[f"FROZEN_{ask.how}"], self.instant(ask.until))
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
        account = await self.account(moved.owner)
        page = await self.ledger.reads.pages.load(PageRequest(account, first=1, offset=later))
        view = page.transactions[0]
        return EntryName(view.shard, view.account_id, view.seq)

    async def agree(self) -> None:
        for owner in self.books.lots:
            await self.books_agree(owner)
        await asyncio.gather(*map(self.reads_agree, self.books.lots), self.holds_agree())
        assert await self.connection.fetchval(_ALL) == 0

    async def books_agree(self, owner: str) -> None:
        """What is booked: the balance, what is held, and every lot that there ever was."""
        books, wallet = self.books, (await self.account(owner)).wallet
        place = wallet.shard, await self.connection.fetchval(_ACCOUNT, wallet.shard, wallet.id)
        lots = [BookedLot(n, CreditSource(source).name, *more) for n, source, *more in
                await self.connection.fetch(_LOTS, *place)]  # fmt: skip
        pool, *others = books.lots[owner]
        assert lots == [
            BookedLot(lot.n, *lot.terms[:3], self.instant(lot.terms.end), lot.remaining, books.kept(owner, lot.n))
            for lot in others
        ]
        held = sum(books.kept(owner, lot.n) for lot in books.lots[owner])
        assert tuple(await self.connection.fetchrow(_HEAD, *place) or (0, 0, 0)) == (
            books.balance(owner), held, books.balance(owner) - pool.remaining,
        )  # fmt: skip
        assert all(0 <= books.kept(owner, lot.n) <= lot.remaining for lot in books.lots[owner])

    async def reads_agree(self, owner: str) -> None:
        """What is shown: what has lapsed is gone, whether or not it is booked."""
        books, account, reads = self.books, await self.account(owner), self.ledger.reads
        wallet = WalletId(account.wallet.shard, account.wallet.id)
        page, state, found = await asyncio.gather(
            reads.pages.load(PageRequest(account, first=100)), reads.states.load(wallet), reads.balances.load(account)
        )
        amount, held = books.balance(owner) - books.lapsed(owner), books.held(owner)
        assert (found.amount_minor, found.held_minor, found.available_minor) == (amount, held, amount - held)
        assert found.lapsed_minor == books.lapsed(owner)
        assert found.available_minor >= 0
        assert found.debt_minor == books.debt(owner) >= 0
        # What ended and is not booked yet repays it before anything else.
        assert not (found.debt_minor and found.available_minor) or owner in books.ended
        assert ("OPEN" if state is None else state.status.name) == books.status(owner)
        shown = [(view.type.name.lower(), view.balance_after_minor) for view in page.transactions]
        history = books.history(owner)
        assert (shown, page.total_count) == (history[:100], len(history))

    async def holds_agree(self) -> None:
        kept = await asyncio.gather(*map(self.ledger.reads.holds.load, self.hold_names))
        shown = [
            each and (each.state.name, each.captured_minor, each.amount_minor, dict(each.earmarks)) for each in kept
        ]
        assert shown == [
            (hold.state, hold.captured, hold.amount, {n: part for n, part in hold.parts.items() if n})
            for hold in self.books.holds
        ]


def said(outcome: object) -> Answer:
    """Return an outcome as the model says it."""
    answer: tuple[Any, ...] = answer_of(outcome)
    if isinstance(outcome, Refused) and isinstance(outcome.facts, InvalidExpiry):
        return (*answer, outcome.facts.fault.name)
    return answer


LIMITS = hypothesis_settings(
    max_examples=int(os.environ.get("LOTS_EXAMPLES", "10")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    print_blob=True,
)


@pytest.fixture(scope="module")
def lots_settings(new_database: Callable[..., Settings]) -> Settings:
    """The settings of a database of its own, in test mode."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WALLET_MODE", "test")
        settings = new_database("lots", template="template0")
        migrations.upgrade(settings.owner_url(), settings.server_role(), "head")
    return settings.model_copy(update={"mode": "test"})


@pytest.fixture(scope="module")
def new_run(lots_settings: Settings) -> Iterator[Callable[[], Run]]:
    """Begin runs: all in one ledger, each with owners of its own."""
    with asyncio.Runner() as runner:
        opening = open_ledger(lots_settings)
        ledger = runner.run(opening.__aenter__())
        connection = runner.run(
            asyncpg.connect(plain(lots_settings.server_url().render_as_string(hide_password=False)))
        )
        try:
            runner.run(prepare(ledger))
            until = runner.run(read_until(ledger))
            yield lambda: Run(runner, ledger, connection, until)
        finally:
            runner.run(connection.close())
            runner.run(opening.__aexit__(None, None, None))


async def prepare(ledger: Ledger) -> None:
    """Add an asset with lots, and go to a few days before a leap day."""
    await add_asset(ledger, "GOLD", "Gold Coins", 0)
    await set_asset(ledger, "GOLD", has_lots=True)
    now = await read_clock(ledger)
    leap_year = now.year + 4 - now.year % 4
    await advance_clock(ledger, int((datetime(leap_year, 2, 20, tzinfo=now.tzinfo) - now).total_seconds()))


@LIMITS
@given(st.binary(min_size=STEPS // 8 + 4, max_size=STEPS // 8 + 4))
def test_every_movement_of_lots_agrees_with_the_model(new_run: Callable[[], Run], drawn: bytes) -> None:
    # Steps that were drawn one by one would resemble each other, and so would runs: what needs several kinds of steps
    # would be rare. So they are of a seed, and bits say which of them are taken: a failure shrinks to the fewest.
    taken, random = int.from_bytes(drawn[:-4]), Random(drawn[-4:])  # noqa: S311 - nothing secret
    run = new_run()
    run.begin()
    for n, step in enumerate([step_of(random) for _ in range(STEPS)]):
        if taken >> n & 1:
            run.take(step)


def test_equal_lots_that_travel_together_join(new_run: Callable[[], Run]) -> None:
    run = new_run()
    ann, ben = run.books.lots
    run.ask("bonus", ann, amount=5)
    run.ask("spend", ann, amount=5)
    run.ask("bonus", ann, amount=5)
    # Back to the first lot, beside which there is an equal one meanwhile.
    run.ask("refund", what=1)
    run.ask("transfer", ann, ben, amount=10)
    assert run.books.lots[ben][1].remaining == 10


def test_when_credits_cannot_end_is_told_first(new_run: Callable[[], Run]) -> None:
    run = new_run()
    ann, _ = run.books.lots
    run.ask("top_up", ann, amount=5)
    assert run.ask("refund", what=0, until=-HOUR) == ("InvalidExpiry", "IN_THE_PAST")


def test_debts_that_a_given_remainder_leaves(new_run: Callable[[], Run]) -> None:
    run = new_run()
    ann, ben = run.books.lots
    run.ask("top_up", ann, amount=5)
    run.ask("spend", ann, amount=5)
    run.ask("bonus", ann, amount=8, until=HOUR)
    run.ask("place", ann, amount=8, ttl=DAY)
    run.ask("clawback", what=0, how="DEBT")
    run.wait(HOUR)
    # What is held lapses when its hold is voided: it repays nothing, and nobody said that the debt is written off.
    assert run.ask("close", ann, ben, how="TRANSFER", flag=True) == ("WalletNotEmpty", 1)
    assert run.ask("close", ann, how="FORFEIT", flag=True) == ("changed", 1)


def test_a_lots_share_is_taken_back_once(new_run: Callable[[], Run]) -> None:
    run = new_run()
    ann, ben = run.books.lots
    run.ask("bonus", ann, amount=5, priority=10)
    run.ask("top_up", ann, amount=5)
    run.ask("transfer", ann, ben, amount=10)
    run.ask("spend", ben, amount=5, source="PURCHASED")
    run.ask("bonus", ben, amount=5, priority=10)
    received = next(n for n, moved in enumerate(run.books.moved) if moved.type == "transfer_in")
    # Its share of the lot; the other half of it is what was given since, and the pool is empty.
    assert run.ask("clawback", what=received, amount=5, how="LOT_ONLY") == ("posted", 5)
    assert run.ask("clawback", what=received, how="LOT_ONLY") == ("nothing", 5, 0)


def test_the_books_of_all_that_are_proved(new_run: Callable[[], Run], lots_settings: Settings) -> None:
    new_run()
    assert asyncio.run(prove(lots_settings)).findings == []
