"""Holds as tests ask for them by GraphQL: documents with every field of every member, and what comes of them."""

import asyncio
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import httpx
from factories import gql

from wallet_gql.domain.holds import Hold
from wallet_gql.domain.postings import Held
from wallet_gql.operations.holds import ChangeHoldInput, PlaceHoldInput, capture_hold, place_hold
from wallet_gql.operations.opening import Ledger

HOLD: Final = """
  __typename id ownerId asset { code } state amount captured released remaining toOwnerId placedAt heldUntil closedAt
  idempotencyKey description reference metadata captures { type amount }
"""
BALANCE: Final = "amount available held lapsed debt"
TRANSACTION: Final = "__typename id type direction amount balanceAfter description reference metadata counterpartyId"

_MEMBERS: Final = """
  __typename
  ... on Error { code message retryable }
  ... on Replayable { alreadyProcessed }
  ... on IdempotencyKeyReused { idempotencyKey }
"""
_OF_HOLDS: Final = """
  ... on HoldNotFound { holdId }
  ... on HoldNotOpen { state hold { id state } }
"""
_ASSETS: Final = "... on InvalidAmount { reason scale }"
_SHORT: Final = "... on InsufficientBalance { available required balance { ownerId amount available held } }"
_EXCEEDED: Final = "... on HoldExceeded { remaining required hold { id remaining } }"
_MANY: Final = "... on TooMany { counted most }"


def _payload(name: str, more: str = "") -> str:
    return f"... on {name} {{ hold {{ {HOLD} }} balance {{ {BALANCE} }} wallet {{ ownerId }} {more} }}"


DOCUMENTS: Final = {
    "placeHold": f"""mutation($input: PlaceHoldInput!) {{ placeHold(input: $input) {{
      {_MEMBERS} {_ASSETS} {_SHORT} {_MANY} {_payload("PlaceHoldPayload")}
      ... on AssetNotFound {{ assetCode }}
      ... on SelfTransfer {{ ownerId }}
      ... on WalletNotFound {{ ownerId }}
      ... on TransferForbidden {{ asset {{ code }} policy }}
    }} }}""",
    "captureHold": f"""mutation($input: CaptureHoldInput!) {{ captureHold(input: $input) {{
      {_MEMBERS} {_ASSETS} {_OF_HOLDS} {_EXCEEDED} {_MANY}
      {_payload("CaptureHoldPayload", f"transaction {{ {TRANSACTION} }}")}
      ... on ReceiverRefused {{ ownerId cause }}
    }} }}""",
    "voidHold": f"""mutation($input: VoidHoldInput!) {{ voidHold(input: $input) {{
      {_MEMBERS} {_OF_HOLDS} {_payload("VoidHoldPayload")}
    }} }}""",
    "adjustHold": f"""mutation($input: AdjustHoldInput!) {{ adjustHold(input: $input) {{
      {_MEMBERS} {_ASSETS} {_OF_HOLDS} {_EXCEEDED} {_SHORT} {_payload("AdjustHoldPayload")}
    }} }}""",
}


def given(**fields: Any) -> dict[str, Any]:
    """Return an input with a key of its own."""
    return {"idempotencyKey": str(uuid4()), **fields}


async def ask(client: httpx.AsyncClient, verb: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Ask, and return the member of the union that came of it."""
    result: dict[str, Any] = (await gql(client, DOCUMENTS[verb], input=asked))[verb]
    return result


async def place(client: httpx.AsyncClient, owner: str, amount: int | str, **more: Any) -> dict[str, Any]:
    """Place a hold, and return it."""
    result = await ask(client, "placeHold", given(ownerId=owner, amount=amount, **more))
    assert result["__typename"] == "PlaceHoldPayload", result
    hold: dict[str, Any] = result["hold"]
    return hold


async def change(client: httpx.AsyncClient, verb: str, hold: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Change a hold, and return the payload."""
    result = await ask(client, verb, given(holdId=hold["id"], **more))
    assert result["__typename"].endswith("Payload"), result
    return result


async def fill_with_holds(ledger: Ledger, owner: str, count: int, asset_code: str = "GOLD") -> list[Hold]:
    """Place so many holds of one each, at once."""
    asked = [PlaceHoldInput(owner, asset_code, Decimal(1), uuid4()) for _ in range(count)]
    outcomes = await asyncio.gather(*(place_hold(ledger, each) for each in asked))
    return [outcome.hold for outcome in outcomes if isinstance(outcome, Held)]


async def capture_often(ledger: Ledger, hold: Hold, count: int) -> None:
    """Capture one of a hold so many times."""
    for _ in range(count):
        asked = ChangeHoldInput(hold.name, "shown", uuid4(), Decimal(1), keep_remainder=True)
        assert isinstance(await capture_hold(ledger, asked), Held)
