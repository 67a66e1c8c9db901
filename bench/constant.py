"""Servers that answer a top-up with a constant, without a ledger: what GraphQL itself costs.

`stock` is Strawberry's own ASGI view with both of its caches; `ours` is the service's endpoint and its real schema over
a ledger that posts nothing. Both run under uvicorn with uvloop and httptools, as the service does.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import strawberry
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp
from strawberry.asgi import GraphQL
from strawberry.extensions import ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig

from wallet_gql import logs
from wallet_gql.app import Opening, RequestGate
from wallet_gql.domain.assets import Asset
from wallet_gql.domain.postings import Posted, PostingRequest, TransactionType, TransactionView
from wallet_gql.domain.wallets import Balance, Wallet
from wallet_gql.endpoint.http import GraphQLEndpoint
from wallet_gql.graphql import assets, balances, postings, transactions, wallets
from wallet_gql.graphql.scalars import SCALARS
from wallet_gql.hosts import takes_host
from wallet_gql.operations.opening import Ledger
from wallet_gql.settings import Settings

GOLD = Asset(1, "GOLD", "Gold Coins", 0)
WALLET = Wallet(1, 1, "bench-1", datetime(2026, 1, 1, tzinfo=UTC))
VIEW = TransactionView(
    shard=1,
    account_id=1,
    seq=1,
    wallet_id=1,
    asset=GOLD,
    id=UUID("01890a5d-ac96-774b-bcce-b302099a8057"),
    type=TransactionType.TOP_UP,
    amount_minor=1,
    balance_after_minor=100,
    executed_at=WALLET.opened_at,
    description=None,
    reference=None,
    idempotency_key=UUID("11111111-1111-4111-8111-111111111111"),
)
POSTED = Posted(VIEW, Balance(WALLET, GOLD, 100, 1), already_processed=False)
BALANCE = POSTED.balance


async def post(_request: PostingRequest, _deadline: float | None = None) -> Posted:
    """Answer without posting."""
    return POSTED


async def load(_key: object) -> Balance:
    """Answer without reading."""
    return BALANCE


def ours() -> ASGIApp:
    """Return the service's endpoint over a ledger that answers a constant."""
    settings = Settings(_env_file=None)
    logs.configure(settings)
    reads = SimpleNamespace(owners_balances=SimpleNamespace(load=load))
    commits = SimpleNamespace(refusal=lambda: None)
    ledger = cast(
        "Ledger",
        SimpleNamespace(
            settings=settings, shard_count=64, assets={"GOLD": GOLD}, post=post, reads=reads, commits=commits
        ),
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {"opening": Opening(ledger)}

    return RequestGate(GraphQLEndpoint(settings), Starlette(lifespan=lifespan), takes_host(settings))


@strawberry.type
class Query:
    """The same query shape."""

    @strawberry.field
    async def balance(self, owner_id: str, asset: str = "GOLD") -> balances.Balance | None:  # noqa: ARG002
        """Answer a constant."""
        return balances.Balance(balance=BALANCE)


@strawberry.type
class Mutation:
    """The same mutation shape."""

    @strawberry.mutation
    async def top_up(self, input: postings.TopUpInput) -> postings.TopUpResult | None:  # noqa: ARG002
        """Answer a constant."""
        return postings.TopUpPayload.of(POSTED)


def stock() -> Starlette:
    """Return Strawberry's own view of the same mutation and query."""
    schema = strawberry.Schema(
        query=Query,
        mutation=Mutation,
        types=[assets.Asset, wallets.Wallet, balances.Balance, transactions.Transaction],
        extensions=[ParserCache, ValidationCache],
        config=StrawberryConfig(scalar_map=SCALARS),
    )
    return Starlette(routes=[Route("/graphql", GraphQL(schema))])
