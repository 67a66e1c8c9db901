"""Transfers in one batch with what they depend on: accounts are opened for what the batch itself makes possible."""

from collections.abc import Sequence

from asyncpg import Connection
from batches import ask, new_owner_in, transfer_request
from direct import count_rows
from factories import balance, new_owner, new_owner_id

from wallet_gql.domain.postings import Posted, Request, WalletMissing
from wallet_gql.ledger.posting import Decided, post_batch
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import unit_of_work


async def post_all(ledger: Ledger, requests: Sequence[Request], slot: int | None = None) -> list[Decided]:
    """Post a batch in a unit of work of its own."""
    async with unit_of_work(ledger.engine) as connection:
        return await post_batch(connection, requests, ledger.slot if slot is None else slot)


async def test_owners_without_accounts_pass_on_what_the_same_batch_gave_them(ledger: Ledger) -> None:
    first, second, third = [await new_owner_in(ledger, shard) for shard in (1, 2, 3)]
    outcomes = await post_all(
        ledger,
        [
            ask(ledger, first, 10),
            transfer_request(ledger, first, second, 10),
            transfer_request(ledger, second, third, 10),
            transfer_request(ledger, third, first, 4),
        ],
        slot=31,
    )
    assert [type(outcome) for outcome in outcomes] == [Posted] * 4
    assert [await balance(ledger, owner) for owner in (first, second, third)] == [4, 0, 6]


async def test_an_owner_without_an_account_spends_what_the_same_batch_gave_it(ledger: Ledger) -> None:
    giver, owner = await new_owner_in(ledger, 1, gold=10), await new_owner_in(ledger, 2)
    outcomes = await post_all(
        ledger, [transfer_request(ledger, giver, owner, 10), ask(ledger, owner, 7, "SPEND")], slot=32
    )
    assert [type(outcome) for outcome in outcomes] == [Posted] * 2
    assert (await balance(ledger, giver), await balance(ledger, owner)) == (0, 3)


async def test_a_transfer_to_nobody_leaves_nothing_behind(ledger: Ledger, server_connection: Connection) -> None:
    sender, nobody = await new_owner(ledger, gold=10), new_owner_id()
    request = transfer_request(ledger, sender, nobody, 1)
    # Its clearing wallets are opened once, whatever comes of it.
    await post_all(ledger, [request], slot=33)
    before = await count_rows(server_connection)
    assert await post_all(ledger, [request], slot=33) == [WalletMissing(nobody)]
    assert await count_rows(server_connection) == before
    accounts = await server_connection.fetchval(
        "SELECT count(*) FROM account a JOIN wallet w ON (w.shard, w.id) = (a.shard, a.wallet_id)"
        " WHERE w.kind = 3 AND w.owner_id = $1",
        str(33 * 4),
    )
    assert (accounts, await balance(ledger, sender)) == (0, 10)
