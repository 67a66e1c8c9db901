"""Each kind of damage that a superuser can do with the laws switched off is found, and the damaged row is named."""

import asyncio

import pytest
from damaged import ALICE, ALICE_ID, BOB, BOB_ID, SHARD, SHARD_COUNT, Books, History, owners_of
from direct import KeyRow, Movement, Rows, account_of, insert, insert_rows, movement
from factories import new_owner, post
from uuid_utils.compat import uuid7

from wallet_gql.domain.postings import Posted, fingerprint
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.verify import CHECK_COUNT, FINDINGS_PER_CHECK_MAX, Finding, count_entries, verify_outside
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings


async def test_books_without_damage_give_no_finding(books: Books) -> None:
    assert await books.findings() == []
    assert await count_entries(books.connection, SHARD) == 2 * (len(ALICE) + len(BOB) + 1)


def test_the_proof_of_books_without_damage_counts_all_entries(damaged_settings: Settings, history: History) -> None:
    totals: list[int] = []
    proof = asyncio.run(prove(damaged_settings, on_check=totals.append))
    assert (proof.shard_count, proof.findings) == (SHARD_COUNT, [])
    assert totals == [SHARD_COUNT * CHECK_COUNT] * SHARD_COUNT * CHECK_COUNT
    assert proof.entry_count == 2 * (len(history.alice) + len(history.bob) + 2)


async def test_every_text_that_can_be_posted_has_the_same_fingerprint_in_sql(
    ledger: Ledger, settings: Settings
) -> None:
    owner = await new_owner(ledger)
    texts = (
        None, "", "-", "0:", "5:sword", "é", "e\u0301", "🎮" * 500, "日本語", "a\nb\r\t", "'\"\\", "\u2028", "%s {}",
        "\x01",
    )  # fmt: skip
    for n, text in enumerate(texts, start=1):
        for asset, amount in (("GOLD", str(n)), ("POINTS", f"{n}.05")):
            for description, reference in ((text, None), (None, text), (text, text)):
                outcome = await post(
                    ledger, "top_up", owner, amount, asset_code=asset, description=description, reference=reference
                )
                assert isinstance(outcome, Posted)
    await post(ledger, "top_up", owner, 10**15)
    await post(ledger, "spend", owner, 10**15)
    assert (await prove(settings)).findings == []


async def test_a_changed_amount_is_found(books: Books) -> None:
    await books.execute(f"UPDATE entry SET amount = 51 WHERE account_id = {books.account} AND seq = 2")
    view = books.history.alice[1]
    assert await books.findings() == [
        ("chain", books.entry(2), "balance after it is 150, but should be 151"),
        books.unbalanced(view),
        books.fingerprint_differs(view),
    ]


async def test_a_removed_entry_is_found(books: Books) -> None:
    await books.execute(f"DELETE FROM entry WHERE account_id = {books.account} AND seq = 2")
    view = books.history.alice[1]
    assert await books.findings() == [
        ("chain", books.entry(3), "follows seq 1: entries between are missing"),
        books.unbalanced(view),
        books.fingerprint_differs(view),
    ]


async def test_an_entry_s_changed_number_is_found(books: Books) -> None:
    await books.execute(f"UPDATE entry SET seq = 7 WHERE account_id = {books.account} AND seq = 4")
    assert await books.findings() == [("chain", books.entry(7), "follows seq 3: entries between are missing")]


async def test_a_removed_first_entry_is_found(books: Books) -> None:
    await books.execute(f"DELETE FROM entry WHERE account_id = {books.account} AND seq = 1")
    assert ("chain", books.entry(2), "follows seq 0: entries between are missing") in await books.findings()


async def test_a_removed_last_entry_is_found(books: Books) -> None:
    await books.execute(f"DELETE FROM entry WHERE account_id = {books.account} AND seq = 4")
    view = books.history.alice[3]
    assert await books.findings() == [
        books.unbalanced(view),
        books.fingerprint_differs(view),
        books.not_held(220),
    ]


