"""The rows of API keys: written by the tables' owner, read by the service."""

from collections.abc import Collection
from datetime import timedelta
from typing import Final

from asyncpg import Connection, Record

from wallet_gql.domain.access import Scope
from wallet_gql.domain.api_keys import ApiKey, Mode, PresentedKey

_MODES: Final[dict[Mode, int]] = {"live": 1, "test": 2}

_COLUMNS: Final = (
    "id, name, mode, hash, scopes, owner_prefix, created_at, expires_at, revoked_at, last_used_at, clock_timestamp()"
)


async def insert_key(
    connection: Connection,
    key: PresentedKey,
    name: str,
    scopes: Collection[Scope],
    owner_prefix: str,
    expires_in: timedelta | None,
) -> None:
    """Keep a new key."""
    await connection.execute(
        "INSERT INTO api_key (id, name, mode, hash, scopes, owner_prefix, expires_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7::interval)",
        key.id, name, _MODES[key.mode], key.hash, sorted(scopes), owner_prefix, expires_in,
    )  # fmt: skip


async def read_keys(connection: Connection, *, good_only: bool) -> list[ApiKey]:
    """Return all keys, the newest first; with `good_only`, those that let somebody in now."""
    only = " WHERE revoked_at IS NULL AND (expires_at IS NULL OR clock_timestamp() < expires_at)" if good_only else ""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM api_key{only} ORDER BY created_at DESC, id")  # noqa: S608
    return [_key(row) for row in rows]


async def lock_key(connection: Connection, id_: str) -> ApiKey | None:
    """Return a key that nobody else changes until the unit of work ends; None where there is none."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM api_key WHERE id = $1 FOR UPDATE", id_)  # noqa: S608
    return None if row is None else _key(row)


async def expire_key(connection: Connection, id_: str, after: timedelta) -> None:
    """Let a key end after a while, if it does not end before."""
    await connection.execute(
        "UPDATE api_key SET expires_at = least(expires_at, clock_timestamp() + $2::interval) WHERE id = $1", id_, after
    )


async def revoke_key(connection: Connection, id_: str) -> None:
    """Let a key end now; doing it again changes nothing."""
    await connection.execute(
        "UPDATE api_key SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL", id_
    )


async def note_use(connection: Connection, ids: Collection[str]) -> None:
    """Note that keys were used; not more often than once a minute each."""
    await connection.execute(
        "UPDATE api_key SET last_used_at = clock_timestamp()"
        " WHERE id = ANY ($1::text[])"
        " AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 min')",
        list(ids),
    )


def _key(row: Record) -> ApiKey:
    id_, name, mode, hash_, scopes, *rest = row
    known = {scope.value for scope in Scope}
    return ApiKey(
        id_,
        name,
        next(word for word, number in _MODES.items() if number == mode),
        bytes(hash_),
        # One that a newer version knows lets its holder do nothing here.
        frozenset(Scope(scope) for scope in scopes if scope in known),
        *rest,
    )
