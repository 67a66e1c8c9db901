import asyncio
import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from factories import gql, new_owner, new_owner_id, post
from pydantic import SecretStr
from structlog.testing import capture_logs
from watched import endpoint_of, statements_of

from wallet_gql.db.engine import create_engine
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.read_batches import ReadBatch
from wallet_gql.settings import Settings


async def test_wallet_of_an_owner(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=5)
    query = """query($o: String!) {
      wallet(ownerId: $o) { __typename ownerId balance { amount } points: balance(asset: "POINTS") { amount } }
      balance(ownerId: $o) { __typename ownerId amount asset { code } }
      transactions(ownerId: $o) { totalCount nodes { amount } }
    }"""

    assert await gql(client, query, o=owner) == {
        "wallet": {
            "__typename": "Wallet",
            "ownerId": owner,
            "balance": {"amount": "5"},
            "points": {"amount": "0.00"},
        },
        "balance": {"__typename": "Balance", "ownerId": owner, "amount": "5", "asset": {"code": "GOLD"}},
        "transactions": {"totalCount": 1, "nodes": [{"amount": "5"}]},
    }


async def test_unknown_owner_and_asset_are_null(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    query = """query($o: String!, $k: UUID!) {
      wallet(ownerId: "nobody") { id }
      wallets(ownerIds: ["nobody", $o, "nobody"]) { ownerId }
      balance(ownerId: "nobody") { id }
      transactions(ownerId: "nobody") { totalCount }
      ofNobody: transactionByKey(ownerId: "nobody", idempotencyKey: $k) { id }
      ofOwner: transactionByKey(ownerId: $o, idempotencyKey: $k) { id }
      known: wallet(ownerId: $o) { balance(asset: "SILVER") { id } transactions(asset: "SILVER") { totalCount } }
      unknownAsset: balance(ownerId: $o, asset: "SILVER") { id }
    }"""

    assert await gql(client, query, o=owner, k=str(uuid4())) == {
        "wallet": None,
        "wallets": [None, {"ownerId": owner}, None],
        "balance": None,
        "transactions": None,
        "ofNobody": None,
        "ofOwner": None,
        "known": {"balance": None, "transactions": None},
        "unknownAsset": None,
    }


async def test_asset_that_was_never_used_reads_zero(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    query = """query($o: String!) {
      balance(ownerId: $o, asset: "POINTS") { amount }
      transactions(ownerId: $o, asset: "POINTS") {
        totalCount nodes { id } edges { cursor } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
      }
    }"""

    assert await gql(client, query, o=owner) == {
        "balance": {"amount": "0.00"},
        "transactions": {
            "totalCount": 0,
            "nodes": [],
            "edges": [],
            "pageInfo": {"hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None},
        },
    }


async def test_wallets_come_in_the_order_that_they_were_asked_in(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owners = [await new_owner(ledger, gold=n + 1) for n in range(20)]
    asked = [owners[n % 20] if n % 7 else new_owner_id() for n in range(100)]
    query = "query($o: [String!]!) { wallets(ownerIds: $o) { ownerId balance { amount } } }"

    wallets = (await gql(client, query, o=asked))["wallets"]

    assert wallets == [
        {"ownerId": owner, "balance": {"amount": str(n % 20 + 1)}} if n % 7 else None for n, owner in enumerate(asked)
    ]
    assert (await gql(client, query, o=[]))["wallets"] == []


async def test_balances_are_those_of_all_assets_in_their_order(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=5)
    await post(ledger, "top_up", owner, "0.5", asset_code="POINTS")
    query = "query($o: String!) { assets { code } wallet(ownerId: $o) { balances { amount asset { code } } } }"

    answer = await gql(client, query, o=owner)

    balances = answer["wallet"]["balances"]
    assert [balance["asset"]["code"] for balance in balances] == [asset["code"] for asset in answer["assets"]]
    assert [balance["amount"] for balance in balances][:3] == ["5", "0", "0.50"]


async def test_asset_added_while_the_server_runs_is_there(client: httpx.AsyncClient, ledger: Ledger) -> None:
    code = f"T{uuid4().hex[:8].upper()}"
    owner = await new_owner(ledger)
    await add_asset(ledger, code, "Test Tokens", 4)
    query = """query($o: String!, $a: String!) {
      balance(ownerId: $o, asset: $a) { amount } assets { code } wallet(ownerId: $o) { balances { asset { code } } }
    }"""

    answer = await gql(client, query, o=owner, a=code)

    assert answer["balance"] == {"amount": "0.0000"}
    assert answer["assets"][-1] == answer["wallet"]["balances"][-1]["asset"] == {"code": code}


async def test_transaction_by_key_is_that_of_its_owner(client: httpx.AsyncClient, ledger: Ledger) -> None:
    key = uuid4()
    owners = [await new_owner(ledger), await new_owner(ledger)]
    for amount, owner in enumerate(owners, start=1):
        await post(ledger, "top_up", owner, amount, key, reference=f"order-{amount}")
    query = """query($a: String!, $b: String!, $k: UUID!) {
      a: transactionByKey(ownerId: $a, idempotencyKey: $k) { amount reference idempotencyKey }
      b: transactionByKey(ownerId: $b, idempotencyKey: $k) { amount reference idempotencyKey }
    }"""

    assert await gql(client, query, a=owners[0], b=owners[1], k=str(key).upper()) == {
        name: {"amount": str(n), "reference": f"order-{n}", "idempotencyKey": str(key)}
        for name, n in (("a", 1), ("b", 2))
    }


async def test_get_answers_queries(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=5)
    parameters = {
        "query": "query A { assets { code } } query B($o: String!) { balance(ownerId: $o) { amount } }",
        "operationName": "B",
        "variables": f'{{"o": "{owner}"}}',
        "extensions": "{}",
    }

    response = await client.get("/graphql", params=parameters)

    assert response.status_code == 200
    assert response.json() == {"data": {"balance": {"amount": "5"}}}


async def test_client_reads_its_own_writes(client: httpx.AsyncClient) -> None:
    owner = new_owner_id()
    await gql(client, "mutation($o: String!) { openWallet(input: {ownerId: $o}) { __typename } }", o=owner)
    for amount in range(1, 30):
        top_up = "mutation($o: String!, $k: UUID!) { topUp(input: {ownerId: $o, amount: 1, idempotencyKey: $k})"
        await gql(client, top_up + " { __typename } }", o=owner, k=str(uuid4()))
        read = "query($o: String!) { balance(ownerId: $o) { amount } transactions(ownerId: $o) { totalCount } }"
        assert await gql(client, read, o=owner) == {
            "balance": {"amount": str(amount)},
            "transactions": {"totalCount": amount},
        }


LISTS = {
    "wallets with a balance": "query($o: [String!]!) { wallets(ownerIds: $o) { balance { amount } } }",
    "wallets with all balances": "query($o: [String!]!) { wallets(ownerIds: $o) { balances { amount } } }",
    "wallets with pages": "query($o: [String!]!) { wallets(ownerIds: $o) { transactions(first: 3) { nodes { id } } } }",
    "wallets with pages of entries": """query($o: [String!]!) {
      wallets(ownerIds: $o) { transactions(first: 3) { nodes { entries { amount } } } }
    }""",
}


@pytest.fixture(scope="module")
def settings_of_its_own(new_database: Callable[[str], Settings]) -> Settings:
    """A database with the demo's assets only: 100 wallets in more than ten would be more than a statement takes."""
    return new_database("queries")


async def count_statements(ledger: Ledger, query: str, owners: list[str]) -> int:
    async with endpoint_of(ledger) as client:
        with statements_of(ledger) as statements:
            wallets = (await gql(client, query, o=owners))["wallets"]
    assert len(wallets) == len(owners)
    return len(statements)


@pytest.mark.parametrize("query", LISTS.values(), ids=LISTS)
async def test_a_hundred_owners_cost_the_statements_of_one(settings_of_its_own: Settings, query: str) -> None:
    async with open_ledger(settings_of_its_own) as ledger:
        owners = await asyncio.gather(*(new_owner(ledger, gold=1) for _ in range(100)))
        one = await count_statements(ledger, query, owners[:1])
        hundred = await count_statements(ledger, query, owners)

    assert one == hundred
    assert one in {2, 3}


async def test_a_hundred_nodes_cost_a_few_statements(ledger: Ledger) -> None:
    owners = await asyncio.gather(*(new_owner(ledger, gold=1) for _ in range(50)))
    async with endpoint_of(ledger) as client:
        of_all = "query($o: [String!]!) { wallets(ownerIds: $o) { id transactions(first: 1) { nodes { id } } } }"
        wallets = (await gql(client, of_all, o=owners))["wallets"]
        ids = [id_ for wallet in wallets for id_ in (wallet["id"], wallet["transactions"]["nodes"][0]["id"])]
        with statements_of(ledger) as statements:
            nodes = (await gql(client, "query($i: [ID!]!) { nodes(ids: $i) { id } }", i=ids))["nodes"]

    assert [node["id"] for node in nodes] == ids
    assert len(ids) == 100
    assert len(statements) == 2


async def test_requests_at_once_share_statements(ledger: Ledger) -> None:
    owners = await asyncio.gather(*(new_owner(ledger, gold=1) for _ in range(40)))
    query = "query($o: String!) { balance(ownerId: $o) { amount } }"
    async with endpoint_of(ledger) as client:
        await gql(client, query, o=owners[0])
        with statements_of(ledger) as statements:
            answers = await asyncio.gather(*(gql(client, query, o=owner) for owner in owners))

    assert answers == [{"balance": {"amount": "1"}}] * 40
    assert len(statements) < 10


@pytest.mark.parametrize(
    "query",
    [
        "query($o: String!) { balance(ownerId: $o) { amount } }",
        "query($o: String!) { wallet(ownerId: $o) { id } }",
        "query($o: String!) { assets { code } transactions(ownerId: $o) { totalCount } }",
        "mutation($o: String!) { openWallet(input: {ownerId: $o}) { __typename } }",
    ],
)
async def test_database_away_is_unavailable_and_says_nothing_of_it(ledger: Ledger, query: str) -> None:
    port = 1
    nowhere = ledger.settings.server_url().set(port=port).render_as_string(hide_password=False)
    engine = create_engine(ledger.settings.model_copy(update={"database_url": SecretStr(nowhere)}))
    reads = {
        name: ReadBatch(engine, batch._read, 1)
        for name in ledger.reads.__slots__
        for batch in [getattr(ledger.reads, name)]
    }
    broken = replace(ledger, engine=engine, reads=replace(ledger.reads, **reads))

    async with endpoint_of(broken) as client:
        response = await client.post("/graphql", json={"query": query, "variables": {"o": new_owner_id()}})

    answer = response.json()
    assert response.status_code == 200
    assert response.headers["retry-after"] == "2"
    assert set(answer["data"].values()) == {None}
    for error in answer["errors"]:
        assert error["extensions"] == {"code": "UNAVAILABLE", "requestId": "test", "retryAfterSeconds": 2}
        assert error["message"].startswith("The service got no answer in time")
        assert ("posted nothing" in error["message"]) == query.startswith("mutation")


async def test_fault_that_reaches_many_fields_leaves_no_error_unheard(ledger: Ledger) -> None:
    owner = await new_owner(ledger)

    async def fail(*_: Any) -> list[Any]:
        raise LookupError("planted")

    broken = replace(ledger, reads=replace(ledger.reads, balances=ReadBatch(ledger.engine, fail, 1)))
    query = "query($o: [String!]!) { wallets(ownerIds: $o) { balance { amount } balances { amount } } }"
    async with endpoint_of(broken) as client:
        with capture_logs() as logged:
            response = await client.post("/graphql", json={"query": query, "variables": {"o": [owner, owner]}})

    assert {line["event"] for line in logged} == {"fault"}
    assert response.json()["data"] == {"wallets": [{"balance": None, "balances": None}] * 2}
    assert {error["extensions"]["code"] for error in response.json()["errors"]} == {"INTERNAL"}
    assert "planted" not in response.text
    # asyncio tells of errors that nobody has looked at when they are thrown away, and anyio then fails the test.
    logged.clear()
    gc.collect()
