"""Demo data: three assets and two players, whose opening balances are bonus transactions like any other."""

from decimal import Decimal
from typing import Final
from uuid import UUID

from wallet_gql.domain.access import COMMAND_LINE
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.postings import PostingInput, bonus
from wallet_gql.operations.wallets import open_wallet

ASSETS: Final = (("GOLD", "Gold Coins", 0), ("DIAMOND", "Diamonds", 0), ("POINTS", "Loyalty Points", 2))

# The keys are fixed, so seeding again replays.
OWNERS: Final = (
    ("demo-alice", Decimal(799), UUID("5eed0000-0000-4000-8000-000000000001")),
    ("demo-bob", Decimal(300), UUID("5eed0000-0000-4000-8000-000000000002")),
)


async def seed(ledger: Ledger) -> None:
    """Load the demo data; doing it again changes nothing."""
    for code, name, scale in ASSETS:
        await add_asset(ledger, code, name, scale)
    for owner_id, amount, key in OWNERS:
        await open_wallet(ledger, owner_id)
        opening = PostingInput(owner_id, "GOLD", amount, key, description="Opening balance", asked_by=COMMAND_LINE)
        await bonus(ledger, opening)