async def test_the_removed_legs_of_a_transaction_are_found(books: Books) -> None:
    view = books.history.bob[1]
    await books.execute(f"DELETE FROM entry WHERE transaction_id = '{view.id}'")
    assert await books.findings() == [
        ("transaction", f"transaction {view.id}", "has no legs"),
        books.fingerprint_differs(view),
    ]


async def test_a_removed_transaction_is_found(books: Books) -> None:
    view = books.history.alice[2]
    leg = f"(account {books.treasury}, seq 3)"
    await books.execute(f"DELETE FROM transaction WHERE id = '{view.id}'")
    assert await books.findings() == [
        ("transaction", f"transaction {view.id}", f"does not exist, but entry {leg} is a leg of it"),
        ("key", books.key(view), f"says posted, but there is no transaction {view.id}"),
    ]


async def test_a_removed_posting_at_the_end_of_its_accounts_is_found_by_its_key(books: Books) -> None:
    view = books.history.bob[1]
    await books.execute(
        f"DELETE FROM entry WHERE transaction_id = '{view.id}'", f"DELETE FROM transaction WHERE id = '{view.id}'"
    )
    assert await books.findings() == [
        ("key", books.key(view), f"says posted, but there is no transaction {view.id}"),
    ]


async def test_swapped_entries_are_found(books: Books) -> None:
    at = f"account_id = {books.account} AND seq"
    await books.execute(
        f"UPDATE entry SET seq = 99 WHERE {at} = 2",
        f"UPDATE entry SET seq = 2 WHERE {at} = 3",
        f"UPDATE entry SET seq = 3 WHERE {at} = 99",
    )
    assert await books.findings() == [
        ("chain", books.entry(2), "balance after it is 120, but should be 70"),
        ("chain", books.entry(3), "balance after it is 150, but should be 170"),
        ("chain", books.entry(4), "balance after it is 220, but should be 250"),
    ]


async def test_equal_entries_that_changed_their_transactions_are_found(books: Books) -> None:
    first, last = books.history.alice[0], books.history.alice[3]
    for seq, id_ in ((1, uuid7()), (4, first.id), (1, last.id)):
        await books.execute(
            f"UPDATE entry SET transaction_id = '{id_}' WHERE account_id = {books.account} AND seq = {seq}"
        )
    assert await books.findings() == [
        ("transaction", f"transaction {view.id}", "its time is not that of its legs") for view in (first, last)
    ]


async def test_a_forged_last_balance_is_found(books: Books) -> None:
    await books.execute(f"UPDATE entry SET balance_after = 1220 WHERE account_id = {books.account} AND seq = 4")
    assert await books.findings() == [
        ("chain", books.entry(4), "balance after it is 1220, but should be 220"),
        books.not_held(220),
    ]


async def test_balances_forged_from_the_first_entry_on_are_found(books: Books) -> None:
    await books.execute(f"UPDATE entry SET balance_after = balance_after + 5 WHERE account_id = {books.account}")
    assert await books.findings() == [
        ("chain", books.entry(1), "balance after it is 105, but should be 100"),
        books.not_held(220),
    ]


async def test_a_balance_forged_to_the_end_of_the_numbers_is_found(books: Books) -> None:
    await books.execute(
        "ALTER TABLE entry DROP CONSTRAINT entry_balance_limit_check, DROP CONSTRAINT entry_amount_limit_check",
        f"UPDATE entry SET balance_after = {2**63 - 1} WHERE account_id = {books.account} AND seq = 1",
        f"UPDATE entry SET amount = {-(2**63)} WHERE account_id = {books.bob_account} AND seq = 1",
    )
    assert ("chain", books.entry(2), f"balance after it is 150, but should be {2**63 + 49}") in await books.findings()


