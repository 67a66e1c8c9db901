"""Group commit: requests that arrive while a batch is in the database form the next one.

A worker has a few lanes, each for a group of shards and each with one batch under way, so there is no timer and no
added wait when idle; order is kept per wallet. Each caller gets its own outcome.

| what goes wrong | what is done |
| --- | --- |
| a conflict, a lost connection, a COMMIT in doubt | the batch is replayed whole: the keys make that safe |
| an error in the data | the batch is halved until the culprit stands alone; only its caller is told |
| a wallet locked by somebody else | its requests are parked: they wait for it apart, their lane goes on |
| a lock or statement timeout | the batch's callers are told `Unavailable`; it is never split |
| the queue is full, or one wallet's share of it | `Overloaded` at once |
| a caller's deadline is near | `Unavailable` if it is queued (it is taken out); when it passes, `OutcomeUnknown` |
| the database falls silent | its connection is given up: `Unavailable`, or `OutcomeUnknown` where COMMIT was sent |
| a caller hangs up | nothing: its request is posted once like any other, and its key answers |
"""

import asyncio
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.domain.errors import Fault, OutcomeUnknown, Overloaded, Unavailable
from wallet_gql.domain.model import Outcome, PostingRequest
from wallet_gql.ledger.posting import WalletBusy, post_batch
from wallet_gql.operations.unit_of_work import retrying, unit_of_work

LANE_COUNT: Final = 2
TURNS_BETWEEN_BATCHES: Final = 8
"""How often the event loop comes round before a busy lane takes its next batch. Answers go out, and what has arrived at
the sockets is read and joins; nobody waits for what is not there."""

BATCH_SIZE_MAX: Final = 256
PARKED_UNDER_WAY_MAX: Final = 4
"""Wallets that are waited for at once: each wait holds a connection."""

MARGIN_SECONDS: Final = 0.25
"""How long before its deadline a request gives up: twice this in a queue, this waiting for a lock, half this for any
answer. So what is taken from a queue has time, and what was not posted is known not to be before the deadline."""


@dataclass(slots=True)
class Figures:
    """Sums since the start: of batches, their postings, and seconds in the queue and in the database."""

    batch_count: int = 0
    posting_count: int = 0
    parked_count: int = 0
    queue_seconds: float = 0.0
    database_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class _Item:
    """A request on its way; `queue` is where it waits, None once it is in the database."""

    request: PostingRequest
    future: asyncio.Future[Outcome]
    queued_at: float
    queue: deque["_Item"] | None = None

    @property
    def wallet(self) -> tuple[int, str]:
        return self.request.shard, self.request.owner_id

    def answer(self, result: Outcome | BaseException) -> None:
        # A caller that hung up, or was told that its deadline passed, listens no more.
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


@dataclass(slots=True, eq=False)
class _Lane:
    """The queue of a group of shards."""

    queue: deque[_Item] = field(default_factory=deque)
    is_running: bool = False


