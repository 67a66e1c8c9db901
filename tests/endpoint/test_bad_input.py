"""Whatever a client sends: an answer of class 2xx or 4xx with a code of the fixed table, and nothing moves."""

import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid1, uuid3, uuid4, uuid5

import httpx
import pytest
from conftest import Served
from factories import gql, new_owner_id
from tables import Rows, count_rows

from wallet_gql.graphql import ids
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

POSTINGS: Final = {"topUp": "TopUpInput", "bonus": "BonusInput", "spend": "SpendInput"}
DIGITS: Final = "9" * 5000
KEY: Final = "0a4f6f6e-6c43-4f6b-8f5a-3f0f6d1a7c01"

WALLET_NOT_FOUND: Final = "Wallet not found: open it with openWallet, then send the request again"

RESULT: Final = """{
  __typename
  ... on Error { code message retryable }
  ... on InvalidAmount { reason scale }
  ... on AssetNotFound { assetCode }
  ... on WalletNotFound { ownerId }
}"""


@pytest.fixture(scope="module")
async def client(served: Served, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """One client for all cases; the books are verified when they are through."""
    async with httpx.AsyncClient(base_url=served.url.removesuffix("/graphql"), timeout=30) as client:
        yield client
    assert (await prove(settings)).findings == []


@pytest.fixture(scope="module")
async def owner(client: httpx.AsyncClient) -> str:
    """An owner with 100 GOLD."""
    owner = new_owner_id()
    query = "mutation($o: String!, $k: UUID!) { openWallet(input: {ownerId: $o}) { __typename }"
    query += " topUp(input: {ownerId: $o, amount: 100, idempotencyKey: $k}) { __typename } }"
    answer = await gql(client, query, o=owner, k=str(uuid4()))
    assert answer["topUp"]["__typename"] == "TopUpPayload"
    return owner


@pytest.fixture
async def unmoved(settings: Settings) -> AsyncIterator[None]:
    """Fails a test in which a row was added to any table."""
    before: Rows = await count_rows(settings)
    yield
    assert await count_rows(settings) == before


@pytest.fixture(autouse=True)
def _nothing_moves(unmoved: None) -> None:
    """Whatever is sent here, nothing moves."""


async def send(client: httpx.AsyncClient, body: str | bytes, **headers: str) -> httpx.Response:
    return await client.post("/graphql", content=body, headers={"content-type": "application/json", **headers})


def document(query: str, variables: str = "{}") -> str:
    """Write a body whose variables are JSON text, so that they can be what no JSON writer would write."""
    return f'{{"query": {json.dumps(query)}, "variables": {variables}}}'


def refused(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    """Return the error of a request that was refused for what it is; it has one error and moved nothing."""
    assert response.status_code == status, response.text
    answer = response.json()
    assert "data" not in answer or set(answer["data"].values()) == {None}, answer
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT", answer
    assert error["extensions"]["requestId"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert len(error["message"]) <= 501
    return dict(error)


def posting(verb: str, amount: str = "1", **fields: str) -> str:
    """Write a mutation with its input as literals."""
    inputs = {"ownerId": '"nobody"', "amount": amount, "idempotencyKey": f'"{uuid4()}"', **fields}
    written = ", ".join(f"{name}: {value}" for name, value in inputs.items())
    return f"mutation {{ {verb}(input: {{{written}}}) {RESULT} }}"


def posting_by_variables(verb: str, amount: str = '"1"', **fields: str) -> str:
    """Write a body with a mutation's input as variables."""
    inputs = {"ownerId": '"nobody"', "amount": amount, "idempotencyKey": f'"{uuid4()}"', **fields}
    written = ", ".join(f'"{name}": {value}' for name, value in inputs.items())
    return document(
        f"mutation($input: {POSTINGS[verb]}!) {{ {verb}(input: $input) {RESULT} }}", f'{{"input": {{{written}}}}}'
    )


# Strings of GraphQL and of JSON are written alike.
UNREADABLE_AMOUNTS: Final = {
    "NaN": '"NaN"',
    "infinity": '"Infinity"',
    "exponent in a string": '"1e3"',
    "exponent": "1e3",
    "fraction": "1.5",
    "full-width digits": '"\uff11\uff12"',
    "Arabic-Indic digits": '"١٢"',
    "true": "true",
    "empty": '""',
    "blank before": '" 1"',
    "blank after": '"1 "',
    "line break after": '"1\\n"',
    "plus sign": '"+1"',
    "two minus signs": '"--1"',
    "no digit before the point": '".5"',
    "no digit after the point": '"1."',
    "two points": '"1.2.3"',
    "comma": '"1,5"',
    "thousands": '"1_000"',
    "hexadecimal": '"0x10"',
    "NUL": '"1\\u0000"',
    "list": "[1]",
    "empty list": "[]",
    "object": "{}",
}

INVALID_AMOUNTS: Final = {
    "zero": ("0", "NOT_POSITIVE"),
    "zero in a string": ('"0"', "NOT_POSITIVE"),
    "minus zero": ('"-0"', "NOT_POSITIVE"),
    "minus zero as a number": ("-0", "NOT_POSITIVE"),
    "zero with fraction digits": ('"0.000"', "NOT_POSITIVE"),
    "negative": ("-1", "NOT_POSITIVE"),
    "negative in a string": ('"-12.50"', "NOT_POSITIVE"),
    "negative and huge": (f"-{10**30}", "NOT_POSITIVE"),
    "too precise": ('"0.5"', "TOO_PRECISE"),
    "too precise by a zero": ('"1.0"', "TOO_PRECISE"),
    "too precise by 4,999 digits": (f'"1.{DIGITS}"', "TOO_PRECISE"),
    "one more than 10^15": (str(10**15 + 1), "TOO_LARGE"),
    "one more than 10^15 in a string": (f'"{10**15 + 1}"', "TOO_LARGE"),
    "past 64 bits": (str(2**64), "TOO_LARGE"),
    "10^30": (str(10**30), "TOO_LARGE"),
    "10^30 in a string": (f'"{10**30}"', "TOO_LARGE"),
    "5,000 digits in a string": (f'"{DIGITS}"', "TOO_LARGE"),
}


@pytest.mark.parametrize("amount", UNREADABLE_AMOUNTS.values(), ids=UNREADABLE_AMOUNTS)
async def test_amount_that_cannot_be_read(client: httpx.AsyncClient, amount: str) -> None:
    for verb in POSTINGS:
        error = refused(await send(client, posting_by_variables(verb, amount)))
        assert error["message"].startswith("Variable '$input' has invalid value at .amount: Amount cannot be read from")
        assert ": send " in error["message"]

        query = posting(verb, amount)
        error = refused(await send(client, document(query)))
        assert error["message"].startswith("Amount cannot be read from")
        assert ": send " in error["message"]
        assert error["locations"] == [{"line": 1, "column": query.index("amount: ") + len("amount: ") + 1}]


@pytest.mark.parametrize(("amount", "reason"), INVALID_AMOUNTS.values(), ids=INVALID_AMOUNTS)
async def test_amount_that_cannot_be_posted(client: httpx.AsyncClient, owner: str, amount: str, reason: str) -> None:
    for verb in POSTINGS:
        for body in (
            posting_by_variables(verb, amount, ownerId=f'"{owner}"'),
            document(posting(verb, amount, ownerId=f'"{owner}"')),
        ):
            response = await send(client, body)
            assert response.status_code == 200
            result = response.json()["data"][verb]
            assert result["__typename"] == "InvalidAmount"
            assert (result["code"], result["retryable"]) == ("INVALID_AMOUNT", False)
            assert (result["reason"], result["scale"]) == (reason, 0)
            assert "mount" in result["message"]


async def test_amount_of_null(client: httpx.AsyncClient) -> None:
    for verb in POSTINGS:
        assert "amount" in refused(await send(client, posting_by_variables(verb, "null")))["message"]
        assert "Amount!" in refused(await send(client, document(posting(verb, "null"))))["message"]


async def test_integer_of_5000_digits_as_a_literal(client: httpx.AsyncClient) -> None:
    result = (await send(client, document(posting("topUp", DIGITS)))).json()["data"]["topUp"]
    assert (result["__typename"], result["reason"]) == ("InvalidAmount", "TOO_LARGE")


@pytest.mark.parametrize("number", [DIGITS, f"-{DIGITS}", "1e400", "1" + "0" * 400, "01", "0x1", "NaN", "+1", ".5"])
async def test_number_that_is_no_json(client: httpx.AsyncClient, number: str) -> None:
    refused(await send(client, posting_by_variables("topUp", number)), 400)


async def test_posting_without_a_field(client: httpx.AsyncClient) -> None:
    for verb, type_ in POSTINGS.items():
        inputs = {"ownerId": "nobody", "amount": "1", "idempotencyKey": KEY}
        for missing in inputs:
            rest = {name: value for name, value in inputs.items() if name != missing}
            query = f"mutation($input: {type_}!) {{ {verb}(input: $input) {RESULT} }}"
            error = refused(await send(client, document(query, json.dumps({"input": rest}))))
            assert missing in error["message"]


async def test_posting_with_an_unknown_field(client: httpx.AsyncClient) -> None:
    error = refused(await send(client, posting_by_variables("topUp", currency='"EUR"')))

    assert "currency" in error["message"]


UNREADABLE_KEYS: Final = {
    "version 1": f'"{uuid1()}"',
    "version 3": f'"{uuid3(uuid4(), "x")}"',
    "version 5": f'"{uuid5(uuid4(), "x")}"',
    "nil": '"00000000-0000-0000-0000-000000000000"',
    "max": '"ffffffff-ffff-ffff-ffff-ffffffffffff"',
    "other variant": '"0a4f6f6e-6c43-4f6b-cf5a-3f0f6d1a7c01"',
    "braces": f'"{{{KEY}}}"',
    "urn": f'"urn:uuid:{KEY}"',
    "without hyphens": f'"{KEY.replace("-", "")}"',
    "hyphens elsewhere": '"0a4f6f6e6-c43-4f6b-8f5a-3f0f6d1a7c01"',
    "blank after": f'"{KEY} "',
    "line break after": f'"{KEY}\\n"',
    "full-width digit": f'"{KEY[:-1]}\uff11"',
    "a word": '"key"',
    "empty": '""',
    "integer": "5",
    "true": "true",
    "list": f'["{KEY}"]',
    "object": "{}",
}


@pytest.mark.parametrize("key", UNREADABLE_KEYS.values(), ids=UNREADABLE_KEYS)
async def test_key_that_cannot_be_read(client: httpx.AsyncClient, key: str) -> None:
    by_key = "($o: String!, $k: UUID!) { transactionByKey(ownerId: $o, idempotencyKey: $k) { id } }"
    for verb in POSTINGS:
        error = refused(await send(client, posting_by_variables(verb, idempotencyKey=key)))
        assert "at .idempotencyKey: UUID cannot be read from" in error["message"]
        assert ": send a version 4 or 7 UUID" in error["message"]

        error = refused(await send(client, document(posting(verb, idempotencyKey=key))))
        assert error["message"].startswith("UUID cannot be read from")
        assert ": send a " in error["message"]
        assert len(error["locations"]) == 1

    variables = f'{{"o": "nobody", "k": {key}}}'
    assert "'$k'" in refused(await send(client, document(f"query {by_key}", variables)))["message"]


BAD_OWNER_IDS: Final = {
    "empty": ("", "has 0 characters: send 1 to 128."),
    "129 characters": ("x" * 129, "has 129 characters: send 1 to 128."),
    "control character": ("a\x1fb", "contains a control character: send printable characters only."),
    "C1 control character": ("a\x85b", "contains a control character: send printable characters only."),
    "NUL": ("a\0b", "contains a control character: send printable characters only."),
    "line separator": ("a\u2028b", "contains a control character: send printable characters only."),
    "blank before": (" a", "begins or ends with a blank: send the id without surrounding blanks."),
    "blank after": ("a ", "begins or ends with a blank: send the id without surrounding blanks."),
    "line break after": ("a\n", "begins or ends with a blank: send the id without surrounding blanks."),
    "wide blank before": ("\u3000a", "begins or ends with a blank: send the id without surrounding blanks."),
    "not NFC": ("e\u0301", "is not in Unicode normalization form C: send the id in NFC."),
    "Hangul not NFC": ("\u1112\u1161\u11ab", "is not in Unicode normalization form C: send the id in NFC."),
}

READERS_OF_AN_OWNER: Final = {
    "wallet": "wallet(ownerId: $o) { id }",
    "balance": "balance(ownerId: $o) { id }",
    "transactions": "transactions(ownerId: $o) { totalCount }",
    "transactionByKey": f'transactionByKey(ownerId: $o, idempotencyKey: "{KEY}") {{ id }}',
    "outcomeByKey": f'outcomeByKey(ownerId: $o, idempotencyKey: "{KEY}") {{ state }}',
    **{verb: f'{verb}(input: {{ownerId: $o, amount: 1, idempotencyKey: "{KEY}"}}) {RESULT}' for verb in POSTINGS},
}


@pytest.mark.parametrize(("owner_id", "fault"), BAD_OWNER_IDS.values(), ids=BAD_OWNER_IDS)
async def test_malformed_owner_id(client: httpx.AsyncClient, owner_id: str, fault: str) -> None:
    for name, field in READERS_OF_AN_OWNER.items():
        kind = "mutation" if name in POSTINGS else "query"
        as_variable = document(f"{kind}($o: String!) {{ {field} }}", json.dumps({"o": owner_id}))
        as_literal = document(f"{kind} {{ {field.replace('$o', json.dumps(owner_id))} }}")
        for body in (as_variable, as_literal):
            error = refused(await send(client, body))
            assert error["message"] == f"ownerId {fault}"
            assert error["extensions"]["field"] == "ownerId"
            assert error["path"] == [name]


@pytest.mark.parametrize(("owner_id", "fault"), BAD_OWNER_IDS.values(), ids=BAD_OWNER_IDS)
async def test_malformed_owner_id_is_an_outcome_of_open_wallet(
    client: httpx.AsyncClient, owner_id: str, fault: str
) -> None:
    query = """mutation($o: String!) {
      openWallet(input: {ownerId: $o}) { __typename ... on Error { code message retryable } }
    }"""
    assert (await gql(client, query, o=owner_id))["openWallet"] == {
        "__typename": "InvalidOwnerId",
        "code": "INVALID_OWNER_ID",
        "message": f"ownerId {fault}",
        "retryable": False,
    }


async def test_lone_surrogate_as_an_escape(client: httpx.AsyncClient) -> None:
    for field in READERS_OF_AN_OWNER.values():
        kind = "mutation" if "input" in field else "query"
        query = f"{kind}($o: String!) {{ {field} }}"
        # RFC 8259, 8.2: what a lone surrogate means is unpredictable, so it is no JSON here.
        refused(await send(client, document(query, '{"o": "a\\ud800"}')), 400)
        refused(await send(client, document(query, '{"o": "\\udc00a"}')), 400)
        for escape in ('"\\ud800"', '"\\u{d800}"', '"\\udc00\\ud800"'):
            error = refused(await send(client, document(f"{kind} {{ {field.replace('$o', escape)} }}")))
            assert error["message"].startswith("Syntax Error: Invalid Unicode escape sequence")


@pytest.mark.parametrize("name", ["description", "reference"])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x" * 501, "has 501 characters: send at most 500."),
        ("😀" * 501, "has 501 characters: send at most 500."),
        ("a\0", "contains NUL: send text without U+0000."),
    ],
    ids=["501 characters", "501 emoji", "NUL"],
)
async def test_malformed_text(client: httpx.AsyncClient, owner: str, name: str, text: str, fault: str) -> None:
    for verb in POSTINGS:
        fields = {"ownerId": json.dumps(owner), name: json.dumps(text)}
        for body in (posting_by_variables(verb, **fields), document(posting(verb, **fields))):
            error = refused(await send(client, body))
            assert error["message"] == f"{name} {fault}"
            assert error["extensions"]["field"] == name


@pytest.mark.parametrize(
    "code", ["NONE", "gold", "", "GOLD ", "\uff27OLD", "G" * 10_000, "GOLD\0", "'; DROP TABLE entry"]
)
async def test_unknown_asset(client: httpx.AsyncClient, owner: str, code: str) -> None:
    for verb in POSTINGS:
        body = posting_by_variables(verb, ownerId=json.dumps(owner), asset=json.dumps(code))
        result = (await send(client, body)).json()["data"][verb]
        assert (result["__typename"], result["code"]) == ("AssetNotFound", "ASSET_NOT_FOUND")
        assert (result["assetCode"], result["retryable"]) == (code[:64], False)

    answer = await gql(
        client,
        "query($o: String!, $a: String!) { balance(ownerId: $o, asset: $a) { id }"
        " transactions(ownerId: $o, asset: $a) { totalCount }"
        " wallet(ownerId: $o) { balance(asset: $a) { id } transactions(asset: $a) { totalCount } } }",
        o=owner,
        a=code,
    )
    assert answer == {"balance": None, "transactions": None, "wallet": {"balance": None, "transactions": None}}


async def test_unknown_owner(client: httpx.AsyncClient) -> None:
    for verb in POSTINGS:
        result = (await send(client, posting_by_variables(verb))).json()["data"][verb]
        assert (result["__typename"], result["code"]) == ("WalletNotFound", "WALLET_NOT_FOUND")
        assert (result["ownerId"], result["message"], result["retryable"]) == ("nobody", WALLET_NOT_FOUND, False)

    queries = {name: field for name, field in READERS_OF_AN_OWNER.items() if "input" not in field}
    answer = await gql(client, f"query($o: String!) {{ {' '.join(queries.values())} }}", o="nobody")
    assert answer == dict.fromkeys(queries)


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def bad_ids(kind: str, parts: int) -> list[str]:
    """What looks like an id of a kind, but was never made."""
    numbers = ":".join(["1"] * parts)
    # A balance's cursor has a fifth part: a position among its wallet's states, where there are any.
    too_many = numbers + (":0" if kind == "Cursor" else ":1")
    return [
        "",
        "garbage",
        "äöü",
        "=" * 10,
        "A" * 10_000,
        f"{kind}:{numbers}",
        encoded(f"{kind}:{numbers}") + "=",
        encoded(f"{kind}:{numbers}") + "\n",
        encoded(f"{kind}:{too_many}"),
        encoded(f"{kind}:{numbers}:1:1"),
        encoded(f"{kind}:{numbers}").swapcase(),
        encoded(kind),
        encoded(f"{kind}:"),
        encoded(f"{kind}:{':'.join(['-1'] * parts)}"),
        encoded(f"{kind}:{':'.join(['01'] * parts)}"),
        encoded(f"{kind}:{':'.join(['1.0'] * parts)}"),
        encoded(kind + ":\uff11" * parts),
        encoded(f"{kind}:{':'.join(['9' * 19] * parts)}"),
        encoded(f"{kind}:{':'.join(['9' * 100] * parts)}"),
        encoded(f"{kind}:{2**15}" + ":1" * (parts - 1)),
        encoded(f"{kind.lower()}:{numbers}"),
        encoded("User:1:1"),
        encoded("\0"),
    ]


async def test_id_that_was_never_made(client: httpx.AsyncClient) -> None:
    made_up = {
        id_ for kind, parts in (("Wallet", 2), ("Balance", 3), ("Transaction", 3)) for id_ in bad_ids(kind, parts)
    }
    for id_ in made_up:
        for query in ("node(id: $id) { id }", "transaction(id: $id) { id }"):
            error = refused(await send(client, document(f"query($id: ID!) {{ {query} }}", json.dumps({"id": id_}))))
            assert error["message"] == "id is not one of this service's: send it exactly as it was received.", id_
            assert error["extensions"]["field"] == "id"


async def test_malformed_owner_id_among_others_is_an_error_in_its_place(client: httpx.AsyncClient, owner: str) -> None:
    body = document(
        "query($o: [String!]!) { wallets(ownerIds: $o) { ownerId } }",
        json.dumps({"o": [owner, "a\0", "nobody", owner]}),
    )
    response = await send(client, body)
    assert response.status_code == 200
    assert response.json()["data"] == {"wallets": [{"ownerId": owner}, None, None, {"ownerId": owner}]}
    (error,) = response.json()["errors"]
    assert error["path"] == ["wallets", 1]
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "ownerIds")


