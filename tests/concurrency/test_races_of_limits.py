"""Limits under races: on several ledgers, as several server processes have them, all that fits passes, and no more."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from concurrency.worker import Job, check, run_worker
from factories import balance, new_owner, new_owner_id, post

from wallet_gql.domain.limits import CalendarUnit, Enforcement, LimitFlow, LimitsSet, Rule, Window
from wallet_gql.domain.postings import Held, Posted, Refused, from_unix_us
from wallet_gql.domain.refusals import BalanceLimitExceeded, LimitExceeded, ReceiverCause, ReceiverRefused
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.reads import WalletAsset
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.holds import ChangeHoldInput, PlaceHoldInput, capture_hold, place_hold, void_hold
from wallet_gql.operations.limits import LimitInput, calendar, rolling, set_limit
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.transfers import TransferInput, transfer

CLIENTS: Final = 64
HOUR: Final = rolling(3600)


@pytest.fixture
def workers(ledgers: list[Ledger]) -> list[Ledger]:
    return ledgers[:2]


@pytest.fixture
async def asset(workers: list[Ledger]) -> str:
    """An asset of the test's own: its limits for all wallets are nobody else's."""
    return (await add_asset(workers[0], f"L{new_owner_id('')[1:].upper()}", "Limited", 0)).code


def today() -> Window:
    """Return the window of a day that does not end within hours."""
    return calendar(CalendarUnit.DAY, "UTC" if 6 <= datetime.now(UTC).hour < 18 else "Etc/GMT+12")


async def limit(
    ledger: Ledger,
    asset: str,
    owner: str | None,
    flow: str,
    window: Window | None,
    most: int = 0,
    times: int | None = None,
) -> Rule:
    amount = Decimal(most) if most else None
    asked = LimitInput(asset, owner, LimitFlow[flow], window, amount, times, Enforcement.REFUSE, uuid4())
    outcome = await set_limit(ledger, asked)
    assert isinstance(outcome, LimitsSet)
    assert outcome.rule is not None
    return outcome.rule


async def used(ledger: Ledger, asset: str, owner: str) -> dict[Rule, tuple[int, int]]:
    """Return what is used up of each of an owner's limits."""
    wallet = await ledger.reads.wallets.load(OwnerName(shard_of(owner, ledger.shard_count), owner))
    assert wallet is not None
    uses = await ledger.reads.limit_uses.load(WalletAsset(wallet, ledger.assets[asset]))
    return {use.rule: (use.used.minor, use.used.number) for use in uses}


async def filled(ledger: Ledger, asset: str, amount: int) -> str:
    """Open a wallet with so much in it."""
    owner = await new_owner(ledger)
    assert isinstance(await post(ledger, "top_up", owner, amount, asset_code=asset), Posted)
    return owner


async def at_once(one: Callable[[int, int], Awaitable[Any]], times: int) -> list[Any]:
    """Let each client do one thing after the other; returns all outcomes."""

    async def client(n: int) -> list[Any]:
        return [await one(n, m) for m in range(times)]

    return [outcome for own in await asyncio.gather(*(client(n) for n in range(CLIENTS))) for outcome in own]


def split(outcomes: Iterable[Any]) -> tuple[list[Posted], list[LimitExceeded]]:
    """Return what was posted, and what a limit refused; there is nothing else."""
    posted = [outcome for outcome in outcomes if isinstance(outcome, Posted)]
    refused = [outcome.facts for outcome in outcomes if isinstance(outcome, Refused)]
    facts = [each for each in refused if isinstance(each, LimitExceeded)]
    assert len(facts) == len(refused) == len(list(outcomes)) - len(posted)
    return posted, facts


