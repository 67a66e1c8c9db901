import asyncio
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from graphql import OperationDefinitionNode, parse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wallet_gql.console import playground

FOLDER = Path(playground.__file__).parent / "graphiql"
OURS = ("index.html", "page.css", "boot.js", "tabs.json", "favicon.svg")
MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


class Page(HTMLParser):
    """What a page loads, and what it would do inline."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self._inside_script = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in {"src", "href"} and value:
                self.loaded.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(f"<{tag} {name}>")
        if tag == "style":
            self.inline.append("<style>")
        self._inside_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._inside_script and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside_script = self._inside_script and tag != "script"


async def graphql(_: Request) -> Response:
    return playground.page()


class Client:
    """A browser's view of the playground, mounted under a prefix."""

    def __init__(self, prefix: str) -> None:
        routes = [Route("/graphql", graphql), Mount("/graphiql", playground.assets())]
        self._transport = httpx.ASGITransport(Starlette(routes=[Mount(prefix, routes=routes)] if prefix else routes))
        self._base_url = httpx.URL(f"http://wallet.test{prefix}/graphql")

    def get(self, link: str = "", headers: dict[str, str] | None = None) -> httpx.Response:
        """Follow a link of the page; without one, the page itself."""

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport) as client:
                return await client.get(self._base_url.join(link), headers=headers)

        return asyncio.run(send())


@pytest.fixture(params=["", "/behind/a/prefix"])
def client(request: pytest.FixtureRequest) -> Client:
    return Client(request.param)


def loaded_by_the_page() -> list[str]:
    page = Page()
    page.feed((FOLDER / "index.html").read_text("utf-8"))
    return page.loaded


def first_conversation() -> list[dict[str, Any]]:
    tabs: list[dict[str, Any]] = json.loads((FOLDER / "tabs.json").read_text("utf-8"))
    return tabs


def test_page_is_html_under_a_strict_policy(client: Client) -> None:
    response = client.get()

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["vary"] == "Accept"
    policy = dict(directive.split(" ", 1) for directive in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["base-uri"] == "'none'"
    assert policy["form-action"] == "'none'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert "http" not in response.headers["content-security-policy"]


def test_page_has_nothing_inline() -> None:
    page = Page()
    page.feed((FOLDER / "index.html").read_text("utf-8"))

    assert page.inline == []


def test_each_response_is_its_own() -> None:
    first = playground.page()
    first.headers["X-Request-Id"] = "of the first request"

    assert "X-Request-Id" not in playground.page().headers


def test_page_finds_its_assets(client: Client) -> None:
    loaded = loaded_by_the_page()
    assert {name.removeprefix("graphiql/") for name in loaded} == {
        *("favicon.svg", "graphiql.min.css", "page.css"),
        *("react.min.js", "react-dom.min.js", "graphiql.min.js", "boot.js"),
    }

    for name in loaded:
        response = client.get(name)

        assert response.status_code == 200, name
        assert response.headers["content-type"].split(";")[0] == MEDIA_TYPES[Path(name).suffix]
        assert response.content == (FOLDER / Path(name).name).read_bytes()


@pytest.mark.parametrize("name", sorted(file.name for file in FOLDER.iterdir()))
def test_asset_is_served_with_its_type_and_the_policy(client: Client, name: str) -> None:
    response = client.get(f"graphiql/{name}")

    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == MEDIA_TYPES[Path(name).suffix]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_unchanged_asset_is_not_sent_again(client: Client) -> None:
    etag = client.get("graphiql/boot.js").headers["etag"]

    response = client.get("graphiql/boot.js", headers={"If-None-Match": etag})

    assert response.status_code == 304
    assert response.headers["cache-control"] == "no-cache"
    assert "content-type" not in response.headers


@pytest.mark.parametrize("path", ["graphiql/", "graphiql/nothing.js", "graphiql/%2e%2e/playground.py"])
def test_nothing_else_is_served(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("name", OURS)
def test_no_other_host_is_named(name: str) -> None:
    text = (FOLDER / name).read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")

    assert re.findall(r"(?:https?|wss?):|(?<![:\w])//\w[\w.-]*\.\w", text) == []


@pytest.mark.parametrize("file", sorted(FOLDER.iterdir()), ids=lambda file: file.name)
def test_no_file_asks_for_a_source_map(file: Path) -> None:
    # A browser's console would show each as a 404.
    assert "sourceMappingURL=" not in file.read_text("utf-8")


def test_stylesheets_load_nothing() -> None:
    for stylesheet in FOLDER.glob("*.css"):
        text = stylesheet.read_text("utf-8")
        assert re.findall(r"url\((?!['\"]?data:)[^)]*\)|@import", text) == [], stylesheet.name


def test_licences_name_what_is_vendored() -> None:
    licences = (FOLDER / "LICENSES.txt").read_text("utf-8")

    for words in ("graphiql 3.8.3", "react 18.3.1", "react-dom 18.3.1", "SIL OPEN FONT LICENSE", "Apache License"):
        assert words in licences
    for file in FOLDER.iterdir():
        assert file.name in licences or file.name == "LICENSES.txt"


def test_first_conversation_is_named_operations() -> None:
    operations = []
    for tab in first_conversation():
        (definition,) = parse("\n".join(tab["query"])).definitions
        assert isinstance(definition, OperationDefinitionNode)
        assert definition.name
        operations.append((definition.operation.value, definition.name.value))

    assert operations == [
        ("query", "Balance"),
        ("mutation", "OpenWallet"),
        ("mutation", "TopUp"),
        ("mutation", "Bonus"),
        ("mutation", "Spend"),
        ("mutation", "Refused"),
        ("mutation", "Transfer"),
        ("mutation", "Hold"),
        ("query", "History"),
        ("mutation", "Refund"),
        ("mutation", "Expiring"),
        ("mutation", "Limits"),
    ]


def test_first_conversation_sends_a_fresh_key_with_each_posting() -> None:
    keys = [
        [given.get("idempotencyKey") for given in tab["variables"].values() if isinstance(given, dict)]
        for tab in first_conversation()
    ]

    fresh = "$FRESH_UUID"
    assert keys == [[], [None], *[[fresh]] * 6, [], [fresh], [fresh] * 2, [None, *[fresh] * 4]]


def test_what_is_new_with_each_opening_is_made_by_the_page() -> None:
    placeholders = set(re.findall(r'"\$[A-Z_]+"', (FOLDER / "tabs.json").read_text("utf-8")))

    assert placeholders == {'"$FRESH_UUID"', '"$FRESH_PLAYER"', '"$IN_A_MONTH"'}
    assert placeholders == set(re.findall(r'"\$[A-Z_]+"', (FOLDER / "boot.js").read_text("utf-8")))


def test_headers_are_not_kept() -> None:
    assert "shouldPersistHeaders: false" in (FOLDER / "boot.js").read_text("utf-8")
