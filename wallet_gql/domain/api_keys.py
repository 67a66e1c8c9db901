"""API keys: what machines send to say who they are.

A key is `wk_<mode>_<id>_<secret><checksum>`: a prefix that scanners for secrets know, 8 characters that name it, a
secret of 256 random bits, and a CRC-32 that tells a typing error from a key that is not known. Of the whole, SHA-256 is
kept: so many random bits need no slow hash.
"""

import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Final, Literal, TypeAlias
from zlib import crc32

from wallet_gql.domain.access import Budget, Scope

Mode: TypeAlias = Literal["live", "test"]

PREFIX: Final = "wk_"

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 8
_SECRET_LENGTH: Final = 43  # 62 ** 43 is more than 2 ** 256
_CHECKSUM_LENGTH: Final = 6

LENGTH: Final = len("wk_live_") + _ID_LENGTH + 1 + _SECRET_LENGTH + _CHECKSUM_LENGTH

_KEY: Final = re.compile(
    rf"(wk_(live|test)_([0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}})([0-9A-Za-z]{{6}})"
)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A well-formed key: its name and mode, and the hash that is compared with what is kept."""

    id: str
    mode: Mode
    hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rights:
    """What a key gives its holder."""

    scopes: frozenset[Scope]
    owner_prefix: str = ""
    """What the ids of the owners begin with that it reaches."""
    budget: Budget | None = None
    """None for the usual one."""
    max_amount: Decimal | None = None
    """The most that its holder moves at once, in units of the asset; None for any amount."""
    assets: frozenset[str] | None = None
    """The codes of the assets that its holder moves; None for any."""
    daily_issuance: Decimal | None = None
    """The most of an asset that keys of this name issue in a day, in units of the asset; None for any amount."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: everything but its secret."""

    id: str
    name: str
    mode: Mode
    hash: bytes = field(repr=False)
    rights: Rights
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    read_at: datetime
    """By the database's clock, which says what has expired."""

    @property
    def state(self) -> Literal["active", "revoked", "expired"]:
        """What it was when it was read."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or self.read_at < self.expires_at else "expired"


def make_key(mode: Mode) -> str:
    """Make a new key; it is shown once, and only its hash is kept."""
    body = f"wk_{mode}_{_random(_ID_LENGTH)}_{_random(_SECRET_LENGTH)}"
    return body + _checksum(body)


def read_key(text: str) -> PresentedKey | None:
    """Read a key; None for what is none, or has a typing error."""
    match = _KEY.fullmatch(text) if len(text) == LENGTH else None
    if match is None or _checksum(match[1]) != match[4]:
        return None
    mode: Mode = "live" if match[2] == "live" else "test"
    return PresentedKey(match[3], mode, sha256(text.encode()).digest())


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def _checksum(body: str) -> str:
    number, digits = crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
