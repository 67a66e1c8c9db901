"""Books what ended: holds whose time is over and lots that lapsed, of a shard, each once.

Nobody waits for it: what is over is shown and decided as over by the clock, booked or not. It looks at what ends in the
order of time, from where the last sweep stopped; what a batch under way may still add lies within the margin.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from asyncpg import Connection

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.wallets import OwnerName, WalletKind
from wallet_gql.ledger.batch import Batch
from wallet_gql.ledger.columns import Smallint, Time, arrays, unnest
from wallet_gql.ledger.decide import book_due
from wallet_gql.ledger.expiring import what_may_lapse
from wallet_gql.ledger.heads import Account, open_accounts, read_heads
from wallet_gql.ledger.holds import read_open_holds
from wallet_gql.ledger.locks import lock_free_wallets, lock_wallets
from wallet_gql.ledger.lookups import one_row
from wallet_gql.ledger.lots import LAST_LOT_STEP, read_lots
from wallet_gql.ledger.posting import insert, read_debts
from wallet_gql.ledger.rows import HoldStepRow
from wallet_gql.ledger.treasury import expiry, open_stripes

FOUND_MAX: Final = 500
"""Ends of each kind that are looked for at once. What was booked is passed over each time, so few would cost more."""

ENDS_MAX: Final = 20
"""Ends that one unit of work books: few, for whatever else is asked for waits meanwhile (bench/sweeps.py)."""

MARGIN: Final = timedelta(seconds=120)
"""How far behind the clock a sweep stops for good: what read the clock before may not be committed yet."""

# The beginning of time: a shard that was never swept.
_NEVER: Final = "'2000-01-01'::timestamptz"


class _Place(NamedTuple):
    shard: Smallint
    until: Time


class Ended(NamedTuple):
    """An owner's account in which something ended, and how many holds and lots did."""

    owner: OwnerName
    asset: Asset
    ends: int


# The steps that leave something held, in the order in which they end, which no later step followed.
_ENDED_HOLDS: Final = f"""
       SELECT s.shard, s.account_id
         FROM hold_step s
         LEFT JOIN {one_row("hold_step", "later", by="step", shard="s.shard", hold_id="s.hold_id", step="s.step + 1")}
           ON true
        WHERE s.shard = place.shard AND s.amount > s.captured + s.released
          AND s.held_until > place.until AND s.held_until <= clock.now AND later.step IS NULL
        ORDER BY s.held_until
        LIMIT {{limit}}"""

# The lots that have lapsed, in that order, of which something is in no hold: that is booked when the hold ends.
_LAPSED_LOTS: Final = f"""
       SELECT o.shard, o.account_id
         FROM lot o
        CROSS JOIN {LAST_LOT_STEP}
        WHERE o.shard = place.shard AND o.expires_at > place.until AND o.expires_at <= clock.now
          AND last.remaining > last.held
        ORDER BY o.expires_at
        LIMIT {{limit}}"""

_ENDED: Final = f"(({_ENDED_HOLDS}) UNION ALL ({_LAPSED_LOTS}))"

_PLACES: Final = f"""
SELECT shard.n, coalesce(last.until, {_NEVER})
  FROM generate_series(0, $1::int - 1) AS shard(n)
  LEFT JOIN LATERAL (
       SELECT s.until FROM sweep s WHERE s.shard = shard.n ORDER BY s.until DESC LIMIT 1) AS last ON true
"""

_DUE_SHARDS: Final = f"""
SELECT place.shard, ended.shard IS NOT NULL, clock.now
  FROM {unnest(_Place, "place")}
 CROSS JOIN (SELECT wallet_now() AS now) AS clock
  LEFT JOIN LATERAL (SELECT * FROM {_ENDED.format(limit=1)} AS ended LIMIT 1) AS ended ON true
"""

