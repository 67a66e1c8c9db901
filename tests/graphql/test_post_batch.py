"""Batches as clients see them: each item is answered as it is alone, in order, and keeps no other from being posted."""

import re
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from batches import new_owner_in
from factories import balance, gql, new_owner, new_owner_id

from wallet_gql.operations.opening import Ledger

POST: Final = """mutation($items: [PostBatchItemInput!]!) { postBatch(input: {items: $items}) {
  ... on PostBatchPayload {
  posted replayed refused
  results {
    __typename
    ... on TopUpPayload { transaction { id type amount balanceAfter } balance { amount } }
    ... on BonusPayload { transaction { id type amount balanceAfter } }
    ... on SpendPayload { transaction { id type amount balanceAfter } }
    ... on TransferPayload { transaction { id type amount balanceAfter } }
    ... on PlaceHoldPayload { hold { id state remaining } }
    ... on CaptureHoldPayload { hold { id state remaining } transaction { id type amount balanceAfter } }
    ... on VoidHoldPayload { hold { id state remaining } }
    ... on AdjustHoldPayload { hold { id state remaining } }
    ... on RefundPayload { transaction { id type amount balanceAfter } }
    ... on ClawbackPayload { clawback { id type amount balanceAfter } taken }
    ... on Error { code }
    ... on Replayable { alreadyProcessed }
  }
} } }"""

SHORT: Final = """mutation($items: [PostBatchItemInput!]!) { postBatch(input: {items: $items}) {
  ... on PostBatchPayload { posted results { ... on TopUpPayload { transaction { balanceAfter } } } }
} }"""

KEY: Final = "5b1f0d52-6d4e-4a53-9a0e-2f4f1c0b7e00"

BY_OWNER: Final = frozenset({"topUp", "bonus", "spend", "placeHold"})


def item(kind: str, owner: str = "", amount: int | str | None = None, **more: Any) -> dict[str, Any]:
    """Return an item; `owner` is whose it is, where that is told by an owner id."""
    asked: dict[str, Any] = {"idempotencyKey": str(uuid4()), **more}
    if amount is not None:
        asked["amount"] = amount
    if kind in BY_OWNER:
        asked["ownerId"] = owner
    elif kind == "transfer":
        asked["fromOwnerId"] = owner
    return {kind: asked}


async def post_batch(client: httpx.AsyncClient, *items: dict[str, Any]) -> dict[str, Any]:
    """Post a batch without faults."""
    payload: dict[str, Any] = (await gql(client, POST, items=list(items)))["postBatch"]
    return payload


async def answer_to(client: httpx.AsyncClient, *items: dict[str, Any], query: str = POST) -> dict[str, Any]:
    """Post a batch, whatever comes of it."""
    sent = {"query": query, "variables": {"items": list(items)}}
    answer: dict[str, Any] = (await client.post("/graphql", json=sent)).json()
    return answer


def counts(payload: dict[str, Any]) -> tuple[int, int, int]:
    return payload["posted"], payload["replayed"], payload["refused"]


def names(payload: dict[str, Any]) -> list[str]:
    return [each["code"] if "code" in each else each["__typename"] for each in payload["results"]]


