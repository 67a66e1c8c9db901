import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest
from batches import ask, on_balance, transfer_request
from concurrency.worker import Job, check, run_worker
from deadlocks import count_deadlocks
from factories import POSTINGS, balance, new_owner, new_owner_id, post, request
from tables import Rows, count_rows

from wallet_gql.domain.postings import POSTING_TYPES, Posted, Refused, WalletMissing
from wallet_gql.ledger.items import WalletBusy
from wallet_gql.ledger.posting import Decided, post_batch
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.postings import PostingOutcome
from wallet_gql.operations.proof import prove
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.operations.wallets import open_wallet
from wallet_gql.settings import Settings


def added(before: Rows, after: Rows) -> Rows:
    return Rows(*(new - old for old, new in zip(before, after, strict=True)))


def posted(outcomes: list[PostingOutcome]) -> list[Posted]:
    return [outcome for outcome in outcomes if isinstance(outcome, Posted)]


async def test_of_two_spends_of_700_on_799_one_passes(ledgers: list[Ledger]) -> None:
    for _ in range(10):
        owner = await new_owner(ledgers[0], gold=799)
        before = await count_rows(ledgers[0].settings)

        outcomes = await asyncio.gather(*(post(ledger, "spend", owner, 700) for ledger in ledgers[:2]))

        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Posted", "Refused"]
        (refused,) = (outcome for outcome in outcomes if isinstance(outcome, Refused))
        assert (on_balance(refused).balance_before_minor, refused.balance.amount_minor) == (99, 99)
        assert await balance(ledgers[0], owner) == 99
        assert added(before, await count_rows(ledgers[0].settings)) == Rows(0, 0, 1, 2, 2)


async def test_of_200_spends_of_1_on_100_a_hundred_pass(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0], gold=100)
    before = await count_rows(ledgers[0].settings)

    outcomes = await asyncio.gather(*(post(ledgers[n % 4], "spend", owner, 1) for n in range(200)))

    passed = posted(outcomes)
    assert sorted(outcome.transaction.balance_after_minor for outcome in passed) == list(range(100))
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(refused) == 100
    assert {on_balance(outcome).balance_before_minor for outcome in refused} == {0}
    assert await balance(ledgers[0], owner) == 0
    assert added(before, await count_rows(ledgers[0].settings)) == Rows(0, 0, 100, 200, 200)


@pytest.mark.parametrize("verb", POSTINGS)
async def test_of_24_with_one_key_one_is_posted_and_23_are_replays(ledgers: list[Ledger], verb: str) -> None:
    owner = await new_owner(ledgers[0], gold=50)
    before = await count_rows(ledgers[0].settings)
    asked = request(owner, 30, description="a sword")

    outcomes = posted(await asyncio.gather(*(POSTINGS[verb](ledgers[n % 4], asked) for n in range(24))))

    assert len(outcomes) == 24
    assert sorted(outcome.already_processed for outcome in outcomes) == [False] + [True] * 23
    assert {outcome.transaction for outcome in outcomes} == {outcomes[0].transaction}
    assert {outcome.balance for outcome in outcomes} == {outcomes[0].balance}
    assert added(before, await count_rows(ledgers[0].settings)) == Rows(0, 0, 1, 2, 1)


async def test_of_24_refused_with_one_key_one_is_kept_and_23_are_replays(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0], gold=29)
    before = await count_rows(ledgers[0].settings)
    asked = request(owner, 30)

    outcomes = await asyncio.gather(*(POSTINGS["spend"](ledgers[n % 4], asked) for n in range(24)))

    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(refused) == 24
    assert sorted(outcome.already_processed for outcome in refused) == [False] + [True] * 23
    assert added(before, await count_rows(ledgers[0].settings)) == Rows(0, 0, 0, 0, 1)


async def test_of_requests_with_one_key_but_other_amounts_one_is_posted(ledgers: list[Ledger]) -> None:
    owner, key = await new_owner(ledgers[0]), uuid4()
    before = await count_rows(ledgers[0].settings)

    outcomes = await asyncio.gather(*(post(ledgers[n % 4], "top_up", owner, n + 1, key) for n in range(24)))

    (passed,) = posted(outcomes)
    assert sorted({type(outcome).__name__ for outcome in outcomes}) == ["KeyReused", "Posted"]
    assert await balance(ledgers[0], owner) == passed.transaction.amount_minor
    assert added(before, await count_rows(ledgers[0].settings)) == Rows(0, 1, 1, 2, 1)


