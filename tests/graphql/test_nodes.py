import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from factories import gql, new_owner, post

from wallet_gql.domain.limits import Enforcement, LimitFlow, LimitsSet
from wallet_gql.domain.postings import Posted
from wallet_gql.graphql import ids
from wallet_gql.operations.limits import LimitInput, rolling, set_limit
from wallet_gql.operations.opening import Ledger

THINGS = """query($o: String!) {
  assets { __typename id code name scale }
  limits(ownerId: $o) { __typename id appliesTo flow rollingSeconds maxAmount setAt asset { id } }
  wallet(ownerId: $o) {
    __typename id ownerId openedAt
    balances { __typename id ownerId amount cursor asset { id } }
    transactions {
      nodes {
        __typename id transactionId type direction amount balanceAfter description reference executedAt idempotencyKey
        asset { id } entries { account direction amount }
      }
    }
  }
}"""

NODE = """
  __typename id
  ... on Asset { code name scale }
  ... on Wallet { ownerId openedAt }
  ... on Balance { ownerId amount cursor asset { id } }
  ... on Transaction {
    transactionId type direction amount balanceAfter description reference executedAt idempotencyKey
    asset { id } entries { account direction amount }
  }
  ... on Limit { appliesTo flow rollingSeconds maxAmount setAt asset { id } }
"""


@pytest.fixture
async def owner(ledger: Ledger) -> str:
    """An owner with a history in two assets, and a limit."""
    owner = await new_owner(ledger, gold=100)
    assert isinstance(await post(ledger, "spend", owner, 30, description="a sword", reference="order-1"), Posted)
    assert isinstance(await post(ledger, "bonus", owner, "0.5", asset_code="POINTS"), Posted)
    asked = LimitInput(
        "GOLD", owner, LimitFlow.SPEND, rolling(3600), Decimal(500), None, Enforcement.REFUSE, idempotency_key=uuid4()
    )
    assert isinstance(await set_limit(ledger, asked), LimitsSet)
    return owner


async def things(client: httpx.AsyncClient, owner: str) -> list[dict[str, Any]]:
    """Read all that has an identity, with the fields that `NODE` selects."""
    answer = await gql(client, THINGS, o=owner)
    wallet = answer["wallet"]
    balances, transactions = wallet.pop("balances"), wallet.pop("transactions")["nodes"]
    return [*answer["assets"], wallet, *balances, *transactions, *answer["limits"]]


async def node(client: httpx.AsyncClient, id_: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await gql(client, f"query($i: ID!) {{ node(id: $i) {{ {NODE} }} }}", i=id_))["node"]
    return found


async def nodes(client: httpx.AsyncClient, ids_: list[str]) -> list[dict[str, Any] | None]:
    query = f"query($i: [ID!]!) {{ nodes(ids: $i) {{ {NODE} }} }}"
    found: list[dict[str, Any] | None] = (await gql(client, query, i=ids_))["nodes"]
    return found


async def test_everything_with_an_identity_is_found_by_it(client: httpx.AsyncClient, owner: str) -> None:
    expected = await things(client, owner)

    assert {thing["__typename"] for thing in expected} == {"Asset", "Wallet", "Balance", "Transaction", "Limit"}
    assert await nodes(client, [thing["id"] for thing in expected]) == expected
    for thing in expected:
        assert await node(client, thing["id"]) == thing


async def test_ids_are_unique_and_do_not_change(client: httpx.AsyncClient, ledger: Ledger, owner: str) -> None:
    before = [thing["id"] for thing in await things(client, owner)]
    await post(ledger, "bonus", owner, 7)

    after = [thing["id"] for thing in await things(client, owner)]

    assert len(set(before)) == len(before)
    assert len(set(after) - set(before)) == 1
    assert set(before) <= set(after)


async def test_nodes_come_in_the_order_that_they_were_asked_in(client: httpx.AsyncClient, owner: str) -> None:
    asked = [thing["id"] for thing in await things(client, owner)]
    unknown = ids.wallet_id(0, 2**60)
    mixed = [asked[-1], unknown, *reversed(asked), asked[0], unknown]

    found = await nodes(client, mixed)

    assert [thing["id"] if thing else None for thing in found] == [None if id_ == unknown else id_ for id_ in mixed]
    assert await nodes(client, []) == []


async def test_transaction_is_found_by_its_id(client: httpx.AsyncClient, owner: str) -> None:
    (newest, *_) = (thing for thing in await things(client, owner) if thing["__typename"] == "Transaction")

    query = f"query($i: ID!) {{ transaction(id: $i) {{ ...Found }} }} fragment Found on Node {{ {NODE} }}"
    answer = await gql(client, query, i=newest["id"])

    assert answer["transaction"] == newest


