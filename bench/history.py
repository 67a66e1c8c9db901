"""Fills books with every kind of movement: postings, transfers, holds and all that becomes of them, reversals."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from uuid import uuid4

from books import BATCH_SIZE, Database, Lane, in_lanes

from wallet_gql.domain.holds import TTL_SECONDS_DEFAULT
from wallet_gql.domain.postings import (
    Held,
    HoldRequest,
    PlaceHoldRequest,
    Posted,
    RequestKind,
    ReverseRequest,
    TransactionType,
    TransferRequest,
)


def place_holds(database: Database, owners: Sequence[str], hold_count: int) -> None:
    """Place some holds of 1 on each owner's account, which end in seven days."""

    async def work(lane: Lane) -> None:
        for some in _batches(lane.owners):
            for _ in range(hold_count):
                await _place(lane, some)

    asyncio.run(in_lanes(database, owners, work))


def live(database: Database, owners: Sequence[str], cycle_count: int) -> None:
    """Post as many cycles for each owner, 27 entries each, half of them of transfers, holds and reversals."""
    asyncio.run(in_lanes(database, owners, partial(_live, cycle_count)))


async def _live(cycle_count: int, lane: Lane) -> None:
    for some in _batches(lane.owners):
        for _ in range(cycle_count):
            await _cycle(lane, some)


async def _cycle(lane: Lane, owners: Sequence[str]) -> None:
    credited = await _post(lane, owners, TransactionType.TOP_UP, 100)
    # Its end is booked with a posting that comes a second later.
    await _place(lane, owners, ttl_seconds=1)
    captured, voided = await _place(lane, owners), await _place(lane, owners)
    await _post(lane, owners, TransactionType.TOP_UP, 100)
    spent = await _post(lane, owners, TransactionType.SPEND, 10)
    await _change(lane, RequestKind.CAPTURE_HOLD, captured)
    for _ in range(3):
        await _post(lane, owners, TransactionType.SPEND, 10)
    await _change(lane, RequestKind.VOID_HOLD, voided)
    await _transfer(lane, owners)
    await _reverse(lane, RequestKind.REFUND, owners, spent)
    await _reverse(lane, RequestKind.CLAWBACK, owners, credited)


def _batches(owners: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(owners), BATCH_SIZE):
        yield owners[first : first + BATCH_SIZE]


async def _post(lane: Lane, owners: Sequence[str], type_: TransactionType, amount_minor: int) -> list[Posted | Held]:
    return await lane.post([lane.posting(owner, type_, amount_minor) for owner in owners])


async def _place(lane: Lane, owners: Sequence[str], ttl_seconds: int = TTL_SECONDS_DEFAULT) -> list[Posted | Held]:
    return await lane.post(
        [PlaceHoldRequest(lane.name(owner), None, lane.asset, 1, ttl_seconds, uuid4()) for owner in owners]
    )


async def _change(lane: Lane, kind: RequestKind, placed: Sequence[Posted | Held]) -> None:
    await lane.post([HoldRequest(kind, held.hold, None, uuid4()) for held in placed if isinstance(held, Held)])


async def _transfer(lane: Lane, owners: Sequence[str]) -> None:
    """Let each pay the one before; all of a lane's, so that no lane waits for another."""
    await lane.post(
        [
            TransferRequest(lane.name(owner), lane.name(owners[place - 1]), lane.asset, 5, uuid4())
            for place, owner in enumerate(owners)
        ]
    )


async def _reverse(lane: Lane, kind: RequestKind, owners: Sequence[str], originals: Sequence[Posted | Held]) -> None:
    await lane.post(
        [
            ReverseRequest(kind, posted.transaction, lane.name(owner), None, 5, uuid4())
            for owner, posted in zip(owners, originals, strict=True)
            if isinstance(posted, Posted)
        ]
    )
