"""The endpoint in the test's own process, on a ledger of the test's choice."""

import httpx
from starlette.types import Receive, Scope, Send

from wallet_gql.endpoint.documents import Document
from wallet_gql.endpoint.http import GraphQLEndpoint
from wallet_gql.operations.opening import Ledger


class Endpoint:
    """Answers requests; counts what was asked, and what of it was prepared."""

    def __init__(self, ledger: Ledger, **changes: object) -> None:
        self.endpoint = GraphQLEndpoint(ledger.settings.model_copy(update=changes))
        self._ledger = ledger
        self.documents = self.endpoint.documents
        self.asked = 0
        self.prepared: list[str] = []
        self._prepare = self.documents.prepare
        self.documents.prepare = self._counted  # type: ignore[method-assign] # counted, then as ever

    def _counted(self, text: str) -> Document:
        self.prepared.append(text)
        return self._prepare(text)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.endpoint({**scope, "state": {"ledger": self._ledger, "request_id": "test"}}, receive, send)

    async def ask(self, query: str, **more: object) -> httpx.Response:
        self.asked += 1
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self), base_url="http://wallet.test") as client:
            return await client.post("/graphql", json={"query": query, **more})

    def figures(self) -> tuple[int, int]:
        """Return how many documents were found, and how many had to be prepared."""
        return self.asked - len(self.prepared), len(self.prepared)
