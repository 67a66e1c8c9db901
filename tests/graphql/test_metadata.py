"""Metadata as clients send it, in variables and in literals; and what they see of it."""

import json
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from batches import new_owner_in
from factories import gql, new_owner
from tables import count_rows

from wallet_gql.endpoint.requests import from_query_string
from wallet_gql.graphql import scalars
from wallet_gql.graphql.scalars import parse_metadata
from wallet_gql.operations.opening import Ledger

RESULT: Final = """{
  __typename
  ... on Error { code message }
  ... on Replayable { alreadyProcessed }
  ... on TopUpPayload { transaction { metadata } }
}"""
REAL_LOADS: Final = json.loads
BY_VARIABLES: Final = f"mutation($input: TopUpInput!) {{ topUp(input: $input) {RESULT} }}"

# Strings of GraphQL and of JSON are written alike.
LONG: Final = '"' + "x" * 501 + '"'


def body(owner: str, metadata: str, **more: str) -> str:
    """Write a body whose metadata is JSON text, so that it can be what no JSON writer would write."""
    fields = {"ownerId": f'"{owner}"', "amount": "1", "idempotencyKey": f'"{uuid4()}"', "metadata": metadata}
    written = ", ".join(f'"{name}": {value}' for name, value in fields.items())
    around = "".join(f', "{name}": {value}' for name, value in more.items())
    return f'{{"query": {json.dumps(BY_VARIABLES)}, "variables": {{"input": {{{written}}}}}{around}}}'


def literal(owner: str, metadata: str, variables: str = "") -> str:
    document = (
        f'mutation{variables} {{ topUp(input: {{ownerId: "{owner}", amount: 1, idempotencyKey: "{uuid4()}",'
        f" metadata: {metadata}}}) {RESULT} }}"
    )
    return json.dumps({"query": document, "variables": {"v": "x"} if variables else {}})


async def send(client: httpx.AsyncClient, content: str) -> httpx.Response:
    return await client.post("/graphql", content=content, headers={"content-type": "application/json"})


async def refusals(client: httpx.AsyncClient, ledger: Ledger, content: str, status: int = 200) -> list[str]:
    """Send what must be refused as a whole, and return the messages: nothing moves."""
    before = await count_rows(ledger.settings)
    response = await send(client, content)
    answer = response.json()
    assert response.status_code == status, answer
    assert "data" not in answer, answer
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"BAD_USER_INPUT"}
    assert await count_rows(ledger.settings) == before
    return [error["message"] for error in answer["errors"]]


async def taken(client: httpx.AsyncClient, content: str) -> Any:
    """Send what must be posted, and return its metadata."""
    answer = (await send(client, content)).json()
    assert answer["data"]["topUp"]["__typename"] == "TopUpPayload", answer
    return answer["data"]["topUp"]["transaction"]["metadata"]


NOT_A_STRING: Final = "metadata.a is not a string: send flat pairs of strings."

IN_VARIABLES: Final[dict[str, tuple[str, str]]] = {
    "a string": ('"x"', "Metadata cannot be read from a string: send a flat object of strings."),
    "a list": ('["x"]', "Metadata cannot be read from a list: send a flat object of strings."),
    "a number": ("1", "Metadata cannot be read from an integer: send a flat object of strings."),
    "a number in it": ('{"a": 1}', NOT_A_STRING),
    "true in it": ('{"a": true}', NOT_A_STRING),
    "null in it": ('{"a": null}', NOT_A_STRING),
    "a list in it": ('{"a": ["x"]}', NOT_A_STRING),
    "an object in it": ('{"a": {"b": "x"}}', NOT_A_STRING),
    "NUL": ('{"a": "\\u0000"}', "metadata.a contains NUL: send text without U+0000."),
    "an empty value": ('{"a": ""}', "metadata.a has 0 characters: send 1 to 500."),
    "a long value": (f'{{"a": {LONG}}}', "metadata.a has 501 characters: send 1 to 500."),
    "a key twice": ('{"a": "x", "b": "y", "a": "x"}', "The body has a key twice in one object: send each key once."),
    "a key twice in two spellings": (
        '{"a": "x", "\\u0061": "y"}',
        "The body has a key twice in one object: send each key once.",
    ),
}


@pytest.mark.parametrize("case", IN_VARIABLES)
async def test_variables_that_are_refused(client: httpx.AsyncClient, ledger: Ledger, case: str) -> None:
    metadata, message = IN_VARIABLES[case]
    found = await refusals(client, ledger, body(await new_owner(ledger), metadata))
    assert found == [f"Variable '$input' has invalid value at .metadata: {message}"]


