"""Refusals of requests about holds that `test_order_of_refusals` does not tell apart: fields, scales, policies."""

from typing import Any, Final

import httpx
import pytest
from batches import new_owner_in
from factories import gql, post
from held import DOCUMENTS, ask, change, given, place
from tables import count_rows

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.money import POSTING_MINOR_MAX
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.opening import Ledger

UNKNOWN: Final = {"asset": "SILVER"}
ZERO: Final = {"amount": 0}
MALFORMED: Final = {"holdId": "x"}
NEITHER: Final = {"amount": None}
NO_TIME: Final = {"ttlSeconds": 0}
PRECISE: Final = {"amount": "0.5"}
LARGE: Final = {"amount": POSTING_MINOR_MAX + 1}


@pytest.fixture
async def base(client: httpx.AsyncClient, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """What each mutation is sent, before something is wrong with it."""
    owner = await new_owner_in(ledger, 0)
    await post(ledger, "bonus", owner, 100)
    of_hold = {"holdId": (await place(client, owner, 10))["id"]}
    return {
        "placeHold": {"ownerId": owner, "amount": 1, "toOwnerId": await new_owner_in(ledger, 1)},
        "captureHold": of_hold,
        "voidHold": of_hold,
        "adjustHold": {**of_hold, "amount": 10},
    }


@pytest.mark.parametrize(
    ("verb", "faults", "field"),
    [
        ("placeHold", NO_TIME, "ttlSeconds"),
        ("placeHold", NO_TIME | UNKNOWN | ZERO, "ttlSeconds"),
        ("captureHold", MALFORMED | ZERO, "holdId"),
        ("captureHold", {"description": "x" * 501} | ZERO, "description"),
        ("voidHold", MALFORMED, "holdId"),
        ("adjustHold", NEITHER, "amount"),
        ("adjustHold", MALFORMED | ZERO, "holdId"),
        ("adjustHold", NO_TIME | ZERO, "ttlSeconds"),
    ],
)
async def test_a_fault_names_its_field(
    client: httpx.AsyncClient,
    ledger: Ledger,
    base: dict[str, dict[str, Any]],
    verb: str,
    faults: dict[str, Any],
    field: str,
) -> None:
    before = await count_rows(ledger.settings)
    variables = {"input": given(**{**base[verb], **faults})}
    response = await client.post("/graphql", json={"query": DOCUMENTS[verb], "variables": variables})
    (error,) = response.json()["errors"]
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", field)
    assert await count_rows(ledger.settings) == before


@pytest.mark.parametrize("verb", ["placeHold", "captureHold", "adjustHold"])
async def test_an_amount_is_refused_for_its_first_fault(
    client: httpx.AsyncClient, ledger: Ledger, base: dict[str, dict[str, Any]], verb: str
) -> None:
    before = await count_rows(ledger.settings)
    # What the scale tells is told before whatever else is wrong, where the asset is an argument.
    to_itself = {"toOwnerId": base[verb]["ownerId"]} if "ownerId" in base[verb] else {}
    for fault, reason in ((ZERO, "NOT_POSITIVE"), (PRECISE, "TOO_PRECISE"), (LARGE, "TOO_LARGE")):
        answer = await ask(client, verb, given(**{**base[verb], **to_itself, **fault}))
        assert (answer["__typename"], answer["reason"]) == ("InvalidAmount", reason)
    assert await count_rows(ledger.settings) == before


async def test_the_policy_is_judged_when_an_escrow_is_placed(client: httpx.AsyncClient, ledger: Ledger) -> None:
    await add_asset(ledger, "GIFTS", "Gifts", 0)
    owner, receiver = await new_owner_in(ledger, 0), await new_owner_in(ledger, 3)
    await post(ledger, "bonus", owner, 100, asset_code="GIFTS")
    hold = await place(client, owner, 5, asset="GIFTS", toOwnerId=receiver)
    await set_asset(ledger, "GIFTS", TransferPolicy.NONE)
    # What is held for the platform is no transfer.
    await place(client, owner, 1, asset="GIFTS")
    await change(client, "captureHold", hold)
    query = 'query($o: String!) { balance(ownerId: $o, asset: "GIFTS") { amount } }'
    assert (await gql(client, query, o=receiver))["balance"] == {"amount": "5"}
    await set_asset(ledger, "GIFTS", TransferPolicy.ALL)
