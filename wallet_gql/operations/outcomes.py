"""What became of a request, by its key: decided under the wallet's lock, always.

Wallets that are free are locked together, by one unit of work for all who ask. A wallet that is locked is waited for
apart, in short slices that take turns: a stuck one costs the others neither time nor connections. The locks end by
ROLLBACK: nothing was written, so no COMMIT can be in doubt.

| answer | when |
| --- | --- |
| posted, refused | the key was answered so, for ever |
| undecided | the key is not there although the lock is had: its request has not come so far, or lost its session |
| `Unavailable` | the lock could not be had before the deadline: somebody may be posting |
"""

import asyncio
from collections.abc import Sequence
from typing import Final, TypeAlias
from uuid import UUID

import asyncpg
from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import begin, lend
from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.postings import KeyOutcome
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.items import WalletBusy
from wallet_gql.ledger.outcomes import OwnersKey, read_outcomes
from wallet_gql.operations.read_batches import ReadBatch
from wallet_gql.operations.unit_of_work import retrying

SLICE_SECONDS: Final = 0.25
"""How long a locked wallet is waited for before another one has its turn."""

SLICES_UNDER_WAY_MAX: Final = 2
"""Each holds a connection."""

MARGIN_SECONDS: Final = 0.25
"""How long before the request's deadline the wait is given up, so that the rest of the request is still answered."""

Answer: TypeAlias = KeyOutcome | WalletBusy | None
_Asked: TypeAlias = list[tuple[UUID, asyncio.Future[Answer]]]


class Outcomes:
    """Tells what keys were answered with."""

    def __init__(self, engine: AsyncEngine, deadline_seconds: float) -> None:
        """Take where to ask, and how long a caller waits."""
        self._engine = engine
        self._deadline_seconds = deadline_seconds
        self._free: ReadBatch[OwnersKey, Answer] = ReadBatch(engine, _read_free, deadline_seconds)
        self._slices = asyncio.Semaphore(SLICES_UNDER_WAY_MAX)
        self._waiting: dict[OwnerName, _Asked] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def find(self, owner: OwnerName, key: UUID) -> KeyOutcome | None:
        """Return what a key was answered with; None where the owner has no wallet.

        Raises `Unavailable` where the wallet stays locked, or the database away, until the deadline.
        """
        try:
            async with asyncio.timeout(self._deadline_seconds - min(MARGIN_SECONDS, self._deadline_seconds / 2)):
                answer = await self._free.load((owner, key))
                if isinstance(answer, WalletBusy):
                    answer = await self._wait(owner, key)
        except TimeoutError:
            raise Unavailable("The wallet stayed locked until the deadline.") from None
        assert not isinstance(answer, WalletBusy)
        return answer

    async def close(self) -> None:
        """End what waits for locked wallets; whoever asked is told `Unavailable`."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _wait(self, owner: OwnerName, key: UUID) -> asyncio.Future[Answer]:
        asked = self._waiting.get(owner)
        if asked is None:
            asked = self._waiting[owner] = []
            task = asyncio.create_task(self._ask(owner, asked))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        asked.append((key, future))
        return future

    async def _ask(self, owner: OwnerName, asked: _Asked) -> None:
        """Ask for one wallet until nobody waits for it any more."""
        try:
            while asked:
                async with self._slices:
                    batch = list(asked)
                    answers = await self._read_locked([(owner, key) for key, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done() or isinstance(answer, WalletBusy):
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                # Who went away, or was told that the deadline passed, has cancelled its future.
                asked[:] = [each for each in asked if not each[1].done()]
        finally:
            del self._waiting[owner]
            for _, future in asked:
                if not future.done():
                    future.set_exception(Unavailable("The service is shutting down."))

    async def _read_locked(self, keys: Sequence[OwnersKey]) -> Sequence[Answer | Exception]:
        """Wait a slice for the wallet that these keys belong to."""
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds

        async def work() -> Sequence[Answer]:
            async with asyncio.timeout_at(deadline), lend(self._engine) as connection:
                transaction = await begin(self._engine, connection)
                await connection.execute(f"SET LOCAL lock_timeout = {round(SLICE_SECONDS * 1000)}")
                try:
                    answers: Sequence[Answer] = await read_outcomes(connection, keys, wait=True)
                except asyncpg.LockNotAvailableError:
                    answers = [WalletBusy()] * len(keys)
                await transaction.rollback()
                return answers

        try:
            return await retrying(work, deadline_seconds=self._deadline_seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller is told
            return [error] * len(keys)


async def _read_free(connection: Connection, keys: Sequence[OwnersKey]) -> Sequence[Answer]:
    """Read the keys of all wallets that nobody has locked."""
    transaction = connection.transaction()
    await transaction.start()
    answers = await read_outcomes(connection, keys, wait=False)
    await transaction.rollback()
    return answers
