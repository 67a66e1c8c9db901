"""Callers of every kind, of a service in the test's own process that lets in whom it knows."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
from factories import new_owner_id
from identity import AUDIENCE, ISSUER, Identity, jwks
from paths import Example
from watched import endpoint_of, statements_of

from wallet_gql.db.engine import close, create_engine
from wallet_gql.domain.access import ALL_SCOPES, PERSONAL_SCOPES, Scope
from wallet_gql.operations import api_keys
from wallet_gql.operations.api_keys import KeyInput
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

PLAYER_SCOPES: Final = frozenset({
    Scope.WALLET_OPEN, Scope.WALLET_READ, Scope.HISTORY_READ, Scope.SPEND, Scope.TRANSFER,
})  # fmt: skip

LOTS_ASSET: Final = "TICKETS"
"""An asset that has lots."""

SCOPES: Final[Mapping[str, frozenset[Scope] | None]] = {
    "outsider": None,
    "player": PLAYER_SCOPES,
    "partner": frozenset({Scope.SPEND}),
    "auditor": frozenset({Scope.WALLET_READ, Scope.HISTORY_READ, Scope.AUDIT}),
    "operator": ALL_SCOPES,
}
"""What each kind of caller may do; None for one that sends no credentials."""


@dataclass(frozen=True, slots=True)
class Owned:
    """An owner with a wallet, and the ids of what it has."""

    owner_id: str
    ids: Mapping[str, str]
    """By the names of their types; `Cursor`, `HoldCursor` and `LotCursor` are of its history, holds and lots."""
    key: str
    """The idempotency key of its spend."""
    hold_key: str


@dataclass(slots=True)
class Callers:
    """Who asks the service, by the names of the headers that each sends."""

    client: httpx.AsyncClient
    ledger: Ledger
    identity: Identity
    headers: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    async def add_key(self, caller: str, scopes: frozenset[Scope] = ALL_SCOPES, prefix: str = "", **more: Any) -> str:
        """Make a key for a caller of this name; returns it."""
        engine = create_engine(self.ledger.settings, self.ledger.settings.owner_url())
        asked = KeyInput(more.pop("name", caller), sorted(scopes), prefix, **more)
        text = await api_keys.create_key(engine, "live", asked)
        await close(engine)
        await self.ledger.callers.keys.read()
        self.headers[caller] = {"authorization": f"Bearer {text}"}
        return text

    def add_person(self, name: str, owner_id: str, scopes: frozenset[Scope] = PERSONAL_SCOPES) -> str:
        """Issue a token for a caller of this name; returns it."""
        token = self.identity.token(owner_id, " ".join(sorted(scopes)))
        self.headers[name] = {"authorization": f"Bearer {token}"}
        return token

    async def post(self, caller: str, **parameters: Any) -> httpx.Response:
        return await self.client.post("/graphql", json=parameters, headers=self.headers[caller])

    async def ask(self, caller: str, query: str, **variables: Any) -> httpx.Response:
        return await self.post(caller, query=query, variables=variables)

    async def cost(self, caller: str, query: str, **variables: Any) -> tuple[httpx.Response, list[str]]:
        """Return an answer, and the statements that it took."""
        with statements_of(self.ledger) as statements:
            return await self.ask(caller, query, **variables), statements

    async def data(self, caller: str, query: str, **variables: Any) -> Any:
        answer = await self.ask(caller, query, **variables)
        assert answer.status_code == 200, answer.text
        assert "errors" not in answer.json(), answer.text
        return answer.json()["data"]

    async def owner(self, prefix: str) -> Owned:
        """Open a wallet with a little of everything, asked for by the operator."""
        owner_id, key, hold_key = new_owner_id(prefix), str(uuid4()), str(uuid4())
        keys = {"k": key, "h": hold_key, **{name: str(uuid4()) for name in "tbl"}}
        made = await self.data("operator", _MADE, o=owner_id, a=LOTS_ASSET, **keys)
        [lot] = made["bonus"]["balance"]["lots"]["edges"]
        page = await self.data("operator", _PAGES, o=owner_id)
        spent = made["spend"]
        ids = {
            "Asset": spent["balance"]["asset"]["id"],
            "Wallet": spent["wallet"]["id"],
            "Balance": spent["balance"]["id"],
            "Transaction": spent["transaction"]["id"],
            "Hold": made["placeHold"]["hold"]["id"],
            "Cursor": page["transactions"]["edges"][0]["cursor"],
            "Lot": lot["node"]["id"],
            "LotCursor": lot["cursor"],
            "HoldCursor": page["holds"]["edges"][0]["cursor"],
            "Limit": made["setLimit"]["rule"]["id"],
        }
        return Owned(owner_id, ids, key, hold_key)

    async def amount(self, owner_id: str) -> str:
        """Return what an owner holds."""
        found = await self.data("operator", "query ($o: String!) { balance(ownerId: $o) { amount } }", o=owner_id)
        return str(found["balance"]["amount"])


_MADE: Final = """
mutation ($o: String!, $a: String!, $t: UUID!, $k: UUID!, $h: UUID!, $b: UUID!, $l: UUID!) {
  openWallet(input: {ownerId: $o}) { __typename }
  topUp(input: {ownerId: $o, amount: "1000", idempotencyKey: $t}) { __typename }
  spend(input: {ownerId: $o, amount: "9", idempotencyKey: $k}) {
    ... on SpendPayload { wallet { id } balance { id asset { id } } transaction { id } }
  }
  placeHold(input: {ownerId: $o, amount: "9", idempotencyKey: $h}) { ... on PlaceHoldPayload { hold { id } } }
  bonus(input: {ownerId: $o, asset: $a, amount: "9", idempotencyKey: $b}) {
    ... on BonusPayload { balance { lots { edges { cursor node { id } } } } }
  }
  setLimit(input: {
    ownerId: $o, asset: $a, flow: SPEND, window: {rollingSeconds: 60}, maxAmount: "9", idempotencyKey: $l
  }) {
    ... on SetLimitPayload { rule { id } }
  }
}
"""
_PAGES: Final = """
query ($o: String!) { transactions(ownerId: $o) { edges { cursor } } holds(ownerId: $o) { edges { cursor } } }
"""


def example_of(owned: Owned, receiver: Owned) -> Example:
    """Return arguments that name what an owner has."""
    owner, ids = owned.owner_id, owned.ids
    texts = {
        "ownerId": owner, "ownerIds": owner, "fromOwnerId": owner, "toOwnerId": receiver.owner_id, "asset": "GOLD",
        "id": ids["Asset"], "ids": ids["Asset"], "hold.id": ids["Hold"], "holdId": ids["Hold"],
        "transaction.id": ids["Transaction"], "transactionId": ids["Transaction"], "limitId": ids["Limit"],
        "note": "why", "description": "why", "requestId": "some", "actor": owner,
    }  # fmt: skip
    plain = {"flow": "SPEND", "maxAmount": '"1000000"'}
    return Example({name: f'"{text}"' for name, text in texts.items()} | plain, {"Amount": '"1"', "Int": "1"})


def codes(answer: httpx.Response) -> list[str]:
    """Return the codes of an answer's errors."""
    return [error["extensions"]["code"] for error in answer.json().get("errors", ())]


@asynccontextmanager
async def open_callers(settings: Settings, folder: Path, **changes: object) -> AsyncIterator[Callers]:
    """Serve callers until the block ends: an outsider, and an operator's key; others are added."""
    identity, file = Identity(), folder / "jwks.json"
    # A key that does not say what it is for: its kind alone does.
    file.write_bytes(jwks(identity.jwk(alg=None)))
    closed: dict[str, object] = {
        "access": "closed", "token_keys": str(file), "token_issuer": ISSUER, "token_audience": (AUDIENCE,),
        "rate_burst": 1_000_000_000, "rate_per_second": 1_000_000,
    }  # fmt: skip
    async with open_ledger(settings.model_copy(update=closed | changes)) as ledger, endpoint_of(ledger) as client:
        callers = Callers(client, ledger, identity, {"outsider": {}})
        await callers.add_key("operator")
        await add_asset(ledger, LOTS_ASSET, "Tickets", 0)
        await set_asset(ledger, LOTS_ASSET, has_lots=True)
        yield callers
