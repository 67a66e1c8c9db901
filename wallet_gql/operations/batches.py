"""Many requests in one: each is posted as it is alone, with its own key and outcome, in the order of their list.

An item runs the operation that it runs alone, on a ledger that lets nothing through before all items are ready: each
has looked up what it needs, its hold or its original, or was refused without being posted. So what takes longer to look
up is not overtaken, and a batch is posted in few units of work.

All batches of a worker together have so many postings under way and no more: what comes alone waits for those at most.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from wallet_gql.domain.postings import Outcome, Request
from wallet_gql.operations.opening import Ledger

Result = TypeVar("Result")

ITEMS_AT_ONCE: Final = 50
"""So many items are worked on in one turn of the event loop: what they do must not keep it from the others."""


async def run_in_order(
    ledger: Ledger, runs: Sequence[Callable[[Ledger], Awaitable[Result]]]
) -> list[Result | Exception]:
    """Run operations that post at most once each; returns the outcome of each in order, or what it raised."""
    gate = _Gate(ledger, len(runs))
    async with asyncio.TaskGroup() as group:
        tasks = []
        for n, run in enumerate(runs):
            tasks.append(group.create_task(gate.run(n, run)))
            if n % ITEMS_AT_ONCE == ITEMS_AT_ONCE - 1:
                await asyncio.sleep(0)
        await gate.open()
    return [task.result() for task in tasks]


class _Gate:
    """Where requests of a batch wait for each other."""

    def __init__(self, ledger: Ledger, count: int) -> None:
        self._ledger = ledger
        self._missing = count
        self._are_ready = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def run(self, n: int, run: Callable[[Ledger], Awaitable[Result]]) -> Result | Exception:
        """Run the item in a place of the list."""
        try:
            return await run(replace(self._ledger, post=partial(self._post, n)))
        except Exception as error:  # noqa: BLE001 - it is the item's outcome, whatever it is
            return error
        finally:
            if n not in self._waiting:
                self._arrive()

    async def open(self) -> None:
        """Let all go on, in the order of the list, when each has come or ended."""
        await self._are_ready.wait()
        for n in sorted(self._waiting):
            await self._ledger.batch_postings.acquire()
            self._waiting[n].set_result(None)

    async def _post(self, n: int, request: Request, deadline: float | None = None) -> Outcome:
        future = self._waiting[n] = asyncio.get_running_loop().create_future()
        self._arrive()
        try:
            await future
            return await self._ledger.post(request, deadline)
        finally:
            if not future.cancelled():
                self._ledger.batch_postings.release()

    def _arrive(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._are_ready.set()
