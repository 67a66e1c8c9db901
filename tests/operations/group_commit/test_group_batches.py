"""What forms a batch, in which order it is posted, and who is told what."""

import asyncio
from dataclasses import replace
from typing import Any, Final

import asyncpg
import pytest
from batches import (
    added,
    again,
    ask,
    held,
    lane_held_up,
    new_owner_in,
    new_owners_in,
    posted,
    results,
    send,
    seqs,
    waiting_for_locks,
    wallet,
)
from factories import TEST_SHARD_COUNT, balance, new_owner, new_owner_id
from tables import count_rows

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.postings import KeyReused, Outcome, Posted, Refused, WalletMissing
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.shards import shard_of
from wallet_gql.operations.group_commit import BATCH_SIZE_MAX, LANE_COUNT
from wallet_gql.operations.opening import Ledger


async def test_posts_to_one_wallet_keep_the_order_of_their_arrival(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    amounts = [n % 7 + 1 for n in range(2 * BATCH_SIZE_MAX + 50)]

    outcomes = await posted(await send(ledger.commits, *(ask(ledger, owner, amount) for amount in amounts)))

    assert seqs(outcomes) == list(range(1, len(amounts) + 1))
    assert [outcome.transaction.balance_after_minor for outcome in outcomes] == [
        sum(amounts[: n + 1]) for n in range(len(amounts))
    ]


async def test_each_of_many_wallets_keeps_its_order(ledger: Ledger) -> None:
    owners = [await new_owner(ledger) for _ in range(20)]

    tasks: list[asyncio.Task[Outcome]] = []
    for n in range(30):
        tasks += [asyncio.create_task(ledger.commits.post(ask(ledger, owner, n + 1))) for owner in owners]
        await asyncio.sleep(0)
    outcomes = await posted(tasks)

    for index in range(len(owners)):
        own = outcomes[index :: len(owners)]
        assert seqs(own) == list(range(1, 31))
        assert [outcome.transaction.amount_minor for outcome in own] == list(range(1, 31))


async def test_single_post_is_a_batch_of_its_own_at_once(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    figures = ledger.commits.figures
    for n in range(5):
        (task,) = await send(ledger.commits, ask(ledger, owner))
        # Without the database having answered anything, it is no more in the queue.
        assert (figures.batch_count, figures.posting_count) == (n + 1, n + 1)
        await posted([task])


async def test_what_arrives_while_a_batch_is_in_the_database_forms_the_next(ledger: Ledger) -> None:
    owners = await new_owners_in(ledger, 0, 7)
    figures = ledger.commits.figures
    async with lane_held_up(ledger):
        tasks = []
        for n in range(49):
            tasks += await send(ledger.commits, ask(ledger, owners[n % 7]))
        assert figures.batch_count == 1

    assert len(await posted(tasks)) == 49
    assert (figures.batch_count, figures.posting_count) == (2, 50)


async def test_more_than_a_batch_takes_is_divided(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    figures = ledger.commits.figures
    async with lane_held_up(ledger):
        tasks = await send(ledger.commits, *(ask(ledger, owner) for _ in range(BATCH_SIZE_MAX + 44)))

    assert seqs(await posted(tasks)) == list(range(1, BATCH_SIZE_MAX + 45))
    assert figures.batch_count == 3


async def test_lanes_do_not_wait_for_each_other(ledger: Ledger) -> None:
    others = [shard for shard in range(TEST_SHARD_COUNT) if shard % LANE_COUNT != 0]
    owners = [await new_owner_in(ledger, shard) for shard in others]
    async with lane_held_up(ledger, 0):
        for _ in range(3):
            await posted(await send(ledger.commits, *(ask(ledger, owner) for owner in owners)))


async def test_each_caller_gets_its_own_outcome(ledger: Ledger) -> None:
    rich, poor = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 0, gold=1)
    while shard_of(nobody := new_owner_id(), TEST_SHARD_COUNT) != 0:
        pass
    first = ask(ledger, rich, 3)
    (before_first,) = await posted(await send(ledger.commits, first))
    before = await count_rows(ledger.settings)
    batches = ledger.commits.figures.batch_count
    reused = replace(again(first), amount_minor=4)

    tasks = await send(
        ledger.commits,
        ask(ledger, rich, 5, "SPEND"),
        ask(ledger, poor, 2, "SPEND"),
        ask(ledger, nobody),
        again(first),
        reused,
        ask(ledger, rich, 7, "BONUS"),
    )
    spent, refused, missing, replayed, key_reused, granted = await asyncio.gather(*tasks)

    assert ledger.commits.figures.batch_count == batches + 1
    assert isinstance(spent, Posted)
    assert (spent.transaction.balance_after_minor, spent.already_processed) == (8, False)
    assert isinstance(refused, Refused)
    assert (refused.facts.code, refused.already_processed) == (OutcomeCode.INSUFFICIENT_BALANCE, False)
    assert missing == WalletMissing(nobody)
    assert isinstance(replayed, Posted)
    assert (replayed.transaction, replayed.already_processed) == (before_first.transaction, True)
    assert key_reused == KeyReused(first.idempotency_key)
    assert isinstance(granted, Posted)
    assert granted.transaction.balance_after_minor == 15
    assert await count_rows(ledger.settings) == added(before, transactions=2, keys=3)


async def test_one_key_often_in_one_batch_is_posted_once(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0, gold=10)
    request, refused = ask(ledger, owner, 5), ask(ledger, owner, 1000, "SPEND")
    before = await count_rows(ledger.settings)

    first, second, other, no, no_again, no_other = await asyncio.gather(
        *await send(
            ledger.commits,
            request,
            again(request),
            replace(again(request), amount_minor=6),
            refused,
            again(refused),
            replace(again(refused), amount_minor=1),
        )
    )

    assert ledger.commits.figures.batch_count == 2
    assert isinstance(first, Posted)
    assert second == replace(first, already_processed=True)
    assert other == KeyReused(request.idempotency_key)
    assert isinstance(no, Refused)
    assert not no.already_processed
    assert no_again == replace(no, already_processed=True)
    assert no_other == KeyReused(refused.idempotency_key)
    assert await count_rows(ledger.settings) == added(before, transactions=1, keys=2)


POISONS: Final[dict[str, tuple[dict[str, Any], type[Exception]]]] = {
    "an asset that does not exist": ({"asset": Asset(999, "NONE", "None", 0)}, asyncpg.ForeignKeyViolationError),
    "a description too long": ({"description": "x" * 501}, asyncpg.CheckViolationError),
    "a character that the server refuses": ({"reference": "a\0b"}, asyncpg.CharacterNotInRepertoireError),
    "a character that the driver cannot send": ({"reference": "a\ud800"}, UnicodeEncodeError),
    "a number that its column cannot hold": (
        {"asset": Asset(99_999, "NONE", "None", 0)},
        asyncpg.NumericValueOutOfRangeError,
    ),
}


@pytest.mark.parametrize(("poison", "error"), POISONS.values(), ids=POISONS)
@pytest.mark.parametrize("places", [(0,), (7,), (19,), (3, 4, 19)], ids=str)
async def test_poisoned_request_is_isolated(
    ledger: Ledger, poison: dict[str, Any], error: type[Exception], places: tuple[int, ...]
) -> None:
    owners = [await new_owner_in(ledger, 0, gold=1), await new_owner_in(ledger, 0, gold=1)]
    requests = [ask(ledger, owners[n % 2], n + 1, **(poison if n in places else {})) for n in range(20)]
    before = await count_rows(ledger.settings)
    figures = replace(ledger.commits.figures)
    started = asyncio.get_running_loop().time()

    outcomes = await results(await send(ledger.commits, *requests))

    assert ledger.commits.figures.batch_count == figures.batch_count + 1
    seconds = asyncio.get_running_loop().time() - started
    assert ledger.commits.figures.database_seconds - figures.database_seconds <= seconds
    assert [type(outcome) for outcome in outcomes] == [error if n in places else Posted for n in range(20)]
    assert await count_rows(ledger.settings) == added(before, transactions=20 - len(places))
    for index, owner in enumerate(owners):
        own = [outcome for outcome in outcomes[index::2] if isinstance(outcome, Posted)]
        assert seqs(own) == list(range(2, 2 + len(own)))
        assert await balance(ledger, owner) == own[-1].balance.amount_minor


async def test_poisoned_requests_alone_are_each_told(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    before = await count_rows(ledger.settings)

    requests = [ask(ledger, owner, description="x" * 501) for _ in range(5)]
    outcomes = await results(await send(ledger.commits, *requests))

    assert [type(outcome) for outcome in outcomes] == [asyncpg.CheckViolationError] * 5
    assert await count_rows(ledger.settings) == before
    # What was wrong with it is not kept under its key.
    await posted(await send(ledger.commits, replace(requests[0], description="x")))


async def test_poisoned_request_for_a_held_wallet_is_isolated(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    async with held(ledger.settings, wallet(ledger, owner)):
        tasks = await send(
            ledger.commits, *(ask(ledger, owner, n + 1, description="x" * (501 * (n == 2))) for n in range(5))
        )
        await waiting_for_locks(ledger, 1)

    outcomes = await results(tasks)

    assert [type(outcome) for outcome in outcomes] == [Posted, Posted, asyncpg.CheckViolationError, Posted, Posted]
    assert seqs(outcome for outcome in outcomes if isinstance(outcome, Posted)) == [1, 2, 3, 4]
