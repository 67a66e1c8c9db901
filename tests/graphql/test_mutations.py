import json
import re
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from factories import gql, new_owner_id
from tables import Rows, count_rows
from uuid_utils.compat import uuid7

from wallet_gql.settings import Settings

POSTINGS: Final = {"topUp": "TOP_UP", "bonus": "BONUS", "spend": "SPEND"}
DIRECTIONS: Final = {"topUp": "CREDIT", "bonus": "CREDIT", "spend": "DEBIT"}
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
LIMIT: Final = 10**17

ASSET: Final = "asset { __typename id code name scale }"
BALANCE: Final = f"balance {{ __typename id ownerId amount cursor {ASSET} }}"
TRANSACTION: Final = (
    f"__typename id transactionId type direction amount balanceAfter description reference executedAt idempotencyKey"
    f" entries {{ __typename account direction amount }} {ASSET}"
)


def posting(verb: str) -> str:
    """Write a mutation that selects every field of every member."""
    name = verb[0].upper() + verb[1:]
    refused = (
        f"... on InsufficientBalance {{ available required alreadyProcessed {BALANCE} }}" if verb == "spend" else ""
    )
    return f"""mutation($input: {name}Input!) {{ {verb}(input: $input) {{
      __typename
      ... on {name}Payload {{
        alreadyProcessed transaction {{ {TRANSACTION} }} wallet {{ __typename id ownerId openedAt }} {BALANCE}
      }}
      ... on Error {{ code message retryable }}
      ... on WalletNotFound {{ ownerId }}
      ... on IdempotencyKeyReused {{ idempotencyKey }}
      ... on AssetNotFound {{ assetCode }}
      ... on InvalidAmount {{ reason scale }}
      ... on BalanceLimitExceeded {{ limit alreadyProcessed {BALANCE} }}
      {refused}
    }} }}"""


async def post(client: httpx.AsyncClient, verb: str, owner: str, amount: str | int, **more: Any) -> dict[str, Any]:
    """Post, and return the member of the union that came of it."""
    given = {"ownerId": owner, "amount": amount, "idempotencyKey": str(uuid4()), **more}
    answer = await gql(client, posting(verb), input=given)
    result: dict[str, Any] = answer[verb]
    return result


async def open_wallet(client: httpx.AsyncClient, owner: str) -> dict[str, Any]:
    query = """mutation($o: String!) { openWallet(input: {ownerId: $o}) {
      __typename ... on OpenWalletPayload { alreadyOpen wallet { __typename id ownerId openedAt balances { amount } } }
    } }"""
    result: dict[str, Any] = (await gql(client, query, o=owner))["openWallet"]
    return result


async def new_owner(client: httpx.AsyncClient, gold: int = 0) -> str:
    owner = new_owner_id()
    await open_wallet(client, owner)
    if gold:
        assert (await post(client, "topUp", owner, gold))["__typename"] == "TopUpPayload"
    return owner


async def balance_of(client: httpx.AsyncClient, owner: str, asset: str = "GOLD") -> dict[str, Any]:
    query = f"query($o: String!, $a: String!) {{ balance(ownerId: $o, asset: $a) {{ {BALANCE[10:-2]} }} }}"
    found: dict[str, Any] = (await gql(client, query, o=owner, a=asset))["balance"]
    return found


async def by_key(client: httpx.AsyncClient, owner: str, key: str) -> dict[str, Any] | None:
    query = f"query($o: String!, $k: UUID!) {{ transactionByKey(ownerId: $o, idempotencyKey: $k) {{ {TRANSACTION} }} }}"
    found: dict[str, Any] | None = (await gql(client, query, o=owner, k=key))["transactionByKey"]
    return found


async def test_open_wallet(client: httpx.AsyncClient, settings: Settings) -> None:
    owner = new_owner_id()
    before = await count_rows(settings)

    opened = await open_wallet(client, owner)

    wallet = opened["wallet"]
    assert (opened["__typename"], opened["alreadyOpen"]) == ("OpenWalletPayload", False)
    assert (wallet["__typename"], wallet["ownerId"]) == ("Wallet", owner)
    assert TIME.fullmatch(wallet["openedAt"])
    assert [balance["amount"] for balance in wallet["balances"]][:3] == ["0", "0", "0.00"]
    assert await open_wallet(client, owner) == {**opened, "alreadyOpen": True}
    assert await count_rows(settings) == before._replace(wallets=before.wallets + 1)


