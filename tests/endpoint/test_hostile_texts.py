"""Hostile texts in every place of the schema, and in every part of a request: nothing else is done, and logs hold."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from conftest import Served, environment
from factories import new_owner_id
from paths import Example, Place, asked_at, places, root_fields
from raw import TYPENAME, connected, head

from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

HOSTILE: Final = (
    "'; DROP TABLE wallet; --",
    "\\' OR ''='' OR \"\"=\"\" OR $1); DELETE FROM entry; --",
    "%s %(o)s {0} {o} ${jndi:ldap://evil.example/a} %27 <script>alert(1)</script> ../../etc/passwd",
    "a\x00b",
    'a\r\n{"event": "forged", "level": "info"}\n\r\n\r\nHTTP/1.1 200 OK',
    "\x1b[2J\x1b]0;owned\x07\x7f\x9b2Ja\u2028b\u2029c\x85d\u202ee\u2066",
    "\ud800",
    "x" * 5000,
)

TEXTS: Final = {"String", "ID", "UUID", "Amount", "DateTime", "Metadata"}

MADE: Final = """
mutation ($o: String!, $t: UUID!, $k: UUID!, $h: UUID!, $l: UUID!) {
  openWallet(input: {ownerId: $o}) { __typename }
  topUp(input: {ownerId: $o, amount: "1000", idempotencyKey: $t}) { __typename }
  spend(input: {ownerId: $o, amount: "9", idempotencyKey: $k}) { ... on SpendPayload { transaction { id } } }
  placeHold(input: {ownerId: $o, amount: "9", idempotencyKey: $h}) { ... on PlaceHoldPayload { hold { id } } }
  setLimit(input: {ownerId: $o, flow: SPEND, window: {rollingSeconds: 60}, maxAmount: "500", idempotencyKey: $l}) {
    ... on SetLimitPayload { rule { id } }
  }
}
"""
SEEN: Final = """
query ($o: String!) {
  wallet(ownerId: $o) { status balances { amount held cursor } transactions { totalCount } limits { rule { id } } }
  apiKeys { keyId state }
  assets { code }
}
"""


@pytest.fixture(scope="module")
def own(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("hostile")


@pytest.fixture(scope="module", params=["json", "console"])
def logged(request: pytest.FixtureRequest, serve: Callable[..., Served], own: Settings) -> Iterator[Served]:
    """A server for each format of logs."""
    served = serve(environment(own, WALLET_LOG_FORMAT=request.param))
    yield served
    served.process.terminate()
    served.process.wait()


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served], own: Settings) -> Served:
    return serve(environment(own, WALLET_LOG_FORMAT="json"))


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url.removesuffix("/graphql"), timeout=30) as client:
        yield client


def ask(client: httpx.Client, query: str, **variables: Any) -> httpx.Response:
    # A lone surrogate can be sent as an escape only.
    body = json.dumps({"query": query, "variables": variables})
    return client.post("/graphql", content=body, headers={"content-type": "application/json"})


def new_books(client: httpx.Client) -> tuple[str, Example]:
    """Return an owner with a little of everything, and arguments that name it."""
    owner = new_owner_id("hostile")
    made = ask(client, MADE, o=owner, **{name: str(uuid4()) for name in "tkhl"}).json()["data"]
    hold, transaction = made["placeHold"]["hold"]["id"], made["spend"]["transaction"]["id"]
    texts = {
        "ownerId": owner, "ownerIds": owner, "fromOwnerId": owner, "toOwnerId": "nobody", "asset": "GOLD",
        "id": hold, "ids": hold, "holdId": hold, "transactionId": transaction, "note": "why",
        "description": "why", "actor": owner, "limitId": made["setLimit"]["rule"]["id"],
    }  # fmt: skip
    plain = {"flow": "SPEND", "maxAmount": '"500"'}
    return owner, Example({name: f'"{text}"' for name, text in texts.items()} | plain, {"Amount": '"1"', "Int": "1"})


def lines_of(served: Served, start: int) -> list[str]:
    """Return the lines of the log from a place on."""
    return served.log.read_bytes()[start:].decode().split("\n")[:-1]


@pytest.mark.parametrize("root", [name for _, name in root_fields()])
def test_every_place(client: httpx.Client, served: Served, root: str) -> None:
    bystander, _ = new_books(client)
    _, example = new_books(client)
    before, start, count = ask(client, SEEN, o=bystander).text, served.log.stat().st_size, 0
    for place in (each for each in places() if each.root[1] == root and each.type_name in TEXTS):
        for text in HOSTILE:
            for value in hostile_values(place, text):
                asked = asked_at(place, "$x", example)
                answer = ask(client, f"{place.root[0].lower()} ($x: {place.given.type}) {{ {asked} }}", x=value)
                codes = {error["extensions"]["code"] for error in answer.json().get("errors", ())}
                assert answer.status_code in {200, 400}, (place, value, answer.text)
                assert codes <= {"BAD_USER_INPUT"}, (place, value, answer.text)
                assert "errors" in answer.json() or answer.json()["data"]
                count += 1
    lines = [json.loads(line) for line in lines_of(served, start)]
    assert [line["event"] for line in lines] == ["request"] * count
    assert ask(client, SEEN, o=bystander).text == before


def hostile_values(place: Place, text: str) -> list[object]:
    if place.type_name == "Metadata":
        return [text, {"a": text}, {text: "a"}, {"a": {"b": text}}]
    return [[text] if place.is_list else text]


def test_a_time_zone(client: httpx.Client) -> None:
    owner, _ = new_books(client)
    query = "mutation ($i: SetLimitInput!) { setLimit(input: $i) { __typename } }"
    common = {"ownerId": owner, "flow": "SPEND", "maxAmount": "5", "idempotencyKey": str(uuid4())}
    paths = ("../../../etc/passwd", "/etc/localtime", "Europe/../UTC", "zone.tab", "Europe")
    for text in (*(each for each in HOSTILE if each != "\ud800"), *paths):
        window = {"calendar": {"unit": "DAY", "timeZone": text}}
        answer = ask(client, query, i=common | {"window": window})
        [error] = answer.json()["errors"]
        assert error["extensions"]["field"] == "window.calendar.timeZone"
        assert text not in error["message"].replace("Europe/Berlin", "")


def test_texts_are_kept_as_they_are(client: httpx.Client) -> None:
    owner, _ = new_books(client)
    query = """
    mutation ($i: TopUpInput!) {
      topUp(input: $i) { ... on TopUpPayload { transaction { description reference metadata } } }
    }
    """
    for text in (each for each in HOSTILE if len(each) <= 500 and "\0" not in each and each != "\ud800"):
        given = {"description": text, "reference": text, "metadata": {"a": text}}
        more = {"ownerId": owner, "amount": "1", "idempotencyKey": str(uuid4()), "receipt": str(uuid4()) + text[:50]}
        answer = ask(client, query, i=given | more).json()
        assert answer == {"data": {"topUp": {"transaction": given}}}


_COLOURS: Final = re.compile(r"\x1b\[[0-9]{1,2}m")


def test_every_part_of_a_request(logged: Served) -> None:
    texts = [text for text in HOSTILE if text != "\ud800" and len(text) < 1000]
    with httpx.Client(base_url=logged.url.removesuffix("/graphql"), timeout=30) as client:
        start, count = logged.log.stat().st_size, 0
        for text in texts:
            sent = quote(text, safe="")
            for path in (f"/{sent}", f"/graphql/{sent}", f"/graphql?query={sent}", f"/graphql?documentId={sent}"):
                answer = client.get(path)
                assert 200 <= answer.status_code < 500, (path, answer.text)
                count += 1
            for parameters in (
                {"query": text},
                {"query": f"query {text} {{ __typename }}"},
                {"query": "{ __typename }", "operationName": text},
                {"query": "{ __typename }", "variables": {text: text}},
                {"documentId": text},
                {text: text},
            ):
                answer = client.post("/graphql", json=parameters)
                assert 200 <= answer.status_code < 500, (parameters, answer.text)
                count += 1
    for line in lines_of(logged, start):
        assert _COLOURS.sub("", line).isprintable(), line
        assert "request" in line
    assert len(lines_of(logged, start)) == count


def test_headers_are_not_logged(logged: Served) -> None:
    start, count = logged.log.stat().st_size, 0
    for name in ("X-Request-Id", "User-Agent", "Referer", "Origin", "Authorization", "X-Forwarded-For", "Host"):
        for text in ("\x1b[2J", "a\x07b", '", "event": "forged', "é\x9b2J"):
            with connected(logged.url) as raw:
                extra = f"{name}: {text}\r\nContent-Type".encode("latin-1")
                plain = head(f"Content-Length: {len(TYPENAME)}")
                raw.send(plain.replace(b"Content-Type", extra) + TYPENAME)
                answer = raw.answer()
            assert answer is not None
            assert answer.status < 500
            count += 1
    for line in lines_of(logged, start):
        assert _COLOURS.sub("", line).isprintable(), line
        assert "forged" not in line
    assert len(lines_of(logged, start)) <= count


def test_the_books_balance(client: httpx.Client, own: Settings) -> None:
    assert ask(client, "{ __typename }").status_code == 200
    assert asyncio.run(prove(own)).findings == []
