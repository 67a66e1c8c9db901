"""Group commit: requests that arrive while a batch is in the database form the next one.

A worker has a few lanes, each for a group of shards and each with one batch under way, so there is no timer and no
added wait when idle; order is kept per wallet. Each caller gets its own outcome.

| what goes wrong | what is done |
| --- | --- |
| a conflict, a lost connection | the batch is replayed whole: the keys make that safe |
| a COMMIT in doubt | as above; from then on each request gets its true outcome or `OutcomeUnknown`, nothing else |
| an error in the data | the batch is halved until the culprit stands alone; only its caller is told |
| any other error | the batch's callers are told; it is never split |
| a wallet or its stripe is locked by others | its requests are parked (`parking`), their lane goes on |
| a lock or statement timeout | the batch's callers are told `Unavailable`; it is never split |
| the queue is full, or one wallet's share of it | `Overloaded` at once |
| the queue is so long that a request would miss its deadline | `Overloaded` at once, with the time to come back |
| a caller's deadline is near | `Unavailable` if it is queued (it is taken out); when it passes, `OutcomeUnknown` |
| the database falls silent | its connection is given up: `Unavailable`, or `OutcomeUnknown` where COMMIT was sent |
| a caller hangs up | nothing: its request is posted once like any other, and its key answers |
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.domain.errors import Fault, OutcomeUnknown, Overloaded, Unavailable
from wallet_gql.domain.postings import Outcome, PostingRequest
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.posting import Decided, WalletBusy, post_batch
from wallet_gql.operations.pace import Pace
from wallet_gql.operations.parking import PROBE_SECONDS, find_free, wait_in_slices
from wallet_gql.operations.unit_of_work import Verdict, retrying, unit_of_work, verdict

LANE_COUNT: Final = 2
TURNS_BETWEEN_BATCHES: Final = 8
"""How often the event loop comes round before a busy lane takes its next batch. Answers go out, and what has arrived at
the sockets is read and joins; nobody waits for what is not there."""

TURNS_SECONDS_MAX: Final = 0.05
"""When turns have taken as long as this, one of them has read everything that there is. To answer a batch of 32 and
read what its callers send next takes some 20 ms: a bound below that makes batches smaller."""

BATCH_SIZE_MAX: Final = 256

BATCHES_PER_DEADLINE: Final = 4
"""A batch has as many postings, up to its limit, as take this part of the time until their deadline."""

MARGIN_SECONDS: Final = 0.25
"""How long before its deadline a request gives up: twice this in a queue, this waiting for a lock, half this for the
database's answer, a quarter for any. So what is taken from a queue has time, and what was not posted is known not to be
before the deadline."""


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
    """A request on its way.

    `queue` is where it waits, None once it is in the database. `is_in_doubt`: a COMMIT of it was sent and not answered.
    """

    request: PostingRequest
    owner: OwnerName
    future: asyncio.Future[Outcome]
    queued_at: float
    deadline: float
    queue: deque["_Item"] | None = None
    is_in_doubt: bool = False

    def answer(self, result: Outcome | BaseException) -> None:
        # A caller that hung up, or was told that its deadline passed, listens no more.
        if self.future.done():
            return
        if self.is_in_doubt and isinstance(result, BaseException):
            # It may be in the books: that something else went wrong afterwards does not say that it is not.
            result = OutcomeUnknown("The connection to the database was lost at COMMIT.")
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


@dataclass(slots=True, eq=False)
class _Lane:
    """The queue of a group of shards, the batch of it that is in the database, and how long its batches take."""

    queue: deque[_Item] = field(default_factory=deque)
    is_running: bool = False
    under_way_count: int = 0
    under_way_since: float = 0.0
    pace: Pace = field(default_factory=Pace)
    batch_size: int = BATCH_SIZE_MAX

    def seconds_until_posted(self, now: float) -> float:
        """Return how long a request that comes now will take: what is under way, what is queued, and itself.

        An idle lane says none, whatever it measured last: so it measures again.
        """
        count = len(self.queue)
        if not (self.under_way_count or count):
            return 0.0
        left = self.pace.seconds(1, self.under_way_count) - (now - self.under_way_since) if self.under_way_count else 0
        return max(0.0, left) + self.pace.seconds(count // self.batch_size + 1, count + 1)


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
        self._batch_seconds_max = _usable(deadline_seconds) / BATCHES_PER_DEADLINE
        self._queue_size_max = queue_size_max
        self._wallet_queue_size_max = max(1, queue_size_max // 4)
        self._lanes = [_Lane() for _ in range(lane_count)]
        self._parked: dict[OwnerName, deque[_Item]] = {}
        self._in_line: OwnerName | None = None
        self._is_looking = False
        self._is_standing = False
        self._waiting: Counter[OwnerName] = Counter()
        self._waiting_count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def post(self, request: PostingRequest, deadline: float | None = None) -> Outcome:
        """Queue a request and return its outcome. Raises `Overloaded`, `Unavailable` or `OutcomeUnknown`.

        `deadline` is a time of the event loop's clock; by default a request has a whole one from now.
        """
        if self._is_closing:
            raise Unavailable("The service is shutting down.")
        owner = OwnerName(request.shard, request.owner_id)
        lane = self._lane_of(owner)
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = now + self._deadline_seconds if deadline is None else deadline
        left_seconds = deadline - now
        if left_seconds < min(2 * MARGIN_SECONDS, self._deadline_seconds / 4):
            raise Unavailable("The deadline was too near to queue the request.")
        if (refusal := self._refusal(lane, left_seconds)) is not None:
            raise refusal
        if self._waiting[owner] >= self._wallet_queue_size_max:
            raise Overloaded(f"{self._waiting[owner]} requests of this wallet are waiting already.")
        item = _Item(request, owner, loop.create_future(), now, deadline)
        self._enqueue(item)
        margin = min(2 * MARGIN_SECONDS, left_seconds)
        timer = loop.call_at(deadline - margin, self._expire, item, deadline - min(MARGIN_SECONDS, margin) / 4)
        try:
            return await item.future
        finally:
            # What a caller who went away has asked for does not wait for ever either.
            if not item.future.cancelled():
                timer.cancel()

    def refusal(self) -> Overloaded | None:
        """Return why no lane takes a request now; None where one does. Costs next to nothing to ask."""
        refusals = []
        for lane in self._lanes:
            refusal = self._refusal(lane, self._deadline_seconds)
            if refusal is None:
                return None
            refusals.append(refusal)
        return min(refusals, key=lambda refusal: refusal.retry_after_seconds)

    def _refusal(self, lane: _Lane, left_seconds: float) -> Overloaded | None:
        """Return why a lane takes no request: what cannot be posted before its deadline is refused at once.

        A request that is let in only to miss its deadline costs the database as much as one that makes it.
        """
        needed = lane.seconds_until_posted(asyncio.get_running_loop().time())
        # A batch may take in others behind it until it is sent, so each must have time for a whole one.
        too_late = needed - (BATCHES_PER_DEADLINE - 1) / BATCHES_PER_DEADLINE * _usable(left_seconds)
        if too_late > 0:
            return Overloaded(f"A posting would take {needed:.1f} s now.", retry_after_seconds=math.ceil(too_late))
        if self._waiting_count >= self._queue_size_max:
            return Overloaded(
                f"{self._waiting_count} requests are waiting already.", retry_after_seconds=max(1, math.ceil(needed))
            )
        return None

    async def close(self) -> None:
        """Refuse new requests and finish those that wait, but for those whose callers went away."""
        self._is_closing = True
        for queue in (*(lane.queue for lane in self._lanes), *self._parked.values()):
            for item in [item for item in queue if item.future.cancelled()]:
                queue.remove(item)
                self._leave_queue(item)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _enqueue(self, item: _Item) -> None:
        parked = self._parked.get(item.owner)
        if parked is not None:
            self._queue(item, parked)
            return
        lane = self._lane_of(item.owner)
        self._queue(item, lane.queue)
        self._run(lane)

    def _lane_of(self, owner: OwnerName) -> _Lane:
        return self._lanes[owner.shard % len(self._lanes)]

    def _run(self, lane: _Lane) -> None:
        if lane.queue and not lane.is_running:
            lane.is_running = True
            self._start(self._run_lane(lane))

    def _queue(self, item: _Item, queue: deque[_Item], *, in_front: bool = False) -> None:
        item.queue = queue
        queue.appendleft(item) if in_front else queue.append(item)
        self._waiting_count += 1
        self._waiting[item.owner] += 1

    def _take(self, queue: deque[_Item], size_max: int = BATCH_SIZE_MAX) -> list[_Item]:
        """Take the next batch out of a queue."""
        batch = [queue.popleft() for _ in range(min(len(queue), size_max))]
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
        self._waiting[item.owner] -= 1
        if not self._waiting[item.owner]:
            del self._waiting[item.owner]

    def _expire(self, item: _Item, last: float | None = None) -> None:
        """End a caller's wait: at once while its request is queued, else at the last moment that is given."""
        if item.queue is not None:
            item.queue.remove(item)
            self._leave_queue(item)
            item.answer(Unavailable("The deadline was too near to ask the database."))
        elif last is not None:
            asyncio.get_running_loop().call_at(last, self._expire, item)
        else:
            item.answer(OutcomeUnknown("The deadline passed while the database was at work."))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_lane(self, lane: _Lane) -> None:
        loop = asyncio.get_running_loop()
        while lane.queue:
            started = lane.under_way_since = loop.time()
            batch = self._take(lane.queue, lane.batch_size)
            lane.under_way_count = len(batch)
            outcomes = await self._post(batch, wait=False)
            lane.under_way_count = 0
            ended = loop.time()
            for item, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, WalletBusy):
                    self._park(item)
                else:
                    item.answer(outcome)
            self._park_followers(lane)
            for _ in range(TURNS_BETWEEN_BATCHES):
                await asyncio.sleep(0)
                if loop.time() - ended > TURNS_SECONDS_MAX:
                    break
            if not any(isinstance(outcome, Fault) for outcome in outcomes):
                lane.pace.measure(len(batch), loop.time() - started)
                lane.batch_size = lane.pace.count_within(self._batch_seconds_max, BATCH_SIZE_MAX)
        lane.is_running = False

    def _park(self, item: _Item) -> None:
        """Let a request wait apart for its wallet."""
        if self._is_over(item):
            return
        if item.owner not in self._parked:
            self._parked[item.owner] = deque()
            self.figures.parked_count += 1
        self._queue(item, self._parked[item.owner])
        # Each of them ends when nothing is parked, at a moment of its own.
        if not self._is_looking:
            self._is_looking = True
            self._start(self._look_for_free())
        if not self._is_standing:
            self._is_standing = True
            self._start(self._stand_in_line())

    def _park_followers(self, lane: _Lane) -> None:
        """Let what arrived for parked wallets while their batch was in the database wait behind it, in order."""
        followers = [item for item in lane.queue if item.owner in self._parked] if self._parked else []
        for item in followers:
            lane.queue.remove(item)
            self._leave_queue(item)
            self._queue(item, self._parked[item.owner])

    def _unpark(self, owner: OwnerName) -> None:
        """Send what waits for a wallet back to its lane, in front, in order."""
        lane = self._lane_of(owner)
        for item in reversed(self._parked.pop(owner)):
            item.queue = lane.queue
            lane.queue.appendleft(item)
        self._run(lane)

    async def _look_for_free(self) -> None:
        """Send parked wallets back to their lanes as soon as their locks are free."""
        while self._parked:
            await asyncio.sleep(PROBE_SECONDS)
            asked = [owner for owner in self._parked if owner != self._in_line]
            for owner in await find_free(self._engine, asked, deadline_seconds=self._deadline_seconds):
                if owner in self._parked and owner != self._in_line:
                    self._unpark(owner)
        self._is_looking = False

    async def _stand_in_line(self) -> None:
        """Let one parked wallet after the other wait in the database's own line for its lock, a short slice each.

        A wallet that others lock again and again is never seen free: without its turn in that line it would starve.
        """
        while self._parked:
            owner = self._in_line = next(iter(self._parked))
            queue = self._parked[owner] = self._parked.pop(owner)  # now it is the last one
            batch = self._take(queue)
            outcomes = await self._post(batch, wait=True) if batch else ()
            self._in_line = None
            for item, outcome in zip(reversed(batch), reversed(outcomes), strict=True):
                if not isinstance(outcome, WalletBusy):
                    item.answer(outcome)
                elif asyncio.get_running_loop().time() > item.deadline - 2 * MARGIN_SECONDS:
                    item.answer(Unavailable("The wallet stayed locked."))
                elif not self._is_over(item):
                    self._queue(item, queue, in_front=True)
            if not any(isinstance(outcome, WalletBusy) for outcome in outcomes):
                self._unpark(owner)
        self._is_standing = False

    def _is_over(self, item: _Item) -> bool:
        """Say whether nothing more is done for a request: its caller was told, or is gone and so is the time.

        Its key tells what became of it.
        """
        if item.future.cancelled():
            return self._is_closing or asyncio.get_running_loop().time() >= item.deadline
        return item.future.done()

    async def _post(self, batch: Sequence[_Item], *, wait: bool) -> Sequence[Decided | Exception]:
        """Post a batch in a unit of work; one result per item, in order."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        # As long as its youngest has: the older ones' callers are told when their own deadlines pass.
        deadline = max(item.deadline for item in batch)
        left_seconds = max(MARGIN_SECONDS, deadline - started - MARGIN_SECONDS)
        requests = [item.request for item in batch]

        async def work() -> list[Decided]:
            try:
                async with unit_of_work(
                    self._engine, deadline=started + left_seconds + MARGIN_SECONDS / 2
                ) as connection:
                    if wait:
                        await wait_in_slices(connection)
                    return await post_batch(connection, requests, self.slot, wait=wait)
            except asyncpg.LockNotAvailableError:
                if not wait:
                    raise
                return [WalletBusy()] * len(batch)

        def doubt() -> None:
            for item in batch:
                item.is_in_doubt = True

        try:
            return await retrying(work, deadline_seconds=left_seconds, on_doubt=doubt)
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller is answered
            if len(batch) == 1 or verdict(error) is not Verdict.DATA:
                return [error] * len(batch)
        finally:
            self.figures.database_seconds += loop.time() - started
        middle = len(batch) // 2
        return [
            *await self._post(batch[:middle], wait=wait),
            *await self._post(batch[middle:], wait=wait),
        ]


def _usable(deadline_seconds: float) -> float:
    """Return what of the time until a deadline can be spent on posting."""
    return max(deadline_seconds - 2 * MARGIN_SECONDS, deadline_seconds / 2)