async def test_malformed_id_among_others_is_an_error_in_its_place(client: httpx.AsyncClient) -> None:
    asset = ids.asset_id("GOLD")
    for id_ in ("garbage", ids.cursor(0, 1, 1, 1)):
        body = document("query($i: [ID!]!) { nodes(ids: $i) { id } }", json.dumps({"i": [asset, id_, asset]}))
        response = await send(client, body)
        assert response.status_code == 200
        assert response.json()["data"] == {"nodes": [{"id": asset}, None, {"id": asset}]}
        (error,) = response.json()["errors"]
        assert error["path"] == ["nodes", 1]
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "ids")


async def test_id_of_another_kind(client: httpx.AsyncClient) -> None:
    error = refused(await send(client, document(f'{{ node(id: "{ids.cursor(0, 1, 1, 1)}") {{ id }} }}')))
    assert error["message"] == "id is a cursor, not an id: send the id of a node."
    for id_ in (ids.wallet_id(0, 1), ids.asset_id("GOLD"), ids.cursor(0, 1, 1, 1)):
        error = refused(await send(client, document(f'{{ transaction(id: "{id_}") {{ id }} }}')))
        assert error["message"] == "id is not the id of a transaction: send a transaction's id."


@pytest.mark.parametrize("id_", ["5", "0", "true", "1.5", "[]", "{}", "null"])
async def test_id_that_is_no_string(client: httpx.AsyncClient, id_: str) -> None:
    for query in ("node(id: $id) { id }", "transaction(id: $id) { id }"):
        refused(await send(client, document(f"query($id: ID!) {{ {query} }}", f'{{"id": {id_}}}')))
        refused(await send(client, document(f"{{ {query.replace('$id', id_)} }}")))


