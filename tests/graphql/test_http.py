"""HTTP around GraphQL: what the audits of `make conformance` do not ask."""

import json
import socket
from collections.abc import Callable

import httpx
import pytest
from conftest import Served, environment

from wallet_gql.settings import Settings

ORIGIN = "https://game.example"
QUERY = {"query": "{ __typename }"}


@pytest.fixture(scope="module")
def opened(serve: Callable[..., Served], settings: Settings) -> Served:
    return serve(
        environment(
            settings,
            WALLET_CORS_ORIGINS=f"{ORIGIN}, https://other.example",
            WALLET_BODY_BYTES_MAX="2048",
            WALLET_GRAPHIQL="false",
            WALLET_INTROSPECTION="false",
        )
    )


def test_without_a_setting_no_other_origin_may_read(served: Served) -> None:
    answer = httpx.post(served.url, json=QUERY, headers={"origin": ORIGIN})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_a_configured_origin_may_call_and_another_may_not(opened: Served) -> None:
    preflight = {"origin": ORIGIN, "access-control-request-method": "POST"}
    asked = httpx.options(opened.url, headers=preflight | {"access-control-request-headers": "content-type"})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    answer = httpx.post(opened.url, json=QUERY, headers={"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    stranger = httpx.options(opened.url, headers=preflight | {"origin": "https://evil.example"})
    assert stranger.status_code == 400
    assert "access-control-allow-origin" not in stranger.headers


def test_a_body_that_announces_too_much_is_refused_before_it_is_read(opened: Served) -> None:
    host, port = httpx.URL(opened.url).host, httpx.URL(opened.url).port
    assert port is not None
    with socket.create_connection((host, port), timeout=30) as connection:
        head = "POST /graphql HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2049\r\n\r\n"
        connection.sendall(head.encode())
        # Not a byte of the body was sent.
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


def test_a_body_that_grows_too_large_is_refused(opened: Served) -> None:
    def chunks() -> list[bytes]:
        return [b'{"query": "', *[b" " * 1000] * 4, b'{ __typename }"}']

    answer = httpx.post(opened.url, content=iter(chunks()), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


def test_too_many_values_are_refused(served: Served) -> None:
    variables = {"ids": ["a"] * 100_000}
    query = "query($ids: [String!]!) { wallets(ownerIds: $ids) { id } }"
    answer = httpx.post(served.url, json={"query": query, "variables": variables}, timeout=30)
    assert answer.status_code == 400
    assert "more than 1000 values" in answer.json()["errors"][0]["message"]


def test_graphiql_and_introspection_can_be_turned_off(opened: Served, served: Served) -> None:
    browser = {"accept": "text/html"}
    assert httpx.get(served.url, headers=browser).headers["content-type"].startswith("text/html")
    assert httpx.get(opened.url, headers=browser).status_code == 406
    assert httpx.get(opened.url.replace("/graphql", "/graphiql/boot.js")).status_code == 404
    answer = httpx.post(opened.url, json={"query": "{ __schema { queryType { name } } }"}).json()
    assert "introspection" in answer["errors"][0]["message"].lower()


def test_the_cost_is_shown_when_it_is_asked_for(served: Served) -> None:
    shown = httpx.post(served.url, json={"query": "{ assets { code } }"}, headers={"x-graphql-cost": "1"}).json()
    assert shown["extensions"] == {"cost": {"requested": 2, "max": 10_000}}
    assert "extensions" not in httpx.post(served.url, json=QUERY).json()


def test_answers_are_not_cached_and_vary(served: Served) -> None:
    answer = httpx.get(served.url, params=QUERY)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Accept"


HASH = {"persistedQuery": {"version": 1, "sha256Hash": "9" * 64}}


@pytest.mark.parametrize("accept", ["application/json", "application/graphql-response+json", "*/*"])
@pytest.mark.parametrize("query", [{}, {"query": None}, {"query": ""}], ids=["absent", "null", "empty"])
def test_hash_alone_is_told_that_the_document_is_wanted(served: Served, query: dict[str, str], accept: str) -> None:
    variables = {"operationName": "A", "variables": {}, **query}
    by_post = httpx.post(served.url, json={**variables, "extensions": HASH}, headers={"accept": accept})
    by_get = httpx.get(served.url, params={"extensions": json.dumps(HASH)}, headers={"accept": accept})
    for answer in (by_post, by_get):
        assert answer.status_code == 200
        assert answer.json() == {
            "errors": [
                {
                    "message": "PersistedQueryNotSupported",
                    "extensions": {
                        "code": "PERSISTED_QUERY_NOT_SUPPORTED",
                        "requestId": answer.headers["x-request-id"],
                    },
                }
            ]
        }


def test_hash_beside_the_document_changes_nothing(served: Served) -> None:
    data = {"data": {"__typename": "Query"}}
    assert httpx.post(served.url, json={**QUERY, "extensions": HASH}).json() == data
    assert httpx.get(served.url, params={**QUERY, "extensions": json.dumps(HASH)}).json() == data


@pytest.mark.parametrize(
    "extensions",
    [None, {}, {"persistedQuery": None}, {"persistedQuery": []}, {"persistedQuery": {"sha256Hash": 5}}, {"other": {}}],
)
def test_extensions_without_a_hash_want_the_document(served: Served, extensions: object) -> None:
    answer = httpx.post(served.url, json={"extensions": extensions})
    assert answer.status_code == 400
    [error] = answer.json()["errors"]
    assert error["message"] == "query must be a GraphQL document as a string."
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
