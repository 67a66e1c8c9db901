"""HTTP around GraphQL: what the audits of `make conformance` do not ask."""

import gzip
import json
import socket
from collections.abc import Callable

import httpx
import pytest
from conftest import Served, environment
from graphql import get_introspection_query
from raw import TYPENAME, connected, head, request

from wallet_gql.settings import Settings

ORIGIN = "https://game.example"
QUERY = {"query": "{ __typename }"}
EXAMPLE = 'a JSON object such as {"query": "{ assets { code } }"}'


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
        connection.sendall(head("Content-Length: 2049"))
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
    assert "more than 16000 values" in answer.json()["errors"][0]["message"]


def test_graphiql_and_introspection_can_be_turned_off(opened: Served, served: Served) -> None:
    browser = {"accept": "text/html"}
    assert httpx.get(served.url, headers=browser).headers["content-type"].startswith("text/html")
    assert httpx.get(opened.url, headers=browser).status_code == 406
    assert httpx.get(opened.url.replace("/graphql", "/graphiql/boot.js")).status_code == 404
    answer = httpx.post(opened.url, json={"query": "{ __schema { queryType { name } } }"}).json()
    assert "introspection" in answer["errors"][0]["message"].lower()


def test_the_cost_is_shown_when_it_is_asked_for(served: Served) -> None:
    shown = httpx.post(served.url, json={"query": "{ assets { code } }"}, headers={"x-graphql-cost": "1"}).json()
    assert shown["extensions"] == {"cost": {"requested": 11, "max": 10_000}}
    assert "extensions" not in httpx.post(served.url, json=QUERY).json()


def test_answers_are_not_cached_and_vary(served: Served) -> None:
    answer = httpx.get(served.url, params=QUERY)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Accept, Accept-Encoding"


DEFAULT_CORS_HEADERS = (
    "authorization, content-type, x-request-id, x-graphql-cost, traceparent, tracestate, baggage,"
    " apollographql-client-name, apollographql-client-version"
)


def test_a_browser_may_send_what_clients_need(opened: Served) -> None:
    preflight = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": DEFAULT_CORS_HEADERS,
    }
    assert httpx.options(opened.url, headers=preflight).status_code == 200
    other = preflight | {"access-control-request-headers": "x-other"}
    assert httpx.options(opened.url, headers=other).status_code == 400


def test_what_a_browser_may_send_is_a_setting(named: Served) -> None:
    preflight = {"origin": ORIGIN, "access-control-request-method": "POST"}
    for name, status in (("x-other", 200), ("authorization", 400)):
        asked = httpx.options(named.url, headers=preflight | {"access-control-request-headers": name})
        assert asked.status_code == status


@pytest.fixture(scope="module")
def named(serve: Callable[..., Served], settings: Settings) -> Served:
    return serve(
        environment(
            settings,
            WALLET_ALLOWED_HOSTS="Api.Example, *.shop.example",
            WALLET_CORS_ORIGINS=ORIGIN,
            WALLET_CORS_HEADERS="x-other",
        )
    )


@pytest.fixture(scope="module")
def everywhere(serve: Callable[..., Served], settings: Settings) -> Served:
    server = serve(environment(settings), "--host", "0.0.0.0")  # noqa: S104 - for the length of this test
    return Served(server.process, server.url.replace("0.0.0.0", "127.0.0.1"), server.log)  # noqa: S104 - the same


LOOPBACK = ("localhost", "LOCALHOST:80", "localhost.", "wallet.localhost", "127.0.0.1", "127.1.2.3:8000", "[::1]:8000")
ADDRESSES = ("10.0.0.5:8000", "[2001:db8::1]", "wallet", "wallet:8000")
NAMES = ("api.example", "api.example:443", "API.EXAMPLE.", "a.shop.example", "a.b.shop.example")
STRANGERS = (
    "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.api.example", "shop.example",
    "evilshop.example", "localhost, localhost", "localhost:80:80", "[::1", "::1", "loc alhost", "localhost/",
    "user@localhost", "",
)  # fmt: skip


@pytest.mark.parametrize(
    ("server", "taken", "refused"),
    [
        ("served", LOOPBACK, (*ADDRESSES, *NAMES, *STRANGERS)),
        ("named", (*LOOPBACK, *NAMES), (*ADDRESSES, *STRANGERS)),
        ("everywhere", (*LOOPBACK, *ADDRESSES), (*NAMES, *STRANGERS)),
    ],
)
def test_only_known_hosts_are_answered(
    server: str, taken: tuple[str, ...], refused: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server).url
    with httpx.Client() as client:
        for host in taken:
            assert client.post(url, json=QUERY, headers={"host": host}).status_code == 200, host
        for host in refused:
            for path in ("/graphql", "/", "/graphiql", "/graphiql/boot.js", "/nothing/"):
                answer = client.get(url.replace("/graphql", path), headers={"host": host})
                assert answer.status_code == 400, host
                assert answer.json()["errors"][0]["extensions"]["requestId"] == answer.headers["x-request-id"]
            # A probe names what it likes, and learns nothing else.
            assert client.get(url.replace("/graphql", "/health"), headers={"host": host}).status_code == 200


