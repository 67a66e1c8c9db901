"""Sets and removes limits. Each is decided once for its key."""

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias
from uuid import UUID

from wallet_gql.domain.access import AskedBy
from wallet_gql.domain.errors import BadUserInput, Unavailable
from wallet_gql.domain.limits import (
    COUNT_MAX,
    ROLLING_SECONDS_MAX,
    CalendarUnit,
    Enforcement,
    LimitFlow,
    LimitRequest,
    LimitsSet,
    NewLimit,
    Rule,
    RuleName,
    TooManyLimits,
    Window,
    zone_names,
)
from wallet_gql.domain.money import format_minor
from wallet_gql.domain.postings import AmountInvalid, AssetMissing, KeyReused, WalletMissing
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_owner_id
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.limit_rules import change_limits
from wallet_gql.ledger.limits import Chain
from wallet_gql.operations.amounts import find_amount
from wallet_gql.operations.assets import find_asset, list_assets
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import retrying, unit_of_work

LimitOutcome: TypeAlias = LimitsSet | TooManyLimits | KeyReused | WalletMissing | AssetMissing | AmountInvalid

MARGIN_SECONDS: Final = 0.25
"""How long before its deadline a request is given up, so that the rest of it is still answered."""


@dataclass(frozen=True, slots=True)
class LimitInput:
    """What a caller asks for; without an owner it is of all wallets. `deadline` is a time of the event loop's clock."""

    asset_code: str
    owner_id: str | None
    flow: LimitFlow
    window: Window | None
    max_amount: Decimal | None
    max_count: int | None
    enforcement: Enforcement
    idempotency_key: UUID
    deadline: float | None = None
    asked_by: AskedBy | None = None


def rolling(seconds: int) -> Window:
    """Return a window of so many seconds up to now. Raises `BadUserInput`."""
    if not 1 <= seconds <= ROLLING_SECONDS_MAX:
        raise BadUserInput(
            "window.rollingSeconds", f"is {seconds}", f"send 1 to {ROLLING_SECONDS_MAX}, which is 366 days"
        )
    return Window(rolling_seconds=seconds)


def calendar(unit: CalendarUnit, time_zone: str) -> Window:
    """Return a window of the calendar in a time zone. Raises `BadUserInput`."""
    if time_zone not in zone_names():
        raise BadUserInput(
            "window.calendar.timeZone", "is not a time zone that is known", 'send an IANA name, such as "Europe/Berlin"'
        )
    return Window(unit=unit, time_zone=time_zone)


async def set_limit(ledger: Ledger, asked: LimitInput) -> LimitOutcome:
    """Limit what wallets may hold or move, from the next posting on. Raises `BadUserInput`."""
    owner = _owner(ledger, asked.owner_id)
    _check(asked)
    max_minor, asset = None, await find_asset(ledger, asked.asset_code)
    if asset is None:
        return AssetMissing(asked.asset_code)
    if asked.max_amount is not None:
        found = await find_amount(ledger, asked.asset_code, asked.max_amount)
        if not isinstance(found, tuple):
            return found
        _, max_minor = found
    limit = NewLimit(asked.flow, asked.window, max_minor, asked.max_count, asked.enforcement)
    return await _change(
        ledger, LimitRequest(asset, owner, limit, asked.idempotency_key, asked.asked_by), asked.deadline
    )


def _check(asked: LimitInput) -> None:
    if asked.max_amount is None and asked.max_count is None:
        raise BadUserInput("maxAmount", "is missing, and so is maxCount", "send one of them, or both")
    if asked.max_count is not None and not 1 <= asked.max_count <= COUNT_MAX:
        raise BadUserInput("maxCount", f"is {asked.max_count}", f"send 1 to {COUNT_MAX}")
    if asked.flow is not LimitFlow.BALANCE and asked.window is None:
        raise BadUserInput("window", "is missing", "send rollingSeconds or calendar")
    if asked.flow is LimitFlow.BALANCE and asked.window is not None:
        raise BadUserInput("window", "is given, but a balance has none", "leave it out")
    if asked.flow is LimitFlow.BALANCE and asked.max_count is not None:
        raise BadUserInput("maxCount", "is given, but a balance is not counted", "leave it out")


def _owner(ledger: Ledger, owner_id: str | None) -> OwnerName | None:
    if owner_id is None:
        return None
    return OwnerName(shard_of(check_owner_id(owner_id), ledger.shard_count), owner_id)


async def remove_limit(
    ledger: Ledger,
    name: RuleName,
    owner_id: str | None,
    idempotency_key: UUID,
    *,
    deadline: float | None = None,
    asked_by: AskedBy | None = None,
) -> LimitOutcome:
    """Remove a limit, in the very version that is named, which the caller has read: one that came since stays."""
    asset = next(asset for asset in await list_assets(ledger) if asset.id == name.asset_id)
    return await _change(
        ledger, LimitRequest(asset, _owner(ledger, owner_id), name, idempotency_key, asked_by), deadline
    )


async def _change(ledger: Ledger, request: LimitRequest, deadline: float | None) -> LimitOutcome:
    """Change limits in a unit of work. Raises `Unavailable`, or `OutcomeUnknown`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ledger.settings.request_deadline_seconds if deadline is None else deadline

    async def work() -> LimitsSet | TooManyLimits | KeyReused | WalletMissing:
        async with unit_of_work(ledger.engine, deadline=deadline) as connection:
            return await change_limits(connection, request)

    try:
        async with asyncio.timeout_at(deadline - MARGIN_SECONDS):
            await ledger.limit_changes.acquire()
    except TimeoutError:
        raise Unavailable("Other changes of limits took until the deadline.") from None
    try:
        return await retrying(work, deadline_seconds=deadline - loop.time() - MARGIN_SECONDS)
    finally:
        ledger.limit_changes.release()


async def list_limits(ledger: Ledger, asset_code: str, owner_id: str | None) -> list[Rule]:
    """Return the limits that are set: for all wallets, or for one owner's alone. Raises `BadUserInput`."""
    owner, asset = _owner(ledger, owner_id), await find_asset(ledger, asset_code)
    if asset is None:
        raise BadUserInput("asset", f"{asset_code!r} names no asset", "name one that there is")
    chain = Chain(asset.id, 0, 0)
    if owner is not None:
        wallet = await ledger.reads.wallets.load(owner)
        if wallet is None:
            raise BadUserInput("owner", f"{owner_id!r} has no wallet", "name one that has")
        chain = Chain(asset.id, wallet.shard, wallet.id)
    return list(await ledger.reads.limits_in_force.load(chain))


def describe(ledger: Ledger, rule: Rule) -> dict[str, object]:
    """Say what a limit is, field by field."""
    asset = next(asset for asset in ledger.assets.values() if asset.id == rule.name.asset_id)
    window = rule.window or Window()
    return {
        "version": rule.name.step,
        "asset": asset.code,
        "flow": rule.flow.name,
        "rollingSeconds": window.rolling_seconds,
        "unit": None if window.unit is None else window.unit.name,
        "timeZone": window.time_zone,
        "maxAmount": None if rule.max_minor is None else format_minor(rule.max_minor, asset.scale),
        "maxCount": rule.max_count,
        "enforcement": rule.enforcement.name,
        "setAt": rule.set_at,
        "setBy": rule.set_by.name,
    }