@pytest.mark.parametrize(
    "field",
    ["transactions(ownerId: $o, {}) {{ totalCount }}", "wallet(ownerId: $o) {{ transactions({}) {{ totalCount }} }}"],
    ids=["root", "wallet"],
)
@pytest.mark.parametrize("argument", ["after", "before"])
async def test_cursor_that_was_never_made(client: httpx.AsyncClient, owner: str, argument: str, field: str) -> None:
    query = f"query($o: String!, $c: String!) {{ {field.format(f'{argument}: $c')} }}"
    for cursor in bad_ids("Cursor", 4):
        response = await send(client, document(query, json.dumps({"o": owner, "c": cursor})))
        assert response.status_code == 200
        (error,) = response.json()["errors"]
        assert error["message"] == f"{argument} is not one of this service's: send it exactly as it was received."
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", argument)


@pytest.mark.parametrize("argument", ["after", "before"])
async def test_cursor_of_something_else(client: httpx.AsyncClient, owner: str, argument: str) -> None:
    query = "query($o: String!) { transactions(ownerId: $o, first: 1) { nodes { id } edges { cursor } }"
    query += ' points: balance(ownerId: $o, asset: "POINTS") { cursor } wallet(ownerId: $o) { id } }'
    answer = await gql(client, query, o=owner)
    (transaction,) = answer["transactions"]["nodes"]
    shard = ids.decode(answer["wallet"]["id"]).parts[0]
    faults = {
        transaction["id"]: "is not a cursor: send an edge's or a balance's cursor as it was received.",
        answer["wallet"]["id"]: "is not a cursor: send an edge's or a balance's cursor as it was received.",
        answer["points"]["cursor"]: "is a cursor of another account: send a cursor of this wallet and asset.",
        ids.cursor(shard, 2**62, 1, 1): "is a cursor of another account: send a cursor of this wallet and asset.",
    }
    for cursor, fault in faults.items():
        body = document(
            f"query($o: String!, $c: String!) {{ transactions(ownerId: $o, {argument}: $c) {{ totalCount }} }}",
            json.dumps({"o": owner, "c": cursor}),
        )
        error = refused(await send(client, body))
        assert error["message"] == f"{argument} {fault}"
        assert error["extensions"]["field"] == argument