class GroupCommit:
    """Posts requests in batches, one a lane at a time."""

    def __init__(
        self,
        engine: AsyncEngine,
        slot: int,
        *,
        deadline_seconds: float,
        queue_size_max: int,
        lane_count: int = LANE_COUNT,
    ) -> None:
        """Post against the stripes of `slot`; `queue_size_max` requests may wait, a quarter of them for one wallet."""
        self.figures = Figures()
        self._engine = engine
        self.slot = slot
        self._deadline_seconds = deadline_seconds
        self._queue_size_max = queue_size_max
        self._wallet_queue_size_max = max(1, queue_size_max // 4)
        self._lanes = [_Lane() for _ in range(lane_count)]
        self._parked: dict[tuple[int, str], deque[_Item]] = {}
        self._parking = asyncio.Semaphore(PARKED_UNDER_WAY_MAX)
        self._waiting: Counter[tuple[int, str]] = Counter()
        self._waiting_count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def post(self, request: PostingRequest) -> Outcome:
        """Queue a request and return its outcome. Raises `Overloaded`, `Unavailable` or `OutcomeUnknown`."""
        wallet = request.shard, request.owner_id
        if self._is_closing:
            raise Unavailable("The service is shutting down.")
        if self._waiting_count >= self._queue_size_max or self._waiting[wallet] >= self._wallet_queue_size_max:
            raise Overloaded("Too many requests wait.")
        loop = asyncio.get_running_loop()
        item = _Item(request, loop.create_future(), loop.time())
        self._enqueue(item)
        margin = min(2 * MARGIN_SECONDS, self._deadline_seconds)
        timer = loop.call_later(self._deadline_seconds - margin, self._expire, item, margin)
        try:
            return await item.future
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Refuse new requests and finish those that wait."""
        self._is_closing = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _enqueue(self, item: _Item) -> None:
        parked = self._parked.get(item.wallet)
        if parked is not None:
            self._queue(item, parked)
            return
        lane = self._lanes[item.request.shard % len(self._lanes)]
        self._queue(item, lane.queue)
        if not lane.is_running:
            lane.is_running = True
            self._start(self._run_lane(lane))

    def _queue(self, item: _Item, queue: deque[_Item]) -> None:
        item.queue = queue
        queue.append(item)
        self._waiting_count += 1
        self._waiting[item.wallet] += 1

    def _take(self, queue: deque[_Item]) -> list[_Item]:
        """Take the next batch out of a queue."""
        batch = [queue.popleft() for _ in range(min(len(queue), BATCH_SIZE_MAX))]
        now = asyncio.get_running_loop().time()
        for item in batch:
            self._leave_queue(item)
            self.figures.queue_seconds += now - item.queued_at
        self.figures.batch_count += 1
        self.figures.posting_count += len(batch)
        return batch

    def _leave_queue(self, item: _Item) -> None:
        item.queue = None
        self._waiting_count -= 1
        self._waiting[item.wallet] -= 1
        if not self._waiting[item.wallet]:
            del self._waiting[item.wallet]

    def _expire(self, item: _Item, left_seconds: float = 0) -> None:
        """End a caller's wait: at once while its request is queued, else when the seconds that are left have passed."""
        if item.queue is not None:
            item.queue.remove(item)
            self._leave_queue(item)
            item.answer(Unavailable("The deadline was too near to ask the database."))
        elif left_seconds:
            asyncio.get_running_loop().call_later(left_seconds, self._expire, item)
        else:
            item.answer(OutcomeUnknown("The deadline passed while the database was at work."))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_lane(self, lane: _Lane) -> None:
        while lane.queue:
            batch = self._take(lane.queue)
            for item, outcome in zip(batch, await self._post(batch, wait=False), strict=True):
                if isinstance(outcome, WalletBusy):
                    self._park(item)
                else:
                    item.answer(outcome)
            self._park_followers(lane)
            for _ in range(TURNS_BETWEEN_BATCHES):
                await asyncio.sleep(0)
        lane.is_running = False

    def _park(self, item: _Item) -> None:
        """Let a request wait apart for its wallet."""
        if item.future.done() and not item.future.cancelled():
            # Its caller was told that the outcome is unknown: now it is known that nothing was posted.
            return
        parked = self._parked.get(item.wallet)
        if parked is None:
            parked = self._parked[item.wallet] = deque()
            self.figures.parked_count += 1
            self._start(self._run_parked(item.wallet, parked))
        self._queue(item, parked)

    def _park_followers(self, lane: _Lane) -> None:
        """Let what arrived for parked wallets while their batch was in the database wait behind it, in order."""
        followers = [item for item in lane.queue if item.wallet in self._parked] if self._parked else []
        for item in followers:
            lane.queue.remove(item)
            self._leave_queue(item)
            self._queue(item, self._parked[item.wallet])

    async def _run_parked(self, wallet: tuple[int, str], queue: deque[_Item]) -> None:
        """Post a wallet's requests in batches of their own, each waiting for the wallet's lock."""
        async with self._parking:
            while queue:
                batch = self._take(queue)
                for item, outcome in zip(batch, await self._post(batch, wait=True), strict=True):
                    assert not isinstance(outcome, WalletBusy)
                    item.answer(outcome)
        del self._parked[wallet]

    async def _post(self, batch: Sequence[_Item], *, wait: bool) -> Sequence[Outcome | WalletBusy | Exception]:
        """Post a batch in a unit of work; one result an item, in order."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        left_seconds = max(MARGIN_SECONDS, batch[0].queued_at + self._deadline_seconds - started - MARGIN_SECONDS)
        requests = [item.request for item in batch]

        async def work() -> list[Outcome | WalletBusy]:
            async with unit_of_work(self._engine, deadline=started + left_seconds + MARGIN_SECONDS / 2) as connection:
                if wait:
                    # So that what waited for the lock in vain is known not to be posted before its deadline passes.
                    await connection.execute(f"SET LOCAL lock_timeout = {round(left_seconds * 1000)}")
                return await post_batch(connection, requests, self.slot, wait=wait)

        try:
            return await retrying(work, deadline_seconds=left_seconds)
        except Fault as fault:
            return [fault] * len(batch)
        except Exception as error:  # noqa: BLE001 - whatever the data did, each caller is answered
            if len(batch) == 1:
                return [error]
        finally:
            self.figures.database_seconds += loop.time() - started
        middle = len(batch) // 2
        return [
            *await self._post(batch[:middle], wait=wait),
            *await self._post(batch[middle:], wait=wait),
        ]