async def test_balance_by_its_id_is_what_it_is_now(client: httpx.AsyncClient, ledger: Ledger, owner: str) -> None:
    (gold, *_) = (thing for thing in await things(client, owner) if thing["__typename"] == "Balance")
    await post(ledger, "top_up", owner, 5)

    now = await node(client, gold["id"])

    assert now is not None
    assert (gold["amount"], now["amount"]) == ("70", "75")


async def test_balance_of_an_asset_that_was_never_used_is_found(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    query = 'query($o: String!) { balance(ownerId: $o, asset: "DIAMOND") { id amount } }'
    balance = (await gql(client, query, o=owner))["balance"]

    found = await node(client, balance["id"])

    assert found is not None
    assert (found["__typename"], found["ownerId"], found["amount"]) == ("Balance", owner, "0")


async def test_payload_names_the_same_things(client: httpx.AsyncClient, owner: str) -> None:
    query = """mutation($o: String!, $k: UUID!) { bonus(input: {ownerId: $o, amount: 1, idempotencyKey: $k}) {
      ... on BonusPayload { transaction { id } wallet { id } balance { id asset { id } } }
    } }"""

    payload = (await gql(client, query, o=owner, k=str(uuid4())))["bonus"]

    known = {thing["id"]: thing["__typename"] for thing in await things(client, owner)}
    assert known[payload["transaction"]["id"]] == "Transaction"
    assert known[payload["wallet"]["id"]] == "Wallet"
    assert known[payload["balance"]["id"]] == "Balance"
    assert known[payload["balance"]["asset"]["id"]] == "Asset"


async def test_id_that_nothing_has_is_null(client: httpx.AsyncClient, owner: str) -> None:
    (wallet,) = (thing for thing in await things(client, owner) if thing["__typename"] == "Wallet")
    shard, wallet_id = ids.decode(wallet["id"]).parts
    nobody = [
        ids.asset_id("SILVER"),
        ids.asset_id("no code"),
        ids.asset_id(""),
        ids.wallet_id(shard, 2**63 - 1),
        ids.wallet_id(2**15 - 1, wallet_id),
        ids.wallet_id((shard + 1) % 4, wallet_id),
        *(
            ids._encode(text)
            for text in (
                f"Balance:{shard}:{wallet_id}:32767",
                f"Balance:{shard}:{2**63 - 1}:1",
                f"Transaction:{shard}:{2**63 - 1}:1",
                f"Transaction:{shard}:1:{2**63 - 1}",
                f"Transaction:{shard}:1:0",
                f"Limit:{shard}:{wallet_id}:1:2",
                f"Limit:{shard}:{wallet_id}:1:0",
                f"Limit:{shard}:{wallet_id}:32767:1",
                f"Limit:{shard}:{2**63 - 1}:1:{2**31 - 1}",
                f"Limit:{shard}:0:1:{2**31 - 1}",
            )
        ),
    ]

    assert await nodes(client, nobody) == [None] * len(nobody)
    for id_ in nobody:
        assert await node(client, id_) is None


async def test_treasury_has_no_ids(client: httpx.AsyncClient, owner: str, owner_connection: asyncpg.Connection) -> None:
    assert await things(client, owner)
    stripes = await owner_connection.fetch("SELECT shard, id FROM wallet WHERE kind = 2")
    accounts = await owner_connection.fetch("SELECT shard, id FROM account WHERE wallet_kind = 2")
    made_up = [
        *(ids.wallet_id(shard, id_) for shard, id_ in stripes),
        *(ids._encode(f"Balance:{shard}:{id_}:1") for shard, id_ in stripes),
        *(ids._encode(f"Transaction:{shard}:{id_}:1") for shard, id_ in accounts),
        *(ids._encode(f"Limit:{shard}:{id_}:1:1") for shard, id_ in stripes),
    ]

    assert len(stripes) >= 4
    assert accounts
    for start in range(0, len(made_up), 100):
        part = made_up[start : start + 100]
        assert await nodes(client, part) == [None] * len(part)


async def test_many_readers_at_once_get_each_their_own(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owners = [await new_owner(ledger, gold=n + 1) for n in range(30)]
    query = "query($o: String!) { wallet(ownerId: $o) { id } balance(ownerId: $o) { id } }"
    named = await asyncio.gather(*(gql(client, query, o=owner) for owner in owners))

    found = await asyncio.gather(*(nodes(client, [name["wallet"]["id"], name["balance"]["id"]]) for name in named))

    assert [(pair[0] or {})["ownerId"] for pair in found] == owners
    assert [(pair[1] or {})["amount"] for pair in found] == [str(n + 1) for n in range(30)]
