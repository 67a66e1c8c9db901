"""Wallets, what names them, and what they hold."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple

from wallet_gql.domain.assets import Asset


class WalletKind(IntEnum):
    """Whose wallet it is: an owner's, or one of the system's. The numbers are stored."""

    USER = 1
    TREASURY = 2
    CLEARING = 3
    DEBT = 4
    """What an owner owes: never above zero."""


class WalletName(NamedTuple):
    """What names a wallet: a treasury's or clearing's owner id is the number of its stripe."""

    shard: int
    kind: WalletKind
    owner_id: str


class OwnerName(NamedTuple):
    """What names an owner's wallet."""

    shard: int
    owner_id: str

    @property
    def wallet_name(self) -> WalletName:
        """What names it among all wallets, the system's too."""
        return WalletName(self.shard, WalletKind.USER, self.owner_id)


@dataclass(frozen=True, slots=True)
class Wallet:
    """An owner's wallet."""

    shard: int
    id: int
    owner_id: str
    opened_at: datetime


class WalletStatus(IntEnum):
    """What a wallet lets through. The numbers are stored."""

    OPEN = 1
    FROZEN_OUT = 2
    """Nothing leaves it, except what was promised before."""
    FROZEN_ALL = 3
    """Nothing comes in either."""
    CLOSED = 4


NOTHING_LEAVES: Final = frozenset({WalletStatus.FROZEN_OUT, WalletStatus.FROZEN_ALL, WalletStatus.CLOSED})
NOTHING_MOVES: Final = frozenset({WalletStatus.FROZEN_ALL, WalletStatus.CLOSED})


@dataclass(frozen=True, slots=True)
class WalletState:
    """What has become of a wallet, by the last link of its chain; `until` is when a freeze ends by itself."""

    shard: int
    wallet_id: int
    step: int
    status: WalletStatus
    since: datetime
    until: datetime | None = None
    note: str | None = None
    debt_wallet_id: int | None = None

    def at(self, now: datetime) -> "WalletState":
        """Return it as it is now: a freeze may have ended, without anything that was written."""
        if self.until is None or now < self.until:
            return self
        # One that was over when it began has changed nothing before that.
        return replace(self, status=WalletStatus.OPEN, since=max(self.since, self.until), until=None, note=None)


class Balance(NamedTuple):
    """An account's present position: its last entry, or zero at sequence 0 where there is none.

    `held_minor`, what open holds hold, is part of the amount; `debt_minor`, what the owner owes, is not, nor is
    `lapsed_minor`, what has lapsed and is not booked yet. `state_step` is the wallet's last state, 0 where it has none.
    """

    wallet: Wallet
    asset: Asset
    amount_minor: int
    seq: int
    held_minor: int = 0
    debt_minor: int = 0
    state_step: int = 0
    lapsed_minor: int = 0

    @property
    def available_minor(self) -> int:
        """What can be spent."""
        return self.amount_minor - self.held_minor
