"""Reads that are asked at the same time share a statement, across requests.

A read joins the next statement, never one that was already sent: a client reads its own writes. At most a few
statements of a kind are under way; what is asked meanwhile forms the next. There is no timer.

A value that the database cannot work with must not fail other callers' reads: on a data error the batch is halved until
the value stands alone, and only who asked for it is told. Any other error is everybody's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import connect
from wallet_gql.operations.unit_of_work import Verdict, retrying, verdict

Key = TypeVar("Key")
Value = TypeVar("Value")

STATEMENTS_UNDER_WAY_MAX: Final = 2
BATCH_SIZE_MAX: Final = 1000

ROWS_AT_ONCE: Final = 250
"""So many rows are handed out in one turn of the event loop: what is made of them must not keep it from the others."""


class ReadBatch(Generic[Key, Value]):
    """Collects keys and reads them together; `read` answers one value a key, in order."""

    def __init__(
        self,
        engine: AsyncEngine,
        read: Callable[[Connection, Sequence[Key]], Awaitable[Sequence[Value]]],
        deadline_seconds: float,
        *,
        rows: Callable[[Value], int] = lambda _: 1,
    ) -> None:
        """Take what is read, from where, and how many rows a value has; nothing is sent before the first `load`."""
        self._engine = engine
        self._read = read
        self._deadline_seconds = deadline_seconds
        self._rows = rows
        self._waiting: dict[Key, asyncio.Future[Value]] = {}
        self._deadline = 0.0  # of the one that waits longest
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_scheduled = False

    def load(self, key: Key) -> Awaitable[Value]:
        """Read a key with whatever else is asked in this turn of the event loop, or while others are being read."""
        future = self._waiting.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            if not self._waiting:
                self._deadline = loop.time() + self._deadline_seconds
            future = self._waiting[key] = loop.create_future()
            if not self._is_scheduled and len(self._under_way) < STATEMENTS_UNDER_WAY_MAX:
                self._is_scheduled = True
                loop.call_soon(self._send)
        # One caller that goes away must not take the answer from the others.
        return asyncio.shield(future)

    def _send(self) -> None:
        self._is_scheduled = False
        keys = list(self._waiting)[:BATCH_SIZE_MAX]
        if not keys or len(self._under_way) >= STATEMENTS_UNDER_WAY_MAX:
            return
        batch = {key: self._waiting.pop(key) for key in keys}
        task = asyncio.create_task(self._answer(batch, self._deadline))
        self._under_way.add(task)
        task.add_done_callback(self._finish)
        if self._waiting:
            self._send()

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._send()

    async def _answer(self, batch: dict[Key, asyncio.Future[Value]], deadline: float) -> None:
        rows = 0
        for future, value in zip(batch.values(), await self._read_all(list(batch), deadline), strict=True):
            if future.done():
                continue
            if isinstance(value, Exception):
                future.set_exception(value)
                future.exception()  # a caller that went away leaves nobody to retrieve it
                continue
            future.set_result(value)
            rows += self._rows(value)
            if rows >= ROWS_AT_ONCE:
                rows = 0
                await asyncio.sleep(0)

    async def _read_all(self, keys: Sequence[Key], deadline: float) -> Sequence[Value | Exception]:
        """Return one value a key, in order, or what stopped it from being read."""

        async def work() -> Sequence[Value]:
            async with connect(self._engine, deadline=deadline) as connection:
                return await self._read(connection, keys)

        try:
            left_seconds = deadline - asyncio.get_running_loop().time()
            return await retrying(work, deadline_seconds=left_seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller is told
            if len(keys) == 1 or verdict(error) is not Verdict.DATA:
                return [error] * len(keys)
        middle = len(keys) // 2
        return [*await self._read_all(keys[:middle], deadline), *await self._read_all(keys[middle:], deadline)]