def test_any_host_may_be_allowed(serve: Callable[..., Served], settings: Settings) -> None:
    url = serve(environment(settings, WALLET_ALLOWED_HOSTS="*")).url
    assert httpx.post(url, json=QUERY, headers={"host": "evil.example"}).status_code == 200
    assert httpx.post(url, json=QUERY, headers={"host": "evil.example, x"}).status_code == 400


def test_one_host_is_sent(served: Served) -> None:
    line = f"POST /graphql HTTP/1.%d\r\nContent-Type: application/json\r\nContent-Length: {len(TYPENAME)}\r\n%s\r\n"
    for version, hosts, status in (
        (1, "", 400),
        (1, "Host: localhost\r\nHost: localhost\r\n", 400),
        (1, "Host: localhost\r\nHost: evil.example\r\n", 400),
        (1, "Host: localhost\r\n", 200),
        (0, "", 200),
        (0, "Host: evil.example\r\n", 400),
    ):
        with connected(served.url) as raw:
            raw.send((line % (version, hosts)).encode() + TYPENAME)
            answer = raw.answer()
        assert answer is not None
        assert answer.status == status, hosts
        assert status == 200 or answer.error()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("lines", ["Host: localhost\r\n", "Host: evil.example\r\n", ""])
@pytest.mark.parametrize(
    ("authority", "is_ours"),
    [("localhost:80", True), ("evil.example", False), ("localhost@evil.example", False), ("u@localhost", False)],
)
def test_authority_of_an_absolute_target_wins_over_host(
    served: Served, version: str, lines: str, authority: str, *, is_ours: bool
) -> None:
    rest = f"Content-Type: application/json\r\nContent-Length: {len(TYPENAME)}\r\n\r\n"
    sent = f"POST HTTP://{authority}/graphql HTTP/{version}\r\n{lines}{rest}".encode() + TYPENAME
    for pieces in ([sent], [sent[:10], sent[10:40], sent[40:]]):
        with connected(served.url) as raw:
            raw.send(*pieces)
            answer = raw.answer()
        assert answer is not None
        # HTTP/1.1 wants a Host all the same.
        assert answer.status == (200 if is_ours and (lines or version == "1.0") else 400)


def test_no_redirect_follows_the_host(served: Served) -> None:
    for path in ("/", "/health/", "/graphiql", "/graphql/"):
        answer = httpx.get(served.url.replace("/graphql", path), headers={"host": "localhost:1"})
        assert answer.headers.get("location", "graphql") == "graphql", path


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/nothing", 404),
        ("GET", "/graphql/", 404),
        ("GET", "/graphiql/nothing.js", 404),
        ("GET", "/graphiql/" + "x" * 5000, 404),
        ("POST", "/health", 405),
        ("DELETE", "/graphiql/boot.js", 405),
        ("BREW", "/graphql", 400),
        ("CONNECT", "/graphql", 405),
    ],
)
def test_every_refusal_is_json_with_a_request_id(served: Served, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, served.url.replace("/graphql", path))
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/json")
    (error,) = answer.json()["errors"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "requestId": answer.headers["x-request-id"]}
    assert len(answer.content) < 1000
    assert status != 405 or "GET" in answer.headers["allow"]
    assert status != 405 or "GET" in error["message"]


