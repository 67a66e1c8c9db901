"""Who gets in, and what each may ask for: over HTTP, with keys of every kind."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest
from conftest import Served, environment, plain
from graphql import get_introspection_query

from wallet_gql.db.engine import close, create_engine
from wallet_gql.domain.access import ALL_SCOPES, Scope
from wallet_gql.domain.api_keys import make_key
from wallet_gql.operations import api_keys
from wallet_gql.operations.api_keys import KeyInput
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

CALLERS: Final = {
    "partner": KeyInput("partner", [Scope.SPEND]),
    "reader": KeyInput("reader", [Scope.WALLET_READ]),
    "auditor": KeyInput("auditor", [Scope.WALLET_READ, Scope.HISTORY_READ, Scope.AUDIT]),
    "operator": KeyInput("operator", sorted(ALL_SCOPES)),
    "region": KeyInput("region", sorted(ALL_SCOPES), "eu-"),
    "bounded": KeyInput("bounded", sorted(ALL_SCOPES), max_amount="10.5", assets=["GOLD"]),
    "revoked": KeyInput("revoked", sorted(ALL_SCOPES)),
    "expired": KeyInput("expired", sorted(ALL_SCOPES), "", timedelta(minutes=1)),
}


@dataclass(frozen=True, slots=True)
class Closed:
    """A server that lets in whoever has a key, and the keys of callers by their names."""

    served: Served
    keys: dict[str, str]

    def ask(self, caller: str, query: str, **variables: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[caller]}"}
        return httpx.post(self.served.url, json={"query": query, "variables": variables}, headers=headers, timeout=30)

    def data(self, caller: str, query: str, **variables: Any) -> Any:
        answer = self.ask(caller, query, **variables)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert "errors" not in body, body
        return body["data"]


def codes(answer: httpx.Response) -> list[str]:
    return [error["extensions"]["code"] for error in answer.json().get("errors", ())]


async def make_keys(settings: Settings) -> dict[str, str]:
    owner = create_engine(settings, settings.owner_url())
    keys = {name: await api_keys.create_key(owner, "live", asked) for name, asked in CALLERS.items()}
    keys["test"] = await api_keys.create_key(owner, "test", KeyInput("test", sorted(ALL_SCOPES)))
    await close(owner)
    connection = await asyncpg.connect(plain(settings.owner_url().render_as_string(hide_password=False)))
    await connection.execute("UPDATE api_key SET revoked_at = clock_timestamp() WHERE name = 'revoked'")
    await connection.execute("UPDATE api_key SET expires_at = clock_timestamp() WHERE name = 'expired'")
    await connection.close()
    return keys


@pytest.fixture(scope="module")
def own(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("access")


@pytest.fixture(scope="module")
def closed(serve: Callable[..., Served], own: Settings) -> Closed:
    keys = asyncio.run(make_keys(own))
    closed = Closed(serve(environment(own, WALLET_ACCESS="closed", WALLET_LOG_FORMAT="json")), keys)
    for owner in ("eu-1", "eu-2", "us-1"):
        closed.data("operator", f'mutation {{ openWallet(input: {{ownerId: "{owner}"}}) {{ __typename }} }}')
        closed.data("operator", POST.replace("FIELD", "topUp").replace("TYPE", "TopUp"), input=posting(owner, "100"))
    return closed


POST: Final = """
mutation ($input: TYPEInput!) {
  FIELD(input: $input) { __typename ... on TYPEPayload { transaction { id } balance { id amount cursor } } }
}
"""
SPEND: Final = POST.replace("FIELD", "spend").replace("TYPE", "Spend")


PLACE: Final = """
mutation ($input: PlaceHoldInput!) { placeHold(input: $input) { ... on PlaceHoldPayload { hold { id } } } }
"""


def posting(owner: str, amount: str = "1") -> dict[str, str]:
    return {"ownerId": owner, "amount": amount, "idempotencyKey": str(uuid4())}


def test_who_has_no_key_is_told_how_to_send_one_whatever_it_asks(closed: Closed) -> None:
    url = closed.served.url
    for answer in (
        httpx.post(url, json={"query": "{ __typename }"}),
        httpx.post(url, content=b"rubbish"),
        httpx.get(url, params={"query": "{ __typename }"}),
        httpx.get(url, headers={"accept": "text/html"}),
        httpx.post(url, data={"query": "{ __typename }"}),
    ):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert codes(answer) == ["UNAUTHENTICATED"]
        assert "Authorization: Bearer wk_…" in answer.json()["errors"][0]["message"]
    assert httpx.get(url.replace("/graphql", "/health")).status_code == 200


def test_credentials_that_are_not_exactly_a_good_key_let_nobody_in(closed: Closed) -> None:
    keys = closed.keys
    key = keys["operator"]
    wrong: list[str | bytes] = [
        "", "Bearer", key, f"Basic {key}", f"Bearer {key} {key}", f"Bearer {key},", f"Bearer {key[:17]}",
        f"Bearer {key[:-1]}", f"Bearer {key.swapcase()}", f"Bearer {make_key('live')}", f"Bearer {keys['revoked']}",
        f"Bearer {keys['expired']}", f"Bearer {keys['test']}", "Bearer " + "a" * 16_000, "Bearer é".encode("latin-1"),
    ]  # fmt: skip
    for credentials in wrong:
        answer = httpx.post(
            closed.served.url, json={"query": "{ __typename }"}, headers=[(b"authorization", as_bytes(credentials))]
        )
        assert (answer.status_code, codes(answer)) == (401, ["UNAUTHENTICATED"]), credentials
        assert key not in answer.text
    twice = [(b"authorization", f"Bearer {key}".encode())] * 2
    assert httpx.post(closed.served.url, json={"query": "{ __typename }"}, headers=twice).status_code == 401
    assert closed.data("operator", "{ __typename }") == {"__typename": "Query"}


def as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def test_a_partner_that_may_spend_sees_its_transaction_and_the_balance_and_not_the_history(closed: Closed) -> None:
    spent = closed.data("partner", SPEND, input=posting("us-1"))["spend"]
    assert spent["__typename"] == "SpendPayload"
    for way in (
        "wallet { transactions { totalCount } }",
        "wallet { balances { amount } }",
        "balance { holds { nodes { id } } }",
        "transaction { refunds { id } }",
    ):
        text = SPEND.replace("transaction { id }", way)
        answer = closed.ask("partner", text, input=posting("us-1"))
        assert (answer.status_code, codes(answer)) == (403, ["FORBIDDEN"])
    # Nothing was posted by what was refused.
    balance = closed.data("reader", '{ balance(ownerId: "us-1") { amount } }')["balance"]["amount"]
    assert balance == spent["balance"]["amount"]
    for id_ in (spent["transaction"]["id"], spent["balance"]["id"]):
        answer = closed.ask("partner", "query ($id: ID!) { node(id: $id) { id } }", id=id_)
        assert codes(answer) == ["FORBIDDEN"]


def test_scopes_cannot_be_gained_by_the_shape_of_a_document(closed: Closed) -> None:
    wallet = 'wallet(ownerId: "us-1")'
    for text in (
        "{ a: WALLET { id } }",
        "query ($yes: Boolean! = false) { WALLET @include(if: $yes) { id } }",
        "{ ... { WALLET { id } } }",
        "{ ... on Query { WALLET { id } } }",
        "{ ...F } fragment F on Query { ...G } fragment G on Query { WALLET { id } }",
        "query A { __typename } query B { WALLET { id } }",
    ):
        parameters = {"query": text.replace("WALLET", wallet), "operationName": "B" if "query B" in text else None}
        headers = {"authorization": f"Bearer {closed.keys['partner']}"}
        answer = httpx.post(closed.served.url, json=parameters, headers=headers)
        assert (answer.status_code, codes(answer)) == (403, ["FORBIDDEN"]), text


def test_a_key_of_some_owners_may_name_no_other(closed: Closed) -> None:
    def refused(text: str, **variables: Any) -> None:
        answer = closed.ask("region", text, **variables)
        assert (answer.status_code, codes(answer)) == (403, ["FORBIDDEN"]), text
        assert answer.json()["errors"][0]["extensions"]["field"] in {"ownerId", "ownerIds", "fromOwnerId", "input"}

    refused('{ wallet(ownerId: "us-1") { id } }')
    refused('{ wallet(ownerId: "nobody") { id } }')
    refused("query ($o: String!) { wallet(ownerId: $o) { id } }", o="us-1")
    refused('query ($o: String! = "us-1") { wallet(ownerId: $o) { id } }')
    refused('{ wallets(ownerIds: ["eu-1", "us-1"]) { id } }')
    refused("query ($o: [String!]!) { wallets(ownerIds: $o) { id } }", o=["eu-1", "us-1"])
    refused('query ($o: String!) { wallets(ownerIds: ["eu-1", $o]) { id } }', o="us-1")
    refused('{ own: balance(ownerId: "eu-1") { amount } other: balance(ownerId: "us-1") { amount } }')
    refused('{ ...F } fragment F on Query { balance(ownerId: "us-1") { amount } }')
    refused(SPEND, input=posting("us-1"))
    given_literally = f'ownerId: OWNER, amount: "1", idempotencyKey: "{uuid4()}"'
    literal_ = f"mutation {{ spend(input: {{{given_literally}}}) {{ __typename }} }}"
    refused(literal_.replace("OWNER", '"us-1"'))
    refused(f"mutation ($o: String!) {literal_.replace('OWNER', '$o').removeprefix('mutation ')}", o="us-1")
    given = {"fromOwnerId": "us-1", "toOwnerId": "eu-1", "amount": "1", "idempotencyKey": str(uuid4())}
    transfer = "mutation ($input: TransferInput!) { transfer(input: $input) { __typename } }"
    refused(transfer, input=given)
    # Who gets something may be anybody.
    moved = closed.data("region", transfer, input=given | {"fromOwnerId": "eu-1", "toOwnerId": "us-1"})
    assert moved == {"transfer": {"__typename": "TransferPayload"}}
    assert closed.data("region", '{ wallet(ownerId: "eu-1") { ownerId } }') == {"wallet": {"ownerId": "eu-1"}}


def test_an_id_of_another_owner_is_as_one_that_does_not_exist(closed: Closed) -> None:
    def made(owner: str) -> dict[str, str]:
        spent = closed.data("operator", SPEND, input=posting(owner))["spend"]
        hold = closed.data("operator", PLACE, input=posting(owner))["placeHold"]["hold"]["id"]
        wallet = closed.data("operator", f'{{ wallet(ownerId: "{owner}") {{ id }} }}')["wallet"]["id"]
        transaction = spent["transaction"]["id"]
        return {"Wallet": wallet, "Balance": spent["balance"]["id"], "Transaction": transaction, "Hold": hold}

    own, other = made("eu-1"), made("us-1")
    node = "query ($id: ID!) { node(id: $id) { __typename } }"
    for name in own:
        assert closed.data("region", node, id=own[name]) == {"node": {"__typename": name}}
        assert closed.data("region", node, id=other[name]) == {"node": None}
    many = closed.data("region", "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename } }", ids=list(other.values()))
    assert many == {"nodes": [None] * 4}
    for field, name in (("transaction", "Transaction"), ("hold", "Hold")):
        text = f"query ($id: ID!) {{ {field}(id: $id) {{ id }} }}"
        assert closed.data("region", text, id=own[name]) == {field: {"id": own[name]}}
        assert closed.data("region", text, id=other[name]) == {field: None}
    for field, type_, name, missing in (
        ("captureHold", "CaptureHold", "Hold", "HoldNotFound"),
        ("voidHold", "VoidHold", "Hold", "HoldNotFound"),
        ("adjustHold", "AdjustHold", "Hold", "HoldNotFound"),
        ("refund", "Refund", "Transaction", "TransactionNotFound"),
        ("clawback", "Clawback", "Transaction", "TransactionNotFound"),
    ):
        id_field = f"{name.lower()}Id"
        given = {id_field: other[name], "idempotencyKey": str(uuid4())}
        if field == "adjustHold":
            given["amount"] = "2"
        if field == "clawback":
            given["description"] = "why"
        text = f"mutation ($input: {type_}Input!) {{ {field}(input: $input) {{ __typename ... on Error {{ code }} }} }}"
        assert closed.data("region", text, input=given)[field]["__typename"] == missing
    state = closed.data("operator", "query ($id: ID!) { hold(id: $id) { state } }", id=other["Hold"])
    assert state == {"hold": {"state": "OPEN"}}


def test_a_key_moves_at_most_what_it_was_given_and_of_its_assets_only(closed: Closed) -> None:
    def moved(field: str, **given: str) -> str:
        type_ = field[0].upper() + field[1:]
        text = f"mutation ($i: {type_}Input!) {{ {field}(input: $i) {{ __typename }} }}"
        answer = closed.ask("bounded", text, i={"idempotencyKey": str(uuid4())} | given).json()
        if "errors" not in answer:
            return str(answer["data"][field]["__typename"])
        assert answer["data"] == {field: None}
        extensions = answer["errors"][0]["extensions"]
        return f"{extensions['code']} {extensions['field']}"

    for field in ("topUp", "bonus", "spend", "placeHold"):
        assert moved(field, ownerId="eu-2", amount="10") == f"{field[0].upper()}{field[1:]}Payload"
        assert moved(field, ownerId="eu-2", amount="11") == "FORBIDDEN amount"
        assert moved(field, ownerId="eu-2", amount="1", asset="POINTS") == "FORBIDDEN asset"
    parties = {"fromOwnerId": "eu-2", "toOwnerId": "eu-1"}
    assert moved("transfer", amount="11", **parties) == "FORBIDDEN amount"
    assert moved("transfer", amount="10", **parties) == "TransferPayload"
    spent = closed.data("operator", SPEND, input=posting("eu-2", "20"))["spend"]["transaction"]["id"]
    hold = closed.data("operator", PLACE, input=posting("eu-2", "20"))["placeHold"]["hold"]["id"]
    # What says no amount moves whatever there is.
    assert moved("refund", transactionId=spent) == "FORBIDDEN amount"
    assert moved("refund", transactionId=spent, amount="11") == "FORBIDDEN amount"
    assert moved("refund", transactionId=spent, amount="10") == "RefundPayload"
    assert moved("captureHold", holdId=hold) == "FORBIDDEN amount"
    assert moved("captureHold", holdId=hold, amount="10") == "CaptureHoldPayload"
    assert moved("voidHold", holdId=hold) == "HoldNotOpen"
    assert moved("closeWallet", ownerId="eu-2", note="why", remainder="FORFEIT") == "FORBIDDEN remainder"


def test_introspection_is_for_callers_with_its_scope(closed: Closed) -> None:
    for caller in ("partner", "reader", "auditor"):
        answer = closed.ask(caller, get_introspection_query())
        assert (answer.status_code, codes(answer)) == (403, ["FORBIDDEN"])
        answer = closed.ask(caller, "{ walet { id } }")
        assert "Did you mean" not in answer.text
        assert closed.data(caller, "{ __typename }") == {"__typename": "Query"}
    assert "__schema" in closed.data("operator", get_introspection_query())


def test_the_log_says_who_asked_and_has_no_key(closed: Closed) -> None:
    closed.data("auditor", "{ assets { code } }")
    line = next(line for line in reversed(closed.served.logged()) if line.get("caller") == "auditor")
    assert (line["event"], line["status"]) == ("request", 200)
    text = closed.served.log.read_text()
    for key in closed.keys.values():
        assert key not in text
        assert key[17:] not in text


def test_the_books_balance(closed: Closed, own: Settings) -> None:
    assert closed.data("operator", "{ __typename }")
    assert json.dumps(asyncio.run(prove(own)).findings) == "[]"