@pytest.mark.parametrize("verb", POSTINGS)
async def test_posting_answers_with_every_field(client: httpx.AsyncClient, verb: str) -> None:
    owner = await new_owner(client, gold=100)
    key = str(uuid4())

    result = await post(client, verb, owner, "30", idempotencyKey=key, description="a sword", reference="order-1")

    after = "70" if verb == "spend" else "130"
    gold = (await balance_of(client, owner))["asset"]
    transaction = result["transaction"]
    assert (gold["__typename"], gold["code"], gold["name"], gold["scale"]) == ("Asset", "GOLD", "Gold Coins", 0)
    assert (result["__typename"], result["alreadyProcessed"]) == (f"{verb[0].upper()}{verb[1:]}Payload", False)
    assert transaction == {
        "__typename": "Transaction",
        "id": transaction["id"],
        "transactionId": transaction["transactionId"],
        "type": POSTINGS[verb],
        "direction": DIRECTIONS[verb],
        "amount": "30",
        "balanceAfter": after,
        "description": "a sword",
        "reference": "order-1",
        "executedAt": transaction["executedAt"],
        "idempotencyKey": key,
        "entries": transaction["entries"],
        "asset": gold,
    }
    assert UUID(transaction["transactionId"]).version == 7
    assert TIME.fullmatch(transaction["executedAt"])
    assert result["balance"] == await balance_of(client, owner)
    assert (result["balance"]["amount"], result["balance"]["ownerId"]) == (after, owner)
    wallet = (await open_wallet(client, owner))["wallet"]
    del wallet["balances"]
    assert result["wallet"] == wallet
    assert await by_key(client, owner, key) == transaction


@pytest.mark.parametrize("verb", POSTINGS)
async def test_posting_has_two_legs(client: httpx.AsyncClient, verb: str) -> None:
    owner = await new_owner(client, gold=100)

    entries = (await post(client, verb, owner, "30"))["transaction"]["entries"]

    other = {"CREDIT": "DEBIT", "DEBIT": "CREDIT"}[DIRECTIONS[verb]]
    assert entries == [
        {"__typename": "Entry", "account": "USER", "direction": DIRECTIONS[verb], "amount": "30"},
        {"__typename": "Entry", "account": "TREASURY", "direction": other, "amount": "30"},
    ]


@pytest.mark.parametrize(
    ("asset", "amount", "written"),
    [
        ("GOLD", 30, "30"),
        ("GOLD", "030", "30"),
        ("GOLD", "1000000000000000", "1000000000000000"),
        ("DIAMOND", "1", "1"),
        ("POINTS", "12.5", "12.50"),
        ("POINTS", "12.50", "12.50"),
        ("POINTS", 12, "12.00"),
        ("POINTS", "0.01", "0.01"),
        ("POINTS", "10000000000000.00", "10000000000000.00"),
    ],
)
async def test_amount_leaves_with_the_digits_of_its_asset(
    client: httpx.AsyncClient, asset: str, amount: str | int, written: str
) -> None:
    owner = await new_owner(client)

    result = await post(client, "topUp", owner, amount, asset=asset)

    transaction = result["transaction"]
    assert (transaction["amount"], transaction["balanceAfter"], result["balance"]["amount"]) == (written,) * 3
    assert {entry["amount"] for entry in transaction["entries"]} == {written}
    assert (transaction["asset"]["code"], result["balance"]["asset"]["code"]) == (asset, asset)


async def test_amount_is_read_alike_from_a_literal(client: httpx.AsyncClient) -> None:
    owner = await new_owner(client)
    query = """mutation($o: String!, $a: UUID!, $b: UUID!) {
      string: topUp(input: {ownerId: $o, amount: "1", idempotencyKey: $a}) { ... on TopUpPayload { alreadyProcessed } }
      integer: topUp(input: {ownerId: $o, amount: 1, idempotencyKey: $a}) { ... on TopUpPayload { alreadyProcessed } }
      points: bonus(input: {ownerId: $o, asset: "POINTS", amount: 1, idempotencyKey: $b}) {
        ... on BonusPayload { transaction { amount } }
      }
    }"""

    answer = await gql(client, query, o=owner, a=str(uuid4()), b=str(uuid4()))

    assert answer == {
        "string": {"alreadyProcessed": False},
        "integer": {"alreadyProcessed": True},
        "points": {"transaction": {"amount": "1.00"}},
    }


