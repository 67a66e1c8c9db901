"""The rows of API keys: written by the tables' owner, read by the service."""

from collections.abc import Collection
from datetime import timedelta
from typing import Final

from asyncpg import Connection, Record

from wallet_gql.domain.access import Budget, Scope
from wallet_gql.domain.api_keys import ApiKey, Mode, PresentedKey, Rights

_MODES: Final[dict[Mode, int]] = {"live": 1, "test": 2}

_COLUMNS: Final = (
    "id, name, mode, hash, created_at, expires_at, revoked_at, last_used_at, wallet_now(),"
    " scopes, owner_prefix, rate_burst, rate_per_second, max_amount, assets"
)

_GOOD: Final = "revoked_at IS NULL AND (expires_at IS NULL OR wallet_now() < expires_at)"


async def insert_key(
    connection: Connection, key: PresentedKey, name: str, rights: Rights, expires_in: timedelta | None
) -> None:
    """Keep a new key."""
    await connection.execute(
        "INSERT INTO api_key (id, name, mode, hash, expires_at, scopes, owner_prefix, rate_burst, rate_per_second,"
        "                     max_amount, assets)"
        " VALUES ($1, $2, $3, $4, wallet_now() + $5::interval, $6, $7, $8, $9, $10, $11)",
        key.id, name, _MODES[key.mode], key.hash, expires_in,
        sorted(rights.scopes), rights.owner_prefix, *(rights.budget or (None, None)),
        rights.max_amount, None if rights.assets is None else sorted(rights.assets),
    )  # fmt: skip


async def read_keys(connection: Connection, *, good_only: bool) -> list[ApiKey]:
    """Return all keys, the newest first; with `good_only`, those that let somebody in now."""
    only = f" WHERE {_GOOD}" if good_only else ""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM api_key{only} ORDER BY created_at DESC, id")  # noqa: S608
    return [_key(row) for row in rows]


async def find_key(connection: Connection, key: PresentedKey) -> ApiKey | None:
    """Return a key that lets somebody in now, by its id, where all of it is right."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM api_key WHERE id = $1 AND hash = $2 AND {_GOOD}",  # noqa: S608
        key.id,
        key.hash,
    )
    return None if row is None else _key(row)


async def lock_key(connection: Connection, id_: str) -> ApiKey | None:
    """Return a key that nobody else changes until the unit of work ends; None where there is none."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM api_key WHERE id = $1 FOR UPDATE", id_)  # noqa: S608
    return None if row is None else _key(row)


async def expire_key(connection: Connection, id_: str, after: timedelta) -> None:
    """Let a key end after a while, if it does not end before."""
    await connection.execute(
        "UPDATE api_key SET expires_at = least(expires_at, wallet_now() + $2::interval) WHERE id = $1", id_, after
    )


async def revoke_key(connection: Connection, id_: str) -> None:
    """Let a key end now; doing it again changes nothing."""
    await connection.execute("UPDATE api_key SET revoked_at = wallet_now() WHERE id = $1 AND revoked_at IS NULL", id_)


async def note_use(connection: Connection, ids: Collection[str]) -> None:
    """Note that keys were used; not more often than once a minute each."""
    await connection.execute(
        "UPDATE api_key SET last_used_at = wallet_now()"
        " WHERE id IN (SELECT id FROM api_key WHERE id = ANY ($1::text[])"
        "              AND (last_used_at IS NULL OR last_used_at < wallet_now() - interval '1 min')"
        "              FOR UPDATE SKIP LOCKED)",
        list(ids),
    )


def _key(row: Record) -> ApiKey:
    id_, name, mode, hash_, *times, scopes, owner_prefix, burst, per_second, max_amount, assets = row
    known = {scope.value for scope in Scope}
    rights = Rights(
        # One that a newer version knows lets its holder do nothing here.
        frozenset(Scope(scope) for scope in scopes if scope in known),
        owner_prefix,
        None if burst is None else Budget(burst, per_second),
        max_amount,
        None if assets is None else frozenset(assets),
    )
    word = next(word for word, number in _MODES.items() if number == mode)
    return ApiKey(id_, name, word, bytes(hash_), rights, *times)
