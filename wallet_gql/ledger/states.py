"""What has become of wallets: frozen, closed, reopened, in debt. Of most nothing ever has."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

from asyncpg import Connection

from wallet_gql.domain.postings import TransactionName
from wallet_gql.domain.wallets import WalletState, WalletStatus
from wallet_gql.ledger.columns import Bigint, Smallint, arrays, unnest


class WalletId(NamedTuple):
    """What names a wallet in the ledger."""

    shard: Smallint
    wallet_id: Bigint


States: TypeAlias = dict[WalletId, WalletState]

_STATES: Final = f"""
SELECT s.shard, s.wallet_id, s.step, s.status, s.since, s.until, s.note, s.debt_wallet_id, wallet_now() AS now
  FROM {unnest(WalletId, "wanted")}
 CROSS JOIN LATERAL (
       SELECT * FROM wallet_state s
        WHERE s.shard = wanted.shard AND s.wallet_id = wanted.wallet_id
        ORDER BY s.step DESC
        LIMIT 1) AS s
"""


# The first of the last rows that are alike in what is shown: what only came to be owed is a row of its own.
_STATUS_EVENTS: Final = f"""
SELECT last.shard, last.wallet_id, s.event_id
  FROM {unnest(WalletId, "wanted")}
 CROSS JOIN LATERAL (
       SELECT * FROM wallet_state s
        WHERE s.shard = wanted.shard AND s.wallet_id = wanted.wallet_id
        ORDER BY s.step DESC
        LIMIT 1) AS last
 CROSS JOIN LATERAL (
       SELECT s.event_id FROM wallet_state s
        WHERE s.shard = last.shard AND s.wallet_id = last.wallet_id AND (s.status, s.since) = (last.status, last.since)
          AND (s.until, s.note) IS NOT DISTINCT FROM (last.until, last.note)
        ORDER BY s.step
        LIMIT 1) AS s
 WHERE last.until IS NULL OR last.until > (SELECT wallet_now())
"""


async def read_states(connection: Connection, wallets: Collection[WalletId]) -> States:
    """Return the last state of each of the wallets that have one, as it is by the database's clock."""
    rows = await connection.fetch(_STATES, *arrays(WalletId, wallets))
    return {WalletId(row[0], row[1]): _state(*row) for row in rows}


async def read_states_in_order(connection: Connection, wallets: Sequence[WalletId]) -> list[WalletState | None]:
    """Return the state of each wallet, in order; None of one that nothing has become of."""
    states = await read_states(connection, wallets)
    return [states.get(wallet) for wallet in wallets]


async def read_status_events(connection: Connection, wallets: Sequence[WalletId]) -> list[TransactionName | None]:
    """Return the event by which each wallet got its status, in order; None where it came to be so by itself."""
    rows = await connection.fetch(_STATUS_EVENTS, *arrays(WalletId, wallets))
    events = {WalletId(shard, wallet_id): TransactionName(shard, event_id) for shard, wallet_id, event_id in rows}
    return [events.get(wallet) for wallet in wallets]


def _state(shard: int, wallet_id: int, step: int, status: int, since: datetime, *more: Any) -> WalletState:
    *rest, now = more
    return WalletState(shard, wallet_id, step, WalletStatus(status), since, *rest).at(now)
