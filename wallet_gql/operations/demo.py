"""Demo data: three assets and two players, whose opening balances are bonus transactions like any other.

Points are credits that expire: the first player has 30 that end on a Friday, and 20 that end a week later.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from wallet_gql.domain.access import COMMAND_LINE
from wallet_gql.domain.lots import PRIORITY_DEFAULT, CreditSource, LotTerms
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.postings import PostingInput, bonus
from wallet_gql.operations.wallets import open_wallet

ASSETS: Final = (("GOLD", "Gold Coins", 0), ("DIAMOND", "Diamonds", 0), ("POINTS", "Loyalty Points", 2))

# The keys are fixed, so seeding again replays.
OWNERS: Final = (
    ("demo-alice", Decimal(799), UUID("5eed0000-0000-4000-8000-000000000001")),
    ("demo-bob", Decimal(300), UUID("5eed0000-0000-4000-8000-000000000002")),
)

# What ends on the coming Friday, and on those after it.
EXPIRING: Final = (
    (Decimal(30), "weekly-quest", UUID("5eed0000-0000-4000-8000-000000000003")),
    (Decimal(20), "spring", UUID("5eed0000-0000-4000-8000-000000000004")),
)

_DAY: Final = timedelta(days=1)
_WEEK: Final = timedelta(days=7)
_FRIDAY: Final = 4


async def seed(ledger: Ledger) -> None:
    """Load the demo data; doing it again changes nothing."""
    for code, name, scale in ASSETS:
        await add_asset(ledger, code, name, scale)
    for owner_id, amount, key in OWNERS:
        await open_wallet(ledger, owner_id)
        opening = PostingInput(owner_id, "GOLD", amount, key, description="Opening balance", asked_by=COMMAND_LINE)
        await bonus(ledger, opening)
    await _give_points(ledger, OWNERS[0][0])


async def _give_points(ledger: Ledger, owner_id: str) -> None:
    """Give points that expire, unless somebody set their asset and gave it no lots.

    In another week their ends are others: then the keys, which are used, refuse them.
    """
    points = ledger.assets["POINTS"]
    setting = (await ledger.reads.asset_settings.load(None)).get(points.id)
    if setting is None:
        setting = await set_asset(ledger, points.code, has_lots=True)
    if not setting.has_lots:
        return
    ends = coming_friday(await ledger.reads.clock.load(None))
    for amount, campaign, key in EXPIRING:
        terms = LotTerms(CreditSource.BONUS, PRIORITY_DEFAULT, campaign, ends)
        await bonus(ledger, PostingInput(owner_id, points.code, amount, key, terms=terms, asked_by=COMMAND_LINE))
        ends += _WEEK


def coming_friday(now: datetime) -> datetime:
    """Return 18:00 on the first Friday that is at least a day away, in UTC."""
    tomorrow = now + _DAY
    evening = tomorrow.replace(hour=18, minute=0, second=0, microsecond=0)
    friday = evening + (_FRIDAY - evening.weekday()) % 7 * _DAY
    return friday if friday >= tomorrow else friday + _WEEK
