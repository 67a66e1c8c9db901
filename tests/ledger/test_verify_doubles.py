"""What only a dropped index or check lets in is found: doubled rows, names and times that there are not."""

import pytest
from damaged import ALICE_ID, BOB_ID, SHARD, SHARD_COUNT, Books
from direct import account_of

from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.verify import FINDINGS_PER_CHECK_MAX


async def test_details_of_what_was_posted_are_found(books: Books) -> None:
    view = books.history.alice[0]
    await books.execute(
        "ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_details_check",
        f"UPDATE idempotency_key SET details = '{{}}' WHERE transaction_id = '{view.id}'",
    )
    assert await books.findings() == [("key", books.key(view), "says posted, but has the details of a refusal")]


async def test_a_key_that_is_there_twice_is_found(books: Books) -> None:
    view = books.history.alice[0]
    await books.execute(
        "ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_pkey",
        f"INSERT INTO idempotency_key SELECT * FROM idempotency_key WHERE transaction_id = '{view.id}'",
    )
    assert await books.findings() == [("doubled key", books.key(view), "is there 2 times")]


async def test_an_entry_that_is_there_twice_is_found(books: Books) -> None:
    await books.execute(
        "ALTER TABLE entry DROP CONSTRAINT entry_pkey",
        "DROP INDEX entry_shard_transaction_id_account_id_key",
        f"INSERT INTO entry SELECT * FROM entry WHERE account_id = {books.account} AND seq = 2",
    )
    assert ("doubled entry", f"account {books.account}, seq 2", "is there 2 times") in await books.findings()


async def test_a_transaction_that_is_there_twice_is_found(books: Books) -> None:
    view = books.history.alice[0]
    await books.execute(
        "ALTER TABLE transaction DROP CONSTRAINT transaction_pkey",
        f"INSERT INTO transaction SELECT * FROM transaction WHERE id = '{view.id}'",
    )
    assert await books.findings() == [("doubled transaction", f"transaction {view.id}", "is there 2 times")]


async def test_a_second_account_for_one_wallet_and_asset_is_found(books: Books) -> None:
    second = await books.connection.fetchval(
        "INSERT INTO account (shard, wallet_id, wallet_kind, asset_id, may_go_negative)"
        f" SELECT shard, wallet_id, wallet_kind, 999, may_go_negative FROM account WHERE id = {books.account}"
        " RETURNING id"
    )
    await books.execute(
        "ALTER TABLE account DROP CONSTRAINT account_shard_wallet_id_asset_id_key",
        f"UPDATE account SET asset_id = (SELECT asset_id FROM account WHERE id = {books.account}) WHERE id = {second}",
    )
    fault = f"wallet {books.wallet} has 2 accounts in its asset"
    assert await books.findings() == [("account", f"account {id_}", fault) for id_ in (books.account, second)]


async def test_an_account_that_is_there_twice_is_found(books: Books) -> None:
    await books.execute(
        "ALTER TABLE account DROP CONSTRAINT account_pkey",
        "ALTER TABLE account DROP CONSTRAINT account_shard_wallet_id_asset_id_key",
        f"INSERT INTO account OVERRIDING SYSTEM VALUE SELECT * FROM account WHERE id = {books.account}",
    )
    assert ("account", f"account {books.account}", "is there 2 times") in await books.findings()


async def test_a_second_wallet_for_one_owner_is_found(books: Books) -> None:
    await books.execute("ALTER TABLE wallet DROP CONSTRAINT wallet_shard_kind_owner_id_key")
    second = await books.connection.fetchval(
        f"INSERT INTO wallet (shard, kind, owner_id) VALUES ({SHARD}, 1, '{ALICE_ID}') RETURNING id"
    )
    assert await books.findings() == [
        ("owner", f"wallet {id_} ({ALICE_ID})", "its owner has 2 wallets") for id_ in (books.wallet, second)
    ]


async def test_a_wallet_that_is_there_twice_is_found(books: Books) -> None:
    await books.execute(
        *(
            f"ALTER TABLE wallet DROP CONSTRAINT IF EXISTS {name} CASCADE"
            for name in ("wallet_pkey", "wallet_shard_kind_owner_id_key", "wallet_shard_id_kind_key")
        ),
        f"INSERT INTO wallet OVERRIDING SYSTEM VALUE SELECT * FROM wallet WHERE id = {books.wallet}",
    )
    assert ("owner", f"wallet {books.wallet} ({ALICE_ID})", "is there 2 times") in await books.findings()


