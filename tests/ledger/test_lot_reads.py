"""What reads of lots cost: a look-up of each row, however many lots there ever were, and nothing where none is due."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import asyncpg
import pytest
from asyncpg import Connection
from conftest import plain
from explained import explain
from lots import ASSET, Player, Service, in_test_mode, service

from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.lots import LotName
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger import lot_reads, reads
from wallet_gql.ledger.lot_reads import LotPageRequest, read_lot_pages, read_lot_parts, read_lots_by_name
from wallet_gql.ledger.reads import EntryName, WalletAsset, read_wallets
from wallet_gql.settings import Settings

TABLES: Final = ("wallet", "account", "transaction", "entry", "lot", "lot_step", "hold", "hold_step", "wallet_state")

USED_UP: Final = 450
AT_ONCE: Final = 150

both_modes = pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])


@dataclass(frozen=True)
class Filled:
    """A database with three accounts, each with two lots and a hold of one: of two some hundreds were used up before.

    Of the third a lot and a hold are over, and nothing is booked.
    """

    settings: Settings
    names: dict[str, WalletAsset]


async def fill(settings: Settings) -> Filled:
    owner = await asyncpg.connect(plain(settings.owner_url().render_as_string(hide_password=False)))
    for table in TABLES:
        await owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    await owner.close()
    async with service(settings) as served:
        players = {name: await served.player() for name in ("short", "long", "due")}
        for name in ("long", "due"):
            await use_up(players[name])
        for name, player in players.items():
            await give(served, player, days=1 if name == "due" else 9)
        await served.wait(2)
        async with connect(served.ledger.engine) as connection:
            owners = [
                OwnerName(shard_of(each.owner, served.ledger.shard_count), each.owner) for each in players.values()
            ]
            wallets = await read_wallets(connection, owners)
        asset = served.ledger.assets[ASSET]
        names = {name: WalletAsset(wallet, asset) for name, wallet in zip(players, wallets, strict=True) if wallet}
    return Filled(settings, names)


async def use_up(player: Player) -> None:
    """Give lots, and spend them."""
    for n in range(USED_UP // AT_ONCE):
        await asyncio.gather(*(player.do("bonus", 1, campaign=f"campaign {n} {each}") for each in range(AT_ONCE)))
        await player.do("spend", AT_ONCE)


async def give(served: Service, player: Player, days: int) -> None:
    await player.grant(30, await served.in_days(days))
    await player.grant(20, await served.in_days(9))
    await player.hold(5, days)
    await player.hold(10, 9)


@pytest.fixture(scope="module")
def filled(new_database: Callable[..., Settings]) -> Filled:
    return asyncio.run(fill(in_test_mode(new_database, "lot_reads")))


@pytest.fixture
async def connection(filled: Filled) -> AsyncIterator[Connection]:
    """A connection as the service makes it."""
    engine = create_engine(filled.settings)
    async with connect(engine) as connection:
        yield connection
    await engine.dispose()


async def account_and_seq(connection: Connection, account: WalletAsset) -> tuple[int, int, int]:
    """Return an account's id, its newest lot and the entry that granted it."""
    found = await connection.fetchrow(
        "SELECT o.account_id, o.n, o.seq FROM lot o JOIN account a ON (a.shard, a.id) = (o.shard, o.account_id)"
        " WHERE a.shard = $1 AND a.wallet_id = $2 ORDER BY o.n DESC LIMIT 1",
        account.wallet.shard,
        account.wallet.id,
    )
    assert found is not None
    return tuple(found)


async def asked(connection: Connection, account: WalletAsset, lookup: str) -> tuple[str, tuple[object, ...]]:
    """Return a statement, and what it is asked about an account."""
    shard, wallet, asset = account.wallet.shard, account.wallet.id, account.asset.id
    account_id, n, seq = await account_and_seq(connection, account)
    return {
        "balance": (reads._BALANCES, (shard, wallet, asset)),
        "owner's balance": (reads._OWNERS_BALANCES, (shard, account.wallet.owner_id, asset)),
        "lot": (lot_reads._LOTS, (shard, account_id, n)),
        "page": (lot_reads._PAGES, (shard, wallet, asset, 11, None, None)),
        "parts": (lot_reads._PARTS, (shard, account_id, seq)),
        "lapsed again": (lot_reads._LAPSED_AGAIN, (shard, account_id, seq)),
    }[lookup]


@both_modes
@pytest.mark.parametrize("lookup", ["balance", "owner's balance", "lot", "page", "parts", "lapsed again"])
async def test_a_look_up_costs_the_same_after_two_lots_and_after_many(
    filled: Filled, connection: Connection, lookup: str, mode: str
) -> None:
    explained = []
    for name in ("short", "long"):
        statement, parameters = await asked(connection, filled.names[name], lookup)
        explained.append(await explain(connection, mode, statement, *parameters))
    short, long = explained
    assert short.rows == long.rows
    assert (long.rows >= 1) is (lookup != "lapsed again")
    assert abs(long.buffers - short.buffers) <= 12
    assert long.buffers < 60
    assert "Seq Scan" not in short.node_types | long.node_types


@both_modes
@pytest.mark.parametrize("lookup", ["balance", "owner's balance"])
async def test_a_balance_with_nothing_due_is_one_look_up_of_the_head(
    filled: Filled, connection: Connection, lookup: str, mode: str
) -> None:
    statement, parameters = await asked(connection, filled.names["long"], lookup)
    explained = await explain(connection, mode, statement, *parameters)
    assert explained.tables - {"wallet"} == {"account", "entry", "wallet_state"}
    assert explained.buffers < 16


@both_modes
@pytest.mark.parametrize("lookup", ["balance", "lot", "page", "parts"])
async def test_what_is_due_costs_its_own_rows(filled: Filled, connection: Connection, lookup: str, mode: str) -> None:
    statement, parameters = await asked(connection, filled.names["due"], lookup)
    explained = await explain(connection, mode, statement, *parameters)
    assert {"lot", "lot_step", "hold_step"} <= explained.tables
    assert explained.buffers < 110
    assert "Seq Scan" not in explained.node_types


async def test_reads_of_many_accounts_keep_their_order(filled: Filled, connection: Connection) -> None:
    accounts = [filled.names[name] for name in ("due", "long", "short", "due")]
    pages = await read_lot_pages(connection, [LotPageRequest(each, 5) for each in accounts])
    seen = [[(lot.remaining_minor, lot.held_minor) for lot in page.lots] for page in pages]
    # Of the account with something due one lot is over; the hold that is not over has what the other one left.
    assert seen == [[(20, 0)], [(30, 15), (20, 0)], [(30, 15), (20, 0)], [(20, 0)]]
    names, entries = [], []
    for account in accounts:
        account_id, n, seq = await account_and_seq(connection, account)
        names.append(LotName(account.wallet.shard, account_id, n))
        entries.append(EntryName(account.wallet.shard, account_id, seq))
    missing = LotName(0, 2**62, 1)
    lots = await read_lots_by_name(connection, [*names, missing])
    assert [lot and (lot.name, lot.account) for lot in lots] == [*zip(names, accounts, strict=True), None]
    parts = await read_lot_parts(connection, [*entries, EntryName(0, 2**62, 1)])
    assert [[(part.lot and part.lot.name, part.amount_minor) for part in each] for each in parts] == [
        *([(name, 20)] for name in names),
        [],
    ]
    [over] = await read_lots_by_name(connection, [names[0]._replace(n=names[0].n - 1)])
    assert over is not None
    assert (over.is_expired, over.remaining_minor, over.held_minor, over.booked_minor) == (True, 10, 10, 30)
