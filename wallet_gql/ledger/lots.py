"""Reads lots as they are in the books; `choose_lots` says which of them are taken from.

Which lots of an account have something left, in the order in which they are spent, is with an entry of its chain: so
they are found by look-ups, whatever was ever granted.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from asyncpg import Connection

from wallet_gql.domain.lots import CreditSource, Lot, LotTerms, LotUse
from wallet_gql.domain.postings import TransactionName
from wallet_gql.ledger.columns import Bigint, Integer, Smallint, Uuid, arrays, unnest
from wallet_gql.ledger.heads import Account, AccountName
from wallet_gql.ledger.lookups import one_row

NOTHING_SPENT: Final[Mapping[AccountName, int]] = MappingProxyType({})

ALL_LOTS: Final = 2**31 - 1


class _WithLots(NamedTuple):
    shard: Smallint
    account_id: Bigint
    lots_seq: Bigint
    size: Integer


class _WantedOriginal(NamedTuple):
    shard: Smallint
    original_id: Uuid
    account_id: Bigint


class _WantedEntry(NamedTuple):
    shard: Smallint
    account_id: Bigint
    seq: Bigint


LAST_LOT_STEP: Final = """LATERAL (
       SELECT l.step, l.granted, l.remaining, l.held
         FROM lot_step l
        WHERE l.shard = o.shard AND l.account_id = o.account_id AND l.lot = o.n
        ORDER BY l.step DESC
        LIMIT 1) AS last"""
"""The last step of the lot `o`."""

_LOT: Final = "o.n, o.source, o.priority, o.campaign, o.expires_at, last.step, last.granted, last.remaining, last.held"

FIRST_LOTS: Final = 4
"""Of accounts that only spend so many lots are read, for they are spent first: most spends take from one or two."""

# One row an account: the driver takes long for each.
_LIVE: Final = f"""
SELECT wanted.n, newest.n, e.live_lots, last_one.priority, live.*
  FROM {unnest(_WithLots, "wanted", numbered=True)}
 CROSS JOIN {
    one_row("entry", "e", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="wanted.lots_seq")
}
 CROSS JOIN LATERAL (
       SELECT o.n FROM lot o
        WHERE o.shard = wanted.shard AND o.account_id = wanted.account_id
        ORDER BY o.n DESC
        LIMIT 1) AS newest
  LEFT JOIN {
    one_row(
        "lot",
        "last_one",
        by="n",
        shard="wanted.shard",
        account_id="wanted.account_id",
        n="e.live_lots[cardinality(e.live_lots)]",
    )
} ON true
 CROSS JOIN LATERAL (
       SELECT {", ".join(f"array_agg({column})" for column in _LOT.split(", "))}
         FROM unnest(e.live_lots[1:wanted.size]) AS live(n)
        CROSS JOIN {one_row("lot", "o", by="n", shard="wanted.shard", account_id="wanted.account_id", n="live.n")}
        CROSS JOIN {LAST_LOT_STEP}) AS live
"""

_USES: Final = f"""
SELECT wanted.n, s.place, s.change, {_LOT}
  FROM {unnest(_WantedEntry, "wanted", numbered=True)}
 CROSS JOIN LATERAL (
       SELECT * FROM lot_step s
        WHERE s.shard = wanted.shard AND s.account_id = wanted.account_id AND s.seq BETWEEN wanted.seq AND wanted.seq
        ORDER BY s.seq) AS s
 CROSS JOIN {one_row("lot", "o", by="n", shard="s.shard", account_id="s.account_id", n="s.lot")}
 CROSS JOIN {LAST_LOT_STEP}
 WHERE s.change <> 0
"""


_TAKEN_BACK: Final = f"""
SELECT wanted.n, e.seq, e.amount, s.lot, s.change
  FROM {unnest(_WantedOriginal, "wanted", numbered=True)}
 CROSS JOIN LATERAL (
       SELECT * FROM reversal r
        WHERE r.shard = wanted.shard AND r.original_id = wanted.original_id
        ORDER BY r.step) AS r
 CROSS JOIN {
    one_row(
        "entry",
        "e",
        by="transaction_id",
        shard="r.shard",
        transaction_id="r.transaction_id",
        account_id="wanted.account_id",
    )
}
  LEFT JOIN LATERAL (
       SELECT * FROM lot_step s
        WHERE s.shard = e.shard AND s.account_id = e.account_id AND s.seq BETWEEN e.seq AND e.seq AND s.change <> 0
        ORDER BY s.seq) AS s ON true
