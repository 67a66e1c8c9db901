from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from factories import balance, post
from tables import Rows, count_rows

from wallet_gql.domain.assets import AssetSetting, TransferPolicy
from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.lot_reads import LotPageRequest, LotView
from wallet_gql.ledger.reads import WalletAsset
from wallet_gql.operations import demo
from wallet_gql.operations.assets import add_asset, list_assets, set_asset
from wallet_gql.operations.demo import OWNERS, coming_friday, seed
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.wallets import open_wallet
from wallet_gql.settings import Settings

POINTS = ("POINTS", "Loyalty Points", 2)


async def lots_of_alice(ledger: Ledger) -> list[LotView]:
    name = OwnerName(shard_of("demo-alice", ledger.shard_count), "demo-alice")
    wallet = await ledger.reads.wallets.load(name)
    assert wallet is not None
    return (await ledger.reads.lot_pages.load(LotPageRequest(WalletAsset(wallet, ledger.assets["POINTS"]), 10))).lots


@pytest.fixture
def empty_settings(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("demo")


@pytest.fixture
async def empty_ledger(empty_settings: Settings) -> AsyncIterator[Ledger]:
    """The ledger of a database in which nothing was posted."""
    async with open_ledger(empty_settings) as ledger:
        yield ledger
        assert (await prove(empty_settings)).findings == []


async def test_players_have_their_opening_balances(empty_ledger: Ledger) -> None:
    await seed(empty_ledger)

    assert {asset.code for asset in await list_assets(empty_ledger)} >= {"GOLD", "DIAMOND", "POINTS"}
    assert await balance(empty_ledger, "demo-alice") == 799
    assert await balance(empty_ledger, "demo-bob") == 300
    assert await count_rows(empty_ledger.settings) == Rows(2, 3, 4, 8, 4)


async def test_opening_balances_are_bonus_transactions(empty_ledger: Ledger) -> None:
    await seed(empty_ledger)

    for owner_id, amount, key in OWNERS:
        name = OwnerName(shard_of(owner_id, empty_ledger.shard_count), owner_id)
        transaction = await empty_ledger.reads.transactions_by_key.load((name, key))
        assert transaction is not None
        assert (transaction.type, transaction.amount_minor) == (TransactionType.BONUS, int(amount))
        assert transaction.description == "Opening balance"


async def test_thirty_points_end_on_a_friday_and_twenty_a_week_later(empty_ledger: Ledger) -> None:
    before = datetime.now(UTC)

    await seed(empty_ledger)

    first, second = await lots_of_alice(empty_ledger)
    assert [(each.remaining_minor, each.terms.campaign) for each in (first, second)] == [
        (3000, "weekly-quest"),
        (2000, "spring"),
    ]
    assert first.terms.expires_at in {coming_friday(before), coming_friday(datetime.now(UTC))}
    assert second.terms.expires_at == first.terms.expires_at + timedelta(days=7)


@pytest.mark.parametrize(
    ("now", "friday"),
    [
        ("2026-01-03T00:00", "2026-01-09"),  # a Saturday
        ("2026-01-08T18:00", "2026-01-09"),  # a Thursday
        ("2026-01-08T18:00:00.000001", "2026-01-16"),
        ("2026-01-09T09:00", "2026-01-16"),  # a Friday
        ("2026-01-09T19:00", "2026-01-16"),
    ],
)
def test_the_coming_friday_is_a_day_away_at_least(now: str, friday: str) -> None:
    assert coming_friday(datetime.fromisoformat(f"{now}+00:00")) == datetime.fromisoformat(f"{friday}T18:00+00:00")


async def test_data_from_before_there_were_lots_get_some(empty_ledger: Ledger) -> None:
    await add_asset(empty_ledger, *POINTS)
    await open_wallet(empty_ledger, "demo-alice")
    await post(empty_ledger, "bonus", "demo-alice", "7.50", asset_code="POINTS")

    await seed(empty_ledger)

    assert [lot.remaining_minor for lot in await lots_of_alice(empty_ledger)] == [3000, 2000]
    assert await balance(empty_ledger, "demo-alice", "POINTS") == 5750


async def test_what_somebody_set_of_points_stays(empty_ledger: Ledger) -> None:
    await add_asset(empty_ledger, *POINTS)
    await set_asset(empty_ledger, "POINTS", TransferPolicy.NONE)

    await seed(empty_ledger)

    settings = await empty_ledger.reads.asset_settings.load(None)
    assert settings[empty_ledger.assets["POINTS"].id] == AssetSetting(TransferPolicy.NONE)
    assert await lots_of_alice(empty_ledger) == []
    assert await count_rows(empty_ledger.settings) == Rows(2, 2, 2, 4, 2)


@pytest.mark.parametrize("weeks_later", [0, 1])
async def test_seeding_twice_changes_nothing(
    empty_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, weeks_later: int
) -> None:
    await seed(empty_ledger)
    rows, assets = await count_rows(empty_ledger.settings), await list_assets(empty_ledger)
    later = coming_friday(datetime.now(UTC)) + timedelta(days=7 * weeks_later)
    monkeypatch.setattr(demo, "coming_friday", lambda _: later)

    await seed(empty_ledger)

    assert await count_rows(empty_ledger.settings) == rows
    assert await list_assets(empty_ledger) == assets
    assert [await balance(empty_ledger, owner_id) for owner_id, _, _ in OWNERS] == [799, 300]