BAD_PAGES: Final = {
    "first: 0": "first is 0: send 1 to 100.",
    "first: 101": "first is 101: send 1 to 100.",
    "first: -1": "first is -1: send 1 to 100.",
    "last: 0": "last is 0: send 1 to 100.",
    "last: 101": "last is 101: send 1 to 100.",
    "last: -1": "last is -1: send 1 to 100.",
    "first: 2147483647": "first is 2147483647: send 1 to 100.",
    "first: 1, last: 1": "first is sent together with last: send one of them.",
    "offset: -1": "offset is -1: send 0 or more.",
    'offset: 0, after: "x"': "offset is sent together with after: page by offset or by cursor.",
    'offset: 1, before: "x"': "offset is sent together with before: page by offset or by cursor.",
    "offset: 1, last: 1": "offset is sent together with last: page by offset or by cursor.",
}


@pytest.mark.parametrize(("arguments", "fault"), BAD_PAGES.items(), ids=BAD_PAGES)
async def test_arguments_that_name_no_page(client: httpx.AsyncClient, owner: str, arguments: str, fault: str) -> None:
    for owner_id in (owner, "nobody"):
        query = f'{{ transactions(ownerId: "{owner_id}", {arguments}) {{ totalCount }} }}'
        error = refused(await send(client, document(query)))
        assert error["message"] == fault
        assert error["extensions"]["field"] == fault.partition(" ")[0]
    query = f'{{ wallet(ownerId: "{owner}") {{ transactions({arguments}) {{ totalCount }} }} }}'
    response = await send(client, document(query))
    assert response.json()["data"] == {"wallet": {"transactions": None}}
    assert [error["message"] for error in response.json()["errors"]] == [fault]