@pytest.mark.parametrize("owner_id", ["", "321", "-1", "01", "treasury"])
async def test_a_treasury_without_a_slot_is_found(books: Books, owner_id: str) -> None:
    treasury = (await account_of(books.connection, SHARD, "0", kind=WalletKind.TREASURY)).wallet_id
    await books.execute(
        "ALTER TABLE wallet DROP CONSTRAINT wallet_owner_id_check",
        f"UPDATE wallet SET owner_id = '{owner_id}' WHERE id = {treasury}",
    )
    fault = "is the treasury's, but its owner id is not a slot, 0 to 320"
    assert await books.findings() == [("owner", f"wallet {treasury} ({owner_id})", fault)]


async def test_an_owner_without_a_name_is_found(books: Books) -> None:
    await books.execute(
        "ALTER TABLE wallet DROP CONSTRAINT wallet_owner_id_check",
        f"UPDATE wallet SET owner_id = '' WHERE id = {books.bob_wallet}",
    )
    assert ("owner", f"wallet {books.bob_wallet} ()", "its owner id has 0 characters") in await books.findings()


async def test_a_kind_of_wallet_that_there_is_not_is_found(books: Books) -> None:
    await books.execute(
        "ALTER TABLE wallet DROP CONSTRAINT wallet_kind_check",
        f"UPDATE wallet SET kind = 9 WHERE id = {books.bob_wallet}",
    )
    row = f"wallet {books.bob_wallet} ({BOB_ID})"
    assert ("owner", row, "has kind 9, which does not exist") in await books.findings()


async def test_a_transaction_of_the_treasury_is_found(books: Books) -> None:
    view = books.history.alice[1]
    treasury = (await account_of(books.connection, SHARD, "0", kind=WalletKind.TREASURY)).wallet_id
    await books.execute(f"UPDATE transaction SET wallet_id = {treasury} WHERE id = '{view.id}'")
    fault = f"is wallet {treasury}'s, but a leg is wallet {books.wallet}'s"
    assert ("transaction", f"transaction {view.id}", fault) in await books.findings()


async def test_an_asset_that_is_there_twice_is_found(books: Books) -> None:
    await books.execute(
        "ALTER TABLE asset DROP CONSTRAINT asset_code_key",
        "INSERT INTO asset (code, name, scale) VALUES ('GOLD', 'Gold', 0)",
    )
    found = [finding for finding in await books.findings() if finding[0] == "asset"]
    assert len(found) == 2
    assert {fault for _, _, fault in found} == {"is there more than once"}


async def test_entries_in_the_future_are_found(books: Books) -> None:
    view = books.history.alice[3]
    for table, column in (("entry", "transaction_id"), ("transaction", "id")):
        await books.execute(f"UPDATE {table} SET executed_at = now() + interval '50 s' WHERE {column} = '{view.id}'")
    assert await books.findings() == []
    for table, column in (("entry", "transaction_id"), ("transaction", "id")):
        await books.execute(f"UPDATE {table} SET executed_at = now() + interval '70 s' WHERE {column} = '{view.id}'")
    found = await books.findings()
    assert [(check, row) for check, row, _ in found] == [
        ("chain", f"account {books.treasury} (0), seq 4"),
        ("chain", books.entry(4)),
    ]
    assert all(fault.startswith("is dated in the future: ") for _, _, fault in found)


@pytest.mark.parametrize(("time", "fault"), [("-infinity", "has no time"), ("infinity", "is dated in the future: ")])
async def test_entries_without_a_time_are_found(books: Books, time: str, fault: str) -> None:
    view = books.history.diamond
    for table, column in (("entry", "transaction_id"), ("transaction", "id")):
        await books.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {table}_executed_at_check",
            f"UPDATE {table} SET executed_at = '{time}' WHERE {column} = '{view.id}'",
        )
    found = [(row, told) for check, row, told in await books.findings() if check == "chain"]
    row = f"account {view.account_id} ({ALICE_ID}), seq 1"
    assert any(name == row and told.startswith(fault) for name, told in found)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("idempotency_key SET created_at", "key"),
        ("account SET opened_at", "account"),
        ("wallet SET opened_at", "owner"),
    ],
)
async def test_what_else_is_dated_in_the_future_is_found(books: Books, change: str, check: str) -> None:
    await books.execute(f"UPDATE {change} = now() + interval '70 s' WHERE shard = {SHARD}")
    assert {found for found, _, fault in await books.findings() if "is dated in the future" in fault} == {check}


async def test_each_check_names_the_first_owners_in_the_wrong_shard_only(books: Books) -> None:
    strangers = [name for name in (f"stranger-{n}" for n in range(100)) if shard_of(name, SHARD_COUNT) != SHARD]
    await books.connection.executemany(
        "INSERT INTO wallet (shard, kind, owner_id) VALUES ($1, 1, $2)", [(SHARD, name) for name in strangers]
    )
    found = await books.findings()
    assert [check for check, _, _ in found] == ["wallet"] * FINDINGS_PER_CHECK_MAX
