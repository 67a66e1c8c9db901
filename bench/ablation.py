"""The service with one part of its design taken out: a transaction per request instead of group commit.

(The other ablation, one treasury stripe, is the service itself on a database that was made with one shard.)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp

from wallet_gql import logs
from wallet_gql.app import Opening, RequestGate
from wallet_gql.domain.errors import Forbidden, Unavailable
from wallet_gql.domain.postings import Outcome, Request
from wallet_gql.endpoint.http import GraphQLEndpoint
from wallet_gql.hosts import takes_host
from wallet_gql.ledger.items import WalletBusy
from wallet_gql.ledger.posting import post_batch
from wallet_gql.operations.opening import Ledger, Post, open_ledger
from wallet_gql.operations.unit_of_work import retrying, unit_of_work
from wallet_gql.settings import Settings


def posting_alone(ledger: Ledger) -> Post:
    """Return a `post` that gives every request a unit of work of its own, by the ledger's own statements."""

    async def post(request: Request, _deadline: float | None = None) -> Outcome:
        async def work() -> Outcome:
            async with unit_of_work(ledger.engine) as connection:
                (outcome,) = await post_batch(connection, [request], ledger.slot)
                assert not isinstance(outcome, WalletBusy | Unavailable | Forbidden)
                return outcome

        return await retrying(work, deadline_seconds=ledger.settings.request_deadline_seconds)

    return post


def transaction_per_request() -> ASGIApp:
    """Return the service without group commit."""
    settings = Settings()
    logs.configure(settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with open_ledger(settings) as ledger:
            yield {"opening": Opening(replace(ledger, post=posting_alone(ledger)))}

    return RequestGate(GraphQLEndpoint(settings), Starlette(lifespan=lifespan), takes_host(settings))