@pytest.mark.parametrize("number", ["1.5", "1e2", "true", '"1"', "[1]", "{}", str(2**31), str(10**30), f"-{10**30}"])
@pytest.mark.parametrize("argument", ["first", "last", "offset"])
async def test_page_size_that_is_no_integer(client: httpx.AsyncClient, argument: str, number: str) -> None:
    field = f'transactions(ownerId: "nobody", {argument}: $n) {{ totalCount }}'
    # JSON knows no integers: 1e2 is 100.
    if number != "1e2":
        refused(await send(client, document(f"query($n: Int) {{ {field} }}", f'{{"n": {number}}}')))
    refused(await send(client, document(f"{{ {field.replace('$n', number)} }}")))


@pytest.mark.parametrize("argument", ["first", "last", "offset"])
async def test_page_size_of_5000_digits(client: httpx.AsyncClient, argument: str) -> None:
    page = f'transactions(ownerId: "nobody", {argument}: '
    error = refused(await send(client, document(f"{{ {page}{DIGITS}) {{ totalCount }} }}")))
    assert error["message"] == "An integer has too many digits: send at most 10."
    error = refused(await send(client, document(f"query($n: Int = {DIGITS}) {{ {page}$n) {{ totalCount }} }}")))
    assert error["message"] == "An integer has too many digits: send at most 10."
    refused(await send(client, document(f"query($n: Int) {{ {page}$n) {{ totalCount }} }}", f'{{"n": {DIGITS}}}')), 400)