@pytest.mark.parametrize("verb", POSTINGS)
async def test_replay_tells_the_first_transaction_and_what_is_now(
    client: httpx.AsyncClient, settings: Settings, verb: str
) -> None:
    owner = await new_owner(client, gold=100)
    asked = {"idempotencyKey": str(uuid4()), "reference": "order-1"}
    first = await post(client, verb, owner, 30, **asked)
    await post(client, "bonus", owner, 7)
    before = await count_rows(settings)

    again = await post(client, verb, owner, "30", **asked, description=None)

    assert again == {**first, "alreadyProcessed": True, "balance": await balance_of(client, owner)}
    assert int(again["balance"]["amount"]) == int(first["balance"]["amount"]) + 7
    assert await count_rows(settings) == before


@pytest.mark.parametrize("key", [str(uuid4()).upper(), str(uuid4()), str(uuid7())], ids=["upper case", "v4", "v7"])
async def test_key_leaves_in_lower_case(client: httpx.AsyncClient, key: str) -> None:
    owner = await new_owner(client)

    first = await post(client, "topUp", owner, 1, idempotencyKey=key)
    again = await post(client, "topUp", owner, 1, idempotencyKey=key.lower())
    reused = await post(client, "topUp", owner, 2, idempotencyKey=key)

    assert first["transaction"]["idempotencyKey"] == again["transaction"]["idempotencyKey"] == key.lower()
    assert again["alreadyProcessed"]
    assert reused["idempotencyKey"] == key.lower()


async def test_texts_that_were_not_sent_are_null(client: httpx.AsyncClient) -> None:
    owner = await new_owner(client)
    key = str(uuid4())

    without = (await post(client, "topUp", owner, 1, idempotencyKey=key))["transaction"]
    null = await post(client, "topUp", owner, 1, idempotencyKey=key, description=None, reference=None)
    empty = await post(client, "topUp", owner, 1, idempotencyKey=key, description="")

    assert (without["description"], without["reference"]) == (None, None)
    assert null["alreadyProcessed"]
    assert empty["__typename"] == "IdempotencyKeyReused"


async def test_texts_come_back_as_they_were_sent(client: httpx.AsyncClient) -> None:
    owner = await new_owner(client)
    texts = ["", " blank ", "line\nline", "x" * 500, "😀" * 500, "e\u0301", "'; DROP TABLE entry; --", "\u202e\ufeff"]
    for text in texts:
        transaction = (await post(client, "bonus", owner, 1, description=text, reference=text))["transaction"]
        assert (transaction["description"], transaction["reference"]) == (text, text)


@pytest.mark.parametrize("owner", ["x" * 128, "😀" * 128, "ü", "A", "a", "a b", "1001", "null", "한", "-"])
async def test_owner_id_comes_back_as_it_was_sent(client: httpx.AsyncClient, owner: str) -> None:
    await open_wallet(client, owner)
    result = await post(client, "topUp", owner, 1)

    assert result["wallet"]["ownerId"] == result["balance"]["ownerId"] == owner


async def test_spend_of_more_than_there_is(client: httpx.AsyncClient, settings: Settings) -> None:
    owner = await new_owner(client, gold=10)
    key = str(uuid4())
    before = await count_rows(settings)

    refused = await post(client, "spend", owner, 25, idempotencyKey=key)

    assert refused == {
        "__typename": "InsufficientBalance",
        "code": "INSUFFICIENT_BALANCE",
        "message": "Insufficient balance",
        "retryable": False,
        "available": "10",
        "required": "25",
        "balance": await balance_of(client, owner),
        "alreadyProcessed": False,
    }
    assert refused["balance"]["amount"] == "10"
    assert await count_rows(settings) == before._replace(keys=before.keys + 1)
    assert await by_key(client, owner, key) is None

    await post(client, "topUp", owner, 100)
    late = await post(client, "spend", owner, 25, idempotencyKey=key)

    assert late == {**refused, "alreadyProcessed": True, "balance": await balance_of(client, owner)}
    assert late["balance"]["amount"] == "110"


async def test_spend_of_an_asset_that_was_never_used(client: httpx.AsyncClient) -> None:
    owner = await new_owner(client)

    refused = await post(client, "spend", owner, "0.5", asset="POINTS")

    assert (refused["available"], refused["required"]) == ("0.00", "0.50")
    assert refused["balance"] == await balance_of(client, owner, "POINTS")


