"""What a client is told of a key: whether it may send another one hangs on it."""

from typing import Any
from uuid import uuid4

import asyncpg
import httpx
from api import Endpoint
from batches import held, wallet
from direct import KeyRow, Rows, account_of, insert_rows
from factories import gql, new_owner, post

from wallet_gql.domain.shards import shard_of
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

OUTCOME = """query($o: String!, $k: UUID!) { outcomeByKey(ownerId: $o, idempotencyKey: $k) {
  state
  transaction { id type amount idempotencyKey }
  refusal {
    __typename code message retryable
    ... on Replayable { alreadyProcessed }
    ... on InsufficientBalance { available required balance { amount asset { code } } }
    ... on BalanceLimitExceeded { limit balance { amount } }
  }
} }"""


async def outcome(client: httpx.AsyncClient, owner: str, key: object) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await gql(client, OUTCOME, o=owner, k=str(key)))["outcomeByKey"]
    return found


async def test_posted_names_the_transaction(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    await post(ledger, "top_up", owner, "12.5", key, asset_code="POINTS")
    by_key = "query($o: String!, $k: UUID!) { transactionByKey(ownerId: $o, idempotencyKey: $k) { id } }"
    id_ = (await gql(client, by_key, o=owner, k=str(key)))["transactionByKey"]["id"]

    assert await outcome(client, owner, key) == {
        "state": "POSTED",
        "transaction": {"id": id_, "type": "TOP_UP", "amount": "12.50", "idempotencyKey": str(key)},
        "refusal": None,
    }


async def test_refused_names_the_refusal(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    await post(ledger, "top_up", owner, "12.5", asset_code="POINTS")
    await post(ledger, "spend", owner, "12.51", key, asset_code="POINTS")
    await post(ledger, "top_up", owner, "1", asset_code="POINTS")

    assert await outcome(client, owner, key) == {
        "state": "REFUSED",
        "transaction": None,
        "refusal": {
            "__typename": "InsufficientBalance",
            "code": "INSUFFICIENT_BALANCE",
            "message": "Insufficient balance",
            "retryable": False,
            "alreadyProcessed": True,
            "available": "12.50",
            "required": "12.51",
            "balance": {"amount": "13.50", "asset": {"code": "POINTS"}},
        },
    }


async def test_full_wallet_is_told_as_such(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    for _ in range(100):
        await post(ledger, "bonus", owner, 10**15)
    await post(ledger, "bonus", owner, 1, key)

    found = await outcome(client, owner, key)
    assert found is not None
    refusal = found["refusal"]
    assert (refusal["__typename"], refusal["limit"]) == ("BalanceLimitExceeded", str(10**17))
    assert refusal["balance"] == {"amount": str(10**17)}


async def test_refusal_of_the_first_version_has_its_code(
    client: httpx.AsyncClient, ledger: Ledger, server_connection: asyncpg.Connection
) -> None:
    owner, key = await new_owner(ledger, gold=5), uuid4()
    account = await account_of(server_connection, shard_of(owner, ledger.shard_count), owner)
    old = KeyRow(account.shard, account.wallet_id, key, b"x" * 16, 3, uuid4(), '{"balance_before_minor": 5}')
    await insert_rows(server_connection, Rows(keys=[old]))

    found = await outcome(client, owner, key)
    assert found is not None
    assert (found["state"], found["transaction"]) == ("REFUSED", None)
    assert found["refusal"] == {
        "__typename": "KeptRefusal",
        "code": "INSUFFICIENT_BALANCE",
        "message": "Insufficient balance",
        "retryable": False,
        "alreadyProcessed": True,
    }


async def test_unknown_is_told_apart_from_an_owner_without_a_wallet(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    assert await outcome(client, owner, uuid4()) == {"state": "UNKNOWN", "transaction": None, "refusal": None}
    assert await outcome(client, "nobody", uuid4()) is None


async def test_twenty_of_one_document_are_answered_together(ledger: Ledger) -> None:
    endpoint = Endpoint(ledger)
    owner, key = await new_owner(ledger), uuid4()
    await post(ledger, "top_up", owner, 1, key)
    fields = " ".join(
        f'k{n}: outcomeByKey(ownerId: "{owner}", idempotencyKey: "{uuid4() if n % 2 else key}") {{ state }}'
        for n in range(20)
    )
    answer = (await endpoint.ask(f"{{ {fields} }}")).json()

    assert [answer["data"][f"k{n}"]["state"] for n in range(20)] == ["POSTED", "UNKNOWN"] * 10


async def test_locked_wallet_is_an_error_of_its_field(settings: Settings) -> None:
    short = settings.model_copy(update={"request_deadline_seconds": 4.0})
    async with open_ledger(short) as ledger:
        endpoint = Endpoint(ledger)
        locked, free = await new_owner(ledger), await new_owner(ledger)
        query = """query($a: String!, $b: String!, $k: UUID!) {
          locked: outcomeByKey(ownerId: $a, idempotencyKey: $k) { state }
          free: outcomeByKey(ownerId: $b, idempotencyKey: $k) { state }
        }"""
        async with held(settings, wallet(ledger, locked)):
            answer = (await endpoint.ask(query, variables={"a": locked, "b": free, "k": str(uuid4())})).json()

    # Neither null without an error, which would be an owner without a wallet, nor UNKNOWN.
    assert answer["data"] == {"locked": None, "free": {"state": "UNKNOWN"}}
    (error,) = answer["errors"]
    assert (error["path"], error["extensions"]["code"]) == (["locked"], "UNAVAILABLE")
    # Nor a word of postings: the key may have been posted long ago.
    assert error["message"] == "The service got no answer in time: ask again after a pause."
