"""A kept refusal that the history cannot have given is found."""

import pytest
from damaged import Books
from uuid_utils.compat import uuid7


async def refuse(books: Books, change: str) -> list[tuple[str, str, str]]:
    """Change Alice's refusal, which was on 220 GOLD, past the table's checks."""
    await books.execute(
        *(f"ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_{name}_check" for name in KEY_CHECKS),
        f"UPDATE idempotency_key SET {change} WHERE key = '{books.history.refused}'",
    )
    return await books.findings()


KEY_CHECKS = ("fingerprint", "outcome", "details")


def on(balance: object) -> str:
    return f"details = jsonb_build_object('balance_before_minor', {balance})"


@pytest.mark.parametrize(
    "details", [on("1.5"), on("'220'::text"), on("-220"), on("true"), "details = '{}'", "details = NULL"]
)
async def test_a_refusal_on_no_whole_balance_is_found(books: Books, details: str) -> None:
    # What the refusal can still say of its balance is judged as well.
    assert (await refuse(books, details))[0] == ("key", books.refused_key, "says refused, but not on which balance")


@pytest.mark.parametrize("balance", [219, 1000, 10**18])
async def test_a_refusal_on_a_balance_that_no_account_had_is_found(books: Books, balance: int) -> None:
    assert await refuse(books, on(balance)) == [books.not_held(balance)]


async def test_a_refusal_on_a_balance_from_long_before_is_found(books: Books) -> None:
    for table in ("entry", "transaction"):
        await books.execute(f"UPDATE {table} SET executed_at = executed_at - interval '1 day'")
    assert await books.findings() == []
    # Alice had 120, but not within the hour.
    assert await refuse(books, on(120)) == [books.not_held(120)]


async def test_a_refusal_on_a_balance_from_long_after_is_found(books: Books) -> None:
    assert await refuse(books, "created_at = created_at - interval '1 day'") == [books.not_held(220)]


async def test_a_refusal_on_nothing_is_right_while_the_wallet_has_an_unused_asset(books: Books) -> None:
    assert await refuse(books, on(0)) == []


async def test_a_refusal_on_nothing_is_right_for_a_spend_of_bonuses_that_there_are_not(books: Books) -> None:
    await books.execute("DELETE FROM asset WHERE code NOT IN ('GOLD', 'DIAMOND')")
    assert await refuse(books, f"{on(0)}, created_at = created_at + interval '50 s'") == []
    for table in ("entry", "transaction"):
        await books.execute(f"UPDATE {table} SET executed_at = executed_at - interval '2 hours'")
    assert await books.findings() == []
    # A limit is not exceeded by what comes from bonuses alone.
    await books.execute(f"UPDATE idempotency_key SET outcome = 2 WHERE key = '{books.history.refused}'")
    assert await books.findings() == [books.not_held(0)]


async def test_a_refusal_of_another_outcome_is_found(books: Books) -> None:
    fault = "says that the limit was exceeded, but no amount exceeds it from 220"
    assert await refuse(books, "outcome = 2") == [("refusal", books.refused_key, fault)]


async def test_a_refusal_of_the_limit_that_calls_itself_insufficient_is_found(books: Books) -> None:
    near = 10**17 - 1
    await books.execute(f"UPDATE entry SET balance_after = {near} WHERE account_id = {books.account} AND seq = 4")
    found = await refuse(books, f"outcome = 3, {on(near)}")
    fault = f"says that {near} was not enough, but it is enough for any amount"
    assert [finding for finding in found if finding[0] == "refusal"] == [("refusal", books.refused_key, fault)]
    await books.execute(f"UPDATE idempotency_key SET outcome = 2 WHERE key = '{books.history.refused}'")
    assert [finding for finding in await books.findings() if finding[0] == "refusal"] == []


async def test_a_refusal_of_a_stripe_that_was_full_is_no_finding(books: Books) -> None:
    await books.execute(f"UPDATE entry SET balance_after = {-9 * 10**18} WHERE account_id = {books.treasury}")
    assert [finding for finding in await refuse(books, "outcome = 2") if finding[0] == "refusal"] == []


async def test_an_outcome_that_there_is_not_is_found(books: Books) -> None:
    assert ("key", books.refused_key, "has outcome 49, which does not exist") in await refuse(books, "outcome = 49")


async def test_a_fingerprint_of_another_length_is_found(books: Books) -> None:
    fault = "its fingerprint has 3 bytes"
    assert await refuse(books, "fingerprint = '\\x010203'") == [("key", books.refused_key, fault)]


async def test_a_refusal_of_another_wallet_is_found(books: Books) -> None:
    name = f"key {books.history.refused} of wallet {books.bob_wallet}"
    fault = "says refused on 220, which no account of its wallet held then"
    assert await refuse(books, f"wallet_id = {books.bob_wallet}") == [("refusal", name, fault)]


async def test_a_refusal_that_is_there_under_two_keys_is_found(books: Books) -> None:
    second = uuid7()
    await books.execute(
        "CREATE TEMPORARY TABLE copy ON COMMIT DROP AS"
        f" SELECT * FROM idempotency_key WHERE key = '{books.history.refused}'",
        f"UPDATE copy SET key = '{second}'",
        "INSERT INTO idempotency_key SELECT * FROM copy",
    )
    fault = "has the transaction id of another refusal"
    names = sorted((books.refused_key, f"key {second} of wallet {books.wallet}"))
    assert await books.findings() == [("refusal", name, fault) for name in names]
