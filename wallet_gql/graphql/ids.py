"""Global ids and cursors: opaque to callers, permanent, and each finds its shard.

Both are URL-safe base64 of `Kind:part:part…` in canonical form, so one thing has one id.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.limits import RuleName
from wallet_gql.domain.lots import LotName
from wallet_gql.domain.money import INT64_MAX
from wallet_gql.domain.postings import TransactionView, from_unix_us, unix_us
from wallet_gql.domain.wallets import Balance

_PARTS: Final = {
    "Wallet": {2}, "Balance": {3}, "Transaction": {3}, "Cursor": {4, 5}, "Hold": {2}, "Place": {2}, "Lot": {3},
    "LotCursor": {4, 5}, "Limit": {4},
}  # fmt: skip
_INTEGERS: Final = {"Lot": 2, "LotCursor": 3, "Limit": 3}
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,38}", re.ASCII)
_SMALLINT_MAX: Final = 2**15 - 1
_INTEGER_MAX: Final = 2**31 - 1
_TIME_US_MAX: Final = unix_us(datetime(9999, 1, 1, tzinfo=UTC))


class GlobalId(NamedTuple):
    """A decoded id: the type's name, and its parts, the shard first; an asset's only part is its code."""

    kind: str
    parts: tuple[int, ...]
    code: str = ""


def _encode(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def asset_id(code: str) -> str:
    """Return an asset's global id."""
    return _encode(f"Asset:{code}")


def wallet_id(shard: int, id_: int) -> str:
    """Return a wallet's global id."""
    return _encode(f"Wallet:{shard}:{id_}")


def balance_id(balance: Balance) -> str:
    """Return the global id of a wallet's balance in an asset."""
    return _encode(f"Balance:{balance.wallet.shard}:{balance.wallet.id}:{balance.asset.id}")


def transaction_id(view: TransactionView) -> str:
    """Return the global id of a transaction as one account sees it."""
    return _encode(f"Transaction:{view.shard}:{view.account_id}:{view.seq}")


def hold_id(name: HoldName) -> str:
    """Return the global id of a hold."""
    return _encode(f"Hold:{name.shard}:{name.id.int}")


def lot_id(name: LotName) -> str:
    """Return the global id of a lot."""
    return _encode(f"Lot:{name.shard}:{name.account_id}:{name.n}")


def limit_id(name: RuleName) -> str:
    """Return the global id of a version of a limit."""
    return _encode(f"Limit:{name.shard}:{name.wallet_id}:{name.asset_id}:{name.step}")


def limit_name(parts: tuple[int, ...]) -> RuleName:
    """Return what such an id names."""
    shard, wallet, asset, step = parts
    return RuleName(asset, shard, wallet, step)


def decode_limit_id(text: str, field: str) -> RuleName | None:
    """Return what an id names; None where it names no limit that there could be."""
    try:
        kind, parts, _ = decode(text, field)
    except BadUserInput:
        return None
    return limit_name(parts) if kind == "Limit" else None


def lot_cursor(shard: int, wallet: int, asset: int, n: int, expires_at: datetime | None) -> str:
    """Return the cursor of a lot's place among those of its account, which begin with what ends soonest."""
    end = "" if expires_at is None else f":{unix_us(expires_at)}"
    return _encode(f"LotCursor:{shard}:{wallet}:{asset}:{n}{end}")


def decode_lot_cursor(text: str, account: tuple[int, int, int], field: str) -> tuple[datetime | None, int]:
    """Read such a cursor of an account, which a shard, a wallet and an asset name; raises `BadUserInput`."""
    kind, parts, _ = decode(text, field)
    if kind != "LotCursor":
        raise BadUserInput(field, "is not a cursor of this list", "send an edge's cursor as it was received")
    if parts[:3] != account:
        raise BadUserInput(field, "is a cursor of another account", "send a cursor of this wallet and asset")
    return (from_unix_us(parts[4]) if parts[4:] else None), parts[3]


def cursor(shard: int, wallet: int, asset: int, seq: int, state_step: int = 0) -> str:
    """Return the cursor of a position in an account's history; 0 stands before its first entry.

    A balance's has the position among its wallet's states too, where there are any: so it is what is known of both.
    """
    step = f":{state_step}" if state_step else ""
    return _encode(f"Cursor:{shard}:{wallet}:{asset}:{seq}{step}")


def place(at: datetime, id_: UUID) -> str:
    """Return the cursor of a place in a list that is sorted by time and id."""
    return _encode(f"Place:{unix_us(at)}:{id_.int}")


def decode_place(text: str, field: str) -> tuple[datetime, UUID]:
    """Read such a cursor; raises `BadUserInput`."""
    kind, parts, _ = decode(text, field)
    if kind != "Place":
        raise BadUserInput(field, "is not a cursor of this list", "send an edge's cursor as it was received")
    return from_unix_us(parts[0]), UUID(int=parts[1])


def balance_cursor(balance: Balance) -> str:
    """Return the cursor of an account's present position."""
    wallet = balance.wallet
    return cursor(wallet.shard, wallet.id, balance.asset.id, balance.seq, balance.state_step)


def decode(text: str, field: str = "id") -> GlobalId:
    """Read an id or a cursor; raises `BadUserInput` for anything that this service never made."""
    fault = BadUserInput(field, "is not one of this service's", "send it exactly as it was received")
    if not 1 <= len(text) <= 200:
        raise fault
    try:
        decoded = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except ValueError:
        raise fault from None
    kind, *parts = decoded.split(":")
    if _encode(decoded) != text:
        raise fault
    if kind == "Asset" and len(parts) == 1:
        return GlobalId(kind, (), parts[0])
    if len(parts) not in _PARTS.get(kind, ()) or not all(_NUMBER.fullmatch(part) for part in parts):
        raise fault
    numbers = tuple(map(int, parts))
    # Smallints in the database: the shard, and the asset of a balance or a cursor. Ints: the number of a lot, and of a
    # version.
    has_asset = kind in {"Balance", "Cursor", "LotCursor", "Limit"}
    smallints = numbers[0] if kind != "Place" else 0, *(numbers[2:3] if has_asset else ())
    integer = numbers[_INTEGERS[kind]] if kind in _INTEGERS else 0
    # A hold's number is a UUID's; a place's time is one that there can be.
    number_max = 2**128 - 1 if kind in {"Hold", "Place"} else INT64_MAX
    times = numbers[:1] if kind == "Place" else numbers[4:] if kind == "LotCursor" else ()
    if max(times, default=0) > _TIME_US_MAX or integer > _INTEGER_MAX:
        raise fault
    # A step of a cursor is left out where it is 0.
    if max(numbers) > number_max or max(smallints) > _SMALLINT_MAX or numbers[4:] == (0,):
        raise fault
    return GlobalId(kind, numbers)