async def test_lone_surrogate_is_no_json(client: httpx.AsyncClient, ledger: Ledger) -> None:
    (message,) = await refusals(client, ledger, body(await new_owner(ledger), '{"a": "\\ud83d"}'), status=400)
    assert message.startswith("The body is not JSON: ")


async def test_key_twice_beside_metadata_is_refused_too(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    (message,) = await refusals(client, ledger, body(owner, '{"a": "x"}', extensions='{"b": 1, "b": 2}'))
    assert message.endswith("The body has a key twice in one object: send each key once.")
    # Of a request without metadata nothing hangs on it.
    assert await taken(client, body(owner, "null", extensions='{"b": 1, "b": 2}')) is None


async def test_body_that_is_too_deep_is_told_so(client: httpx.AsyncClient, ledger: Ledger) -> None:
    deep = "[" * 1010 + "]" * 1010
    (message,) = await refusals(
        client, ledger, body(await new_owner(ledger), '{"a": "x"}', extensions=f'{{"b": {deep}}}')
    )
    assert message.endswith("The body is nested too deeply: send metadata as a flat object.")


def test_body_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bytes] = []

    def load(text: bytes, **more: Any) -> Any:
        loaded.append(text)
        return REAL_LOADS(text, **more)

    monkeypatch.setattr(json, "loads", load)
    text = b'{"variables": {"a": "x"}}'
    token = scalars.REQUEST.set(scalars.RequestText(text))
    try:
        for _ in range(3):
            assert parse_metadata({"a": "x"}) == {"a": "x"}
    finally:
        scalars.REQUEST.reset(token)
    assert loaded == [text]


