"""Lots as they are in the books, and what is taken from them.

Which lots of an account have something left, in the order in which they are spent, is with an entry of its chain: so
they are found by look-ups, whatever was ever granted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from asyncpg import Connection

from wallet_gql.domain.holds import Earmark
from wallet_gql.domain.lots import CreditSource, Lot, LotTerms, LotUse
from wallet_gql.domain.postings import TransactionName
from wallet_gql.ledger.columns import Bigint, Integer, Smallint, Uuid, arrays, unnest
from wallet_gql.ledger.heads import Account, AccountName
from wallet_gql.ledger.lookups import one_row


class LotChange(NamedTuple):
    """What a leg puts into a lot or takes from it: one of its account, or without a number one of such terms."""

    n: int | None
    terms: LotTerms
    amount_minor: int


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
        live = [] if columns[0] is None else [_lot(*row) for row in zip(*columns, strict=True)]
        account.lot_count, account.live_lots = lot_count, live_lots
        account.lots = {lot.n: lot for lot in sorted(live, key=_in_spend_order)}
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


def _in_spend_order(lot: Lot) -> tuple[object, ...]:
    return lot.spend_order


def available_of(account: Account, source: CreditSource | None) -> int:
    """Return what of an account can be spent that comes from a source, or from any."""
    if source is None or account.lots_seq is None:
        return 0 if source is CreditSource.BONUS else account.available_minor
    pool_minor = account.pool_minor
    return pool_minor if source is CreditSource.PURCHASED else account.available_minor - pool_minor


def take(account: Account, amount_minor: int, source: CreditSource | None = None) -> tuple[LotChange, ...]:
    """Choose what to take from lots, as they are spent; the rest is of the pool."""
    if account.lots_seq is None or source is CreditSource.PURCHASED:
        return ()
    taken, left_minor = [], amount_minor
    for lot in account.lots.values():
        if not left_minor:
            break
        if part_minor := min(lot.free_minor, left_minor):
            taken.append(LotChange(lot.n, lot.terms, -part_minor))
            left_minor -= part_minor
    return tuple(taken)


def take_own(
    account: Account, uses: Iterable[LotUse], credited_minor: int, before: Mapping[int, int], asked_minor: int
) -> list[LotUse]:
    """Choose what to take back of what a transaction credited: what is left of it in its lots, and in the pool (0).

    `before` is what was taken back of each before: others' credits may have joined its lots since.
    """
    own, left_minor, pool_minor = [], asked_minor, credited_minor
    for n, put_minor in uses:
        pool_minor -= put_minor
        share_minor = max(0, put_minor - before.get(n, 0))
        part_minor = min(account.lots[n].free_minor, share_minor, left_minor)
        own.append(LotUse(n, part_minor))
        left_minor -= part_minor
    share_minor = max(0, pool_minor - before.get(0, 0))
    return [*own, LotUse(0, min(share_minor, account.pool_minor, left_minor))]


def parts_of(amount_minor: int, lots: Iterable[LotChange]) -> Iterator[tuple[int, int]]:
    """Yield what a leg takes from which lots, and from the pool (0)."""
    for n, _, part_minor in lots:
        assert n is not None
        amount_minor += part_minor
        yield n, -part_minor
    yield 0, amount_minor


def take_back(account: Account, own: Sequence[LotUse], amount_minor: int) -> tuple[LotChange, ...]:
    """Choose what to take from lots: first what is the transaction's own, then as they are spent."""
    taken = {n: part_minor for n, part_minor in own if n}
    left_minor = amount_minor - sum(part_minor for _, part_minor in own)
    for n, lot in account.lots.items():
        part_minor = min(lot.free_minor - taken.get(n, 0), left_minor)
        taken[n] = taken.get(n, 0) + part_minor
        left_minor -= part_minor
    return tuple(LotChange(n, account.lots[n].terms, -part_minor) for n, part_minor in taken.items() if part_minor)


def as_given(taken: Iterable[LotChange]) -> tuple[LotChange, ...]:
    """Return what was taken from lots as it is put into those of another owner: on the same terms."""
    return tuple(LotChange(None, each.terms, -each.amount_minor) for each in taken)


def earmark(account: Account, before: Sequence[Earmark], taken: Iterable[LotChange]) -> tuple[Earmark, ...]:
    """Return what a hold has of which lots with what it takes: those that end first first."""
    amounts = dict(before)
    for n, _, amount_minor in taken:
        assert n is not None
        amounts[n] = amounts.get(n, 0) - amount_minor
    return tuple(Earmark(n, amounts[n]) for n in sorted(amounts, key=lambda n: account.lots[n].end_order))


def use_earmarks(earmarks: Sequence[Earmark], amount_minor: int) -> tuple[tuple[Earmark, ...], tuple[Earmark, ...]]:
    """Return what a capture uses up of what a hold has of lots, those that end first, and what is left."""
    used, left = [], []
    for lot, earmarked_minor in earmarks:
        part_minor = min(earmarked_minor, amount_minor)
        amount_minor -= part_minor
        if part_minor:
            used.append(Earmark(lot, part_minor))
        if earmarked_minor > part_minor:
            left.append(Earmark(lot, earmarked_minor - part_minor))
    return tuple(used), tuple(left)


def give_back(uses: Sequence[LotUse], total_minor: int, before_minor: int, amount_minor: int) -> tuple[LotUse, ...]:
    """Return what of a part that is given back goes to which lots: what was taken last first, the rest to the pool.

    `before_minor` of the total was given back before.
    """
    pool_minor = total_minor - sum(use.amount_minor for use in uses)
    skipped_minor, given = before_minor, []
    for n, taken_minor in (LotUse(0, pool_minor), *reversed(uses)):
        passed_minor = min(taken_minor, skipped_minor)
        skipped_minor -= passed_minor
        part_minor = min(taken_minor - passed_minor, amount_minor)
        amount_minor -= part_minor
        if n and part_minor:
            given.append(LotUse(n, part_minor))
    return tuple(given)


def count_live(account: Account, changes: Sequence[LotChange]) -> int:
    """Return how many lots of an account have something left when changes have put something into some."""
    live = {lot.n for lot in account.lots.values() if lot.remaining_minor}
    refilled = {change.n for change in changes if change.n is not None} - live
    new = [change.terms for change in changes if change.n is None and find_equal(account, change.terms) is None]
    joining = [terms for terms in new if terms.expires_at is None]
    return len(live) + len(refilled) + len(new) - len(joining) + len(set(joining))


def find_equal(account: Account, terms: LotTerms) -> Lot | None:
    """Return the lot that others of these terms join; what ends joins none, for a lot has one origin."""
    if terms.expires_at is not None:
        return None
    return next((lot for lot in account.lots.values() if lot.remaining_minor and lot.terms == terms), None)
