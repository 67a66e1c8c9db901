"""Any split of the same requests into batches gives the same outcomes and the same books."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest
from batches import on_balance
from factories import balance, new_owner
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from wallet_gql.domain.postings import (
    POSTING_TYPES,
    KeyReused,
    Posted,
    PostingRequest,
    Refused,
    TransactionType,
    WalletMissing,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.ledger.posting import post_batch
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.settings import Settings

OWNER_COUNT = 3
ASKS = st.tuples(
    st.sampled_from(POSTING_TYPES),
    st.integers(0, OWNER_COUNT),  # the last one has no wallet
    st.integers(1, 30),
    st.integers(0, 7),
)
SPLITS = st.lists(st.booleans(), min_size=40, max_size=40)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def opened(runner: asyncio.Runner, settings: Settings) -> Iterator[Ledger]:
    opening = open_ledger(settings)
    yield runner.run(opening.__aenter__())
    runner.run(opening.__aexit__(None, None, None))
    assert runner.run(prove(settings)).findings == []


async def run(
    ledger: Ledger, asks: list[tuple[TransactionType, int, int, int]], splits: list[bool]
) -> tuple[list[object], list[int]]:
    """Post the requests for fresh owners, a new batch wherever `splits` says so; return outcomes and balances."""
    owners = [await new_owner(ledger, gold=20) for _ in range(OWNER_COUNT)]
    names = [*owners, f"nobody-{uuid4()}"]
    keys = [uuid4() for _ in range(8)]
    requests = [
        PostingRequest(
            shard_of(names[owner], ledger.shard_count), names[owner], type_, ledger.assets["GOLD"], amount, keys[key]
        )
        for type_, owner, amount, key in asks
    ]
    batches: list[list[PostingRequest]] = [[]]
    for request, is_new in zip(requests, splits, strict=False):
        if is_new:
            batches.append([])
        batches[-1].append(request)
    outcomes: list[object] = []
    for batch in batches:
        async with unit_of_work(ledger.engine) as connection:
            outcomes += map(summary, await post_batch(connection, batch, ledger.slot))
    return outcomes, [await balance(ledger, owner) for owner in owners]


def summary(outcome: object) -> object:
    match outcome:
        case Posted():
            view = outcome.transaction
            return view.seq, view.balance_after_minor, outcome.balance.amount_minor, outcome.already_processed
        case Refused():
            facts = on_balance(outcome)
            return facts.code, facts.balance_before_minor, outcome.balance.amount_minor, outcome.already_processed
        case _:
            assert isinstance(outcome, KeyReused | WalletMissing)
            return type(outcome)


def test_any_split_into_batches_gives_the_same_books(runner: asyncio.Runner, opened: Ledger) -> None:
    @hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(ASKS, min_size=2, max_size=40), SPLITS)
    def compare(asks: list[tuple[TransactionType, int, int, int]], splits: list[bool]) -> None:
        one_by_one = runner.run(run(opened, asks, [True] * len(asks)))
        assert runner.run(run(opened, asks, splits)) == one_by_one

    compare()
