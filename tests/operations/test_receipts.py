"""Receipts: each is credited once, whoever asks, wherever, and however many at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from uuid import uuid4

import pytest
from batches import (
    DEADLINE_SECONDS,
    added,
    again,
    ask,
    connected,
    group_commit_of,
    keys_held,
    new_owner_in,
    new_owners_in,
    posted,
    results,
    send,
    seqs,
    until,
    waiting_for_locks,
)
from factories import TEST_SHARD_COUNT, balance, new_owner, post
from tables import count_rows

from wallet_gql.domain.errors import BadUserInput, Unavailable
from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX
from wallet_gql.domain.postings import (
    KeyReused,
    Posted,
    PostingRequest,
    Receipt,
    Refused,
    TransactionView,
    WalletMissing,
)
from wallet_gql.domain.refusals import BalanceLimitExceeded, OutcomeCode, ReceiptUsed
from wallet_gql.domain.shards import shard_of, shard_of_receipt
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.reads import OwnTransaction
from wallet_gql.ledger.receipts import lock_receipts
from wallet_gql.operations import group_commit
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.postings import PostingOutcome
from wallet_gql.settings import Settings

# The shards of who is first, of who is second, and of the receipt.
SHARDS: Final = pytest.mark.parametrize(
    "shards", [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 2)], ids=lambda shards: f"{shards}"
)


def new_receipt(shard: int | None = None) -> str:
    """Return a receipt that nobody has credited; of a shard, if one is named."""
    while True:
        receipt = f"GPA.{uuid4()}"
        if shard in {None, shard_of_receipt(receipt, TEST_SHARD_COUNT)}:
            return receipt


def with_receipt(ledger: Ledger, owner: str, receipt: str, amount: int = 1) -> PostingRequest:
    return ask(ledger, owner, amount, receipt=Receipt(shard_of_receipt(receipt, ledger.shard_count), receipt))


def credited(outcome: object) -> TransactionView:
    assert isinstance(outcome, Posted), outcome
    return outcome.transaction


def used(outcome: object, first: TransactionView, *, again: bool = False) -> Refused:
    """Return a refusal, which must be that this transaction has the receipt."""
    assert isinstance(outcome, Refused), outcome
    assert outcome.facts == ReceiptUsed(outcome.balance.asset, first.shard, first.id)
    assert outcome.already_processed is again
    return outcome


@asynccontextmanager
async def receipt_held(settings: Settings, receipt: str) -> AsyncIterator[None]:
    """Hold a receipt's lock while the block lasts, as another worker's batch does."""
    async with connected(settings) as connection, connection.transaction():
        assert await lock_receipts(connection, [Receipt(0, receipt)], wait=False) == set()
        yield


@SHARDS
async def test_a_receipt_is_credited_once_whoever_the_owner_is(ledger: Ledger, shards: tuple[int, int, int]) -> None:
    *owner_shards, receipt_shard = shards
    first, second = [await new_owner_in(ledger, shard) for shard in owner_shards]
    receipt = new_receipt(receipt_shard)
    before = await count_rows(ledger.settings)

    transaction = credited(await post(ledger, "top_up", first, 100, receipt=receipt))
    for owner in (first, second):
        used(await post(ledger, "top_up", owner, 100, receipt=receipt), transaction)

    assert (await balance(ledger, first), await balance(ledger, second)) == (100, 0)
    rows = await count_rows(ledger.settings)
    assert rows._replace(accounts=0) == added(before, transactions=1, keys=3)._replace(accounts=0)


async def test_it_is_credited_once_whatever_the_asset_and_the_amount(ledger: Ledger) -> None:
    owner, receipt = await new_owner(ledger), new_receipt()
    transaction = credited(await post(ledger, "top_up", owner, 100, receipt=receipt))
    outcome = await post(ledger, "top_up", owner, 7, receipt=receipt, asset_code="POINTS")
    assert used(outcome, transaction).balance.asset.code == "POINTS"
    assert await balance(ledger, owner, "POINTS") == 0


async def test_the_same_request_replays(ledger: Ledger) -> None:
    owner, receipt, key = await new_owner(ledger), new_receipt(), uuid4()
    first = await post(ledger, "top_up", owner, 100, key, receipt=receipt)
    assert isinstance(first, Posted)
    before = await count_rows(ledger.settings)
    assert await post(ledger, "top_up", owner, 100, key, receipt=receipt) == replace(first, already_processed=True)
    assert await count_rows(ledger.settings) == before


async def test_a_used_receipt_is_kept_under_the_new_key(ledger: Ledger) -> None:
    first, second = await new_owner(ledger), await new_owner(ledger)
    receipt, key = new_receipt(), uuid4()
    transaction = credited(await post(ledger, "top_up", first, 100, receipt=receipt))
    refusal = used(await post(ledger, "top_up", second, 100, key, receipt=receipt), transaction)
    await post(ledger, "bonus", second, 5)
    before = await count_rows(ledger.settings)

    told = used(await post(ledger, "top_up", second, 100, key, receipt=receipt), transaction, again=True)

    assert (told.facts, told.balance.amount_minor) == (refusal.facts, 5)
    outcome = await ledger.outcomes.find(OwnerName(shard_of(second, TEST_SHARD_COUNT), second), key)
    assert outcome is not None
    assert outcome.code is OutcomeCode.RECEIPT_USED
    assert outcome.refused is not None
    assert outcome.refused.facts == refusal.facts
    assert await count_rows(ledger.settings) == before


async def test_a_receipt_tells_requests_under_one_key_apart(ledger: Ledger) -> None:
    owner, receipt, key = await new_owner(ledger), new_receipt(), uuid4()
    credited(await post(ledger, "top_up", owner, 100, key, receipt=receipt))
    other = new_receipt()
    before = await count_rows(ledger.settings)
    for sent in (None, other, receipt + "x"):
        assert await post(ledger, "top_up", owner, 100, key, receipt=sent) == KeyReused(key)
    assert await count_rows(ledger.settings) == before
    credited(await post(ledger, "top_up", owner, 100, receipt=other))  # it was not used up by that


async def test_a_key_without_a_receipt_is_another_request_with_one(ledger: Ledger) -> None:
    owner, receipt, key = await new_owner(ledger), new_receipt(), uuid4()
    credited(await post(ledger, "top_up", owner, 100, key))
    assert await post(ledger, "top_up", owner, 100, key, receipt=receipt) == KeyReused(key)
    credited(await post(ledger, "top_up", owner, 100, receipt=receipt))


@pytest.mark.parametrize("shards", [(0, 0), (0, 1)], ids=["same shard", "other shard"])
async def test_only_its_owner_finds_what_credited_it(ledger: Ledger, shards: tuple[int, int]) -> None:
    first, second = [await new_owner_in(ledger, shard) for shard in shards]
    receipt = new_receipt()
    transaction = credited(await post(ledger, "top_up", first, 100, receipt=receipt))
    for owner, found in ((first, transaction), (second, None)):
        refusal = used(await post(ledger, "top_up", owner, 100, receipt=receipt), transaction)
        assert isinstance(refusal.facts, ReceiptUsed)
        asked = OwnTransaction(refusal.facts.shard, refusal.facts.transaction_id, refusal.balance.wallet.id)
        view = await ledger.reads.own_transactions.load(asked)
        if shards[0] == shards[1] or owner == first:
            assert view == found


async def test_of_one_batch_the_first_is_credited(ledger: Ledger) -> None:
    first, second = await new_owners_in(ledger, 0, 2)
    receipt = new_receipt()
    requests = [with_receipt(ledger, owner, receipt, 10) for owner in (first, second, first)]
    beside = ask(ledger, await new_owner_in(ledger, 0))
    async with keys_held(ledger.settings, beside):
        tasks = await send(ledger.commits, beside)
        tasks += await send(ledger.commits, *requests, again(requests[0]))
    outcomes = (await results(tasks))[1:]
    transaction = credited(outcomes[0])
    for outcome in outcomes[1:3]:
        used(outcome, transaction)
    assert isinstance(outcomes[0], Posted)
    assert outcomes[3] == replace(
        outcomes[0], already_processed=True, balance=outcomes[0].balance._replace(amount_minor=10)
    )
    assert (await balance(ledger, first), await balance(ledger, second)) == (10, 0)


@SHARDS
async def test_of_two_workers_at_once_exactly_one_credits_it(
    ledger: Ledger, settings: Settings, shards: tuple[int, int, int]
) -> None:
    *owner_shards, receipt_shard = shards
    first, second = [await new_owner_in(ledger, shard) for shard in owner_shards]
    async with open_ledger(settings) as other:
        for _ in range(5):
            receipt = new_receipt(receipt_shard)
            before = await balance(ledger, first) + await balance(ledger, second)
            outcomes: list[PostingOutcome] = await asyncio.gather(
                *(
                    post(worker, "top_up", owner, 1, receipt=receipt)
                    for worker, owner in ((ledger, first), (other, second), (ledger, second), (other, first))
                )
            )
            (transaction,) = [outcome.transaction for outcome in outcomes if isinstance(outcome, Posted)]
            for outcome in outcomes:
                if not isinstance(outcome, Posted):
                    used(outcome, transaction)
            assert await balance(ledger, first) + await balance(ledger, second) == before + 1


async def test_workers_that_want_the_same_receipts_in_other_orders_all_end(ledger: Ledger, settings: Settings) -> None:
    owners = [await new_owner_in(ledger, shard) for shard in (0, 1, 2, 3)]
    receipts = [new_receipt() for _ in range(20)]
    async with open_ledger(settings) as other:
        outcomes = await asyncio.gather(
            *(post(ledger, "top_up", owners[n % 4], 1, receipt=each) for n, each in enumerate(receipts)),
            *(post(other, "top_up", owners[n % 3], 1, receipt=each) for n, each in enumerate(reversed(receipts))),
        )
    assert sum(isinstance(outcome, Posted) for outcome in outcomes) == 20
    assert sum(isinstance(outcome, Refused) for outcome in outcomes) == 20
    assert sum([await balance(ledger, owner) for owner in owners]) == 20


async def test_a_refused_top_up_does_not_use_its_receipt_up(ledger: Ledger) -> None:
    full, other = await new_owner(ledger), await new_owner(ledger)
    for _ in range(BALANCE_MINOR_MAX // POSTING_MINOR_MAX):
        credited(await post(ledger, "bonus", full, POSTING_MINOR_MAX))
    receipt = new_receipt()
    outcome = await post(ledger, "top_up", full, 1, receipt=receipt)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.facts, BalanceLimitExceeded)
    transaction = credited(await post(ledger, "top_up", other, 1, receipt=receipt))
    # A used receipt is told before a full wallet.
    used(await post(ledger, "top_up", full, 1, receipt=receipt), transaction)


async def test_nor_does_one_for_an_owner_without_a_wallet(ledger: Ledger) -> None:
    receipt = new_receipt()
    assert await post(ledger, "top_up", "nobody", 1, receipt=receipt) == WalletMissing("nobody")
    owner = await new_owner(ledger)
    transaction = credited(await post(ledger, "top_up", owner, 1, receipt=receipt))
    assert await post(ledger, "top_up", "nobody", 1, receipt=receipt) == WalletMissing("nobody")
    assert transaction.amount_minor == 1


@pytest.mark.parametrize("receipt", ["x", " ", "é" * 200, "🎮" * 200, "a\nb", "';--", "%s", "\\x"])
async def test_what_is_within_the_bounds_is_credited_once(ledger: Ledger, receipt: str) -> None:
    # The text alone would be the same in every run on this database.
    owner, text = await new_owner(ledger), (receipt + str(uuid4()))[-200:] if len(receipt) < 100 else receipt
    outcome = await post(ledger, "top_up", owner, 1, receipt=text)
    transaction = credited(outcome)
    used(await post(ledger, "top_up", owner, 1, receipt=text), transaction)


@pytest.mark.parametrize(
    ("receipt", "fault"),
    [
        ("", "has 0 characters: send 1 to 200"),
        ("x" * 201, "has 201 characters: send 1 to 200"),
        ("é" * 201, "has 201 characters: send 1 to 200"),
        ("a\x00b", "contains NUL: send text without U+0000"),
        ("\ud83d", "contains a lone surrogate: send well-formed Unicode"),
    ],
)
async def test_what_is_not_is_refused(ledger: Ledger, receipt: str, fault: str) -> None:
    owner = await new_owner(ledger)
    before = await count_rows(ledger.settings)
    with pytest.raises(BadUserInput) as refused:
        await post(ledger, "top_up", owner, 1, receipt=receipt)
    assert (refused.value.field, str(refused.value)) == ("receipt", f"receipt {fault}.")
    assert await count_rows(ledger.settings) == before


async def test_a_receipt_that_another_worker_has_holds_up_its_wallet_only(ledger: Ledger, settings: Settings) -> None:
    stuck, *others = await new_owners_in(ledger, 0, 4)
    receipt = new_receipt()
    async with receipt_held(settings, receipt):
        tasks = await send(ledger.commits, with_receipt(ledger, stuck, receipt, 5))
        await until(lambda: ledger.commits.figures.parked_count > 0)
        # What comes later for this wallet does not overtake it; the others go on, with receipts of their own too.
        tasks += await send(ledger.commits, ask(ledger, stuck))
        for owner in others:
            await posted(await send(ledger.commits, ask(ledger, owner), with_receipt(ledger, owner, new_receipt())))
        assert not any(task.done() for task in tasks)
    outcomes = await posted(tasks)
    assert seqs(outcomes) == [1, 2]
    assert [outcome.transaction.amount_minor for outcome in outcomes] == [5, 1]


async def test_what_another_worker_credits_meanwhile_is_seen(ledger: Ledger, settings: Settings) -> None:
    first, second = await new_owner(ledger), await new_owner(ledger)
    receipt = new_receipt()
    async with open_ledger(settings) as other:
        request = with_receipt(other, first, receipt)
        async with keys_held(settings, request):
            # It has the receipt's lock, and waits to write its key.
            tasks = await send(other.commits, request)
            await waiting_for_locks(other, 1)
            late = asyncio.create_task(post(ledger, "top_up", second, 1, receipt=receipt))
            await until(lambda: ledger.commits.figures.parked_count > 0)
            assert not late.done()
        (outcome,) = await posted(tasks)
        used(await late, outcome.transaction)


async def test_a_receipt_that_stays_locked_is_unavailable_at_the_deadline(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MARGIN_SECONDS", 1.0)
    owner, receipt = await new_owner_in(ledger, 0), new_receipt()
    request = with_receipt(ledger, owner, receipt)
    before = await count_rows(settings)
    async with group_commit_of(ledger, deadline_seconds=DEADLINE_SECONDS) as commits, receipt_held(settings, receipt):
        (outcome,) = await results(await send(commits, request))
        assert isinstance(outcome, Unavailable)
    assert await count_rows(settings) == before
    await posted(await send(ledger.commits, again(request)))
