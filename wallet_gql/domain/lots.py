"""Lots: credits of an account that expire, or are spent before others. What is in no lot is the pool.

A lot lapses at its end: what no open hold has of it is nobody's from that instant on, whether or not it is booked.
"""

from datetime import datetime, timedelta
from enum import Enum, IntEnum
from typing import Final, NamedTuple

PRIORITY_DEFAULT: Final = 50
PRIORITY_MAX: Final = 100

LIVE_LOTS_MAX: Final = 200
"""Lots of an account that have something left."""

EXPIRES_WITHIN: Final = timedelta(days=3653)
"""Ten years."""


class CreditSource(IntEnum):
    """Where credits come from. The numbers are stored, the names are in fingerprints."""

    PURCHASED = 1
    """The pool: what was topped up, and what was there before its asset had lots."""
    BONUS = 2


class InvalidExpiryReason(Enum):
    """What is wrong with an end. The values are stored."""

    IN_THE_PAST = "IN_THE_PAST"
    TOO_FAR = "TOO_FAR"
    LOTS_OFF = "LOTS_OFF"


class LotTerms(NamedTuple):
    """What distinguishes a lot from others, and travels with its credits."""

    source: CreditSource
    priority: int
    campaign: str | None
    expires_at: datetime | None

    def has_lapsed(self, now: datetime) -> bool:
        """Say whether its end has come."""
        return self.expires_at is not None and self.expires_at <= now


class Lot(NamedTuple):
    """A lot after its last step; `held_minor`, what open holds have of it, is part of what remains."""

    n: int
    terms: LotTerms
    step: int
    granted_minor: int
    remaining_minor: int
    held_minor: int

    @property
    def free_minor(self) -> int:
        """What can be spent of it, or lapses at its end."""
        return self.remaining_minor - self.held_minor

    @property
    def spend_order(self) -> tuple[int, bool, float, int]:
        """Which lots are spent first: by priority, then what ends first, then what is older."""
        return (self.terms.priority, *self.end_order)

    @property
    def end_order(self) -> tuple[bool, float, int]:
        """Which lots end first; those that never do come last."""
        ends = self.terms.expires_at
        return (ends is None, 0.0 if ends is None else ends.timestamp(), self.n)


class LotName(NamedTuple):
    """What names a lot."""

    shard: int
    account_id: int
    n: int


class LotUse(NamedTuple):
    """What a transaction took from a lot, or put into it: unsigned."""

    n: int
    amount_minor: int
