from collections.abc import AsyncIterator, Callable

import pytest
from factories import balance
from tables import Rows, count_rows

from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.operations.assets import list_assets
from wallet_gql.operations.demo import OWNERS, seed
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings


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
    assert await count_rows(empty_ledger.settings) == Rows(2, 2, 2, 4, 2)


async def test_opening_balances_are_bonus_transactions(empty_ledger: Ledger) -> None:
    await seed(empty_ledger)

    for owner_id, amount, key in OWNERS:
        name = OwnerName(shard_of(owner_id, empty_ledger.shard_count), owner_id)
        transaction = await empty_ledger.reads.transactions_by_key.load((name, key))
        assert transaction is not None
        assert (transaction.type, transaction.amount_minor) == (TransactionType.BONUS, int(amount))
        assert transaction.description == "Opening balance"


async def test_seeding_twice_changes_nothing(empty_ledger: Ledger) -> None:
    await seed(empty_ledger)
    rows, assets = await count_rows(empty_ledger.settings), await list_assets(empty_ledger)

    await seed(empty_ledger)

    assert await count_rows(empty_ledger.settings) == rows
    assert await list_assets(empty_ledger) == assets
    assert [await balance(empty_ledger, owner_id) for owner_id, _, _ in OWNERS] == [799, 300]
