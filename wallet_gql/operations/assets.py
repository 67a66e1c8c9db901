"""Assets: finding them, listing them, adding one, setting what may change of one.

Code, name and scale never change: the scale is part of every amount.
"""

from wallet_gql.db.engine import connect
from wallet_gql.domain.assets import DEFAULT_SETTING, Asset, AssetSetting, TransferPolicy
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.text import is_asset_code
from wallet_gql.ledger import openings
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import retrying, unit_of_work


async def find_asset(ledger: Ledger, code: str) -> Asset | None:
    """Return the asset with this code, also one that was added a moment ago; None where there is none."""
    asset = ledger.assets.get(code)
    if asset is None and is_asset_code(code):
        await list_assets(ledger)
        asset = ledger.assets.get(code)
    return asset


async def list_assets(ledger: Ledger) -> list[Asset]:
    """Return all assets, in the order in which they were added."""
    assets = await ledger.reads.assets.load(None)
    ledger.assets.update((asset.code, asset) for asset in assets)
    return assets


async def add_asset(ledger: Ledger, code: str, name: str, scale: int) -> Asset:
    """Add an asset, or return it when it is there with the same name and scale.

    Raises `BadUserInput` for a malformed code, name or scale, and for a code that names another asset already.
    """
    if not is_asset_code(code):
        raise BadUserInput(
            "code", f"{code!r} is malformed", "use a capital letter, then capitals, digits and _, 32 at most"
        )
    if not 1 <= len(name) <= 100 or not name.isprintable() or name != name.strip():
        raise BadUserInput("name", f"{name!r} is malformed", "use 1 to 100 printable characters")
    if not 0 <= scale <= 9:
        raise BadUserInput("scale", f"{scale} is out of range", "use 0 to 9 fraction digits")
    async with connect(ledger.engine) as connection:
        await openings.add_asset(connection, code, name, scale)
    await list_assets(ledger)
    asset = ledger.assets[code]
    if (asset.name, asset.scale) != (name, scale):
        raise BadUserInput(
            "code",
            f"{code} is {asset.name!r} with scale {asset.scale} already",
            "choose another code; an asset never changes",
        )
    return asset


async def set_asset(
    ledger: Ledger, code: str, transfers: TransferPolicy | None = None, *, has_lots: bool = False
) -> AssetSetting:
    """Set whether owners may transfer an asset, from the next batch on; or give it lots, for ever.

    Returns what holds then. Raises `BadUserInput` for an unknown asset.
    """
    asset = await find_asset(ledger, code)
    if asset is None:
        raise BadUserInput("code", f"{code!r} names no asset", "add it with add-asset, or name one that there is")
    asset_id = asset.id

    async def work() -> None:
        async with unit_of_work(ledger.engine) as connection:
            await openings.set_asset(connection, asset_id, transfers, has_lots=has_lots)

    await retrying(work, deadline_seconds=ledger.settings.request_deadline_seconds)
    return (await ledger.reads.asset_settings.load(None)).get(asset_id, DEFAULT_SETTING)