"""


async def read_lots(
    connection: Connection, accounts: Iterable[Account], spent: Mapping[AccountName, int] = NOTHING_SPENT
) -> None:
    """Give each account that ever had a lot those that have something left, as they are spent.

    Of accounts from which only so much is `spent` the first ones that are enough for it. One statement, a second one
    where that was not known before.
    """
    lotted = [account for account in accounts if account.lots_seq is not None]
    await _read(connection, [(account, FIRST_LOTS if account.name in spent else ALL_LOTS) for account in lotted])
    lacking = [account for account in lotted if not _is_enough(account, spent)]
    await _read(connection, [(account, ALL_LOTS) for account in lacking])


def _is_enough(account: Account, spent: Mapping[AccountName, int]) -> bool:
    """Say whether something will be left of the lots that were read: what is due first is told by that."""
    return account.knows_all_lots or sum(lot.free_minor for lot in account.lots.values()) > spent[account.name]


async def _read(connection: Connection, wanted: Sequence[tuple[Account, int]]) -> None:
    """Read so many of the first lots of accounts."""
    if not wanted:
        return
    rows = [(account.wallet.shard, account.id, account.lots_seq, size) for account, size in wanted]
    for n, lot_count, live_lots, last_priority, *columns in await connection.fetch(_LIVE, *arrays(_WithLots, rows)):
        account, _ = wanted[n - 1]
        # They come as they are spent: each of `live_lots` is looked up in turn.
        live = [] if columns[0] is None else [_lot(*row) for row in zip(*columns, strict=True)]
        account.lot_count, account.live_lots = lot_count, live_lots
        account.lots = {lot.n: lot for lot in live}
        account.knows_all_lots = len(live) == len(live_lots)
        account.others_end_later = bool(live) and live[-1].terms.priority == last_priority
        if account.knows_all_lots:
            account.look_ahead()


async def read_uses(connection: Connection, originals: Sequence[tuple[Account, int]]) -> list[tuple[LotUse, ...]]:
    """Return what each entry of an account took from lots, or put into them, in order, as it was taken.

    Gives each account the lots concerned, too, whether or not they have something left. One statement.
    """
    wanted = [_WantedEntry(account.wallet.shard, account.id, seq) for account, seq in originals]
    found: list[dict[int, LotUse]] = [{} for _ in originals]
    for n, place, change, *columns in await connection.fetch(_USES, *arrays(_WantedEntry, wanted)):
        lot = _lot(*columns)
        originals[n - 1][0].lots.setdefault(lot.n, lot)
        found[n - 1][place] = LotUse(lot.n, abs(change))
    return [tuple(uses[place] for place in sorted(uses)) for uses in found]


async def read_taken_back(
    connection: Connection, originals: Sequence[tuple[Account, TransactionName]]
) -> list[dict[int, int]]:
    """Return what was taken back of each transaction before, by lot, and by 0 what of the pool. One statement."""
    wanted = [_WantedOriginal(*name, account.id) for account, name in originals]
    rows = await connection.fetch(_TAKEN_BACK, *arrays(_WantedOriginal, wanted))
    found: list[dict[int, int]] = [{} for _ in originals]
    entries = {(n, seq): amount for n, seq, amount, _, _ in rows}
    for (n, _), amount in entries.items():
        found[n - 1][0] = found[n - 1].get(0, 0) - amount
    for n, _, _, lot, change in rows:
        if lot is not None:
            found[n - 1][lot] = found[n - 1].get(lot, 0) - change
            found[n - 1][0] += change
    return found


def _lot(n: int, source: int, priority: int, campaign: str | None, expires_at: datetime | None, *step: Any) -> Lot:
    return Lot(n, LotTerms(CreditSource(source), priority, campaign, expires_at), *step)