@pytest.mark.parametrize("verb", ["topUp", "bonus"])
async def test_credit_past_the_limit(client: httpx.AsyncClient, settings: Settings, verb: str) -> None:
    owner = await new_owner(client)
    document = "mutation($o: String!) { " + " ".join(
        f'a{n}: topUp(input: {{ownerId: $o, amount: "{10**15}", idempotencyKey: "{uuid4()}"}}) {{ __typename }}'
        for n in range(10)
    )
    for _ in range(10):
        keys = re.sub(r'idempotencyKey: "[^"]+"', lambda _: f'idempotencyKey: "{uuid4()}"', document)
        assert {result["__typename"] for result in (await gql(client, keys + " }", o=owner)).values()} == {
            "TopUpPayload"
        }
    key = str(uuid4())
    before = await count_rows(settings)

    refused = await post(client, verb, owner, 1, idempotencyKey=key)

    assert refused == {
        "__typename": "BalanceLimitExceeded",
        "code": "BALANCE_LIMIT_EXCEEDED",
        "message": "Balance limit exceeded",
        "retryable": False,
        "limit": str(LIMIT),
        "balance": await balance_of(client, owner),
        "alreadyProcessed": False,
    }
    assert refused["balance"]["amount"] == str(LIMIT)
    assert await count_rows(settings) == before._replace(keys=before.keys + 1)

    await post(client, "spend", owner, 5)
    late = await post(client, verb, owner, 1, idempotencyKey=key)

    assert late == {**refused, "alreadyProcessed": True, "balance": await balance_of(client, owner)}


@pytest.mark.parametrize("verb", POSTINGS)
async def test_refusals_that_leave_no_trace(client: httpx.AsyncClient, settings: Settings, verb: str) -> None:
    owner = await new_owner(client, gold=100)
    key = str(uuid4())
    await post(client, verb, owner, 30, idempotencyKey=key)
    before, balance = await count_rows(settings), await balance_of(client, owner)

    assert await post(client, verb, "nobody", 1) == {
        "__typename": "WalletNotFound",
        "code": "WALLET_NOT_FOUND",
        "message": "Wallet not found: open it with openWallet, then send the request again",
        "retryable": False,
        "ownerId": "nobody",
    }
    assert await post(client, verb, owner, 1, asset="SILVER") == {
        "__typename": "AssetNotFound",
        "code": "ASSET_NOT_FOUND",
        "message": "Asset not found: send a code that the query assets returns",
        "retryable": False,
        "assetCode": "SILVER",
    }
    assert await post(client, verb, owner, 31, idempotencyKey=key) == {
        "__typename": "IdempotencyKeyReused",
        "code": "IDEMPOTENCY_KEY_REUSED",
        "message": "Idempotency key was used for another request",
        "retryable": False,
        "idempotencyKey": key,
    }
    for amount, asset, reason, message in (
        ("0", "GOLD", "NOT_POSITIVE", "Amount must be greater than zero"),
        ("0.001", "POINTS", "TOO_PRECISE", "Amount has more fraction digits than the asset"),
        ("10000000000000.01", "POINTS", "TOO_LARGE", "Amount is larger than one posting may move"),
    ):
        assert await post(client, verb, owner, amount, asset=asset) == {
            "__typename": "InvalidAmount",
            "code": "INVALID_AMOUNT",
            "message": message,
            "retryable": False,
            "reason": reason,
            "scale": 0 if asset == "GOLD" else 2,
        }
    assert await balance_of(client, owner) == balance
    assert await count_rows(settings) == before


async def test_one_key_under_two_owners_is_two_postings(client: httpx.AsyncClient) -> None:
    key = str(uuid4())
    owners = [await new_owner(client), await new_owner(client)]

    results = [await post(client, "topUp", owner, 5, idempotencyKey=key) for owner in owners]

    assert [result["alreadyProcessed"] for result in results] == [False, False]
    assert [(await balance_of(client, owner))["amount"] for owner in owners] == ["5", "5"]
    assert results[0]["transaction"]["transactionId"] != results[1]["transaction"]["transactionId"]


async def test_asset_is_gold_unless_it_is_named(client: httpx.AsyncClient) -> None:
    owner = await new_owner(client)
    key = str(uuid4())

    first = await post(client, "topUp", owner, 5, idempotencyKey=key)
    named = await post(client, "topUp", owner, 5, idempotencyKey=key, asset="GOLD")

    assert first["transaction"]["asset"]["code"] == "GOLD"
    assert named["alreadyProcessed"]


