"""A database with something of every kind up to holds, as versions before refunds leave it; and all that is in it."""

from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from asyncpg import Connection
from conftest import plain
from direct import insert, movement
from factories import new_owner, post
from holds import change, held, place
from schemas import fetch, fill

from wallet_gql.domain.postings import Posted, Refused
from wallet_gql.domain.shards import shard_of
from wallet_gql.operations.holds import capture_hold, place_hold, void_hold
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.transfers import TransferInput, transfer
from wallet_gql.settings import Settings

OWNER: Final = "owner-1"
OTHER: Final = "owner-2"
PLAIN: Final = "owner-3"
"""Has no holds, and never had."""
KEYS: Final = {"top_up": UUID(int=1, version=4), "spend": UUID(int=2, version=4), "refused": UUID(int=3, version=4)}
"""The keys of three requests: a top-up of 90, a spend of 30, and a spend of 1000 that was refused."""

_ENTRY: Final = "shard, account_id, seq, transaction_id, type, amount, balance_after, may_go_negative, executed_at"
_STEP: Final = (
    "shard, hold_id, step, kind, event_id, account_id, seq, amount, captured, released, change, capture_count"
)
_HOLD: Final = "shard, id, account_id, seq, wallet_id, receiver_shard, receiver_wallet_id, idempotency_key"

# Of the tables that every version since holds has, what each knows.
COLUMNS: Final = {
    "ledger": "is_only_row, shard_count, created_at",
    **dict.fromkeys(("asset", "wallet", "account", "transaction", "receipt", "idempotency_key"), "*"),
    "asset_setting": "asset_id, step, transfers, set_at",
    "entry": f"{_ENTRY}, held_after, held_seq, position, next_due_at",
    "transaction_note": "shard, transaction_id, metadata, receipt",
    "hold": f"{_HOLD}, description, reference",
    "hold_step": f"{_STEP}, held_until, at, open_holds",
}


def rows(settings: Settings) -> dict[str, list[Any]]:
    """Return all rows of the tables that every version since holds has."""
    return {
        table: sorted(fetch(settings.owner_url(), f"SELECT {columns} FROM {table}"), key=repr)
        for table, columns in COLUMNS.items()
    }


async def fill_up_to_holds(settings: Settings) -> None:
    """Make what the versions before refunds can make: of each kind something."""
    await fill(settings)
    async with open_ledger(settings) as ledger:
        for owner in (OWNER, OTHER, PLAIN):
            await new_owner(ledger, 50, owner)
        texts: dict[str, Any] = {"description": "Gift", "metadata": {"a": "b"}, "receipt": "store-1"}
        assert isinstance(await post(ledger, "top_up", OWNER, 90, KEYS["top_up"], **texts), Posted)
        assert isinstance(await post(ledger, "spend", OWNER, 30, KEYS["spend"]), Posted)
        assert isinstance(await post(ledger, "spend", OWNER, 1000, KEYS["refused"]), Refused)
        assert isinstance(await transfer(ledger, TransferInput(OTHER, OWNER, "GOLD", Decimal(20), uuid4())), Posted)
        for end in (capture_hold, void_hold):
            hold = held(await place_hold(ledger, place(OWNER, 5)))
            held(await end(ledger, change(hold)))
        held(await place_hold(ledger, place(OTHER, 10)))


async def spend_by_sql(settings: Settings, amount: int) -> None:
    """Spend of the owner without holds, as a session of a version before does."""
    connection: Connection = await asyncpg.connect(plain(settings.server_url().render_as_string(hide_password=False)))
    try:
        await insert(connection, await movement(connection, shard_of(PLAIN, settings.shard_count), PLAIN, -amount))
    finally:
        await connection.close()
