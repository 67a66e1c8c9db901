import httpx
import pytest
from factories import new_owner
from starlette.types import Receive, Scope, Send

from wallet_gql.graphql.documents import DOCUMENTS_CACHED_MAX
from wallet_gql.graphql.http import GraphQLEndpoint
from wallet_gql.operations.opening import Ledger

BALANCE = "query($o: String!) { balance(ownerId: $o) { amount } }"


class Endpoint:
    """The endpoint in this process, and how its documents were found."""

    def __init__(self, ledger: Ledger) -> None:
        self.endpoint = GraphQLEndpoint(ledger.settings)
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.endpoint({**scope, "state": {"ledger": self._ledger, "request_id": "test"}}, receive, send)

    async def ask(self, query: str, **more: object) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self), base_url="http://wallet.test") as client:
            return await client.post("/graphql", json={"query": query, **more})

    def figures(self) -> tuple[int, int, int]:
        """Return how many documents were found, prepared, and are kept."""
        info = self.endpoint.documents.prepare.cache_info()
        return info.hits, info.misses, info.currsize


@pytest.fixture
def endpoint(ledger: Ledger) -> Endpoint:
    return Endpoint(ledger)


async def test_document_is_prepared_once(endpoint: Endpoint, ledger: Ledger) -> None:
    for gold in range(1, 11):
        owner = await new_owner(ledger, gold=gold)
        response = await endpoint.ask(BALANCE, variables={"o": owner})
        assert response.json() == {"data": {"balance": {"amount": str(gold)}}}

    assert endpoint.figures() == (9, 1, 1)


async def test_documents_differ_by_their_texts(endpoint: Endpoint) -> None:
    for query in (BALANCE, BALANCE + " ", BALANCE, "{ assets { code } }", "{ assets { name } }"):
        assert "errors" not in (await endpoint.ask(query, variables={"o": "nobody"})).json()

    assert endpoint.figures() == (1, 4, 4)


async def test_one_document_serves_all_its_operations(endpoint: Endpoint) -> None:
    query = "query A { assets { code } } query B { assets { scale } }"
    answers = [(await endpoint.ask(query, operationName=name)).json()["data"]["assets"][0] for name in "ABAB"]

    assert answers == [{"code": "GOLD"}, {"scale": 0}] * 2
    assert endpoint.figures() == (3, 1, 1)


async def test_document_without_the_named_operation_is_kept_for_the_next(endpoint: Endpoint) -> None:
    query = "query A { assets { code } }"

    assert "errors" in (await endpoint.ask(query, operationName="B")).json()
    assert "errors" not in (await endpoint.ask(query, operationName="A")).json()

    assert endpoint.figures() == (1, 1, 1)


@pytest.mark.parametrize(
    "query",
    [
        "{",
        "{ nothing }",
        "# nothing",
        "{ assets { code } } #" + "x" * 100_000,
        "{ assets" * 500,
        "fragment A on Asset { id }",
    ],
    ids=["syntax", "unknown field", "empty", "too long", "too deep", "no operation"],
)
async def test_document_that_is_invalid_is_not_kept(endpoint: Endpoint, query: str) -> None:
    for _ in range(3):
        assert "data" not in (await endpoint.ask(query)).json()

    assert endpoint.figures() == (0, 3, 0)


async def test_so_many_documents_are_kept_and_no_more(endpoint: Endpoint) -> None:
    for n in range(DOCUMENTS_CACHED_MAX + 10):
        await endpoint.ask(f"query A{n} {{ __typename }}")

    assert endpoint.figures() == (0, DOCUMENTS_CACHED_MAX + 10, DOCUMENTS_CACHED_MAX)