async def test_an_unbalanced_pair_in_sound_chains_is_found(books: Books) -> None:
    await books.execute(
        f"UPDATE entry SET amount = amount + 5 WHERE account_id = {books.account} AND seq = 1",
        f"UPDATE entry SET balance_after = balance_after + 5 WHERE account_id = {books.account}",
    )
    view = books.history.alice[0]
    assert await books.findings() == [
        books.unbalanced(view),
        books.fingerprint_differs(view),
        books.not_held(220),
    ]


async def repair_chain(books: Books, account: int) -> None:
    await books.execute(
        "UPDATE entry e SET balance_after = s.total FROM (SELECT account_id, seq, sum(amount) OVER"
        " (PARTITION BY account_id ORDER BY seq) AS total FROM entry) AS s"
        f" WHERE (s.account_id, s.seq) = (e.account_id, e.seq) AND e.account_id = {account}"
    )


async def test_a_changed_amount_in_both_legs_with_sound_chains_is_found(books: Books) -> None:
    view = books.history.alice[1]
    await books.execute(f"UPDATE entry SET amount = amount + sign(amount) WHERE transaction_id = '{view.id}'")
    for account in (books.account, books.treasury):
        await repair_chain(books, account)
    assert await books.findings() == [books.fingerprint_differs(view), books.not_held(220)]


async def test_an_exchanged_sign_in_both_legs_with_sound_chains_is_found(books: Books) -> None:
    view = books.history.alice[2]
    await books.execute(f"UPDATE entry SET amount = -amount WHERE transaction_id = '{view.id}'")
    for account in (books.account, books.treasury):
        await repair_chain(books, account)
    assert await books.findings() == [
        ("transaction", f"transaction {view.id}", "type 3 does not move 30"),
        books.not_held(220),
    ]


async def test_a_changed_type_of_a_leg_is_found(books: Books) -> None:
    await books.execute(f"UPDATE entry SET type = 2 WHERE account_id = {books.account} AND seq = 1")
    view = books.history.alice[0]
    assert await books.findings() == [("transaction", f"transaction {view.id}", "is of type 1, but a leg is not")]


@pytest.mark.parametrize("type_", [2, 3])
async def test_a_changed_type_of_a_transaction_and_its_legs_is_found(books: Books, type_: int) -> None:
    view = books.history.alice[0]
    await books.execute(
        f"UPDATE entry SET type = {type_} WHERE transaction_id = '{view.id}'",
        f"UPDATE transaction SET type = {type_} WHERE id = '{view.id}'",
    )
    moves = ("transaction", f"transaction {view.id}", "type 3 does not move 100")
    assert await books.findings() == [*([moves] if type_ == 3 else []), books.fingerprint_differs(view)]


@pytest.mark.parametrize(
    "change",
    [
        "description = 'Shield'",
        "description = NULL",
        "reference = 'r-2'",
        "description = 'Sword: é🎮r', reference = '-1'",
    ],
)
async def test_a_changed_text_is_found(books: Books, change: str) -> None:
    view = books.history.alice[1]
    await books.execute(f"UPDATE transaction SET {change} WHERE id = '{view.id}'")
    assert await books.findings() == [books.fingerprint_differs(view)]


async def test_a_changed_asset_code_is_found(books: Books) -> None:
    await books.execute("UPDATE asset SET code = 'RUBY' WHERE code = 'DIAMOND'")
    assert await books.findings() == [books.fingerprint_differs(books.history.diamond)]


async def test_a_time_that_runs_backwards_is_found(books: Books) -> None:
    view = books.history.alice[2]
    for table, column in (("entry", "transaction_id"), ("transaction", "id")):
        await books.execute(
            f"UPDATE {table} SET executed_at = executed_at - interval '1 day' WHERE {column} = '{view.id}'"
        )
    fault = "is older than the entry before it"
    # The stripe's entry is older than the one before it too, as it may be: it has its transaction's time.
    assert await books.findings() == [("chain", books.entry(3), fault)]


