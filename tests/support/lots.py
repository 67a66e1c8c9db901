"""Lots as clients see them: an owner of an asset that has lots, on a service whose clock a test moves."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from factories import gql, new_owner
from watched import endpoint_of

from wallet_gql.db import migrations
from wallet_gql.graphql.scalars import format_datetime
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.clock import advance_clock
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

ASSET: Final = "PASSES"

LOT: Final = """
  __typename id ownerId asset { code } source priority campaign amount remaining held expiresAt grantedAt expired
  origin { id type amount ownerId }
"""
BALANCE: Final = "amount available held lapsed"
USES: Final = "lotUses { amount expiresAt lot { id } }"
TRANSACTION: Final = f"id type amount {USES}"
PAGE: Final = f"""nodes {{ {LOT} }} edges {{ cursor node {{ id }} }}
  pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }}"""

_SHOWN: Final = {
    "placeHold": "hold { id remaining }",
    "voidHold": "hold { id remaining }",
    "adjustHold": "hold { id remaining }",
    "captureHold": f"hold {{ id remaining }} transaction {{ {TRANSACTION} }}",
    "clawback": f"taken forgone clawback {{ {TRANSACTION} }}",
    "refund": f"lapsed transaction {{ {TRANSACTION} }}",
}

_BALANCES: Final = f"""query($o: String!, $a: String!) {{
  balance(ownerId: $o, asset: $a) {{ id {BALANCE} }}
  wallet(ownerId: $o) {{ balance(asset: $a) {{ id {BALANCE} }} }}
  transactions(ownerId: $o, asset: $a, first: 1) {{ nodes {{ balanceAfter }} }}
}}"""
_LOTS: Final = f"""query($o: String!, $a: String!, $f: Int, $c: String) {{
  balance(ownerId: $o, asset: $a) {{ lots(first: $f, after: $c) {{ {PAGE} }} }}
}}"""
_NODES: Final = f"""query($i: ID!) {{
  node(id: $i) {{ ... on Lot {{ {LOT} }} }} nodes(ids: [$i]) {{ ... on Lot {{ {LOT} }} }}
}}"""
_HISTORY: Final = f"""query($o: String!, $a: String!) {{
  transactions(ownerId: $o, asset: $a) {{ nodes {{ {TRANSACTION} }} }}
}}"""


def document(verb: str) -> str:
    """Return a document that asks for a mutation."""
    kind = f"{verb[0].upper()}{verb[1:]}"
    shown = _SHOWN.get(verb, f"transaction {{ {TRANSACTION} }}")
    return f"""mutation($input: {kind}Input!) {{ {verb}(input: $input) {{
      __typename
      ... on {kind}Payload {{ alreadyProcessed {shown} balance {{ {BALANCE} }} }}
      ... on Error {{ code message }}
      ... on Replayable {{ alreadyProcessed }}
      {"... on InvalidExpiry { fault retryable }" if verb in {"bonus", "refund"} else ""}
      {"... on InsufficientBalance { available required }" if verb in {"spend", "placeHold", "transfer"} else ""}
    }} }}"""


class Player:
    """An owner, by what it asks for."""

    def __init__(self, client: httpx.AsyncClient, owner: str) -> None:
        self.client = client
        self.owner = owner

    async def ask(self, verb: str, amount: int | None = None, **fields: Any) -> dict[str, Any]:
        """Ask for something, and return what came of it; whatever names no owner itself is of this one's wallet."""
        mine = {} if verb in _SHOWN and verb != "placeHold" else {"ownerId": self.owner, "asset": ASSET}
        if verb == "transfer":
            mine = {"fromOwnerId": self.owner, "asset": ASSET}
        if verb == "clawback":
            mine = {"description": "why"}
        asked = {"idempotencyKey": str(uuid4()), **mine, **fields}
        if amount is not None:
            asked["amount"] = amount
        answer: dict[str, Any] = (await gql(self.client, document(verb), input=asked))[verb]
        return answer

    async def do(self, verb: str, amount: int | None = None, **fields: Any) -> dict[str, Any]:
        """Ask for something that must be done."""
        answer = await self.ask(verb, amount, **fields)
        assert answer["__typename"] == f"{verb[0].upper()}{verb[1:]}Payload", answer
        return answer

    async def grant(self, amount: int, ends: datetime | None = None, **fields: Any) -> str:
        """Give a bonus, and return the id of its lot."""
        end = {} if ends is None else {"expiresAt": format_datetime(ends)}
        bonus = await self.do("bonus", amount, **end, **fields)
        lot_id: str = bonus["transaction"]["lotUses"][0]["lot"]["id"]
        return lot_id

    async def hold(self, amount: int, days: float = 7, **fields: Any) -> dict[str, Any]:
        """Place a hold."""
        placed = await self.do("placeHold", amount, ttlSeconds=int(days * 86_400), **fields)
        hold: dict[str, Any] = placed["hold"]
        return hold

    async def balance(self) -> dict[str, int]:
        """Return the balance, which every way says alike; with what has lapsed it is the newest `balanceAfter`."""
        seen = await gql(self.client, _BALANCES, o=self.owner, a=ASSET)
        found = seen["balance"]
        assert seen["wallet"]["balance"] == found
        text = f"query($i: ID!) {{ node(id: $i) {{ ... on Balance {{ id {BALANCE} }} }} }}"
        assert (await gql(self.client, text, i=found["id"]))["node"] == found
        figures = {name: int(found[name]) for name in BALANCE.split()}
        newest = seen["transactions"]["nodes"]
        assert figures["amount"] + figures["lapsed"] == int(newest[0]["balanceAfter"] if newest else 0)
        assert figures["amount"] == figures["available"] + figures["held"]
        return figures

    async def page(self, first: int | None = None, after: str | None = None) -> dict[str, Any]:
        """Return a page of lots."""
        answer = await gql(self.client, _LOTS, o=self.owner, a=ASSET, f=first, c=after)
        page: dict[str, Any] = answer["balance"]["lots"]
        assert [edge["node"]["id"] for edge in page["edges"]] == [node["id"] for node in page["nodes"]]
        return page

    async def lots(self) -> list[dict[str, Any]]:
        """Return the lots that have something left, by what there is to say of each."""
        lots: list[dict[str, Any]] = (await self.page(100))["nodes"]
        for lot in lots:
            assert await self.lot(lot["id"]) == lot
            assert not lot["expired"]
        return lots

    async def remaining(self) -> list[tuple[int, int]]:
        """Return what remains of each lot in the list, and is held of it."""
        return [(int(lot["remaining"]), int(lot["held"])) for lot in await self.lots()]

    async def lot(self, id_: str) -> dict[str, Any]:
        """Return a lot by its id."""
        answer = await gql(self.client, _NODES, i=id_)
        assert answer["nodes"] == [answer["node"]]
        lot: dict[str, Any] = answer["node"]
        return lot

    async def left(self, id_: str) -> tuple[int, int, bool]:
        """Return what remains of a lot, what of that is held, and whether its end has come."""
        lot = await self.lot(id_)
        return int(lot["remaining"]), int(lot["held"]), lot["expired"]

    async def history(self) -> list[dict[str, Any]]:
        """Return what moved credits, newest first."""
        found: list[dict[str, Any]] = (await gql(self.client, _HISTORY, o=self.owner, a=ASSET))["transactions"]["nodes"]
        return found