async def test_first_postings_at_once_open_one_account(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0])
    before = await count_rows(ledgers[0].settings)

    outcomes = await asyncio.gather(
        *(post(ledgers[n % 4], "bonus", owner, "0.01", asset_code="POINTS") for n in range(40))
    )

    assert len(posted(outcomes)) == 40
    assert await balance(ledgers[0], owner, "POINTS") == 40
    assert added(before, await count_rows(ledgers[0].settings)) == Rows(0, 1, 40, 80, 40)


async def test_wallet_opened_while_it_is_posted_to_is_found_or_not(ledgers: list[Ledger]) -> None:
    for _ in range(20):
        owner = new_owner_id()
        opening = asyncio.create_task(open_wallet(ledgers[0], owner))
        outcomes = await asyncio.gather(*(post(ledger, "top_up", owner, 1) for ledger in ledgers))

        assert not (await opening).already_open
        assert {type(outcome) for outcome in outcomes} <= {Posted, WalletMissing}
        assert await balance(ledgers[0], owner) == len(posted(outcomes))


async def test_times_and_numbers_of_an_account_run_forward(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0])

    outcomes = posted(await asyncio.gather(*(post(ledgers[n % 4], "top_up", owner, 1) for n in range(100))))

    transactions = sorted((outcome.transaction for outcome in outcomes), key=lambda transaction: transaction.seq)
    assert [transaction.seq for transaction in transactions] == list(range(1, 101))
    assert [transaction.balance_after_minor for transaction in transactions] == list(range(1, 101))
    times = [transaction.executed_at for transaction in transactions]
    assert times == sorted(times)


@pytest.fixture
def settings_of_its_own(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("deadlocks")


async def test_opposing_orders_over_many_wallets_never_deadlock(settings_of_its_own: Settings, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - drawn again by its seed

    async def post_all(ledger: Ledger, order: list[str], *, wait: bool) -> list[Decided]:
        requests = [
            transfer_request(ledger, owner, chance.choice([each for each in order if each != owner]))
            if chance.random() < 0.5
            else ask(ledger, owner, type_=chance.choice(POSTING_TYPES).name)
            for owner in order
        ]
        # Not retried: a deadlock would be raised.
        async with unit_of_work(ledger.engine) as connection:
            # Slots are about speed: workers that share stripes wait for each other, in the same order.
            return await post_batch(connection, requests, chance.choice([0, ledger.slot]), wait=wait)

    async def keep_posting(ledger: Ledger, owners: list[str]) -> list[Decided]:
        outcomes: list[Decided] = []
        for _ in range(10):
            order = chance.sample(owners, len(owners))
            outcomes += await post_all(ledger, order, wait=chance.random() < 0.7)
            outcomes += await post_all(ledger, order[::-1], wait=True)
        return outcomes

    async with AsyncExitStack() as stack:
        ledgers = [await stack.enter_async_context(open_ledger(settings_of_its_own)) for _ in range(4)]
        owners = [await new_owner(ledgers[0], gold=1000) for _ in range(16)]
        done = await asyncio.gather(*(keep_posting(ledger, owners) for ledger in ledgers for _ in range(2)))
        total = sum([await balance(ledgers[0], owner) for owner in owners])

    outcomes = [outcome for own in done for outcome in own]
    assert {type(outcome) for outcome in outcomes} <= {Posted, WalletBusy}
    moved = sum(
        outcome.transaction.amount_minor
        for outcome in outcomes
        if isinstance(outcome, Posted) and outcome.transaction.type in POSTING_TYPES
    )
    assert total == 16 * 1000 + moved
    assert (await prove(settings_of_its_own)).findings == []
    assert await count_deadlocks(settings_of_its_own) == 0


@pytest.mark.parametrize("wallets", [1, 3, 100])
async def test_processes_that_retry_at_random_lose_and_double_nothing(ledger: Ledger, wallets: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - drawn again by its seed
    owners = [await new_owner(ledger, gold=500) for _ in range(wallets)]
    shared_keys = [str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(40)]
    before = await count_rows(ledger.settings)
    jobs = [Job(chance.getrandbits(32), owners, 150, 24, shared_keys) for _ in range(3)]

    answers = [
        answer
        for worker in await asyncio.gather(*(run_worker(ledger.settings, job) for job in jobs))
        for answer in worker
    ]

    moved = check(answers)
    balances = {owner: await balance(ledger, owner) for owner in owners}
    assert balances == {owner: 500 + moved.get(owner, 0) for owner in owners}
    assert min(balances.values()) >= 0
    keys = {(answer.owner, answer.key): answer for answer in answers}
    transactions = {answer.transaction_id for answer in answers if answer.outcome == "posted"}
    assert len(keys) == 3 * 150 + 40
    assert len(answers) > len(keys)
    assert added(before, await count_rows(ledger.settings)) == Rows(
        0, 0, len(transactions), 2 * len(transactions), len(keys)
    )
