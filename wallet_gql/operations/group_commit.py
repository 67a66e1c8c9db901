"""Group commit: requests that arrive while a batch is in the database form the next one.

A worker has a few lanes, each for a group of shards and each with one batch under way, so there is no timer and no
added wait when idle; order is kept per wallet. Each caller gets its own outcome.

A request may concern several wallets, of several lanes' shards: it is in the lane of the one whose key it has, and
waits there while another lane's batch concerns one of them. Lanes only try locks, so they are never part of a deadlock;
who waits for locks waits in the one order that there is.

| what goes wrong | what is done |
| --- | --- |
| a conflict, a lost connection | the batch is replayed whole: the keys make that safe |
| a COMMIT in doubt | as above; from then on each request gets its true outcome or `OutcomeUnknown`, nothing else |
| an error in the data | the batch is halved until the culprit stands alone; only its caller is told |
| any other error | the batch's callers are told; it is never split |
| a wallet or a stripe is locked by others | requests that concern it are parked (`parking`), their lane goes on |
| a lock or statement timeout | the batch's callers are told `Unavailable`; it is never split |
| the queue is full, or one wallet's share of it | `Overloaded` at once |
| the queue is so long that a request would miss its deadline | `Overloaded` at once, with the time to come back |
| a caller's deadline is near | `Unavailable` if it is queued (it is taken out); when it passes, `OutcomeUnknown` |
| the database falls silent | its connection is given up: `Unavailable`, or `OutcomeUnknown` where COMMIT was sent |
| a caller hangs up | nothing: its request is posted once like any other, and its key answers |
"""

