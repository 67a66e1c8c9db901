"""Makes what tests need by the operations themselves, never by raw inserts."""

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx

from wallet_gql.domain.postings import Posted
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.postings import PostingInput, PostingOutcome, bonus, spend, top_up
from wallet_gql.operations.wallets import open_wallet

TEST_SHARD_COUNT = 4

POSTINGS = {"top_up": top_up, "bonus": bonus, "spend": spend}


def new_owner_id(prefix: str = "player") -> str:
    return f"{prefix}-{uuid4().hex[:12]}"


async def new_owner(ledger: Ledger, gold: int = 0, owner_id: str | None = None) -> str:
    """Open a wallet for a fresh owner, with so much GOLD in it."""
    owner_id = owner_id or new_owner_id()
    await open_wallet(ledger, owner_id)
    if gold:
        assert isinstance(await post(ledger, "top_up", owner_id, gold), Posted)
    return owner_id


def request(owner_id: str, amount: int | str, key: UUID | None = None, **more: Any) -> PostingInput:
    return replace(PostingInput(owner_id, "GOLD", Decimal(amount), key or uuid4()), **more)


async def post(
    ledger: Ledger, verb: str, owner_id: str, amount: int | str, key: UUID | None = None, **more: Any
) -> PostingOutcome:
    """Post by the name of the operation."""
    return await POSTINGS[verb](ledger, request(owner_id, amount, key, **more))


async def balance(ledger: Ledger, owner_id: str, asset_code: str = "GOLD") -> int:
    """Return what an owner holds, in minor units."""
    name = OwnerName(shard_of(owner_id, ledger.shard_count), owner_id)
    found = await ledger.reads.owners_balances.load((name, ledger.assets[asset_code]))
    assert found is not None
    return found.amount_minor


async def gql(client: httpx.AsyncClient, query: str, **variables: Any) -> dict[str, Any]:
    """Send a request that must succeed and return its data."""
    response = await client.post("/graphql", json={"query": query, "variables": variables})
    answer = response.json()
    assert response.status_code == 200, answer
    assert "errors" not in answer, answer
    data: dict[str, Any] = answer["data"]
    return data
