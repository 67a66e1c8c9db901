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


# That the owner came to owe something is a row of its own, once: the status is that of the row before it, or came to be
# so by itself.
_STATUS_EVENTS: Final = f"""
SELECT last.shard, last.wallet_id,
       CASE WHEN last.debt_wallet_id IS NULL OR before.debt_wallet_id IS NOT NULL THEN last.event_id
            WHEN (before.status, before.since, before.until, before.note)
                 IS NOT DISTINCT FROM (last.status, last.since, last.until, last.note) THEN before.event_id END
  FROM {unnest(WalletId, "wanted")}
 CROSS JOIN LATERAL (
       SELECT * FROM wallet_state s
        WHERE s.shard = wanted.shard AND s.wallet_id = wanted.wallet_id
        ORDER BY s.step DESC
        LIMIT 1) AS last
  LEFT JOIN LATERAL (
       SELECT * FROM wallet_state s
        WHERE s.shard = last.shard AND s.wallet_id = last.wallet_id
          AND s.step BETWEEN last.step - 1 AND last.step - 1
        ORDER BY s.step
        LIMIT 1) AS before ON true
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
    events = {WalletId(shard, wallet_id): TransactionName(shard, id_) for shard, wallet_id, id_ in rows if id_}
    return [events.get(wallet) for wallet in wallets]


def _state(shard: int, wallet_id: int, step: int, status: int, since: datetime, *more: Any) -> WalletState:
    *rest, now = more
    return WalletState(shard, wallet_id, step, WalletStatus(status), since, *rest).at(now)
