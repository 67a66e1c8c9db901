"""An amount that a caller sends, in an asset that it names by its code."""

from decimal import Decimal

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.money import AmountFault, to_minor
from wallet_gql.domain.postings import AmountInvalid, AssetMissing
from wallet_gql.operations.assets import find_asset
from wallet_gql.operations.opening import Ledger


async def find_amount(ledger: Ledger, code: str, amount: Decimal) -> tuple[Asset, int] | AssetMissing | AmountInvalid:
    """Return the asset, and the amount in its smallest units; or why there is none, the asset first."""
    asset = await find_asset(ledger, code)
    if asset is None:
        return AssetMissing(code)
    amount_minor = to_minor(amount, asset.scale)
    return AmountInvalid(amount_minor, asset) if isinstance(amount_minor, AmountFault) else (asset, amount_minor)