async def test_every_movement_is_answered_as_it_is_alone(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, other = await new_owner(ledger, gold=100), await new_owner(ledger)
    first = await post_batch(
        client,
        item("topUp", owner, 10),
        item("bonus", owner, 5),
        item("spend", owner, 15),
        item("transfer", owner, 20, toOwnerId=other),
        item("placeHold", owner, 30),
        item("placeHold", owner, 20, toOwnerId=other),
        item("placeHold", owner, 10),
    )
    assert counts(first) == (7, 0, 0)
    bought, given, spent, sent, *holds = first["results"]
    assert [each["transaction"]["balanceAfter"] for each in (bought, given, spent, sent)] == ["110", "115", "100", "80"]
    held, escrow, small = [each["hold"]["id"] for each in holds]

    second = await post_batch(
        client,
        item("captureHold", holdId=held, amount=10, keepRemainder=True),
        item("captureHold", holdId=escrow),
        item("adjustHold", holdId=held, amount=25),
        item("voidHold", holdId=small),
        item("refund", transactionId=spent["transaction"]["id"], amount=3),
        item("clawback", transactionId=bought["transaction"]["id"], description="Why"),
    )

    assert counts(second) == (6, 0, 0)
    captured, paid, adjusted, voided, refunded, clawed = second["results"]
    assert (captured["hold"]["remaining"], captured["transaction"]["balanceAfter"]) == ("20", "70")
    assert (paid["hold"]["state"], paid["transaction"]["type"]) == ("CAPTURED", "TRANSFER_OUT")
    assert (adjusted["hold"]["remaining"], voided["hold"]["state"]) == ("15", "VOIDED")
    assert refunded["transaction"]["balanceAfter"] == "53"
    assert (clawed["taken"], clawed["clawback"]["balanceAfter"]) == ("10", "43")
    assert [await balance(ledger, each) for each in (owner, other)] == [43, 40]


async def test_what_is_refused_keeps_nothing_else_from_being_posted(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, nobody = await new_owner(ledger, gold=10), new_owner_id()
    payload = await post_batch(
        client,
        item("spend", owner, 11),
        item("topUp", owner, 1),
        item("spend", owner, 11),
        item("topUp", nobody, 1),
        item("topUp", owner, 1, asset="NONE"),
        item("topUp", owner, "0.5"),
        item("topUp", owner, 0),
        item("transfer", owner, 1, toOwnerId=owner),
        item("bonus", owner, 2),
    )
    assert names(payload) == [
        "INSUFFICIENT_BALANCE", "TopUpPayload", "SpendPayload", "WALLET_NOT_FOUND", "ASSET_NOT_FOUND", "INVALID_AMOUNT",
        "INVALID_AMOUNT", "SELF_TRANSFER", "BonusPayload",
    ]  # fmt: skip
    assert counts(payload) == (3, 0, 6)
    assert await balance(ledger, owner) == 2


async def test_a_key_that_stands_twice_is_a_replay_and_so_is_the_batch_or_a_part_of_it(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    owner = await new_owner(ledger)
    credit, refused, later = item("topUp", owner, 5), item("spend", owner, 50), item("spend", owner, 2)
    other = {"topUp": {**credit["topUp"], "amount": 6}}
    first = await post_batch(client, credit, refused, credit, other)
    assert names(first) == ["TopUpPayload", "INSUFFICIENT_BALANCE", "TopUpPayload", "IDEMPOTENCY_KEY_REUSED"]
    assert (counts(first), first["results"][2]["alreadyProcessed"]) == ((1, 1, 2), True)
    assert first["results"][0]["transaction"]["id"] == first["results"][2]["transaction"]["id"]

    again = await post_batch(client, credit, refused, later)
    assert names(again) == ["TopUpPayload", "INSUFFICIENT_BALANCE", "SpendPayload"]
    assert counts(again) == (1, 2, 0)
    assert (await post_batch(client, credit, refused, later))["replayed"] == 3
    assert await balance(ledger, owner) == 3


async def test_items_of_one_wallet_keep_their_order_whatever_is_looked_up_for_them(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    owner = await new_owner(ledger, gold=100)
    (placed,) = (await post_batch(client, item("placeHold", owner, 100)))["results"]
    # What is looked up first takes longer than what is not: it must not be overtaken.
    payload = await post_batch(
        client,
        item("captureHold", holdId=placed["hold"]["id"], amount=60, keepRemainder=True),
        item("spend", owner, 1),
        item("topUp", owner, 5),
        item("voidHold", holdId=placed["hold"]["id"]),
        item("spend", owner, 45),
        item("topUp", owner, 7),
    )
    assert names(payload) == [
        "CaptureHoldPayload", "INSUFFICIENT_BALANCE", "TopUpPayload", "VoidHoldPayload", "SpendPayload", "TopUpPayload",
    ]  # fmt: skip
    shown = [each["transaction"]["balanceAfter"] for each in payload["results"] if "transaction" in each]
    assert shown == ["40", "45", "0", "7"]


async def test_a_fault_of_one_item_is_an_error_with_its_path(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    answer = await answer_to(
        client,
        item("topUp", owner, 1),
        item("topUp", "", 1),
        item("topUp", owner, 1, description="x" * 501),
        item("voidHold", holdId="nonsense"),
        item("adjustHold", holdId="nonsense", amount=1),
        item("topUp", owner, 2),
    )
    payload = answer["data"]["postBatch"]
    assert [each and each["__typename"] for each in payload["results"]] == [
        "TopUpPayload", None, None, None, None, "TopUpPayload",
    ]  # fmt: skip
    assert counts(payload) == (2, 0, 0)
    assert [error["path"] for error in answer["errors"]] == [["postBatch", "results", n] for n in (1, 2, 3, 4)]
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"BAD_USER_INPUT"}
    assert [error["extensions"]["field"] for error in answer["errors"]] == [
        "ownerId", "description", "holdId", "holdId",
    ]  # fmt: skip
    assert await balance(ledger, owner) == 3


@pytest.mark.parametrize(
    "rubbish",
    [
        {}, {"topUp": None}, {"topUp": {}}, {"freezeWallet": {}}, None, 1,
        {"topUp": {"ownerId": "x", "amount": "much", "idempotencyKey": KEY}},
        {"topUp": {"ownerId": "x", "amount": 1, "idempotencyKey": "none"}},
    ],
    ids=str,
)  # fmt: skip
async def test_a_malformed_item_refuses_the_batch_before_anything_is_posted(
    client: httpx.AsyncClient, ledger: Ledger, rubbish: Any
) -> None:
    owner = await new_owner(ledger)
    answer = await answer_to(client, item("topUp", owner, 1), rubbish)
    assert answer.get("data") is None
    assert answer["errors"]
    two = {**item("topUp", owner, 1), **item("spend", owner, 1)}
    assert (await answer_to(client, item("topUp", owner, 1), two)).get("data") is None
    assert await balance(ledger, owner) == 0


async def test_a_batch_has_one_to_a_thousand_items(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owners = [await new_owner_in(ledger, shard) for shard in range(ledger.shard_count)]
    items = [item("topUp", owners[n % len(owners)], n + 1) for n in range(1000)]
    for wrong in ([], [*items, item("topUp", owners[0], 1)]):
        (error,) = (await answer_to(client, *wrong, query=SHORT))["errors"]
        assert error["extensions"]["code"] == "BAD_USER_INPUT"
        assert f"items has {len(wrong)} items: send 1 to 1000" in error["message"]
    # What is asked of each item is multiplied by their number.
    (error,) = (await answer_to(client, *items))["errors"]
    assert re.search("The operation costs [0-9]{5}, but at most 10000 is allowed", error["message"])
    assert {await balance(ledger, owner) for owner in owners} == {0}

    payload = (await gql(client, SHORT, items=items))["postBatch"]
    assert payload["posted"] == 1000
    expected, sums = [], dict.fromkeys(owners, 0)
    for each in items:
        sums[each["topUp"]["ownerId"]] += each["topUp"]["amount"]
        expected.append(str(sums[each["topUp"]["ownerId"]]))
    assert [each["transaction"]["balanceAfter"] for each in payload["results"]] == expected


async def test_a_literal_batch_is_posted_as_one_of_variables_is(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    literal = f"""mutation($k: UUID!) {{ postBatch(input: {{items: [
      {{topUp: {{ownerId: "{owner}", amount: 3, idempotencyKey: "{uuid4()}"}}}},
      {{spend: {{ownerId: "{owner}", amount: 1, idempotencyKey: $k}}}}
    ]}}) {{ ... on PostBatchPayload {{ posted }} }} }}"""
    assert (await gql(client, literal, k=str(uuid4())))["postBatch"] == {"posted": 2}
    one = """mutation($i: PostBatchItemInput!) { postBatch(input: {items: [$i]}) {
      ... on PostBatchPayload { posted } } }"""
    assert (await gql(client, one, i=item("spend", owner, 1)))["postBatch"] == {"posted": 1}
    assert await balance(ledger, owner) == 1
