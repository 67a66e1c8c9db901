"""Holds: credits that are promised until they are captured, voided, or their time is over.

`amount = captured + released + remaining`, always. What remains is part of the balance and cannot be spent.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from typing import Final, NamedTuple
from uuid import UUID

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.wallets import OwnerName, Wallet

TTL_SECONDS_DEFAULT: Final = 7 * 86_400
TTL_SECONDS_MAX: Final = 31 * 86_400
"""A hold ends so long after it was placed at the latest, however often it is adjusted."""

OPEN_HOLDS_MAX: Final = 100
"""Open holds of an account."""

CAPTURES_MAX: Final = 50
"""Captures of a hold."""


class HoldStepKind(IntEnum):
    """What happened to a hold. The numbers are stored, with the step and with its entry."""

    PLACED = 51
    CAPTURED = 52
    ADJUSTED = 53
    VOIDED = 54
    EXPIRED = 55


class HoldState(Enum):
    """Where a hold stands. The values are kept with refusals."""

    OPEN = "OPEN"
    CAPTURED = "CAPTURED"
    VOIDED = "VOIDED"
    EXPIRED = "EXPIRED"


class Earmark(NamedTuple):
    """What a hold has of a lot."""

    lot: int
    amount_minor: int


class HoldName(NamedTuple):
    """What names a hold."""

    shard: int
    id: UUID


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold after its last step; `receiver` is whom a capture pays, the treasury where there is none."""

    shard: int
    id: UUID
    account_id: int
    seq: int
    wallet: Wallet
    asset: Asset
    receiver: OwnerName | None
    idempotency_key: UUID
    description: str | None
    reference: str | None
    placed_at: datetime
    step: int
    kind: HoldStepKind
    amount_minor: int
    captured_minor: int
    released_minor: int
    capture_count: int
    held_until: datetime
    changed_at: datetime
    as_of: datetime = field(compare=False)
    """The time at which it was read or decided on."""
    sources: CreditSource | None = None
    """The only source that it takes from; None where it takes from all."""
    earmarks: tuple[Earmark, ...] = ()
    """What it has of which lots, those that end first first; the rest is of the pool."""

    @property
    def name(self) -> HoldName:
        """What names it."""
        return HoldName(self.shard, self.id)

    @property
    def remaining_minor(self) -> int:
        """What is still promised, as far as it is booked."""
        return self.amount_minor - self.captured_minor - self.released_minor

    @property
    def latest_end(self) -> datetime:
        """When it ends at the latest."""
        return self.placed_at + timedelta(seconds=TTL_SECONDS_MAX)

    @property
    def is_due(self) -> bool:
        """Whether its time is over and not booked yet."""
        return self.remaining_minor > 0 and self.held_until <= self.as_of

    @property
    def state(self) -> HoldState:
        """Where it stands: over is over, whether or not it is booked."""
        if self.is_due:
            return HoldState.EXPIRED
        if self.remaining_minor > 0:
            return HoldState.OPEN
        match self.kind:
            case HoldStepKind.VOIDED:
                return HoldState.VOIDED
            case HoldStepKind.EXPIRED:
                return HoldState.EXPIRED
            case _:
                return HoldState.CAPTURED