_DUE: Final = f"""
SELECT w.owner_id, due.ends, asset.id, asset.code, asset.name, asset.scale
  FROM (SELECT ended.shard, ended.account_id, count(*) AS ends
          FROM {unnest(_Place, "place")}
         CROSS JOIN (SELECT wallet_now() AS now) AS clock
         CROSS JOIN LATERAL {_ENDED.format(limit=FOUND_MAX)} AS ended
         GROUP BY 1, 2) AS due
 CROSS JOIN {one_row("account", "a", by="id", shard="due.shard", id="due.account_id")}
 CROSS JOIN {one_row("asset", "asset", by="id", id="a.asset_id")}
 CROSS JOIN {one_row("wallet", "w", by="id", shard="a.shard", id="a.wallet_id")}
"""

_KEEP: Final = f"""
INSERT INTO sweep (shard, until) SELECT shard, until FROM {unnest(_Place, "place")} ON CONFLICT DO NOTHING
"""


async def read_places(connection: Connection, shard_count: int) -> dict[int, datetime]:
    """Return up to when each shard was swept."""
    rows = await connection.fetch(_PLACES, shard_count)
    return {shard: until for shard, until in rows}  # noqa: C416 - rows are no pairs to a type checker


async def keep_places(connection: Connection, places: Mapping[int, datetime]) -> None:
    """Keep up to when each shard was swept, for a sweeper that starts."""
    await connection.execute(_KEEP, *arrays(_Place, list(places.items())))


async def find_due(connection: Connection, places: dict[int, datetime]) -> list[int]:
    """Return the shards in which something ended and is not booked; the others' places move on. One statement."""
    due = []
    for shard, is_due, now in await connection.fetch(_DUE_SHARDS, *arrays(_Place, list(places.items()))):
        if is_due:
            due.append(shard)
        else:
            places[shard] = max(places[shard], now - MARGIN)
    return due


async def find_ended(connection: Connection, shard: int, until: datetime) -> list[Ended]:
    """Return accounts of a shard in which something ended after a place and is not booked; if there are many, some."""
    rows = await connection.fetch(_DUE, *arrays(_Place, [(shard, until)]))
    return [Ended(OwnerName(shard, owner_id), Asset(*asset), ends) for owner_id, ends, *asset in rows]


def in_units(found: Sequence[Ended]) -> Iterator[list[Ended]]:
    """Divide accounts into units of work of at most `ENDS_MAX` ends, or of one account that has more."""
    unit: list[Ended] = []
    for ended in found:
        if unit and sum(each.ends for each in unit) + ended.ends > ENDS_MAX:
            yield unit
            unit = []
        unit.append(ended)
    if unit:
        yield unit


async def book_ended(connection: Connection, shard: int, unit: Sequence[Ended]) -> int:
    """Book what ended in accounts of a shard and is not booked yet; returns how many ends were booked.

    One sweeper has a shard at a time: the one that has its stripe. What belongs to a wallet that somebody else has
    locked is left for the next time. Must run inside a transaction: the locks stand until it ends.
    """
    own = expiry(shard, None)
    wallets, busy = await lock_free_wallets(connection, {own, *(each.owner.wallet_name for each in unit)})
    if own in busy:
        return 0
    if own not in wallets:
        await open_stripes(connection, {own})
        wallets |= await lock_wallets(connection, {own})
    accounts = [
        Account(wallets[owner.wallet_name], WalletKind.USER, asset)
        for owner, asset, _ in unit
        if owner.wallet_name in wallets
    ]
    if not accounts:
        return 0
    stripes = {account.asset: Account(wallets[own], WalletKind.TREASURY, account.asset) for account in accounts}
    heads = {account.name: account for account in (*accounts, *stripes.values())}
    batch = Batch(await read_heads(connection, heads), {})
    await read_debts(connection, batch, accounts)
    await read_open_holds(connection, accounts, batch.now)
    await read_lots(connection, accounts)
    for account in what_may_lapse(batch, (), accounts):
        account.expiry = stripes[account.asset]
    used = {account.expiry.name: account.expiry for account in accounts if account.expiry is not None}
    await open_accounts(connection, [stripe for stripe in used.values() if not stripe.id])
    book_due(batch, accounts)
    await insert(connection, batch)
    return len(batch.others[HoldStepRow]) + sum(row.type == TransactionType.EXPIRY for row in batch.transactions)