import asyncio
import math
from bisect import insort
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.domain.errors import Fault, Forbidden, OutcomeUnknown, Overloaded, Unavailable
from wallet_gql.domain.postings import Outcome, Request
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.items import WalletBusy, has_issuers, without_issuers
from wallet_gql.ledger.limits import KnownLimits
from wallet_gql.ledger.posting import Decided, post_batch
from wallet_gql.operations.deadlines import Deadlines
from wallet_gql.operations.pace import Pace
from wallet_gql.operations.parking import PROBE_SECONDS, find_busy, wait_in_slices
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
    `last_moment` is when its caller is told that it is not known what became of it.
    """

    request: Request
    owners: tuple[OwnerName, ...]
    future: asyncio.Future[Outcome]
    queued_at: float
    deadline: float
    last_moment: float
    queue: deque["_Item"] | None = None
    is_in_doubt: bool = False

    def wait_in(self, queue: deque["_Item"]) -> None:
        """Take its place in a queue: behind all that came before it."""
        self.queue = queue
        if not queue or queue[-1].queued_at <= self.queued_at:
            queue.append(self)
        else:
            insort(queue, self, key=lambda item: item.queued_at)

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
class _Group:
    """Requests that are parked, with all wallets that they concern; what comes for one of these waits here, too."""

    owners: set[OwnerName] = field(default_factory=set)
    queue: deque[_Item] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class _Lane:
    """The queue of a group of shards, the batch of it that is in the database, and how long its batches take.

    `line` is the number of its clearing stripes. `owners` are those that its batch concerns; `held` has requests that
    wait for another lane's batch, by their owners: what came later to that lane does not overtake them.
    """

    line: int
    queue: deque[_Item] = field(default_factory=deque)
    owners: set[OwnerName] = field(default_factory=set)
    held: dict[OwnerName, _Item] = field(default_factory=dict)
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
        self._deadlines = Deadlines(self._expire)
        self._lanes = [_Lane(line) for line in range(lane_count)]
        self._parked: dict[OwnerName, _Group] = {}
        self._groups: dict[_Group, None] = {}
        self._in_line: _Group | None = None
        self._is_looking = False
        self._is_standing = False
        self._waiting: dict[OwnerName, int] = {}
        self._waiting_count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._known_limits = KnownLimits()

    async def post(self, request: Request, deadline: float | None = None) -> Outcome:
        """Queue a request and return its outcome. Raises `Overloaded`, `Unavailable` or `OutcomeUnknown`.

        `deadline` is a time of the event loop's clock; by default a request has a whole one from now.
        """
        if self._is_closing:
            raise Unavailable("The service is shutting down.")
        lane = self._lanes[request.shard % len(self._lanes)]
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = now + self._deadline_seconds if deadline is None else deadline
        left_seconds = deadline - now
        if left_seconds < min(2 * MARGIN_SECONDS, self._deadline_seconds / 4):
            raise Unavailable("The deadline was too near to queue the request.")
        if (refusal := self._refusal(lane, left_seconds, now)) is not None:
            raise refusal
        owners = request.owners
        for owner in owners:
            if (waiting := self._waiting.get(owner, 0)) >= self._wallet_queue_size_max:
                raise Overloaded(f"{waiting} requests of this wallet are waiting already.")
        margin = min(2 * MARGIN_SECONDS, left_seconds)
        last_moment = deadline - min(MARGIN_SECONDS, margin) / 4
        item = _Item(request, owners, loop.create_future(), now, deadline, last_moment)
        self._enqueue(item, lane)
        self._deadlines.put(item, deadline - margin)
        try:
            return await item.future
        finally:
            # What a caller who went away has asked for does not wait for ever either.
            if not item.future.cancelled():
                self._deadlines.take_out(item)

    def refusal(self) -> Overloaded | None:
        """Return why no lane takes a request now; None where one does. Costs next to nothing to ask."""
        refusals = []
        now = asyncio.get_running_loop().time()
        for lane in self._lanes:
            refusal = self._refusal(lane, self._deadline_seconds, now)
            if refusal is None:
                return None
            refusals.append(refusal)
        return min(refusals, key=lambda refusal: refusal.retry_after_seconds)

    def _refusal(self, lane: _Lane, left_seconds: float, now: float) -> Overloaded | None:
        """Return why a lane takes no request: what cannot be posted before its deadline is refused at once.

        A request that is let in only to miss its deadline costs the database as much as one that makes it.
        """
        needed = lane.seconds_until_posted(now)
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
        queues = [*(lane.queue for lane in self._lanes), *(group.queue for group in self._groups)]
        for queue in queues:
            for item in [item for item in queue if item.future.cancelled()]:
                queue.remove(item)
                self._leave_queue(item)
        for lane in self._lanes:
            self._run(lane)  # others may have waited behind them
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _enqueue(self, item: _Item, lane: _Lane) -> None:
        if self._parked and any(owner in self._parked for owner in item.owners):
            self._queue(item, self._group_of(item).queue)
            return
        self._queue(item, lane.queue)
        self._run(lane)

    def _lane_of(self, item: _Item) -> _Lane:
        return self._lanes[item.owners[0].shard % len(self._lanes)]

    def _run(self, lane: _Lane) -> None:
        if lane.queue and not lane.is_running:
            lane.is_running = True
            self._start(self._run_lane(lane))

    def _queue(self, item: _Item, queue: deque[_Item]) -> None:
        item.wait_in(queue)
        self._waiting_count += 1
        for owner in item.owners:
            self._waiting[owner] = self._waiting.get(owner, 0) + 1

    def _take(self, lane: _Lane) -> list[_Item]:
        """Take a lane's next batch: what concerns another lane's batch stays, and so does what came after it."""
        others = [other for other in self._lanes if other is not lane]
        taken = set[OwnerName]().union(*(other.owners for other in others))
        held: dict[OwnerName, _Item] = {}
        batch: list[_Item] = []
        left: list[_Item] = []
        while lane.queue and len(batch) < lane.batch_size:
            item = lane.queue.popleft()
            if taken.isdisjoint(item.owners) and not self._is_held(item, others):
                batch.append(item)
                continue
            left.append(item)
            for owner in item.owners:
                taken.add(owner)
                held.setdefault(owner, item)
        lane.queue.extendleft(reversed(left))
        self._begin(batch)
        # A batch that is full has not come to all that waits.
        still = {owner: item for owner, item in lane.held.items() if item.queue is lane.queue}
        lane.held = {**still, **held}
        return batch

    @staticmethod
    def _is_held(item: _Item, others: Sequence[_Lane]) -> bool:
        """Say whether another lane's request has waited longer for one of the wallets."""
        for other in others:
            for owner in item.owners if other.held else ():
                first = other.held.get(owner)
                if first is not None and first.queue is other.queue and first.queued_at < item.queued_at:
                    return True
        return False

    def _begin(self, batch: list[_Item]) -> list[_Item]:
        """Count what left its queue for the database."""
        now = asyncio.get_running_loop().time()
        for item in batch:
            self._leave_queue(item)
            self.figures.queue_seconds += now - item.queued_at
        self.figures.batch_count += bool(batch)
        self.figures.posting_count += len(batch)
        return batch

    def _leave_queue(self, item: _Item) -> None:
        item.queue = None
        self._waiting_count -= 1
        for owner in item.owners:
            others = self._waiting.pop(owner) - 1
            if others:
                self._waiting[owner] = others

    def _expire(self, item: _Item) -> None:
        """End a caller's wait: at once while its request is queued, else at its last moment."""
        if item.queue is not None:
            item.queue.remove(item)
            self._leave_queue(item)
            item.answer(Unavailable("The deadline was too near to ask the database."))
            for lane in self._lanes:
                self._run(lane)  # others may have waited behind it
        elif asyncio.get_running_loop().time() < item.last_moment:
            self._deadlines.put(item, item.last_moment)
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
            batch = self._take(lane)
            if not batch:
                break  # the lane that it waits for runs this one again
            lane.under_way_count = len(batch)
            lane.owners = {owner for item in batch for owner in item.owners}
            outcomes = await self._post(batch, line=lane.line, wait=False)
            lane.under_way_count = 0
            lane.owners = set()
            ended = loop.time()
            for item, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, WalletBusy):
                    self._park(item)
                else:
                    item.answer(outcome)
            self._park_followers()
            for other in self._lanes:
                self._run(other)
            for _ in range(TURNS_BETWEEN_BATCHES):
                await asyncio.sleep(0)
                if loop.time() - ended > TURNS_SECONDS_MAX:
                    break
            if not any(isinstance(outcome, Fault) and not isinstance(outcome, Forbidden) for outcome in outcomes):
                lane.pace.measure(len(batch), loop.time() - started)
                lane.batch_size = lane.pace.count_within(self._batch_seconds_max, BATCH_SIZE_MAX)
        lane.is_running = False

    def _park(self, item: _Item) -> None:
        """Let a request wait apart for its wallets."""
        if self._is_over(item):
            return
        self._queue(item, self._group_of(item).queue)
        # Each of them ends when nothing is parked, at a moment of its own.
        if not self._is_looking:
            self._is_looking = True
            self._start(self._look_for_free())
        if not self._is_standing:
            self._is_standing = True
            self._start(self._stand_in_line())

    def _group_of(self, item: _Item) -> _Group:
        """Return the group that all wallets of a request belong to from now on: groups that it joins become one."""
        joined = {self._parked[owner]: None for owner in item.owners if owner in self._parked}
        # What stands in line stays what it is.
        group = self._in_line if self._in_line in joined else next(iter(joined), None)
        if group is None:
            group = _Group()
            self._groups[group] = None
        for other in joined.keys() - {group}:
            self._merge(group, other)
        for owner in item.owners:
            if owner not in self._parked:
                self.figures.parked_count += 1
            group.owners.add(owner)
            self._parked[owner] = group
        return group

    def _merge(self, group: _Group, other: _Group) -> None:
        del self._groups[other]
        group.owners |= other.owners
        self._parked.update(dict.fromkeys(other.owners, group))
        ordered = sorted((*group.queue, *other.queue), key=lambda item: item.queued_at)
        group.queue.clear()
        group.queue.extend(ordered)
        for item in ordered:
            item.queue = group.queue

    def _park_followers(self) -> None:
        """Let what arrived for parked wallets while their batch was in the database wait behind it, in order."""
        if not self._parked:
            return
        for lane in self._lanes:
            for item in list(lane.queue):
                if any(owner in self._parked for owner in item.owners):
                    lane.queue.remove(item)
                    item.wait_in(self._group_of(item).queue)

    def _unpark(self, group: _Group) -> None:
        """Send what waits for a group's wallets back to its lanes, in front; what is another lane's keeps the order."""
        del self._groups[group]
        for owner in group.owners:
            del self._parked[owner]
        for item in reversed(group.queue):
            lane = self._lane_of(item)
            item.queue = lane.queue
            lane.queue.appendleft(item)
            lane.held.update(dict.fromkeys(item.owners, item))
        for lane in self._lanes:
            self._run(lane)

    async def _look_for_free(self) -> None:
        """Send parked requests back to their lanes as soon as the locks of all their wallets are free."""
        while self._parked:
            await asyncio.sleep(PROBE_SECONDS)
            asked = {group: set(group.owners) for group in self._groups if group is not self._in_line}
            owners = set[OwnerName]().union(*asked.values())
            busy = await find_busy(self._engine, owners, deadline_seconds=self._deadline_seconds)
            for group, found in asked.items():
                # One that grew meanwhile is asked for again.
                is_as_asked = group in self._groups and group is not self._in_line and group.owners == found
                if is_as_asked and busy.isdisjoint(found):
                    self._unpark(group)
        self._is_looking = False

    async def _stand_in_line(self) -> None:
        """Let one parked group after the other wait in the database's own line for its locks, a short slice each.

        A wallet that others lock again and again is never seen free: without its turn in that line it would starve.
        """
        while self._parked:
            group = self._in_line = next(iter(self._groups))
            del self._groups[group]
            self._groups[group] = None  # now it is the last one
            batch = self._begin(self._take_parked(group))
            outcomes = await self._post(batch, line=len(self._lanes), wait=True) if batch else ()
            self._in_line = None
            for item, outcome in zip(batch, outcomes, strict=True):
                if not isinstance(outcome, WalletBusy):
                    item.answer(outcome)
                elif asyncio.get_running_loop().time() > item.deadline - 2 * MARGIN_SECONDS:
                    item.answer(Unavailable("The wallet stayed locked."))
                elif not self._is_over(item):
                    self._queue(item, group.queue)
            if not any(isinstance(outcome, WalletBusy) for outcome in outcomes):
                self._unpark(group)
            else:
                # What waits for nothing in the line, for it holds an issuer's name, must not ask again and again.
                await asyncio.sleep(PROBE_SECONDS)
        self._is_standing = False

    def _take_parked(self, group: _Group) -> list[_Item]:
        """Take a group's next batch, up to what concerns a lane's batch: that came first, and may be parked yet."""
        under_way = set[OwnerName]().union(*(lane.owners for lane in self._lanes))
        batch: list[_Item] = []
        while group.queue and len(batch) < BATCH_SIZE_MAX and under_way.isdisjoint(group.queue[0].owners):
            batch.append(group.queue.popleft())
        return batch

    def _is_over(self, item: _Item) -> bool:
        """Say whether nothing more is done for a request: its caller was told, or is gone and so is the time.

        Its key tells what became of it.
        """
        if item.future.cancelled():
            return self._is_closing or asyncio.get_running_loop().time() >= item.deadline
        return item.future.done()

    async def _unit(self, requests: Sequence[Request], line: int, deadline: float, *, wait: bool) -> list[Decided]:
        """Post in one unit of work what is not busy; what needs an issuer waits for it a slice, and is busy then."""
        try:
            async with unit_of_work(self._engine, deadline=deadline) as connection:
                if wait or has_issuers(requests):
                    await wait_in_slices(connection)
                return await post_batch(connection, requests, self.slot, line=line, wait=wait, known=self._known_limits)
        except asyncpg.LockNotAvailableError:
            if wait:
                return [WalletBusy()] * len(requests)
            if not has_issuers(requests):
                raise
        # Somebody else has an issuer in hand for long: who does not need it goes on.
        others = without_issuers(requests)
        posted = await self._unit(list(others.values()), line, deadline, wait=False) if others else []
        by_place = dict(zip(others, posted, strict=True))
        return [by_place.get(place, WalletBusy()) for place in range(len(requests))]

    async def _post(self, batch: Sequence[_Item], *, line: int, wait: bool) -> Sequence[Decided | Exception]:
        """Post a batch in a unit of work; one result per item, in order."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        # As long as its youngest has: the older ones' callers are told when their own deadlines pass.
        deadline = max(item.deadline for item in batch)
        left_seconds = max(MARGIN_SECONDS, deadline - started - MARGIN_SECONDS)
        requests = [item.request for item in batch]

        async def work() -> list[Decided]:
            return await self._unit(requests, line, started + left_seconds + MARGIN_SECONDS / 2, wait=wait)

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
            *await self._post(batch[:middle], line=line, wait=wait),
            *await self._post(batch[middle:], line=line, wait=wait),
        ]


def _usable(deadline_seconds: float) -> float:
    """Return what of the time until a deadline can be spent on posting."""
    return max(deadline_seconds - 2 * MARGIN_SECONDS, deadline_seconds / 2)