async def test_a_leg_s_own_time_is_found(books: Books) -> None:
    await books.execute(
        f"UPDATE entry SET executed_at = executed_at + interval '1 us' WHERE account_id = {books.account} AND seq = 4"
    )
    view = books.history.alice[3]
    assert await books.findings() == [("transaction", f"transaction {view.id}", "its time is not that of its legs")]


async def test_a_transaction_without_entries_is_found(books: Books) -> None:
    moved = await movement(books.connection, SHARD, ALICE_ID, 10)
    await insert_rows(books.connection, Rows([moved.transaction], (), [moved.key]))
    assert await books.findings() == [
        ("transaction", f"transaction {moved.transaction.id}", "has no legs"),
        (
            "key",
            f"key {moved.key.key} of wallet {books.wallet}",
            f"its fingerprint is not what transaction {moved.transaction.id} gives",
        ),
    ]


async def test_an_entry_without_a_transaction_is_found(books: Books) -> None:
    moved = await movement(books.connection, SHARD, ALICE_ID, 10)
    await insert_rows(books.connection, Rows((), [moved.user, moved.treasury]))
    leg = f"(account {books.treasury}, seq {moved.treasury.seq})"
    assert await books.findings() == [
        ("transaction", f"transaction {moved.transaction.id}", f"does not exist, but entry {leg} is a leg of it")
    ]


async def test_an_entry_without_an_account_is_found(books: Books) -> None:
    await books.execute(f"DELETE FROM account WHERE id = {books.history.diamond.account_id}")
    found = await books.findings()
    account = books.history.diamond.account_id
    assert found[0] == ("chain", f"account {account} (?), seq 1", "its account does not exist")


async def test_a_leg_whose_wallet_is_not_the_transaction_s_is_found(books: Books) -> None:
    view = books.history.alice[3]
    # Alice's last entry becomes Bob's, whose chain goes on with it.
    await books.execute(
        f"UPDATE entry SET account_id = {books.bob_account}, seq = 3, balance_after = 120, executed_at = now()"
        f" WHERE account_id = {books.account} AND seq = 4",
    )
    await books.execute(
        f"UPDATE entry SET executed_at = now() WHERE transaction_id = '{view.id}'",
        f"UPDATE transaction SET executed_at = now() WHERE id = '{view.id}'",
    )
    fault = f"is wallet {books.wallet}'s, but a leg is wallet {books.bob_wallet}'s"
    found = await books.findings()
    assert ("transaction", f"transaction {view.id}", fault) in found
    assert books.fingerprint_differs(view) in found


async def test_a_transaction_of_another_wallet_is_found(books: Books) -> None:
    view = books.history.alice[1]
    await books.execute(f"UPDATE transaction SET wallet_id = {books.bob_wallet} WHERE id = '{view.id}'")
    fault = f"is wallet {books.bob_wallet}'s, but a leg is wallet {books.wallet}'s"
    assert await books.findings() == [
        ("transaction", f"transaction {view.id}", fault),
        ("key", books.key(view), f"is not the key of its transaction {view.id}"),
    ]


async def test_a_posting_that_moves_between_two_owners_is_found(books: Books) -> None:
    moved = await movement(books.connection, SHARD, BOB_ID, 10)
    robbed = await movement(books.connection, SHARD, ALICE_ID, -10)
    leg = {
        name: getattr(robbed.user, name) for name in ("account_id", "seq", "amount", "balance_after", "may_go_negative")
    }
    moved = moved.altered("treasury", **leg)
    await insert(books.connection, moved)
    assert ("transaction", f"transaction {moved.transaction.id}", "has 2 legs, 2 of them an owner's") in (
        await books.findings()
    )


