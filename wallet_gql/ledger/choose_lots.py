"""Which lots credits are taken from, put into, kept for holds and given back to: pure.

What is in no lot is the pool, which has the number 0 where it is counted beside lots.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from wallet_gql.domain.holds import Earmark
from wallet_gql.domain.lots import CreditSource, Lot, LotTerms, LotUse
from wallet_gql.ledger.heads import Account


class LotChange(NamedTuple):
    """What a leg puts into a lot or takes from it: one of its account, or without a number one of such terms."""

    n: int | None
    terms: LotTerms
    amount_minor: int


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