@pytest.mark.parametrize(
    ("field", "argument", "type_", "member"),
    [("wallets", "ownerIds", "String", "nobody"), ("nodes", "ids", "ID", ids.asset_id("GOLD"))],
    ids=["wallets", "nodes"],
)
async def test_more_than_100_names(
    client: httpx.AsyncClient, field: str, argument: str, type_: str, member: str
) -> None:
    for count in (100, 101):
        names = [member] * count
        literal = json.dumps(names)
        bodies = [
            document(f"query($n: [{type_}!]!) {{ {field}({argument}: $n) {{ id }} }}", json.dumps({"n": names})),
            document(f"query($n: [{type_}!]! = {literal}) {{ {field}({argument}: $n) {{ id }} }}"),
            document(f"{{ {field}({argument}: {literal}) {{ id }} }}"),
            document(
                f"query($n: [{type_}!]!) {{ ...A }} fragment A on Query {{ ... {{ ...B }} }}"
                f" fragment B on Query {{ {field}({argument}: $n) {{ id }} }}",
                json.dumps({"n": names}),
            ),
        ]
        for body in bodies:
            response = await send(client, body, accept="application/graphql-response+json")
            if count == 100:
                assert response.status_code == 200
                assert len(response.json()["data"][field]) == count
                continue
            # An error of the request: nothing else in it was executed either.
            assert response.status_code == 400
            assert "data" not in response.json()
            (error,) = response.json()["errors"]
            assert error["message"] == f"{argument} has 101 members: send at most 100."
            assert "path" not in error
            assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", argument)


async def test_null_among_names(client: httpx.AsyncClient) -> None:
    refused(await send(client, document("query($o: [String!]!) { wallets(ownerIds: $o) { id } }", '{"o": [null]}')))
    refused(await send(client, document("query($i: [ID!]!) { nodes(ids: $i) { id } }", '{"i": [null]}')))


RUBBISH: Final = ["null", "true", "0", "-1", "1.5", "1e308", '""', '"x"', "[]", "{}", '[[["x"]]]', '{"a": {"b": 1}}']

SLOTS: Final = {
    "ownerId": "query($x: String!) { wallet(ownerId: $x) { id } }",
    "ownerIds": "query($x: [String!]!) { wallets(ownerIds: $x) { id } }",
    "asset": 'query($x: String!) { balance(ownerId: "nobody", asset: $x) { id } }',
    "first": 'query($x: Int) { transactions(ownerId: "nobody", first: $x) { totalCount } }',
    "offset": 'query($x: Int) { transactions(ownerId: "nobody", offset: $x) { totalCount } }',
    "after": 'query($x: String) { transactions(ownerId: "nobody", after: $x) { totalCount } }',
    "id": "query($x: ID!) { node(id: $x) { id } }",
    "ids": "query($x: [ID!]!) { nodes(ids: $x) { id } }",
    "key": 'query($x: UUID!) { transactionByKey(ownerId: "nobody", idempotencyKey: $x) { id } }',
    "input": f"mutation($x: TopUpInput!) {{ topUp(input: $x) {RESULT} }}",
    "posting's ownerId": f"mutation($x: String!) {{ {posting('spend', ownerId='$x')[11:-1]} }}",
    "posting's asset": f"mutation($x: String!) {{ {posting('spend', asset='$x')[11:-1]} }}",
    "posting's amount": f"mutation($x: Amount!) {{ {posting('spend', '$x')[11:-1]} }}",
    "posting's key": f"mutation($x: UUID!) {{ {posting('spend', idempotencyKey='$x')[11:-1]} }}",
    "posting's description": f"mutation($x: String) {{ {posting('spend', description='$x')[11:-1]} }}",
}


@pytest.mark.parametrize("query", SLOTS.values(), ids=SLOTS)
async def test_rubbish_in_every_place(client: httpx.AsyncClient, query: str) -> None:
    for value in RUBBISH:
        response = await send(client, document(query, f'{{"x": {value}}}'))

        answer = response.json()
        assert response.status_code == 200, (value, answer)
        codes = {error["extensions"]["code"] for error in answer.get("errors", ())}
        assert codes <= {"BAD_USER_INPUT"}, (value, answer)
        assert codes or answer["data"] is not None