async def test_legs_added_to_an_old_transaction_are_found(books: Books) -> None:
    view = books.history.diamond
    # A balanced pair in another asset, at the end of sound chains.
    moved = await movement(books.connection, SHARD, ALICE_ID, 1000, asset="POINTS")
    added = moved.altered(transaction_id=view.id, executed_at=view.executed_at)
    await insert_rows(books.connection, Rows((), [added.user, added.treasury]))
    found = await books.findings()
    assert ("transaction", f"transaction {view.id}", "has 4 legs, 2 of them an owner's") in found


async def test_legs_of_two_assets_are_found(books: Books) -> None:
    moved = await movement(books.connection, SHARD, ALICE_ID, 10)
    points = await movement(books.connection, SHARD, ALICE_ID, 10, asset="POINTS")
    leg = {name: getattr(points.treasury, name) for name in ("account_id", "seq", "balance_after")}
    await insert(books.connection, moved.altered("treasury", **leg))
    fault = "its legs are of more than one asset"
    assert ("transaction", f"transaction {moved.transaction.id}", fault) in await books.findings()


async def test_an_orphaned_key_is_found(books: Books) -> None:
    orphan = uuid7()
    await insert_rows(
        books.connection, Rows(keys=[KeyRow(SHARD, books.wallet, orphan, b"x" * 16, 1, transaction_id=orphan)])
    )
    assert await books.findings() == [
        ("key", f"key {orphan} of wallet {books.wallet}", f"says posted, but there is no transaction {orphan}")
    ]


async def test_a_key_without_a_wallet_is_found(books: Books) -> None:
    key = uuid7()
    details = '{"balance_before_minor": 0}'
    await insert_rows(books.connection, Rows(keys=[KeyRow(SHARD, 2**60, key, b"x" * 16, 3, key, details)]))
    assert await books.findings() == [("key", f"key {key} of wallet {2**60}", "its wallet does not exist")]


async def test_a_treasury_s_key_is_found(books: Books) -> None:
    key = uuid7()
    treasury = (await account_of(books.connection, SHARD, "0", kind=WalletKind.TREASURY)).wallet_id
    details = '{"balance_before_minor": 0}'
    await insert_rows(books.connection, Rows(keys=[KeyRow(SHARD, treasury, key, b"x" * 16, 3, key, details)]))
    assert await books.findings() == [("key", f"key {key} of wallet {treasury}", "its wallet does not exist")]


async def test_a_missing_key_is_found(books: Books) -> None:
    view = books.history.alice[0]
    await books.execute(f"DELETE FROM idempotency_key WHERE transaction_id = '{view.id}'")
    assert await books.findings() == [
        ("key", books.key(view), f"is missing: transaction {view.id} was posted under it")
    ]  # fmt: skip


async def test_a_posting_without_any_key_is_found(books: Books) -> None:
    moved = (await movement(books.connection, SHARD, ALICE_ID, 10**6)).of_transaction(idempotency_key=None)
    await insert_rows(books.connection, Rows([moved.transaction], [moved.user, moved.treasury]))
    fault = f"transaction {moved.transaction.id} has no key, and no key's answer names it"
    assert await books.findings() == [("key", f"key  of wallet {books.wallet}", fault)]


async def test_a_key_that_its_transaction_does_not_name_is_found(books: Books) -> None:
    view = books.history.alice[0]
    await books.execute(f"UPDATE transaction SET idempotency_key = NULL WHERE id = '{view.id}'")
    assert await books.findings() == [("key", books.key(view), f"is not the key of its transaction {view.id}")]


async def test_a_second_posting_under_one_key_is_found(books: Books) -> None:
    view = books.history.alice[3]
    moved = await movement(books.connection, SHARD, ALICE_ID, 100)
    moved = moved.of_transaction(idempotency_key=view.idempotency_key)
    await insert_rows(books.connection, Rows([moved.transaction], [moved.user, moved.treasury]))
    assert await books.findings() == [
        ("key", books.key(view), f"is missing: transaction {moved.transaction.id} was posted under it")
    ]


