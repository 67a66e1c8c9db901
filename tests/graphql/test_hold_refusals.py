"""Which refusal wins where two would apply: each pair of neighbours in the order, for each request about holds."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from batches import new_owner_in
from factories import gql, post
from held import DOCUMENTS, ask, capture_often, change, fill_with_holds, given, place
from tables import count_rows

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX
from wallet_gql.graphql import ids
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.holds import find_hold
from wallet_gql.operations.opening import Ledger

Answer = tuple[str, str | None]
"""The member of the union, and what tells it from others of its name; or `BAD_USER_INPUT` and the field."""

BAD: Final = "BAD_USER_INPUT"
NOBODY: Final = "nobody-sends"
NOBODY_ELSE: Final = "nobody-gets"
MISSING: Final = ids.hold_id(HoldName(0, UUID(int=1)))


@dataclass(frozen=True)
class Scene:
    """Owners and holds that there is something to refuse about."""

    client: httpx.AsyncClient
    ledger: Ledger
    idle: str
    busy: str
    """Has as many open holds as there may be."""
    full: str
    """Can take no more."""
    used: str
    """A key of each of the two."""
    open: dict[str, Any]
    closed: dict[str, Any]
    """Of 10, with 5 captured."""
    often: dict[str, Any]
    """For the full one, with 50 captures and 10 remaining."""
    escrow: dict[str, Any]
    """For the full one, with 10 remaining."""

    async def answer(self, verb: str, asked: dict[str, Any]) -> Answer:
        """Ask, and say in short what came of it; nothing moves but the key of what is kept."""
        before = await count_rows(self.ledger.settings)
        response = await self.client.post("/graphql", json={"query": DOCUMENTS[verb], "variables": {"input": asked}})
        body = response.json()
        rows = await count_rows(self.ledger.settings)
        assert rows._replace(keys=0) == before._replace(keys=0)
        if "errors" in body:
            (error,) = body["errors"]
            return error["extensions"]["code"], error["extensions"]["field"]
        result = body["data"][verb]
        assert "alreadyProcessed" not in result or rows.keys == before.keys + 1
        more = (result.get(name) for name in ("reason", "ownerId", "holdId", "state", "counted", "cause"))
        return result["__typename"], next((each for each in more if each is not None), None)


@pytest.fixture
async def scene(client: httpx.AsyncClient, ledger: Ledger) -> AsyncIterator[Scene]:
    await add_asset(ledger, "GIFTS", "Gifts", 0)
    idle, busy, full = [await new_owner_in(ledger, shard) for shard in (0, 1, 2)]
    used = uuid4()
    for owner in (idle, busy):
        await post(ledger, "bonus", owner, 1000)
        await post(ledger, "spend", owner, 1, used)
        await post(ledger, "bonus", owner, 1000, asset_code="GIFTS")
    held = await place(client, idle, 10)
    closed = await place(client, idle, 10)
    await change(client, "captureHold", closed, amount=5)
    escrow, often = [await place(client, idle, amount, toOwnerId=full) for amount in (10, 60)]
    shard, number = ids.decode(often["id"]).parts
    found = await find_hold(ledger, HoldName(shard, UUID(int=number)))
    assert found is not None
    await capture_often(ledger, found, 50)
    await post(ledger, "spend", full, 50)
    for _ in range(BALANCE_MINOR_MAX // POSTING_MINOR_MAX):
        await post(ledger, "bonus", full, POSTING_MINOR_MAX)
    await fill_with_holds(ledger, busy, 100)
    await fill_with_holds(ledger, busy, 100, "GIFTS")
    await set_asset(ledger, "GIFTS", TransferPolicy.NONE)
    yield Scene(client, ledger, idle, busy, full, str(used), held, closed, often, escrow)
    await set_asset(ledger, "GIFTS", TransferPolicy.ALL)


async def test_placing(scene: Scene) -> None:
    idle, busy = scene.idle, scene.busy
    bad, unknown, zero, precise = {"ttlSeconds": 0}, {"asset": "SILVER"}, {"amount": 0}, {"amount": "0.5"}
    to_itself, nobody, to_nobody = {"toOwnerId": idle}, {"ownerId": NOBODY}, {"toOwnerId": NOBODY_ELSE}
    used, forbidden = {"idempotencyKey": scene.used}, {"asset": "GIFTS", "toOwnerId": scene.full}
    many, short = {"ownerId": busy}, {"amount": 5000}
    # In the order in which they win.
    for faults, answer in (
        ((bad,), (BAD, "ttlSeconds")),
        ((bad, unknown), (BAD, "ttlSeconds")),
        ((unknown,), ("AssetNotFound", None)),
        ((unknown, zero), ("AssetNotFound", None)),
        ((zero,), ("InvalidAmount", "NOT_POSITIVE")),
        ((zero, to_itself), ("InvalidAmount", "NOT_POSITIVE")),
        ((precise, to_itself), ("InvalidAmount", "TOO_PRECISE")),
        ((to_itself,), ("SelfTransfer", idle)),
        ((nobody, {"toOwnerId": NOBODY}), ("SelfTransfer", NOBODY)),
        ((to_itself, used), ("SelfTransfer", idle)),
        ((nobody,), ("WalletNotFound", NOBODY)),
        ((nobody, to_nobody), ("WalletNotFound", NOBODY)),
        ((used,), ("IdempotencyKeyReused", None)),
        ((used, to_nobody), ("IdempotencyKeyReused", None)),
        ((used, forbidden, many, short), ("IdempotencyKeyReused", None)),
        ((to_nobody,), ("WalletNotFound", NOBODY_ELSE)),
        ((forbidden, to_nobody), ("WalletNotFound", NOBODY_ELSE)),
        ((forbidden,), ("TransferForbidden", None)),
        ((forbidden, many), ("TransferForbidden", None)),
        ((many,), ("TooMany", "HOLDS")),
        ((many, short), ("TooMany", "HOLDS")),
        ((short,), ("InsufficientBalance", None)),
        ((short, {"toOwnerId": scene.full}), ("InsufficientBalance", None)),
    ):
        asked = given(ownerId=idle, amount=1)
        for fault in faults:
            asked |= fault
        assert await scene.answer("placeHold", asked) == answer, faults


async def test_capturing(scene: Scene) -> None:
    bad, zero, missing = {"description": "x" * 501}, {"amount": 0}, {"holdId": MISSING}
    precise, large = {"amount": "0.5"}, {"amount": POSTING_MINOR_MAX + 1}
    used, closed, above = {"idempotencyKey": scene.used}, {"holdId": scene.closed["id"]}, {"amount": 500}
    often, to_full = {"holdId": scene.often["id"]}, {"holdId": scene.escrow["id"]}
    for faults, answer in (
        ((bad,), (BAD, "description")),
        (({"holdId": "x"}, zero), (BAD, "holdId")),
        ((bad, zero), (BAD, "description")),
        ((zero,), ("InvalidAmount", "NOT_POSITIVE")),
        ((zero, missing), ("InvalidAmount", "NOT_POSITIVE")),
        ((missing,), ("HoldNotFound", MISSING)),
        ((missing, precise), ("HoldNotFound", MISSING)),
        ((missing, large), ("HoldNotFound", MISSING)),
        ((missing, used), ("HoldNotFound", MISSING)),
        ((precise, used), ("InvalidAmount", "TOO_PRECISE")),
        ((large, used), ("InvalidAmount", "TOO_LARGE")),
        ((used,), ("IdempotencyKeyReused", None)),
        ((used, closed), ("IdempotencyKeyReused", None)),
        ((closed,), ("HoldNotOpen", "CAPTURED")),
        ((closed, above), ("HoldNotOpen", "CAPTURED")),
        ((above,), ("HoldExceeded", None)),
        ((above, often), ("HoldExceeded", None)),
        ((often,), ("TooMany", "CAPTURES")),
        ((to_full,), ("ReceiverRefused", scene.full)),
        ((to_full, above), ("HoldExceeded", None)),
    ):
        asked = given(holdId=scene.open["id"])
        for fault in faults:
            asked |= fault
        assert await scene.answer("captureHold", asked) == answer, faults


async def test_voiding(scene: Scene) -> None:
    used, closed, missing = {"idempotencyKey": scene.used}, {"holdId": scene.closed["id"]}, {"holdId": MISSING}
    for faults, answer in (
        (({"holdId": "x"}, used), (BAD, "holdId")),
        ((missing,), ("HoldNotFound", MISSING)),
        ((missing, used), ("HoldNotFound", MISSING)),
        ((used,), ("IdempotencyKeyReused", None)),
        ((used, closed), ("IdempotencyKeyReused", None)),
        ((closed,), ("HoldNotOpen", "CAPTURED")),
    ):
        asked = given(holdId=scene.open["id"])
        for fault in faults:
            asked |= fault
        assert await scene.answer("voidHold", asked) == answer, faults


async def test_adjusting(scene: Scene) -> None:
    used, closed, missing = {"idempotencyKey": scene.used}, {"holdId": scene.closed["id"]}, {"holdId": MISSING}
    zero, precise, below, short = {"amount": 0}, {"amount": "0.5"}, {"amount": 4}, {"amount": 5000}
    for faults, answer in (
        (({"amount": None},), (BAD, "amount")),
        (({"amount": None}, missing), (BAD, "amount")),
        (({"ttlSeconds": 0}, zero), (BAD, "ttlSeconds")),
        (({"holdId": "x"}, zero), (BAD, "holdId")),
        ((zero,), ("InvalidAmount", "NOT_POSITIVE")),
        ((zero, missing), ("InvalidAmount", "NOT_POSITIVE")),
        ((missing,), ("HoldNotFound", MISSING)),
        ((missing, precise), ("HoldNotFound", MISSING)),
        ((precise, used), ("InvalidAmount", "TOO_PRECISE")),
        ((used,), ("IdempotencyKeyReused", None)),
        ((used, closed), ("IdempotencyKeyReused", None)),
        ((closed,), ("HoldNotOpen", "CAPTURED")),
        ((closed, below), ("HoldNotOpen", "CAPTURED")),
        ((closed, short), ("HoldNotOpen", "CAPTURED")),
        ((short,), ("InsufficientBalance", None)),
    ):
        asked = given(holdId=scene.open["id"], amount=10)
        for fault in faults:
            asked |= fault
        assert await scene.answer("adjustHold", asked) == answer, faults
    await change(scene.client, "captureHold", scene.open, amount=5, keepRemainder=True)
    assert await scene.answer("adjustHold", given(holdId=scene.open["id"], **below)) == ("HoldExceeded", None)


async def test_what_was_answered_replays_before_anything_is_judged_again(scene: Scene) -> None:
    held = given(ownerId=scene.idle, asset="GIFTS", amount=1, toOwnerId=scene.full)
    await set_asset(scene.ledger, "GIFTS", TransferPolicy.ALL)
    first = await ask(scene.client, "placeHold", held)
    captured = given(holdId=first["hold"]["id"])
    second = await ask(scene.client, "captureHold", captured)
    assert second["__typename"] == "CaptureHoldPayload"
    await set_asset(scene.ledger, "GIFTS", TransferPolicy.NONE)
    await fill_with_holds(scene.ledger, scene.idle, 100, "GIFTS")
    # The policy forbids it, there are too many, and the hold is closed; but it was done.
    again = await ask(scene.client, "placeHold", held)
    assert (again["__typename"], again["alreadyProcessed"]) == ("PlaceHoldPayload", True)
    again = await ask(scene.client, "captureHold", captured)
    assert (again["__typename"], again["alreadyProcessed"]) == ("CaptureHoldPayload", True)
    assert again["transaction"] == second["transaction"]


async def test_policy_does_not_concern_what_is_held_for_the_platform(scene: Scene) -> None:
    result = await ask(scene.client, "placeHold", given(ownerId=scene.idle, asset="GIFTS", amount=1))
    assert result["__typename"] == "PlaceHoldPayload"


async def test_an_escrow_that_was_placed_is_captured_under_every_policy(scene: Scene) -> None:
    receiver = await new_owner_in(scene.ledger, 3)
    await set_asset(scene.ledger, "GIFTS", TransferPolicy.ALL)
    hold = await place(scene.client, scene.idle, 5, asset="GIFTS", toOwnerId=receiver)
    await set_asset(scene.ledger, "GIFTS", TransferPolicy.NONE)
    await change(scene.client, "captureHold", hold)
    query = 'query($o: String!) { balance(ownerId: $o, asset: "GIFTS") { amount } }'
    assert (await gql(scene.client, query, o=receiver))["balance"] == {"amount": "5"}