MALFORMED_BODIES: Final = {
    "null": b"null",
    "number": b"5",
    "string": b'"x"',
    "list": b"[]",
    "batch": b'[{"query": "{ assets { code } }"}]',
    "empty": b"",
    "blank": b"  ",
    "cut off": b'{"query": "{ assets { code } }"',
    "two values": b"{}{}",
    "single quotes": b"{'query': '{ assets { code } }'}",
    "query of a form": b"query=%7B%20assets%20%7B%20code%20%7D%20%7D",
    "invalid UTF-8": b'{"query": "\xff"}',
    "overlong UTF-8": b'{"query": "\xc0\xaf"}',
    "surrogate in UTF-8": b'{"query": "\xed\xa0\x80"}',
    "UTF-16": '{"query": "{ assets { code } }"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"query": "{ assets { code } }"}',
    "lone surrogate": b'{"query": "\\ud800"}',
    "NUL": b"\0",
    "100,000 lists": b"[" * 100_000,
    "100,000 closed lists": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects": b'{"variables":' * 70_000,
    "integer of 5,000 digits": b'{"query": "{ assets { code } }", "variables": {"x": ' + b"9" * 5000 + b"}}",
    "no query": b"{}",
    "query null": b'{"query": null}',
    "query number": b'{"query": 5}',
    "query empty": b'{"query": ""}',
    "query blank": b'{"query": " \\n"}',
    "variables list": b'{"query": "{ assets { code } }", "variables": []}',
    "variables string": b'{"query": "{ assets { code } }", "variables": "{}"}',
    "variables false": b'{"query": "{ assets { code } }", "variables": false}',
    "operationName number": b'{"query": "{ assets { code } }", "operationName": 5}',
    "operationName list": b'{"query": "{ assets { code } }", "operationName": ["a"]}',
    "extensions list": b'{"query": "{ assets { code } }", "extensions": []}',
}


@pytest.mark.parametrize("body", MALFORMED_BODIES.values(), ids=MALFORMED_BODIES)
async def test_body_that_is_no_request(client: httpx.AsyncClient, body: bytes) -> None:
    for accept in ("*/*", "application/json", "application/graphql-response+json"):
        response = await send(client, body, accept=accept)

        assert refused(response, 400)["message"]
        assert response.headers["content-type"].split(";")[0] == accept.replace("*/*", "application/json")


