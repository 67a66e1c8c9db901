"""Limits, and entries that count what moved, written by SQL past the ledger's own code."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

import orjson
from asyncpg import Connection
from direct import Movement, Transfer
from direct_holds import Act
from direct_lots import LotAct, Row
from uuid_utils.compat import uuid7

from wallet_gql.domain.limits import Enforcement, LimitFlow


def act_of(done: Movement | Transfer | Act) -> LotAct:
    """Return the rows of what happens as plain values; no entry counts anything yet."""
    match done:
        case Movement():
            return _act(done.transaction, [done.user, done.treasury], done.key)
        case Transfer():
            halves = (done.sent, done.received)
            entries = [leg for half in halves for leg in (half.user, half.clearing)]
            act = _act(done.sent.transaction, entries, done.key)
            return LotAct({**act.rows, "transaction": [_row(half.transaction) for half in halves]})
        case Act():
            act = _act(done.transaction, [done.entry, done.treasury], done.key)
            return LotAct({**act.rows, "hold": _rows(done.hold), "hold_step": _rows(done.step)})


def _act(transaction: object, entries: Sequence[object], key: object) -> LotAct:
    held = dict.fromkeys(("held_after", "held_seq", "position", "next_due_at", "flows"))
    rows = [{**held, **row} for entry in entries for row in _rows(entry)]
    return LotAct({"transaction": _rows(transaction), "entry": rows, "idempotency_key": _rows(key)})


def _rows(row: object) -> list[Row]:
    return [] if row is None else [_row(row)]


def _row(row: Any) -> Row:
    values = {each.name: getattr(row, each.name) for each in fields(row)}
    if values.get("details") is not None:
        values["details"] = orjson.loads(values["details"])
    return values


KINDS: Final = ("top_up", "bonus", "spend", "transfer_out", "transfer_in")


def flows(since: int, **moved: tuple[int, int]) -> list[int]:
    """Return what an entry says of what moved: amounts and numbers by kind, and since which entry that is counted."""
    assert moved.keys() <= set(KINDS)
    return [*(each for kind in KINDS for each in moved.get(kind, (0, 0))), since]


def version(asset_id: int, shard: int, wallet_id: int, step: int, **columns: Any) -> Row:
    """Return the row of a limit: 10 in an hour may go out, and nothing else is limited."""
    return {
        "asset_id": asset_id, "shard": shard, "wallet_id": wallet_id, "step": step, "id": uuid7(),
        "flow": int(LimitFlow.OUT), "rolling_seconds": 3600, "calendar_unit": None, "time_zone": None,
        "max_amount": 10, "max_count": None, "enforcement": int(Enforcement.REFUSE), "in_force": [step],
        "set_at": "2026-01-01T00:00:00Z", **columns,
    }  # fmt: skip


async def insert_versions(connection: Connection, *rows: Row) -> None:
    """Insert versions of limits by one statement."""
    await connection.execute(
        "INSERT INTO limit_rule SELECT * FROM jsonb_populate_recordset(NULL::limit_rule, $1::jsonb)",
        orjson.dumps(rows, default=str).decode(),
    )
