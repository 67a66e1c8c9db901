"""Holds as clients see them: every payload, every refusal, and what neither owner is told of the other."""

import re
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from batches import new_owner_in
from factories import gql, new_owner, new_owner_id, post
from held import DOCUMENTS, ask, capture_often, change, fill_with_holds, given, place
from tables import count_rows

from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX
from wallet_gql.graphql import ids
from wallet_gql.operations.holds import find_hold
from wallet_gql.operations.opening import Ledger

TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
DAY: Final = 86_400


def seconds_held(hold: dict[str, Any]) -> float:
    seconds: timedelta = datetime.fromisoformat(hold["heldUntil"]) - datetime.fromisoformat(hold["placedAt"])
    return seconds.total_seconds()


def shown(hold: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a hold that nothing has happened to, as it must be shown but for what is given."""
    return {
        "__typename": "Hold",
        "id": hold["id"],
        "asset": {"code": "GOLD"},
        "state": "OPEN",
        "captured": "0",
        "released": "0",
        "toOwnerId": None,
        "placedAt": hold["placedAt"],
        "heldUntil": hold["heldUntil"],
        "closedAt": None,
        "description": None,
        "reference": None,
        "metadata": None,
        "captures": [],
        **more,
    }


def figures(amount: int, held: int) -> dict[str, str]:
    return {"amount": f"{amount}", "available": f"{amount - held}", "held": f"{held}", "lapsed": "0", "debt": "0"}


def refusal(typename: str, code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"__typename": typename, "code": code, "message": message, "retryable": False, **more}


def not_open(hold: dict[str, Any], state: str) -> dict[str, Any]:
    return refusal(
        "HoldNotOpen",
        "HOLD_NOT_OPEN",
        "The hold is closed",
        alreadyProcessed=False,
        state=state,
        hold={"id": hold["id"], "state": state},
    )


def exceeded(hold: dict[str, Any], remaining: int, required: int) -> dict[str, Any]:
    return refusal(
        "HoldExceeded",
        "HOLD_EXCEEDED",
        "The hold does not hold so much",
        alreadyProcessed=False,
        remaining=f"{remaining}",
        required=f"{required}",
        hold={"id": hold["id"], "remaining": f"{remaining}"},
    )


def insufficient(owner: str, required: int, **now: str) -> dict[str, Any]:
    return refusal(
        "InsufficientBalance",
        "INSUFFICIENT_BALANCE",
        "Insufficient balance",
        alreadyProcessed=False,
        available=now["available"],
        required=f"{required}",
        balance={"ownerId": owner, **now},
    )


async def test_place(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    asked = given(ownerId=owner, amount="60", description="Sword", reference="order-1", metadata={"item": "sword"})

    result = await ask(client, "placeHold", asked)

    hold = result["hold"]
    assert result == {
        "__typename": "PlaceHoldPayload",
        "alreadyProcessed": False,
        "hold": shown(
            hold,
            ownerId=owner,
            amount="60",
            remaining="60",
            idempotencyKey=asked["idempotencyKey"],
            description="Sword",
            reference="order-1",
            metadata={"item": "sword"},
        ),
        "balance": figures(100, 60),
        "wallet": {"ownerId": owner},
    }
    assert TIME.fullmatch(hold["placedAt"])
    assert seconds_held(hold) == 7 * DAY
    assert await ask(client, "placeHold", asked) == {**result, "alreadyProcessed": True}


async def test_capture(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = await place(client, owner, 60)
    asked = given(holdId=hold["id"], amount=25, keepRemainder=True, description="Part", metadata={"part": "1"})

    result = await ask(client, "captureHold", asked)

    transaction = result["transaction"]
    captured = {**hold, "captured": "25", "remaining": "35", "captures": [{"type": "CAPTURE", "amount": "25"}]}
    assert result == {
        "__typename": "CaptureHoldPayload",
        "alreadyProcessed": False,
        "hold": captured,
        "transaction": {
            "__typename": "Transaction",
            "id": transaction["id"],
            "type": "CAPTURE",
            "direction": "DEBIT",
            "amount": "25",
            "balanceAfter": "75",
            "description": "Part",
            "reference": None,
            "metadata": {"part": "1"},
            "counterpartyId": None,
        },
        "balance": figures(75, 35),
        "wallet": {"ownerId": owner},
    }
    assert await ask(client, "captureHold", asked) == {**result, "alreadyProcessed": True}
    # What was captured first is what is told, with the hold as it is by then.
    last = await change(client, "captureHold", hold, amount=5)
    assert last["hold"] == {
        **captured,
        "state": "CAPTURED",
        "captured": "30",
        "released": "30",
        "remaining": "0",
        "closedAt": last["hold"]["closedAt"],
        "captures": [{"type": "CAPTURE", "amount": "5"}, {"type": "CAPTURE", "amount": "25"}],
    }
    assert TIME.fullmatch(last["hold"]["closedAt"])
    again = await ask(client, "captureHold", asked)
    assert again == {**last, "alreadyProcessed": True, "transaction": transaction}


async def test_capture_without_an_amount_takes_all_that_remains(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    for keeps in (False, True):
        hold = await place(client, owner, 30)
        result = await change(client, "captureHold", hold, keepRemainder=keeps)
        assert (result["hold"]["state"], result["hold"]["captured"], result["hold"]["released"]) == (
            "CAPTURED",
            "30",
            "0",
        )
    assert result["balance"] == figures(40, 0)


async def test_void(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = await place(client, owner, 60)
    await change(client, "captureHold", hold, amount=10, keepRemainder=True)
    asked = given(holdId=hold["id"])

    result = await ask(client, "voidHold", asked)

    assert result == {
        "__typename": "VoidHoldPayload",
        "alreadyProcessed": False,
        "hold": {
            **hold,
            "state": "VOIDED",
            "captured": "10",
            "released": "50",
            "remaining": "0",
            "closedAt": result["hold"]["closedAt"],
            "captures": [{"type": "CAPTURE", "amount": "10"}],
        },
        "balance": figures(90, 0),
        "wallet": {"ownerId": owner},
    }
    assert await ask(client, "voidHold", asked) == {**result, "alreadyProcessed": True}


async def test_adjust(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = await place(client, owner, 60, ttlSeconds=DAY)
    asked = given(holdId=hold["id"], amount=80)

    result = await ask(client, "adjustHold", asked)

    assert result == {
        "__typename": "AdjustHoldPayload",
        "alreadyProcessed": False,
        "hold": {**hold, "amount": "80", "remaining": "80"},
        "balance": figures(100, 80),
        "wallet": {"ownerId": owner},
    }
    assert await ask(client, "adjustHold", asked) == {**result, "alreadyProcessed": True}
    lowered = await change(client, "adjustHold", hold, amount=20, ttlSeconds=2 * DAY)
    assert lowered["hold"] == {
        **hold,
        "amount": "20",
        "remaining": "20",
        "heldUntil": lowered["hold"]["heldUntil"],
    }
    assert 2 * DAY <= seconds_held(lowered["hold"]) < 2 * DAY + 600
    # However long it is adjusted to, it ends 31 days after it was placed.
    longest = await change(client, "adjustHold", hold, ttlSeconds=31 * DAY)
    assert seconds_held(longest["hold"]) == 31 * DAY


@pytest.mark.parametrize("shards", [(0, 0), (0, 3)], ids=["same shard", "across shards"])
async def test_capture_of_an_escrow(client: httpx.AsyncClient, ledger: Ledger, shards: tuple[int, int]) -> None:
    owner, receiver = [await new_owner_in(ledger, shard, gold=100) for shard in shards]
    hold = await place(client, owner, 60, toOwnerId=receiver)
    assert hold["toOwnerId"] == receiver

    result = await change(client, "captureHold", hold, amount=50)

    transaction = result["transaction"]
    assert (transaction["type"], transaction["counterpartyId"], transaction["balanceAfter"]) == (
        "TRANSFER_OUT",
        receiver,
        "50",
    )
    assert result["hold"]["captures"] == [{"type": "TRANSFER_OUT", "amount": "50"}]
    assert result["balance"] == figures(50, 0)
    fields = "type amount balanceAfter counterpartyId"
    query = f"query($o: String!) {{ transactions(ownerId: $o, first: 1) {{ nodes {{ {fields} }} }} }}"
    assert (await gql(client, query, o=receiver))["transactions"]["nodes"] == [
        {"type": "TRANSFER_IN", "amount": "50", "balanceAfter": "150", "counterpartyId": owner}
    ]


async def test_sender_of_an_escrow_learns_nothing_of_its_receiver_but_the_name(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    owner, receiver = await new_owner_in(ledger, 0, gold=100), await new_owner_in(ledger, 1, gold=7_654_321)
    hold = await place(client, owner, 60, toOwnerId=receiver)
    for verb, more in (("adjustHold", {"amount": 70}), ("captureHold", {"amount": 1, "keepRemainder": True})):
        told = str(await change(client, verb, hold, **more))
        assert "7654321" not in told
        assert "7654322" not in told
    assert "765432" not in str(await change(client, "voidHold", hold))


@pytest.mark.parametrize("seconds", [1, 31 * DAY])
async def test_shortest_and_longest_hold(client: httpx.AsyncClient, ledger: Ledger, seconds: int) -> None:
    owner = await new_owner(ledger, gold=10)
    assert seconds_held(await place(client, owner, 1, ttlSeconds=seconds)) == seconds


async def bad_input(client: httpx.AsyncClient, ledger: Ledger, verb: str, asked: dict[str, Any]) -> tuple[str, str]:
    """Send what must be an error of its field of Mutation; return the input's field and the message."""
    before = await count_rows(ledger.settings)
    response = await client.post("/graphql", json={"query": DOCUMENTS[verb], "variables": {"input": asked}})
    answer = response.json()
    (error,) = answer["errors"]
    assert answer["data"] == {verb: None}
    assert (error["path"], error["extensions"]["code"]) == ([verb], "BAD_USER_INPUT")
    assert await count_rows(ledger.settings) == before
    return error["extensions"]["field"], error["message"]


@pytest.mark.parametrize("seconds", [0, -1, 31 * DAY + 1, 2**31 - 1])
async def test_ttl_out_of_bounds(client: httpx.AsyncClient, ledger: Ledger, seconds: int) -> None:
    owner = await new_owner(ledger, gold=10)
    hold = await place(client, owner, 1)
    expected = ("ttlSeconds", f"ttlSeconds is {seconds}: send 1 to 2678400, which is 31 days.")
    assert await bad_input(client, ledger, "placeHold", given(ownerId=owner, amount=1, ttlSeconds=seconds)) == expected
    assert await bad_input(client, ledger, "adjustHold", given(holdId=hold["id"], ttlSeconds=seconds)) == expected


@pytest.mark.parametrize("nothing", [{}, {"amount": None}, {"ttlSeconds": None}, {"amount": None, "ttlSeconds": None}])
async def test_adjust_with_neither_field(client: httpx.AsyncClient, ledger: Ledger, nothing: dict[str, None]) -> None:
    hold = await place(client, await new_owner(ledger, gold=10), 1)
    expected = ("amount", "amount and ttlSeconds are missing: send one of them, or both.")
    assert await bad_input(client, ledger, "adjustHold", given(holdId=hold["id"], **nothing)) == expected


@pytest.mark.parametrize("field", ["ownerId", "toOwnerId"])
async def test_malformed_owner_id_is_named(client: httpx.AsyncClient, ledger: Ledger, field: str) -> None:
    asked = given(ownerId=await new_owner(ledger, gold=10), amount=1) | {field: " blank"}
    expected = (field, f"{field} begins or ends with a blank: send the id without surrounding blanks.")
    assert await bad_input(client, ledger, "placeHold", asked) == expected


CHANGES: Final[dict[str, dict[str, Any]]] = {"captureHold": {}, "voidHold": {}, "adjustHold": {"amount": 1}}


@pytest.mark.parametrize("verb", CHANGES)
async def test_id_that_is_no_hold_s(client: httpx.AsyncClient, ledger: Ledger, verb: str) -> None:
    not_ours = "is not one of this service's: send it exactly as it was received."
    of_another = "is not the id of a hold: send a hold's id."
    cases = {
        "": not_ours,
        "x": not_ours,
        "x" * 201: not_ours,
        ids._encode("Hold:0"): not_ours,
        ids._encode("Hold:0:-1"): not_ours,
        ids._encode(f"Hold:0:{2**128}"): not_ours,
        ids._encode("Hold:40000:1"): not_ours,
        ids._encode("Asset:GOLD"): of_another,
        ids._encode("Wallet:0:1"): of_another,
        ids._encode("Transaction:0:1:1"): of_another,
        ids._encode("Cursor:0:1:1:1"): of_another,
    }
    for id_, fault in cases.items():
        assert await bad_input(client, ledger, verb, given(holdId=id_, **CHANGES[verb])) == (
            "holdId",
            f"holdId {fault}",
        )


@pytest.mark.parametrize("verb", CHANGES)
async def test_hold_that_there_is_not(client: httpx.AsyncClient, ledger: Ledger, verb: str) -> None:
    before = await count_rows(ledger.settings)
    for name in (HoldName(0, uuid4()), HoldName(32_767, uuid4())):
        id_ = ids.hold_id(name)
        assert await ask(client, verb, given(holdId=id_, **CHANGES[verb])) == refusal(
            "HoldNotFound",
            "HOLD_NOT_FOUND",
            "Hold not found: send the id of a hold as it was received",
            holdId=id_,
        )
    assert await count_rows(ledger.settings) == before


async def test_refusals_of_placing_that_are_not_kept(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, nobody = await new_owner(ledger, gold=100), new_owner_id()
    used = given(ownerId=owner, amount=1)
    await ask(client, "placeHold", used)
    before = await count_rows(ledger.settings)
    asked = given(ownerId=owner, amount=1)
    missing = refusal(
        "WalletNotFound",
        "WALLET_NOT_FOUND",
        "Wallet not found: open it with openWallet, then send the request again",
        ownerId=nobody,
    )

    assert await ask(client, "placeHold", {**asked, "asset": "SILVER"}) == refusal(
        "AssetNotFound",
        "ASSET_NOT_FOUND",
        "Asset not found: send a code that the query assets returns",
        assetCode="SILVER",
    )
    for amount, reason, message in (
        ("0", "NOT_POSITIVE", "Amount must be greater than zero"),
        ("0.5", "TOO_PRECISE", "Amount has more fraction digits than the asset"),
        (POSTING_MINOR_MAX + 1, "TOO_LARGE", "Amount is larger than one posting may move"),
    ):
        assert await ask(client, "placeHold", {**asked, "amount": amount}) == refusal(
            "InvalidAmount", "INVALID_AMOUNT", message, reason=reason, scale=0
        )
    assert await ask(client, "placeHold", {**asked, "toOwnerId": owner}) == refusal(
        "SelfTransfer",
        "SELF_TRANSFER",
        "Sender and receiver are the same owner: name another receiver",
        ownerId=owner,
    )
    assert await ask(client, "placeHold", {**asked, "ownerId": nobody}) == missing
    assert await ask(client, "placeHold", {**asked, "toOwnerId": nobody}) == missing
    for other in ({"amount": 2}, {"ttlSeconds": 5}, {"description": "x"}, {"metadata": {"a": "x"}}):
        assert await ask(client, "placeHold", {**used, **other}) == refusal(
            "IdempotencyKeyReused",
            "IDEMPOTENCY_KEY_REUSED",
            "Idempotency key was used for another request",
            idempotencyKey=used["idempotencyKey"],
        )
    assert await count_rows(ledger.settings) == before


async def test_refusals_of_placing_that_are_kept(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=200)
    await fill_with_holds(ledger, owner, 99)
    short, many = given(ownerId=owner, amount=102), given(ownerId=owner, amount=1)
    refused = [(short, await ask(client, "placeHold", short))]
    last = await place(client, owner, 1)
    refused.append((many, await ask(client, "placeHold", many)))

    assert [answer for _, answer in refused] == [
        insufficient(owner, 102, amount="200", available="101", held="99"),
        refusal(
            "TooMany",
            "TOO_MANY",
            "There are as many as there may be",
            alreadyProcessed=False,
            counted="HOLDS",
            most=100,
        ),
    ]
    await change(client, "voidHold", last)
    await post(ledger, "bonus", owner, 1)
    before = await count_rows(ledger.settings)
    refused[0][1]["balance"] = {"ownerId": owner, "amount": "201", "available": "102", "held": "99"}
    for asked, answer in refused:
        assert await ask(client, "placeHold", asked) == {**answer, "alreadyProcessed": True}
    assert await count_rows(ledger.settings) == before


async def test_refusals_of_capturing(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = await place(client, owner, 10)
    for amount, reason, message, scale in (
        (0, "NOT_POSITIVE", "Amount must be greater than zero", None),
        ("0.5", "TOO_PRECISE", "Amount has more fraction digits than the asset", 0),
        (POSTING_MINOR_MAX + 1, "TOO_LARGE", "Amount is larger than one posting may move", 0),
    ):
        assert await ask(client, "captureHold", given(holdId=hold["id"], amount=amount)) == refusal(
            "InvalidAmount", "INVALID_AMOUNT", message, reason=reason, scale=scale
        )
    above = given(holdId=hold["id"], amount=11)
    told = exceeded(hold, 10, 11)
    assert await ask(client, "captureHold", above) == told
    await change(client, "captureHold", hold, amount=10)
    late = given(holdId=hold["id"])
    assert await ask(client, "captureHold", late) == not_open(hold, "CAPTURED")
    assert await ask(client, "captureHold", late) == {**not_open(hold, "CAPTURED"), "alreadyProcessed": True}
    # What refused it is told as it was, the hold as it is.
    assert await ask(client, "captureHold", above) == {
        **told,
        "alreadyProcessed": True,
        "hold": {"id": hold["id"], "remaining": "0"},
    }


async def test_capture_past_the_fiftieth(client: httpx.AsyncClient, ledger: Ledger) -> None:
    hold = await place(client, await new_owner(ledger, gold=100), 60)
    shard, number = ids.decode(hold["id"]).parts
    found = await find_hold(ledger, HoldName(shard, UUID(int=number)))
    assert found is not None
    await capture_often(ledger, found, 50)
    assert await ask(client, "captureHold", given(holdId=hold["id"], amount=1)) == refusal(
        "TooMany", "TOO_MANY", "There are as many as there may be", alreadyProcessed=False, counted="CAPTURES", most=50
    )
    voided = await change(client, "voidHold", hold)
    assert (voided["hold"]["captured"], len(voided["hold"]["captures"])) == ("50", 50)


async def test_capture_for_a_receiver_that_is_full(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, receiver = await new_owner_in(ledger, 0, gold=100), await new_owner_in(ledger, 1)
    hold = await place(client, owner, 10, toOwnerId=receiver)
    for _ in range(BALANCE_MINOR_MAX // POSTING_MINOR_MAX):
        await post(ledger, "bonus", receiver, POSTING_MINOR_MAX)
    asked = given(holdId=hold["id"])
    told = refusal(
        "ReceiverRefused",
        "RECEIVER_REFUSED",
        "The receiver cannot take it",
        alreadyProcessed=False,
        ownerId=receiver,
        cause="FULL",
    )
    assert await ask(client, "captureHold", asked) == told
    await post(ledger, "spend", receiver, 100)
    assert await ask(client, "captureHold", asked) == {**told, "alreadyProcessed": True}
    assert (await change(client, "captureHold", hold))["balance"] == figures(90, 0)


async def test_refusals_of_voiding_and_adjusting(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = await place(client, owner, 60)
    await change(client, "captureHold", hold, amount=30, keepRemainder=True)
    assert await ask(client, "adjustHold", given(holdId=hold["id"], amount=29)) == exceeded(hold, 30, 29)
    assert await ask(client, "adjustHold", given(holdId=hold["id"], amount=101)) == insufficient(
        owner, 41, amount="70", available="40", held="30"
    )
    key = str(uuid4())
    await ask(client, "voidHold", {"holdId": hold["id"], "idempotencyKey": key})
    for verb in CHANGES:
        asked = given(holdId=hold["id"], **CHANGES[verb])
        assert await ask(client, verb, asked) == not_open(hold, "VOIDED")
        assert await ask(client, verb, asked) == {**not_open(hold, "VOIDED"), "alreadyProcessed": True}
    other = await place(client, owner, 1)
    assert await ask(client, "voidHold", {"holdId": other["id"], "idempotencyKey": key}) == refusal(
        "IdempotencyKeyReused",
        "IDEMPOTENCY_KEY_REUSED",
        "Idempotency key was used for another request",
        idempotencyKey=key,
    )


async def test_keys_are_the_owner_s_whatever_they_are_used_for(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, other, key = await new_owner(ledger, gold=100), await new_owner(ledger, gold=100), uuid4()
    await post(ledger, "spend", owner, 1, key)
    hold = await place(client, owner, 10)
    before = await count_rows(ledger.settings)
    for used in (str(key), hold["idempotencyKey"]):
        for verb in CHANGES:
            result = await ask(client, verb, {"holdId": hold["id"], "idempotencyKey": used, **CHANGES[verb]})
            assert (result["__typename"], result["idempotencyKey"]) == ("IdempotencyKeyReused", used)
    result = await ask(client, "placeHold", {"ownerId": owner, "amount": 1, "idempotencyKey": str(key)})
    assert result["__typename"] == "IdempotencyKeyReused"
    assert await count_rows(ledger.settings) == before
    # Another owner's key is another key.
    result = await ask(client, "placeHold", {"ownerId": other, "amount": 1, "idempotencyKey": str(key)})
    assert result["__typename"] == "PlaceHoldPayload"