async def test_body_that_is_too_large(client: httpx.AsyncClient, settings: Settings) -> None:
    body = b'{"query": "' + b"x" * settings.body_bytes_max + b'"}'
    assert str(settings.body_bytes_max) in refused(await send(client, body), 413)["message"]

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    response = await client.post("/graphql", content=in_pieces(), headers={"content-type": "application/json"})
    assert str(settings.body_bytes_max) in refused(response, 413)["message"]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/plain; charset=utf-8; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/graphql",
        "application/json; charset=iso-8859-1",
        "application/json; charset=utf-16",
        "application/jsonx",
    ],
)
async def test_body_of_another_type(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    body = document(posting("topUp"))

    response = await client.post("/graphql", content=body, headers=headers)

    assert (
        refused(response, 415)["message"]
        == "The Content-Type must be application/json in UTF-8: set it, and send the body as JSON."
    )


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
async def test_other_method(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(
        method, "/graphql", content=document("{ assets { code } }"), headers={"content-type": "application/json"}
    )

    assert refused(response, 405)["message"] == "The method is not supported: use POST, or GET for queries."
    assert response.headers["allow"] == "GET, POST"


async def test_method_that_does_not_exist(client: httpx.AsyncClient) -> None:
    # It ends in the HTTP parser, before there is a request that could be answered in JSON.
    assert (await client.request("BREW", "/graphql")).status_code == 400


async def test_mutation_by_get(client: httpx.AsyncClient, owner: str) -> None:
    for verb in POSTINGS:
        response = await client.get("/graphql", params={"query": posting(verb, ownerId=f'"{owner}"')})
        assert refused(response, 405)["message"] == "A mutation was sent by GET: send it by POST."
        assert response.headers["allow"] == "POST"
    mutation = posting("topUp", ownerId=json.dumps(owner)).replace("mutation", "mutation M")
    query = f"query Q {{ assets {{ code }} }} {mutation}"
    refused(await client.get("/graphql", params={"query": query, "operationName": "M"}), 405)
    answer = (await client.get("/graphql", params={"query": query, "operationName": "Q"})).json()
    assert answer["data"]["assets"][0] == {"code": "GOLD"}


@pytest.mark.parametrize(
    "query_string",
    [
        "",
        "variables={}",
        "query=",
        "query=%20",
        "query=%FF",
        "query={assets{code}}&variables=[",
        "query={assets{code}}&variables=[]",
        "query={assets{code}}&variables=5",
        "query={assets{code}}&extensions=[]",
        "query={assets{code}}&variables=" + quote('{"x": "\\ud800"}'),
        "query={assets{code}}" + "&x=1" * 20,
        "query={assets{code}}&variables=" + "[" * 15_000,
    ],
)
async def test_malformed_query_string(client: httpx.AsyncClient, query_string: str) -> None:
    refused(await client.get(f"/graphql?{query_string}", headers={"accept": "application/json"}), 400)


async def test_answer_that_nobody_takes(client: httpx.AsyncClient) -> None:
    error = refused(await send(client, document("{ assets { code } }"), accept="image/png"), 406)

    assert (
        error["message"]
        == "The Accept header takes no JSON: name application/graphql-response+json or application/json."
    )


UNEXECUTABLE: Final[dict[str, dict[str, Any]]] = {
    "syntax": {"query": "{"},
    "comment only": {"query": "# nothing"},
    "unknown field": {"query": "{ nothing }"},
    "unknown argument": {"query": '{ wallet(ownerId: "a", x: 1) { id } }'},
    "no selection": {"query": '{ wallet(ownerId: "a") }'},
    "selection of a scalar": {"query": "{ assets { code { x } } }"},
    "fragment only": {"query": "fragment A on Asset { code }"},
    "fragment in a circle": {"query": "{ assets { ...A } } fragment A on Asset { ...A }"},
    "subscription": {"query": "subscription { balance }"},
    "unknown directive": {"query": "{ assets @x { code } }"},
    "variable undefined": {"query": "{ wallet(ownerId: $o) { id } }"},
    "variable missing": {"query": "query($o: String!) { wallet(ownerId: $o) { id } }"},
    "variable null": {"query": "query($o: String!) { wallet(ownerId: $o) { id } }", "variables": {"o": None}},
    "two operations unnamed": {"query": "query A { assets { code } } query B { assets { code } }"},
    "operation unknown": {"query": "query A { assets { code } }", "operationName": "B"},
    "operation unknown, long name": {"query": "query A { assets { code } }", "operationName": "B" * 100_000},
    "two operations of a name": {"query": "query A { assets { code } } query A { assets { code } }"},
    "nested 900 deep": {"query": "{ assets" * 900},
    "list nested 1,500 deep": {"query": f"{{ node(id: {'[' * 1500}"},
    "3,000 aliases": {"query": "{ " + " ".join(f"a{n}: assets {{ code }}" for n in range(3000)) + " }"},
    "100,000 characters": {"query": "{ assets { code } } #" + "x" * 100_000},
    "unknown type of a variable": {"query": "query($x: Nothing) { assets { code } }"},
}


@pytest.mark.parametrize("request_", UNEXECUTABLE.values(), ids=UNEXECUTABLE)
async def test_document_that_cannot_be_executed(client: httpx.AsyncClient, request_: dict[str, Any]) -> None:
    body = json.dumps(request_)

    for accept in ("application/graphql-response+json", "application/graphql-response+json, application/json;q=0.9"):
        response = await send(client, body, accept=accept)
        answer = response.json()
        assert response.status_code == 400, answer
        assert response.headers["content-type"] == "application/graphql-response+json; charset=utf-8"
        assert answer.keys() == {"errors"}
        assert {error["extensions"]["code"] for error in answer["errors"]} == {"BAD_USER_INPUT"}
        assert {error["extensions"]["requestId"] for error in answer["errors"]} == {response.headers["x-request-id"]}

    # GraphQL over HTTP, 6.4.1: with application/json a well-formed request gets 200, whatever its document.
    legacy = await send(client, body, accept="application/json")
    assert legacy.status_code == 200
    assert legacy.json().keys() == {"errors"}
    assert {error["extensions"]["code"] for error in legacy.json()["errors"]} == {"BAD_USER_INPUT"}


LONG: Final = json.dumps("x" * 900_000)
LONG_NAME: Final = "x" * 60_000
PATHS: Final = " ".join(f"{'x' * 98}{n}: nodes(ids: [1]) {{ {'y' * 100}: id }}" for n in range(10, 25))

ECHOES: Final = {
    "asset code": posting_by_variables("topUp", asset=LONG),
    "owner id": posting_by_variables("topUp", ownerId=LONG),
    "description": posting_by_variables("topUp", description=LONG),
    "key": posting_by_variables("topUp", idempotencyKey=LONG),
    "amount": posting_by_variables("topUp", LONG),
    "field of an input": posting_by_variables("topUp", **{LONG[1:-1]: "1"}),
    "id": document("query($x: ID!) { node(id: $x) { id } }", f'{{"x": {LONG}}}'),
    "ids": document("query($x: [ID!]!) { nodes(ids: $x) { id } }", json.dumps({"x": ["x" * 9000] * 100})),
    "cursor": document(
        'query($x: String) { transactions(ownerId: "a", after: $x) { totalCount } }', f'{{"x": {LONG}}}'
    ),
    "wrong type": document(
        'query($x: Int) { transactions(ownerId: "a", first: $x) { totalCount } }', f'{{"x": {LONG}}}'
    ),
    "operation's name": f'{{"query": "query A {{ assets {{ code }} }}", "operationName": {LONG}}}',
    "field": document(f"{{ {LONG_NAME} }}"),
    "alias": document(f"{{ {LONG_NAME}: assets {{ code }} }}"),
    "path": document(f"{{ {PATHS} }}"),
    "fragment": document(f"{{ ...{LONG_NAME} }}"),
    "variable": document(f"query(${LONG_NAME}: Int) {{ assets {{ code }} }}"),
    "literal": document(f'{{ wallet(ownerId: "{LONG_NAME}") {{ id }} }}'),
    "syntax": document(f"{{ assets {LONG_NAME}("),
    "places": document("{ " + "wallet(ownerId: $a) { id } " * 300 + "}"),
    "conflicts": document('{ wallet(ownerId: "a") { ' + "x: id " * 14 + "x: ownerId " * 14 + "} }"),
}


@pytest.mark.parametrize("body", ECHOES.values(), ids=ECHOES)
async def test_little_of_what_was_sent_is_told_back(client: httpx.AsyncClient, body: str) -> None:
    response = await send(client, body, **{"x-request-id": "x" * 10_000})

    assert response.status_code == 200
    assert len(response.content) < 10_000, response.text[:1000]
    assert sum(len(name) + len(value) for name, value in response.headers.raw) < 1000


async def test_errors_are_counted_rather_than_listed_without_end(client: httpx.AsyncClient) -> None:
    response = await send(client, document("{ " + " ".join(f"x{n}" for n in range(100)) + " }"))

    assert len(response.json()["errors"]) <= 21
    assert len(response.content) < 10_000