async def test_a_second_key_of_one_posting_is_found(books: Books) -> None:
    view, second = books.history.alice[0], uuid7()
    given = fingerprint(view.type, "GOLD", 100, None, None)
    await insert_rows(books.connection, Rows(keys=[KeyRow(SHARD, books.wallet, second, given, 1, view.id)]))
    assert await books.findings() == [
        ("key", f"key {second} of wallet {books.wallet}", f"is not the key of its transaction {view.id}")
    ]


async def test_a_key_of_another_wallet_is_found(books: Books) -> None:
    view = books.history.alice[0]
    await books.execute(f"UPDATE idempotency_key SET wallet_id = {books.bob_wallet} WHERE transaction_id = '{view.id}'")
    name = f"key {view.idempotency_key} of wallet {books.bob_wallet}"
    assert await books.findings() == [("key", name, f"is not the key of its transaction {view.id}")]


async def test_a_key_that_says_refused_of_what_was_posted_is_found(books: Books) -> None:
    view = books.history.alice[0]
    await books.execute(
        "UPDATE idempotency_key SET outcome = 3, details = '{\"balance_before_minor\": 0}'"
        f" WHERE transaction_id = '{view.id}'"
    )
    assert await books.findings() == [("key", books.key(view), f"says refused, but transaction {view.id} was posted")]


async def test_a_key_that_says_posted_of_what_was_refused_is_found(books: Books) -> None:
    key, transaction = await books.connection.fetchrow(
        "UPDATE idempotency_key SET outcome = 1, details = NULL WHERE outcome = 3 RETURNING key, transaction_id"
    )
    assert await books.findings() == [
        ("key", f"key {key} of wallet {books.wallet}", f"says posted, but there is no transaction {transaction}")
    ]


async def test_a_refusal_that_lost_its_balance_is_found(books: Books) -> None:
    key = await books.connection.fetchval(
        "UPDATE idempotency_key SET details = '{\"balance_before_minor\": null}' WHERE outcome = 3 RETURNING key"
    )
    assert await books.findings() == [
        ("key", f"key {key} of wallet {books.wallet}", "says refused, but not on which balance")
    ]


async def test_a_fingerprint_that_the_transaction_does_not_give_is_found(books: Books) -> None:
    view = books.history.alice[2]
    await books.execute(f"UPDATE idempotency_key SET fingerprint = '\\x{'00' * 16}' WHERE transaction_id = '{view.id}'")
    assert await books.findings() == [books.fingerprint_differs(view)]


async def test_an_account_of_another_wallet_is_found(books: Books) -> None:
    view = books.history.diamond
    await books.execute(f"UPDATE account SET wallet_id = {books.bob_wallet} WHERE id = {view.account_id}")
    fault = f"is wallet {books.wallet}'s, but a leg is wallet {books.bob_wallet}'s"
    assert await books.findings() == [
        ("transaction", f"transaction {view.id}", fault),
        books.fingerprint_differs(view),
    ]


async def test_an_account_without_a_wallet_is_found(books: Books) -> None:
    await books.execute(f"UPDATE account SET wallet_id = {2**60} WHERE id = {books.history.diamond.account_id}")
    row, fault = f"account {books.history.diamond.account_id}", f"its wallet {2**60} does not exist in this shard"
    assert ("account", row, fault) in await books.findings()


async def test_an_account_of_an_asset_that_does_not_exist_is_found(books: Books) -> None:
    await books.execute(f"UPDATE account SET asset_id = 999 WHERE id = {books.history.diamond.account_id}")
    row = f"account {books.history.diamond.account_id}"
    assert ("account", row, "its asset 999 does not exist") in await books.findings()


async def test_an_owner_s_account_that_calls_itself_a_treasury_s_is_found(books: Books) -> None:
    await books.execute(f"UPDATE account SET wallet_kind = 2, may_go_negative = true WHERE id = {books.account}")
    assert ("account", f"account {books.account}", "its kind is not its wallet's") in await books.findings()