async def test_mutations_of_one_document_run_in_order(client: httpx.AsyncClient) -> None:
    owner = new_owner_id()
    query = """mutation($o: String!, $a: UUID!, $b: UUID!, $c: UUID!) {
      before: topUp(input: {ownerId: $o, amount: 9, idempotencyKey: $a}) { __typename }
      open: openWallet(input: {ownerId: $o}) { __typename }
      topUp(input: {ownerId: $o, amount: 9, idempotencyKey: $a}) { ... on TopUpPayload { balance { amount } } }
      spend(input: {ownerId: $o, amount: 4, idempotencyKey: $b}) { ... on SpendPayload { balance { amount } } }
      bonus(input: {ownerId: $o, amount: 1, idempotencyKey: $c}) { ... on BonusPayload { balance { amount } } }
    }"""

    answer = await gql(client, query, o=owner, a=str(uuid4()), b=str(uuid4()), c=str(uuid4()))

    assert answer == {
        "before": {"__typename": "WalletNotFound"},
        "open": {"__typename": "OpenWalletPayload"},
        "topUp": {"balance": {"amount": "9"}},
        "spend": {"balance": {"amount": "5"}},
        "bonus": {"balance": {"amount": "6"}},
    }


async def test_fault_in_one_field_does_not_erase_the_answer_of_another(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    owner = await new_owner(client)
    before = await count_rows(settings)
    query = """mutation($o: String!, $a: UUID!, $b: UUID!, $c: UUID!) {
      first: topUp(input: {ownerId: $o, amount: 9, idempotencyKey: $a}) { __typename }
      second: topUp(input: {ownerId: " blank", amount: 9, idempotencyKey: $b}) { __typename }
      third: topUp(input: {ownerId: $o, amount: 9, idempotencyKey: $c}) { __typename }
    }"""
    variables = {"o": owner, "a": str(uuid4()), "b": str(uuid4()), "c": str(uuid4())}

    response = await client.post("/graphql", json={"query": query, "variables": variables})

    answer = response.json()
    assert response.status_code == 200
    assert answer["data"] == {
        "first": {"__typename": "TopUpPayload"},
        "second": None,
        "third": {"__typename": "TopUpPayload"},
    }
    (error,) = answer["errors"]
    assert (error["path"], error["extensions"]["code"]) == (["second"], "BAD_USER_INPUT")
    assert await count_rows(settings) == Rows(
        before.wallets, before.accounts + 1, before.transactions + 2, before.entries + 4, before.keys + 2
    )


async def test_payload_leads_on_to_all_that_the_wallet_has(client: httpx.AsyncClient) -> None:
    owner = await new_owner(client, gold=10)
    query = """mutation($o: String!, $k: UUID!) { spend(input: {ownerId: $o, amount: 4, idempotencyKey: $k}) {
      ... on SpendPayload {
        transaction { id }
        balance { id amount }
        wallet { balance { id amount } balances { amount } transactions(first: 2) { totalCount nodes { id amount } } }
      }
    } }"""

    payload = (await gql(client, query, o=owner, k=str(uuid4())))["spend"]

    assert payload["wallet"]["balance"] == payload["balance"]
    assert payload["wallet"]["balances"][0]["amount"] == payload["balance"]["amount"] == "6"
    assert payload["wallet"]["transactions"]["totalCount"] == 2
    assert payload["wallet"]["transactions"]["nodes"][0] == {"id": payload["transaction"]["id"], "amount": "4"}


async def test_request_id_is_the_callers_own(client: httpx.AsyncClient) -> None:
    for request_id in ("a", "order-17.retry_2", "x" * 64):
        headers = {"x-request-id": request_id, "content-type": "application/json"}
        for body in ('{"query": "{ assets { code } }"}', '{"query": "{ nothing }"}', "rubbish"):
            response = await client.post("/graphql", content=body, headers=headers)
            assert response.headers.get_list("x-request-id") == [request_id]
            told = {error["extensions"]["requestId"] for error in response.json().get("errors", ())}
            assert told <= {request_id}


async def test_request_id_is_made_where_none_or_a_strange_one_is_sent(client: httpx.AsyncClient) -> None:
    made = set()
    for sent in (None, "", "x" * 65, "a b", "a;b", '"a"', "<script>", "ä"):
        headers = [] if sent is None else [(b"x-request-id", sent.encode())]
        response = await client.post("/graphql", json={"query": "{ nothing }"}, headers=headers)
        (request_id,) = response.headers.get_list("x-request-id")
        assert re.fullmatch(r"[0-9a-f]{32}", request_id)
        assert response.json()["errors"][0]["extensions"]["requestId"] == request_id
        made.add(request_id)
    assert len(made) == 8


async def test_answer_says_that_it_must_not_be_stored(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/graphql",
        content=json.dumps({"query": "{ assets { code } }"}),
        headers={"content-type": "application/json; charset=UTF-8"},
    )

    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert "Accept" in response.headers["vary"]
    assert "server" not in response.headers