class Service:
    """A service in test mode that books nothing by itself."""

    def __init__(self, ledger: Ledger, client: httpx.AsyncClient) -> None:
        self.ledger = ledger
        self.client = client

    async def player(self) -> Player:
        """Open a wallet."""
        return Player(self.client, await new_owner(self.ledger))

    async def now(self) -> datetime:
        """Return the service's time."""
        return datetime.fromisoformat((await gql(self.client, "{ viewer { now } }"))["viewer"]["now"])

    async def in_days(self, days: float) -> datetime:
        """Return the time in so many days."""
        return await self.now() + timedelta(days=days)

    async def wait(self, days: float) -> None:
        """Let so many days pass."""
        await advance_clock(self.ledger, int(days * 86_400))


@asynccontextmanager
async def service(settings: Settings) -> AsyncIterator[Service]:
    """Serve a database in test mode until the block ends."""
    async with open_ledger(settings) as ledger, endpoint_of(ledger) as client:
        await add_asset(ledger, ASSET, "Passes", 0)
        await set_asset(ledger, ASSET, has_lots=True)
        yield Service(ledger, client)


def uses(transaction: dict[str, Any]) -> list[tuple[str | None, int]]:
    """Return the ids of the lots that a transaction moved something of, and how much; None for the pool."""
    return [(each["lot"] and each["lot"]["id"], int(each["amount"])) for each in transaction["lotUses"]]


def in_test_mode(new_database: Callable[..., Settings], name: str) -> Settings:
    """Make a database in test mode."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WALLET_MODE", "test")
        settings = new_database(name, template="template0")
        migrations.upgrade(settings.owner_url(), settings.server_role(), "head")
    return settings.model_copy(update={"mode": "test"})