async def test_an_owner_s_account_that_may_go_negative_is_found(books: Books) -> None:
    await books.execute(
        "ALTER TABLE account DROP CONSTRAINT account_may_go_negative_check",
        f"UPDATE account SET may_go_negative = true WHERE id = {books.account}",
    )
    assert await books.findings() == [
        *(("chain", books.entry(seq), "may_go_negative is not its account's") for seq in (1, 2, 3, 4)),
        ("account", f"account {books.account}", "may_go_negative is right for the system's accounts only"),
    ]


async def test_an_owner_s_overdraft_is_found(books: Books) -> None:
    await books.execute("ALTER TABLE entry DROP CONSTRAINT entry_balance_after_check")
    await insert(books.connection, await movement(books.connection, SHARD, ALICE_ID, -221))
    assert await books.findings() == [("chain", books.entry(5), "an owner's balance is negative: -1")]


async def test_an_entry_that_moves_nothing_is_found(books: Books) -> None:
    await books.execute("ALTER TABLE entry DROP CONSTRAINT entry_amount_check")
    await insert(books.connection, await movement(books.connection, SHARD, ALICE_ID, 0))
    assert ("chain", books.entry(5), "moves nothing") in await books.findings()


async def test_an_owner_in_the_wrong_shard_is_found(books: Books) -> None:
    stranger = owners_of(3)[0]
    await books.execute(f"UPDATE wallet SET owner_id = '{stranger}' WHERE id = {books.wallet}")
    assert await books.findings() == [("wallet", f"wallet {books.wallet} ({stranger})", "belongs in shard 3")]


OUTSIDE = {
    "wallet": f"UPDATE wallet SET shard = {SHARD_COUNT} WHERE kind = 2 AND shard = 0",
    "account": f"INSERT INTO account SELECT {SHARD_COUNT}, id, wallet_id, wallet_kind, asset_id, may_go_negative"
    " FROM account LIMIT 1",
    "transaction": f"INSERT INTO transaction SELECT {SHARD_COUNT}, id, type, wallet_id, executed_at"
    " FROM transaction LIMIT 1",
    "entry": f"INSERT INTO entry SELECT {SHARD_COUNT}, account_id, seq, transaction_id, type, amount, balance_after,"
    " may_go_negative, executed_at FROM entry LIMIT 1",
    "idempotency_key": f"INSERT INTO idempotency_key SELECT {SHARD_COUNT}, wallet_id, key, fingerprint, outcome,"
    " transaction_id, details FROM idempotency_key LIMIT 1",
}


@pytest.mark.parametrize("shard", [SHARD_COUNT, -1])
@pytest.mark.parametrize("table", OUTSIDE)
async def test_a_row_in_a_shard_that_does_not_exist_is_found(books: Books, table: str, shard: int) -> None:
    await books.execute("ALTER TABLE wallet DROP CONSTRAINT wallet_shard_check")
    statement = OUTSIDE[table].replace("account SELECT", "account OVERRIDING SYSTEM VALUE SELECT")
    await books.execute(statement.replace(f"SELECT {SHARD_COUNT}", f"SELECT {shard}").replace("= 4", f"= {shard}"))
    found = [finding async for finding in verify_outside(books.connection, SHARD_COUNT)]
    assert found == [Finding("shard", shard, f"table {table}", "has rows in a shard past the last, 3")]


async def test_each_check_names_the_first_rows_only(books: Books) -> None:
    moved: list[Movement] = []
    for _ in range(FINDINGS_PER_CHECK_MAX + 5):
        moved.append(await movement(books.connection, SHARD, ALICE_ID, 1, after=moved))
    await insert(books.connection, *moved)
    assert await books.findings() == []
    await books.execute(f"UPDATE transaction SET reference = 'forged' WHERE wallet_id = {books.wallet}")
    checks = [check for check, _, _ in await books.findings() if check == "key"]
    assert len(checks) == FINDINGS_PER_CHECK_MAX