def test_a_favicon_is_there(opened: Served) -> None:
    answer = httpx.get(opened.url.replace("/graphql", "/favicon.ico"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")


@pytest.mark.parametrize(
    ("content", "coding", "status", "hint"),
    [
        (gzip.compress(TYPENAME, mtime=0), "gzip", 415, "Content-Encoding is 'gzip': send it as it is, not compressed"),
        (b"\x8b", "br", 415, "not compressed"),
        (gzip.compress(TYPENAME, mtime=0), "", 400, "is compressed: send it as it is"),
        (gzip.compress(TYPENAME, mtime=0), "identity", 400, "is compressed: send it as it is"),
        (TYPENAME, "x" * 1000, 415, "not compressed"),
        (b"\xef\xbb\xbf" + TYPENAME, "", 400, "byte order mark: send it without"),
        (TYPENAME.decode().encode("utf-16"), "", 400, "UTF-16: send it in UTF-8"),
        (TYPENAME.decode().encode("utf-16-be"), "", 400, "not JSON: unexpected character"),
    ],
)
def test_a_body_that_is_coded_gets_a_hint(served: Served, content: bytes, coding: str, status: int, hint: str) -> None:
    headers = {"content-type": "application/json"} | ({"content-encoding": coding} if coding else {})
    answer = httpx.post(served.url, content=content, headers=headers)
    assert answer.status_code == status
    assert hint in answer.json()["errors"][0]["message"]
    assert status == 400 or answer.headers["accept-encoding"] == "identity"
    assert len(answer.content) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f"The body is empty: send {EXAMPLE}."),
        (b" \n", f"The body is empty: send {EXAMPLE}."),
        (
            b'{"query": None}',
            f"not JSON: unexpected character, expected a JSON value at line 1, column 11. Send {EXAMPLE}.",
        ),
        (b'{"query":\n "{ assets', "not JSON: unexpected end of data at line 2, column "),
        (b"query={assets{code}}", "not JSON: unexpected character, expected a JSON value at line 1, column 1."),
        (b'{"query": "\xe4"}', "The body is not UTF-8 from byte 12 on: send JSON in UTF-8."),
        (b"[]", f"The body is JSON, but not an object: send {EXAMPLE}."),
        (b"{}", "query is missing: send a GraphQL document as a string, such as "),
        (b'{"query": null}', "query is missing: "),
        (b'{"query": " "}', "query is empty: "),
        (b'{"query": 5}', "query is an integer, not a string: "),
        (b'{"query": ["{a}"]}', "query is a list, not a string: "),
        (b'{"query": "{a}", "variables": "{}"}', "variables is a string: send a JSON object or null."),
        (b'{"query": "{a}", "extensions": true}', "extensions is a boolean: send a JSON object or null."),
        (b'{"query": "{a}", "operationName": {}}', "operationName is an object: send a string or null."),
    ],
)
def test_a_body_that_is_wrong_says_where(served: Served, content: bytes, message: str) -> None:
    answer = httpx.post(served.url, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert message in answer.json()["errors"][0]["message"]


def test_a_parameter_that_is_wrong_says_where(served: Served) -> None:
    answer = httpx.get(served.url, params={**QUERY, "variables": "{x: 1}"})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"] == (
        "The parameter variables is not JSON: unexpected character, expected a string key at line 1, column 2."
        " Send a JSON object."
    )


@pytest.mark.parametrize(
    ("query_string", "message"),
    [
        ("query=%7B__typename%7D&operationName=%FF", "is not UTF-8, URL-encoded: encode each value as "),
        ("&".join(f"p{n}=1" for n in range(11)), "has more than 10 parameters: send query, variables, "),
    ],
)
def test_a_query_string_that_is_wrong_says_how(served: Served, query_string: str, message: str) -> None:
    answer = httpx.get(f"{served.url}?{query_string}")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"].startswith(f"The query string {message}")


def test_accept_in_two_lines_is_one_list(served: Served) -> None:
    for lines, expected in (
        (["Accept: image/png", "Accept: application/json"], "application/json"),
        (["Accept: application/json", "Accept: image/png"], "application/json"),
        (
            ["Accept: application/json;q=0.5", "Accept: application/graphql-response+json"],
            "application/graphql-response",
        ),
    ):
        with connected(served.url) as raw:
            raw.send(request(TYPENAME, *lines))
            answer = raw.answer()
        assert answer is not None
        assert (answer.status, answer.headers["content-type"].split("+")[0].split(";")[0]) == (200, expected)


def test_a_large_answer_is_compressed_where_the_client_takes_it(served: Served) -> None:
    large = {"query": get_introspection_query()}
    plain = httpx.post(served.url, json=large, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    packed = httpx.post(served.url, json=large, headers={"accept-encoding": "br;q=1, gzip;q=0.8"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 3
    assert packed.json() == plain.json()
    for encoding in ("gzip;q=0", "br", "identity, *;q=0"):
        assert (
            "content-encoding" not in httpx.post(served.url, json=large, headers={"accept-encoding": encoding}).headers
        )
    assert "content-encoding" not in httpx.post(served.url, json=QUERY).headers


def test_the_files_of_graphiql_are_compressed_where_the_client_takes_it(served: Served) -> None:
    url = served.url.replace("/graphql", "/graphiql/graphiql.min.js")
    plain = httpx.get(url, headers={"accept-encoding": "identity"})
    packed = httpx.get(url, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 3
    assert packed.content == plain.content
    assert {plain.headers["vary"], packed.headers["vary"]} == {"Accept-Encoding"}
    assert plain.headers["content-security-policy"] == packed.headers["content-security-policy"]
    again = httpx.get(url, headers={"if-none-match": packed.headers["etag"], "accept-encoding": "gzip"})
    assert (again.status_code, again.content) == (304, b"")


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
    assert error["message"] == 'query is missing: send a GraphQL document as a string, such as "{ assets { code } }".'
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
