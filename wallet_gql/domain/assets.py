"""Assets: kinds of credit."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class TransferPolicy(IntEnum):
    """Whether owners may transfer an asset to each other. The numbers are stored."""

    ALL = 1
    PURCHASED = 2
    """No bonuses."""
    NONE = 3


@dataclass(frozen=True, slots=True)
class Asset:
    """A kind of credit; `scale` is its number of fraction digits and never changes."""

    id: int
    code: str
    name: str
    scale: int


@dataclass(frozen=True, slots=True)
class AssetSetting:
    """What operators set of an asset; it can change at any time."""

    transfers: TransferPolicy
    has_lots: bool = False
    """Whether each bonus is a lot: once it is so, for ever."""


DEFAULT_SETTING: Final = AssetSetting(TransferPolicy.ALL)
"""What holds for an asset of which nothing was set."""
