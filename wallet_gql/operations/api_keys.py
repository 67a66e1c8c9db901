"""API keys: made, listed, rotated and revoked by operators, and known to every worker within seconds.

A worker keeps all good keys in memory and reads them anew every two seconds: a request costs the database nothing, and
a key that was revoked is refused within five. One that is not known is looked up at once, by one statement that finds
its row; whoever makes up keys has a worker look up one at a time, while a short line waits. Keys that could not be read
for so long are no keys: then nobody is let in, and told `UNAVAILABLE`.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Final, TypeAlias

import structlog
from asyncpg import Connection
from cachetools import TTLCache
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db import api_keys
from wallet_gql.db.engine import connect
from wallet_gql.domain.access import ActorKind, Budget, Caller, Scope
from wallet_gql.domain.api_keys import ApiKey, Mode, PresentedKey, Rights, make_key, read_key
from wallet_gql.domain.errors import BadUserInput, Fault, Overloaded, Unavailable
from wallet_gql.domain.text import OWNER_ID_LENGTH_MAX
from wallet_gql.ledger.reads import read_assets
from wallet_gql.operations.unit_of_work import unit_of_work

READ_EVERY_SECONDS: Final = 2
READ_AGAIN_SECONDS: Final = 0.25
"""How soon keys that could not be read are read again."""

LOOKED_UP_MAX: Final = 100
"""How many keys that are not known may be looked up: one now, the others in turn. More are refused as overload."""

UNKNOWN_SECONDS: Final = 1
"""How long a key that was looked up in vain is not looked up again."""

UNKNOWN_MAX: Final = 10_000
"""So many such keys are remembered."""

ANSWER_WITHIN_SECONDS: Final = 1
GOOD_FOR_SECONDS: Final = 5
"""How long keys are good that could not be read again."""

NAME_LENGTH_MAX: Final = 100

POINTS_MAX: Final = 1_000_000_000
"""The most that a budget may have, or get back in a second."""

OVERLAP: Final = timedelta(hours=24)
"""How long a rotated key goes on beside its successor."""

_log = structlog.get_logger()


class NobodyMayAsk(Fault):
    """Access is closed, and there is no key."""


_Known: TypeAlias = tuple[str, Caller]
"""The id of a key, and who its holder is."""


@dataclass(slots=True)
class Keyring:
    """The keys that let somebody in now, as they were read last."""

    engine: AsyncEngine
    mode: Mode
    callers: dict[bytes, _Known] = field(default_factory=dict, repr=False)
    """By the hashes of their keys."""
    read_at: float = float("-inf")
    """By the event loop's clock."""
    _by_header: dict[bytes, _Known] = field(default_factory=dict, repr=False)
    """Keys that were used since all were read, by the usual header: to look one up costs a tenth of hashing it."""
    _forgetting: asyncio.TimerHandle | None = None
    """Empties that where keys have not been read again for long."""
    used: set[str] = field(default_factory=set)
    _unknown: TTLCache[bytes, None] = field(default_factory=lambda: TTLCache(UNKNOWN_MAX, UNKNOWN_SECONDS))
    _looked_up: dict[bytes, asyncio.Task[_Known | None]] = field(default_factory=dict)
    """Keys that are not known, by their hashes, while they are looked up or wait for it."""
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    def recall(self, header: bytes) -> Caller | None:
        """Return whose key an Authorization header has; None where `find` has to tell."""
        # Compared by a hash that nobody can foresee, so that here, too, time tells nothing of a secret.
        known = self._by_header.get(header)
        if known is None:
            return None
        id_, caller = known
        self.used.add(id_)
        return caller

    async def find(self, text: str) -> Caller | None:
        """Return whose key it is; None for one that lets nobody in.

        Raises `Unavailable` where keys are not known, `Overloaded` where too many that are not known are looked up.
        """
        # By the hash: nobody chooses a part of one, so how long it takes to find it tells nothing of a secret.
        hash_ = sha256(text.encode()).digest()
        known = self.callers.get(hash_)
        if known is None:
            presented = read_key(text)
            if presented is None or presented.mode != self.mode:
                return None
            known = await self._look_up(presented)
        if self._age_seconds() > GOOD_FOR_SECONDS:
            raise Unavailable("The API keys could not be read.")
        if known is None:
            return None
        id_, caller = known
        self.used.add(id_)
        if hash_ in self.callers:
            # In its one usual spelling: others are as many as somebody likes.
            self._by_header[b"Bearer " + text.encode()] = known
        return caller

    async def _look_up(self, key: PresentedKey) -> _Known | None:
        """Return a key that may have been made just now. Raises `Unavailable`, `Overloaded` where the line is full."""
        if key.hash in self._unknown:
            return None
        task = self._looked_up.get(key.hash)
        if task is None:
            if len(self._looked_up) >= LOOKED_UP_MAX:
                raise Overloaded("Too many API keys that are not known are looked up: try again after a pause.")
            task = self._looked_up[key.hash] = asyncio.create_task(self._look_up_in_turn(key))
            # Callers that all went away leave nobody to retrieve what is wrong with it.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
                # One caller that goes away must not take the answer from the others.
                return await asyncio.shield(task)
        except Exception as error:
            raise Unavailable("The API key could not be looked up.") from error

    async def _look_up_in_turn(self, key: PresentedKey) -> _Known | None:
        try:
            async with self._one_at_a_time, asyncio.timeout(ANSWER_WITHIN_SECONDS), connect(self.engine) as connection:
                started = asyncio.get_running_loop().time()
                found = await api_keys.find_key(connection, key)
        finally:
            del self._looked_up[key.hash]
        if found is None:
            self._unknown[key.hash] = None
            return None
        known = found.id, caller_of(found)
        if self.read_at < started:
            # Keys that were read later tell better: it may have been revoked meanwhile.
            self.callers[key.hash] = known
        return known

    async def read(self) -> None:
        """Read the keys that are good now."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        # A connection that was cut without a word is given up in time for another one.
        async with asyncio.timeout(ANSWER_WITHIN_SECONDS), connect(self.engine) as connection:
            keys = await api_keys.read_keys(connection, good_only=True)
        self.callers = {key.hash: (key.id, caller_of(key)) for key in keys if key.mode == self.mode}
        self._by_header.clear()
        self.read_at = started
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = loop.call_at(started + GOOD_FOR_SECONDS, self._by_header.clear)

    async def note_use(self) -> None:
        """Note which keys were used since it was noted last; what cannot be noted now is noted another time."""
        used, self.used = self.used, set()
        if not used:
            return
        try:
            async with connect(self.engine) as connection:
                await api_keys.note_use(connection, used)
        except BaseException:
            self.used |= used
            raise

    def _age_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self.read_at


def caller_of(key: ApiKey) -> Caller:
    """Return who a key says that its holder is."""
    return Caller(
        ActorKind.API_KEY,
        key.name,
        key.rights.scopes,
        owner_prefix=key.rights.owner_prefix,
        max_amount=key.rights.max_amount,
        assets=key.rights.assets,
        daily_issuance=key.rights.daily_issuance,
        budget_id=f"key:{key.id}",
        budget=key.rights.budget,
    )


@asynccontextmanager
async def keyring(engine: AsyncEngine, mode: Mode) -> AsyncIterator[Keyring]:
    """Keep the keys until the block ends; they are known when it begins."""
    ring = Keyring(engine, mode)
    await ring.read()

    async def keep() -> None:
        told = ""
        while True:
            await asyncio.sleep(READ_AGAIN_SECONDS if told else READ_EVERY_SECONDS)
            try:
                await ring.read()
                # Apart: a database that is read-only, or a row that is locked, keeps nobody out.
                await ring.note_use()
                told = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, keys that are not read again end by themselves
                reason = str(error) or type(error).__name__
                if reason != told:
                    told = reason
                    _log.warning("API keys cannot be read", reason=told)

    task = asyncio.create_task(keep())
    try:
        yield ring
    finally:
        task.cancel()
        await asyncio.wait([task])


@dataclass(frozen=True, slots=True)
class KeyInput:
    """What an operator asks for."""

    name: str
    scopes: Collection[str]
    owner_prefix: str = ""
    expires_in: timedelta | None = None
    rate_burst: int | None = None
    rate_per_second: int | None = None
    """With the burst: its own budget of points; without both the usual one."""
    max_amount: str | None = None
    assets: Collection[str] = ()
    daily_issuance: str | None = None


async def create_key(engine: AsyncEngine, mode: Mode, asked: KeyInput) -> str:
    """Make a key and return it: this is the only time that it is shown. Raises `BadUserInput`."""
    if not 1 <= len(asked.name) <= NAME_LENGTH_MAX or not asked.name.isprintable():
        raise BadUserInput("name", "is not 1 to 100 printable characters", "say who holds the key, such as game-server")
    if len(asked.owner_prefix) > OWNER_ID_LENGTH_MAX:
        raise BadUserInput("owner prefix", "is longer than an owner id may be", f"use at most {OWNER_ID_LENGTH_MAX}")
    scopes = _scopes(asked.scopes)
    if asked.expires_in is not None and asked.expires_in <= timedelta():
        raise BadUserInput("expires", "is not in the future", "name a time from now on, such as 90d")
    rights = Rights(
        scopes,
        asked.owner_prefix,
        _budget(asked.rate_burst, asked.rate_per_second),
        _amount(asked.max_amount, "max amount"),
        frozenset(asked.assets) or None,
        _amount(asked.daily_issuance, "daily issuance"),
    )
    async with unit_of_work(engine) as connection:
        known = {asset.code for asset in await read_assets(connection)}
        if unknown := sorted(set(asked.assets) - known):
            raise BadUserInput(
                "assets", f"has {unknown[0][:40]}, which there is not", f"use {', '.join(sorted(known))}"
            )
        return await _insert(connection, mode, asked.name, rights, asked.expires_in)


async def rotate_key(engine: AsyncEngine, id_: str) -> str:
    """Make a successor of a key, which goes on beside it for a day. Raises `BadUserInput` for one that is not good."""
    async with unit_of_work(engine) as connection:
        key = await api_keys.lock_key(connection, id_)
        if key is None or key.state != "active":
            raise BadUserInput("id", "is not of an active key", "look it up with wallet-gql api-key list")
        left = None if key.expires_at is None else key.expires_at - key.read_at
        text = await _insert(connection, key.mode, key.name, key.rights, left)
        await api_keys.expire_key(connection, id_, OVERLAP)
        return text


async def revoke_key(engine: AsyncEngine, id_: str) -> None:
    """Let a key end now. Raises `BadUserInput` for one that there is not."""
    async with unit_of_work(engine) as connection:
        if await api_keys.lock_key(connection, id_) is None:
            raise BadUserInput("id", "is not of a key", "look it up with wallet-gql api-key list")
        await api_keys.revoke_key(connection, id_)


async def list_keys(engine: AsyncEngine) -> list[ApiKey]:
    """Return all keys, the newest first: revoked and expired ones, too."""
    async with connect(engine) as connection:
        return await api_keys.read_keys(connection, good_only=False)


def _scopes(names: Collection[str]) -> frozenset[Scope]:
    known = {scope.value for scope in Scope}
    if not names:
        raise BadUserInput("scopes", "are missing", f"name at least one of {', '.join(sorted(known))}")
    if unknown := sorted(set(names) - known):
        raise BadUserInput("scopes", f"has {unknown[0]}, which there is not", f"use {', '.join(sorted(known))}")
    return frozenset(map(Scope, names))


def _budget(burst: int | None, per_second: int | None) -> Budget | None:
    if burst is None and per_second is None:
        return None
    if burst is None or per_second is None:
        raise BadUserInput("rate", "has a burst without what comes back, or the other way round", "give both")
    if not (1 <= burst <= POINTS_MAX and 1 <= per_second <= POINTS_MAX):
        raise BadUserInput("rate", f"is not of 1 to {POINTS_MAX} points", "give such, as 100000 and 20000")
    if per_second > burst:
        raise BadUserInput("rate", "gets back more in a second than it can have", "give a burst that is not smaller")
    return Budget(burst, per_second)


def _amount(text: str | None, field: str) -> Decimal | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", text) or not Decimal(text):
        raise BadUserInput(field, f"cannot be read from {text[:20]!r}", "send a decimal above zero, such as 250.00")
    return Decimal(text)


async def _insert(connection: Connection, mode: Mode, name: str, rights: Rights, expires_in: timedelta | None) -> str:
    text = make_key(mode)
    made = read_key(text)
    assert made is not None
    await api_keys.insert_key(connection, made, name, rights, expires_in)
    return text