async def test_mutation_by_get_is_refused_whatever_its_metadata(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    variables = json.dumps({"input": {"ownerId": owner, "amount": 1, "idempotencyKey": str(uuid4()), "metadata": {}}})
    variables = variables.replace('"metadata": {}', '"metadata": {"a": "x", "a": "y"}')
    before = await count_rows(ledger.settings)
    response = await client.get(f"/graphql?query={quote(BY_VARIABLES)}&variables={quote(variables)}")
    assert response.status_code == 405
    assert await count_rows(ledger.settings) == before


@pytest.mark.parametrize(
    ("variables", "is_doubled"), [('{"m": {"a": "x", "a": "y"}}', True), ('{"m": {"a": "x"}}', False)]
)
def test_variables_of_a_get_are_looked_through(variables: str, *, is_doubled: bool) -> None:
    token = scalars.REQUEST.set(None)
    try:
        parameters = from_query_string(f"query=x&variables={quote(variables)}&extensions={quote('{}')}".encode())
        request = scalars.REQUEST.get()
    finally:
        scalars.REQUEST.reset(token)
    assert parameters["variables"]["m"].keys() == {"a"}
    assert request is not None
    assert (request.fault is not None) is is_doubled


HOW_TO_SEND: Final = "send a string, or the whole object as a variable."

IN_LITERALS: Final[dict[str, tuple[str, list[str]]]] = {
    "a string": ('"x"', ["Metadata cannot be read from a string: send a flat object of strings."]),
    "a list": ("[]", ["Metadata cannot be read from a list: send a flat object of strings."]),
    "a number in it": ("{a: 1}", [f"metadata.a cannot be read from an integer: {HOW_TO_SEND}"]),
    "null in it": ("{a: null}", [f"metadata.a cannot be read from null: {HOW_TO_SEND}"]),
    "true in it": ("{a: true}", [f"metadata.a cannot be read from a boolean: {HOW_TO_SEND}"]),
    "a bare word in it": ("{a: X}", [f"metadata.a cannot be read from a bare word: {HOW_TO_SEND}"]),
    "a list in it": ('{a: ["x"]}', [f"metadata.a cannot be read from a list: {HOW_TO_SEND}"]),
    "an object in it": ('{a: {b: "x"}}', [f"metadata.a cannot be read from an object: {HOW_TO_SEND}"]),
    "NUL": ('{a: "\\u0000"}', ["metadata.a contains NUL: send text without U+0000."]),
    "an empty value": ('{a: ""}', ["metadata.a has 0 characters: send 1 to 500."]),
    "a long value": (f"{{a: {LONG}}}", ["metadata.a has 501 characters: send 1 to 500."]),
    "a long key": (
        f'{{{"k" * 41}: "x"}}',
        ["metadata has a key that is malformed: use 1 to 40 letters, digits, full stops, hyphens and _."],
    ),
    "21 pairs": (
        "{" + " ".join(f'k{n}: "x"' for n in range(21)) + "}",
        ["metadata has 21 pairs: send at most 20."],
    ),
    "a key twice": (
        '{a: "x", a: "x"}',
        ["metadata has a key twice: send each key once.", "There can be only one input field named 'a'."],
    ),
    "a lone surrogate": ('{a: "\\ud83d"}', ["Syntax Error: Invalid Unicode escape sequence: '\\ud83d'."]),
}


@pytest.mark.parametrize("case", IN_LITERALS)
async def test_literals_that_are_refused(client: httpx.AsyncClient, ledger: Ledger, case: str) -> None:
    metadata, messages = IN_LITERALS[case]
    assert await refusals(client, ledger, literal(await new_owner(ledger), metadata)) == messages


async def test_variable_inside_a_literal_is_refused(client: httpx.AsyncClient, ledger: Ledger) -> None:
    found = await refusals(client, ledger, literal(await new_owner(ledger), "{a: $v}", "($v: String)"))
    assert found == [f"metadata.a cannot be read from a variable: {HOW_TO_SEND}"]


@pytest.mark.parametrize(
    ("metadata", "read"),
    [("null", None), ("{}", None), ('{a: "x"}', {"a": "x"}), ('{_: "é🎮", b1: " "}', {"_": "é🎮", "b1": " "})],
)
async def test_literals_that_are_taken(client: httpx.AsyncClient, ledger: Ledger, metadata: str, read: Any) -> None:
    assert await taken(client, literal(await new_owner(ledger), metadata)) == read


async def test_default_of_a_variable_is_taken(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    document = literal(owner, "$m").replace("mutation {", 'mutation($m: Metadata = {a: \\"x\\"}) {')
    assert await taken(client, document) == {"a": "x"}


NONE: Final[tuple[dict[str, Any], ...]] = ({}, {"metadata": {}}, {"metadata": None})


async def test_none_empty_and_null_are_one_request(client: httpx.AsyncClient, ledger: Ledger) -> None:
    asked = {"ownerId": await new_owner(ledger), "amount": 1, "idempotencyKey": str(uuid4())}
    answers = [(await gql(client, BY_VARIABLES, input={**asked, **more}))["topUp"] for more in NONE]
    first = {"__typename": "TopUpPayload", "alreadyProcessed": False, "transaction": {"metadata": None}}
    assert answers == [first, {**first, "alreadyProcessed": True}, {**first, "alreadyProcessed": True}]


async def test_replay_shows_the_first_and_another_is_another_request(client: httpx.AsyncClient, ledger: Ledger) -> None:
    pairs = {"level": "7", "a.b": "x"}
    asked = {"ownerId": await new_owner(ledger), "amount": 1, "idempotencyKey": str(uuid4()), "metadata": pairs}
    first = (await gql(client, BY_VARIABLES, input=asked))["topUp"]
    assert first == {"__typename": "TopUpPayload", "alreadyProcessed": False, "transaction": {"metadata": pairs}}
    turned = {**asked, "metadata": dict(reversed(pairs.items()))}
    assert (await gql(client, BY_VARIABLES, input=turned))["topUp"] == {**first, "alreadyProcessed": True}
    before = await count_rows(ledger.settings)
    for other in ({}, {**pairs, "level": "8"}):
        assert (await gql(client, BY_VARIABLES, input={**asked, "metadata": other}))["topUp"] == {
            "__typename": "IdempotencyKeyReused",
            "code": "IDEMPOTENCY_KEY_REUSED",
            "message": "Idempotency key was used for another request",
        }
    assert await count_rows(ledger.settings) == before


async def test_history_of_both_owners_shows_it(client: httpx.AsyncClient, ledger: Ledger) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 1)
    document = (
        "mutation($i: TransferInput!) { transfer(input: $i) { ... on TransferPayload { transaction { metadata } } } }"
    )
    asked = {
        "fromOwnerId": sender,
        "toOwnerId": receiver,
        "amount": 1,
        "idempotencyKey": str(uuid4()),
        "metadata": {"a": "x"},
    }
    assert (await gql(client, document, i=asked))["transfer"] == {"transaction": {"metadata": {"a": "x"}}}
    for owner, nodes in ((sender, [{"a": "x"}, None]), (receiver, [{"a": "x"}])):
        query = "query($o: String!) { transactions(ownerId: $o) { nodes { metadata } } }"
        answer = await gql(client, query, o=owner)
        assert [node["metadata"] for node in answer["transactions"]["nodes"]] == nodes


async def test_metadata_costs_as_much_as_it_can_be(client: httpx.AsyncClient) -> None:
    async def cost(fields: str) -> int:
        document = f'{{ transactions(ownerId: "nobody", first: 100) {{ nodes {{ {fields} }} }} }}'
        response = await client.post("/graphql", json={"query": document}, headers={"x-graphql-cost": "1"})
        requested: int = response.json()["extensions"]["cost"]["requested"]
        return requested

    # 4,096 bytes, six times as many where JSON escapes them, in units of 400.
    assert await cost("amount metadata") - await cost("amount") == 100 * 63