async def test_of_more_spends_than_a_limit_counts_as_many_pass(workers: list[Ledger], asset: str) -> None:
    owner = await filled(workers[0], asset, 1000)
    rule = await limit(workers[0], asset, owner, "SPEND", HOUR, times=100)
    outcomes = await at_once(lambda n, _: post(workers[n % 2], "spend", owner, 1, asset_code=asset), 3)
    posted, refused = split(outcomes)
    assert len(posted) == 100
    assert {(each.used_minor, each.used_count) for each in refused} == {(100, 100)}
    assert await used(workers[1], asset, owner) == {rule: (100, 100)}
    assert await balance(workers[1], owner, asset) == 900


async def test_of_spends_of_all_sizes_none_passes_a_day_s_limit_for_all(
    workers: list[Ledger], asset: str, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - drawn again by its seed
    owners = [await filled(workers[0], asset, 1000) for _ in range(3)]
    rule = await limit(workers[1], asset, None, "OUT", today(), 150)

    async def spend(n: int, m: int) -> tuple[str, Any]:
        owner = owners[(n + m) % 3]
        return owner, await post(workers[n % 2], "spend", owner, chance.randint(1, 9), asset_code=asset)

    outcomes = await at_once(spend, 3)
    for owner in owners:
        posted, refused = split([outcome for whose, outcome in outcomes if whose == owner])
        spent = -sum(each.transaction.amount_minor for each in posted)
        assert spent <= 150
        assert refused
        # What was refused did not fit when it was, nor does it now.
        assert all(each.used_minor + each.amount_minor > 150 for each in refused)
        assert await used(workers[0], asset, owner) == {rule: (spent, len(posted))}
        assert await balance(workers[0], owner, asset) == 1000 - spent


async def test_what_comes_in_from_everywhere_stops_at_a_limit(workers: list[Ledger], asset: str) -> None:
    sender, owner = await filled(workers[0], asset, 1000), await new_owner(workers[0])
    await limit(workers[0], asset, owner, "IN", today(), 100)
    # The owner's takes the place of this one.
    await limit(workers[1], asset, None, "IN", today(), 10_000)

    async def give(n: int, m: int) -> Any:
        worker = workers[n % 2]
        if (n + m) % 3 == 2:
            return await transfer(worker, TransferInput(sender, owner, asset, Decimal(1), uuid4()))
        return await post(worker, ("top_up", "bonus")[m % 2], owner, 1, asset_code=asset)

    outcomes = await at_once(give, 3)
    assert Counter(map(told, outcomes)).keys() == {Posted, LimitExceeded, ReceiverCause.LIMIT}
    assert sum(isinstance(outcome, Posted) for outcome in outcomes) == 100
    assert await balance(workers[1], owner, asset) == 100
    await limit(workers[0], asset, owner, "IN", today(), 200)
    await limit(workers[0], asset, owner, "BALANCE", None, 150)
    outcomes = await at_once(give, 3)
    assert Counter(map(told, outcomes)).keys() == {Posted, BalanceLimitExceeded, ReceiverCause.FULL}
    assert await balance(workers[1], owner, asset) == 150


def told(outcome: object) -> object:
    """Say in a word what came of a request."""
    if isinstance(outcome, Refused):
        facts = outcome.facts
        return facts.cause if isinstance(facts, ReceiverRefused) else type(facts)
    return type(outcome)


async def test_holds_and_their_captures_count_once(workers: list[Ledger], asset: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - drawn again by its seed
    owner, other = await filled(workers[0], asset, 1000), await new_owner(workers[0])
    out = await limit(workers[0], asset, owner, "OUT", HOUR, 300)
    spends = await limit(workers[1], asset, None, "SPEND", today(), 200)

    async def pay(n: int, m: int) -> Any:
        worker, amount = workers[n % 2], chance.randint(1, 9)
        if (n + m) % 3 == 0:
            return await post(worker, "spend", owner, amount, asset_code=asset)
        to = other if n % 2 else None
        outcome = await place_hold(worker, PlaceHoldInput(owner, asset, Decimal(amount), uuid4(), to_owner_id=to))
        if isinstance(outcome, Held) and chance.random() < 0.7:
            # By the other worker, in two parts or in one.
            hold, worker = outcome.hold, workers[(n + 1) % 2]
            for part in (Decimal(1), None) if amount > 1 else (None,):
                change = ChangeHoldInput(hold.name, "", uuid4(), part, keep_remainder=part is not None)
                assert isinstance(await capture_hold(worker, change), Held | Posted)
        return outcome

    outcomes = await at_once(pay, 4)
    refused = [each.facts for each in outcomes if isinstance(each, Refused)]
    most = {rule.name.wallet_id: rule.max_minor or 0 for rule in (out, spends)}
    assert refused
    for facts in refused:
        assert isinstance(facts, LimitExceeded)
        assert facts.used_minor + facts.amount_minor > most[facts.rule_wallet_id]
    uses = await used(workers[0], asset, owner)
    moved = -sum(each.transaction.amount_minor for each in outcomes if isinstance(each, Posted))
    held = [each.hold for each in outcomes if isinstance(each, Held)]
    assert uses[out][0] == moved + sum(hold.amount_minor for hold in held) <= 300
    assert uses[spends][0] == moved + sum(hold.amount_minor for hold in held if hold.receiver is None) <= 200
    # To the last unit, and not further.
    left = min(300 - uses[out][0], 200 - uses[spends][0])
    if left:
        assert isinstance(await post(workers[0], "spend", owner, left, asset_code=asset), Posted)
    assert told(await post(workers[1], "spend", owner, 1, asset_code=asset)) is LimitExceeded


async def test_what_voids_give_back_is_used_once(workers: list[Ledger], asset: str) -> None:
    owner = await filled(workers[0], asset, 1000)
    rule = await limit(workers[0], asset, owner, "OUT", HOUR, 100, 40)
    placed = [await place_hold(workers[n % 2], PlaceHoldInput(owner, asset, Decimal(5), uuid4())) for n in range(20)]
    holds = [outcome.hold for outcome in placed if isinstance(outcome, Held)]
    assert len(holds) == 20

    async def spend_or_void(n: int, m: int) -> Any:
        if m == 1 and n < 20:
            return await void_hold(workers[n % 2], ChangeHoldInput(holds[n].name, "", uuid4()))
        return await post(workers[n % 2], "spend", owner, 5, asset_code=asset)

    outcomes = await at_once(spend_or_void, 3)
    voided = [outcome for outcome in outcomes if isinstance(outcome, Held)]
    posted, refused = split([outcome for outcome in outcomes if not isinstance(outcome, Held)])
    assert len(voided) == 20
    assert all(each.used_minor == 100 for each in refused)
    assert len(posted) <= 20
    assert await used(workers[0], asset, owner) == {rule: (5 * len(posted), len(posted))}
    for n in range(20 - len(posted)):
        assert isinstance(await post(workers[n % 2], "spend", owner, 5, asset_code=asset), Posted)
    assert told(await post(workers[0], "spend", owner, 1, asset_code=asset)) is LimitExceeded


@pytest.mark.parametrize("is_own", [True, False])
async def test_what_begins_after_a_limit_is_set_obeys_it(workers: list[Ledger], asset: str, *, is_own: bool) -> None:
    owner = await filled(workers[0], asset, 10_000)
    # Both workers know a version of it: what they know is not what they go by.
    await limit(workers[1], asset, owner if is_own else None, "SPEND", HOUR, times=10_000)
    loop, set_at = asyncio.get_running_loop(), float("inf")
    begun: list[tuple[float, Any]] = []
    is_busy = asyncio.Event()

    async def spend(n: int, _: int) -> None:
        began_at = loop.time()
        begun.append((began_at, await post(workers[n % 2], "spend", owner, 1, asset_code=asset)))
        if len(begun) == CLIENTS:
            is_busy.set()

    async def set_meanwhile() -> int:
        nonlocal set_at
        await is_busy.wait()
        await limit(workers[1], asset, owner if is_own else None, "SPEND", HOUR, times=3 * CLIENTS)
        set_at = loop.time()
        return len(begun)

    _, done = await asyncio.gather(at_once(spend, 8), set_meanwhile())
    posted, refused = split([outcome for _, outcome in begun])
    late, _ = split([outcome for began_at, outcome in begun if began_at > set_at])
    # The account's first entry is what was topped up.
    assert all(each.transaction.seq <= 1 + 3 * CLIENTS for each in late)
    # What was under way when it was set may have passed it, if so much had moved by then.
    assert len(posted) >= 3 * CLIENTS
    assert len(posted) == 3 * CLIENTS or done > 2 * CLIENTS
    assert refused


async def test_windows_that_move_on_are_never_passed(workers: list[Ledger], asset: str) -> None:
    """Workers remember where windows began: whoever posts meanwhile, each finds what is in them now."""
    owner = await filled(workers[0], asset, 100_000)
    await limit(workers[0], asset, owner, "SPEND", rolling(1), times=20)
    await limit(workers[1], asset, None, "OUT", rolling(2), 30)
    end = asyncio.get_running_loop().time() + 3.5

    async def spend(n: int, _: int) -> list[Any]:
        outcomes = []
        while asyncio.get_running_loop().time() < end:
            outcomes.append(await post(workers[n % 2], "spend", owner, 1, asset_code=asset))
            await asyncio.sleep(0.05)
        return outcomes

    posted, refused = split([outcome for own in await at_once(spend, 1) for outcome in own])
    entries = sorted((each.transaction.seq, each.transaction.executed_at) for each in posted)
    for seq, at in entries:
        assert moved_in(entries, seq, at, 1) <= 20
        assert moved_in(entries, seq, at, 2) <= 30
    for facts in refused:
        seconds, most = (1, 20) if facts.rule_wallet_id else (2, 30)
        at = from_unix_us(facts.at_us)
        assert moved_in(entries, facts.seq, at, seconds) == facts.used_count == most
    # The account's first entry is what was topped up: nothing else moved.
    assert [seq for seq, _ in entries] == [*range(2, len(posted) + 2)]
    # So windows did move on: they let through what they had let before.
    assert len(posted) > 30


def moved_in(entries: list[tuple[int, datetime]], seq: int, at: datetime, seconds: int) -> int:
    """Return how many entries up to one are in the window that ends at a moment."""
    return sum(each <= seq and at - timedelta(seconds=seconds) < time <= at for each, time in entries)


async def test_processes_that_retry_at_random_pass_no_limit(ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - drawn again by its seed
    owners = [await new_owner(ledger, gold=500) for _ in range(3)]
    for owner in owners:
        await limit(ledger, "GOLD", owner, "SPEND", today(), 300)
        await limit(ledger, "GOLD", owner, "TOP_UP", HOUR, times=10)
    shared_keys = [str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(40)]
    jobs = [Job(chance.getrandbits(32), owners, 100, CLIENTS // 2, shared_keys) for _ in range(2)]
    works = await asyncio.gather(*(run_worker(ledger.settings, job) for job in jobs))
    answers = [answer for answers in works for answer in answers]
    moved = check(answers)
    for owner in owners:
        assert await balance(ledger, owner) == 500 + moved[owner]
        first = {answer.key: answer for answer in answers if answer.owner == owner}
        spent = -sum(answer.amount_minor for answer in first.values() if answer.verb == "spend")
        topped_up = [answer for answer in first.values() if answer.verb == "top_up" and answer.outcome == "posted"]
        # With the one before there was a limit.
        assert (spent <= 300, len(topped_up)) == (True, 9)
        for answer in first.values():
            if answer.outcome.startswith("limited"):
                used_minor, required = map(int, answer.outcome.removeprefix("limited on ").split(" for "))
                assert answer.verb == "top_up" or 300 - required < used_minor <= spent
