"""Wallets that are being opened: openings of one owner share a task, and all of them share a few connections.

An insert waits for another session's uncommitted insert of the same wallet, but never for long with a connection in its
hands: after a slice of time it goes on apart, in a line of those that are busy. So a session that is stuck costs other
owners nothing. Three round trips, and one that sets the slice.

| what happens | what is done |
| --- | --- |
| a conflict, a lost connection, a COMMIT in doubt | the insert again: it finds what it did |
| too many openings wait | `Overloaded` at once |
| a caller's deadline passes | `Unavailable`; `OutcomeUnknown` when COMMIT is under way or in doubt |
| a caller hangs up | nothing: its wallet is opened like any other, until its deadline |
"""

import asyncio
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from wallet_gql.domain.wallets import OwnerName, Wallet
from wallet_gql.ledger.openings import open_wallet
from wallet_gql.operations.unit_of_work import retrying, unit_of_work

CONNECTIONS_MAX: Final = 4
"""For openings that nobody is known to be in the way of; those that are busy have one more."""

SLICE_SECONDS: Final = 0.1
"""How long another session's insert is waited for: longer than one usually takes."""

ATTEMPT_SECONDS: Final = 2 * SLICE_SECONDS
"""An attempt that has less time left is not begun: a connection given up at a deadline costs the pool others, too."""


class Opened(NamedTuple):
    """The owner's wallet, and whether it was open before."""

    wallet: Wallet
    already_open: bool


@dataclass(slots=True, eq=False)
class _Opening:
    """An opening under way; its deadline is that of the caller who waits longest."""

    deadline: float = -inf
    is_committing: bool = False
    is_in_doubt: bool = False
    task: asyncio.Task[Opened | Exception] = field(init=False)

    def doubt(self) -> None:
        self.is_in_doubt = True

    def result(self) -> Opened | Exception:
        """Return what a caller is told now: what became of it, or why that cannot be said."""
        if self.task.done():
            return self.task.result()
        if self.is_committing or self.is_in_doubt:
            return OutcomeUnknown("The deadline passed while COMMIT was under way.")
        return Unavailable("The wallet could not be opened before the deadline.")


class Openings:
    """Opens wallets, one task per owner."""

    def __init__(self, engine: AsyncEngine, deadline_seconds: float, queue_size_max: int) -> None:
        """Take where to open them, how long callers usually wait, and how many may."""
        self._engine = engine
        self._attempt_seconds = min(ATTEMPT_SECONDS, deadline_seconds / 4)
        self._queue_size_max = queue_size_max
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)
        self._busy = asyncio.Semaphore(1)
        self._under_way: dict[OwnerName, _Opening] = {}
        self._caller_count = 0
        self._is_closing = False

    async def open(self, owner: OwnerName, deadline: float) -> Opened:
        """Open a wallet, or find it; who shares another caller's opening is told that it was open already.

        The deadline is a time of the event loop's clock. Raises `Overloaded`, `Unavailable` or `OutcomeUnknown`.
        """
        # Both: one opening may have many callers, and one whose caller hung up has none.
        if (count := max(self._caller_count, len(self._under_way))) >= self._queue_size_max:
            raise Overloaded(f"{count} openings are waiting already.")
        shared = self._under_way.get(owner)
        opening = shared or self._start(owner)
        opening.deadline = max(opening.deadline, deadline)
        self._caller_count += 1
        try:
            # It cancels nothing: one caller that goes away must not take the wallet from the others.
            await asyncio.wait([opening.task], timeout=max(0, deadline - asyncio.get_running_loop().time()))
        finally:
            self._caller_count -= 1
        opened = opening.result()
        if isinstance(opened, Exception):
            raise opened
        return opened if shared is None else opened._replace(already_open=True)

    async def close(self) -> None:
        """Finish what is in the database; what waits is told `Unavailable`."""
        self._is_closing = True
        while self._under_way:
            await asyncio.wait([opening.task for opening in self._under_way.values()])

    def _start(self, owner: OwnerName) -> _Opening:
        opening = self._under_way[owner] = _Opening()
        opening.task = asyncio.create_task(self._run(owner, opening))
        return opening

    async def _run(self, owner: OwnerName, opening: _Opening) -> Opened | Exception:
        places = self._free
        try:
            while (opened := await self._attempt(owner, opening, places)) is None:
                places = self._busy
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller is told
            # An earlier slice may have been in doubt, of which the last one knows nothing.
            return (
                OutcomeUnknown("The connection to the database was lost at COMMIT.") if opening.is_in_doubt else error
            )
        finally:
            del self._under_way[owner]
        return opened

    async def _attempt(self, owner: OwnerName, opening: _Opening, places: asyncio.Semaphore) -> Opened | None:
        """Open a wallet when a place is free; None where another session's insert stays uncommitted for a slice."""
        loop = asyncio.get_running_loop()

        async def work() -> Opened | None:
            try:
                # Neither a pause between attempts nor a wait for the next slice is spent in the place.
                async with places:
                    if self._is_closing:
                        raise Unavailable("The service is shutting down.")
                    if loop.time() > opening.deadline - self._attempt_seconds:
                        raise Unavailable("The deadline was too near to ask the database.")
                    async with unit_of_work(self._engine, deadline=opening.deadline) as connection:
                        await connection.execute(f"SET LOCAL lock_timeout = {round(SLICE_SECONDS * 1000)}")
                        opened = Opened(*await open_wallet(connection, owner))
                        opening.is_committing = True
                    return opened
            except asyncpg.LockNotAvailableError:
                return None
            finally:
                opening.is_committing = False

        return await retrying(work, deadline_seconds=opening.deadline - loop.time(), on_doubt=opening.doubt)
