from asyncpg import Connection

from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.treasury import open_stripes, treasuries
from wallet_gql.operations.opening import Ledger


async def test_stripes_that_are_open_take_no_numbers_of_new_wallets(
    ledger: Ledger, server_connection: Connection
) -> None:
    async def next_id(owner_id: str) -> int:
        made: int = await server_connection.fetchval(
            "INSERT INTO wallet (shard, kind, owner_id) VALUES (0, $1, $2) RETURNING id", WalletKind.TREASURY, owner_id
        )
        return made

    first = await next_id("54")
    await open_stripes(server_connection, treasuries(54, ledger.shard_count))
    await open_stripes(server_connection, treasuries(54, ledger.shard_count))
    # The stripe of shard 0 was open, the three others were opened once.
    assert await next_id("53") == first + ledger.shard_count
