"""Wallets, what names them, and what they hold."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from wallet_gql.domain.assets import Asset


class WalletKind(IntEnum):
    """Whose wallet it is: an owner's, or one of the system's. The numbers are stored."""

    USER = 1
    TREASURY = 2
    CLEARING = 3


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


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's present position: its last entry, or zero at sequence 0 where there is none.

    `held_minor`, what open holds hold, is part of the amount.
    """

    wallet: Wallet
    asset: Asset
    amount_minor: int
    seq: int
    held_minor: int = 0

    @property
    def available_minor(self) -> int:
        """What can be spent."""
        return self.amount_minor - self.held_minor
