"""Appends steps of lots to the rows that a batch inserts, and moves them with their accounts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final
from uuid import UUID

from wallet_gql.domain.lots import Lot, LotTerms
from wallet_gql.ledger.batch import Batch, Movement
from wallet_gql.ledger.choose_lots import LotChange, as_given, find_equal, take
from wallet_gql.ledger.heads import Account
from wallet_gql.ledger.rows import LotRow, LotStepRow

_NOTHING_HELD: Final[Mapping[int, int]] = MappingProxyType({})


def lots_of(
    batch: Batch, movement: Movement, account: Account, amount_minor: int, lots: tuple[LotChange, ...] | None
) -> tuple[LotChange, ...]:
    """Return which lots a leg changes of an owner's account, and remember it for the other half of a transfer.

    Without `lots` none are chosen yet: `Leg` says which ones it is then.
    """
    if lots is None and amount_minor < 0:
        lots = take(account, -amount_minor)
    elif lots is None:
        lots = () if movement.counterpart is None else batch.given.get(movement.counterpart.id, ())
    if lots and amount_minor < 0 and movement.counterpart is not None:
        batch.given[movement.id] = as_given(lots)
    return lots


def change_lots(
    batch: Batch,
    account: Account,
    event_id: UUID,
    executed_at: datetime,
    changes: Sequence[LotChange],
    held: Mapping[int, int] = _NOTHING_HELD,
) -> None:
    """Append the steps of lots that belong to an account's last entry: what it moves, and what holds have of them."""
    moved: dict[int, int] = {}
    new: set[int] = set()
    joined: dict[LotTerms, int] = {}
    for n, terms, amount_minor in changes:
        number = n or joined.get(terms)
        if number is None:
            number = (find_equal(account, terms) or _grant(batch, account, event_id, executed_at, terms)).n
        if n is None:
            new.add(number)
            joined |= {terms: number} if terms.expires_at is None else {}
        moved[number] = moved.get(number, 0) + amount_minor
    for place, n in enumerate({**moved, **held}, start=1):
        _append_step(batch, account, account.lots[n], place, moved.get(n, 0), held.get(n, 0), is_granted=n in new)


def _grant(batch: Batch, account: Account, event_id: UUID, executed_at: datetime, terms: LotTerms) -> Lot:
    account.lot_count += 1
    lot = account.lots[account.lot_count] = Lot(account.lot_count, terms, 0, 0, 0, 0)
    batch.others[LotRow].append(
        LotRow(
            account.wallet.shard,
            account.id,
            lot.n,
            account.seq,
            *terms,
            executed_at,
            None if terms.expires_at is None else event_id,
        )
    )
    return lot


def _append_step(
    batch: Batch, account: Account, before: Lot, place: int, moved_minor: int, held_minor: int, *, is_granted: bool
) -> None:
    lot = before._replace(
        step=before.step + 1,
        granted_minor=before.granted_minor + (moved_minor if is_granted else 0),
        remaining_minor=before.remaining_minor + moved_minor,
        held_minor=before.held_minor + held_minor,
    )
    account.change_lot(lot)
    row = LotStepRow(account.wallet.shard, account.id, lot.n, lot.step, account.seq, place, moved_minor, *lot[3:])
    batch.others[LotStepRow].append(row)
