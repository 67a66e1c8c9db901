"""Transfers as clients see them: the sender, the receiver, and what neither is told of the other."""

import re
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from batches import new_owner_in
from factories import gql, new_owner, new_owner_id, post
from tables import count_rows

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.opening import Ledger

TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)

TRANSACTION: Final = """
  __typename id transactionId type direction amount balanceAfter description reference executedAt idempotencyKey
  transferId counterpartyId asset { code } entries { __typename account direction amount }
"""
BALANCE: Final = "__typename id ownerId amount cursor asset { code }"
HISTORY: Final = f"""query($o: String!, $a: String!) {{ transactions(ownerId: $o, asset: $a) {{
  totalCount nodes {{ {TRANSACTION} }}
}} }}"""

# Every field of every member.
TRANSFER: Final = f"""mutation($input: TransferInput!) {{ transfer(input: $input) {{
  __typename
  ... on TransferPayload {{
    alreadyProcessed transaction {{ {TRANSACTION} }} balance {{ {BALANCE} }}
    wallet {{ __typename id ownerId openedAt balances {{ amount asset {{ code }} }} }}
  }}
  ... on Error {{ code message retryable }}
  ... on Replayable {{ alreadyProcessed }}
  ... on AssetNotFound {{ assetCode }}
  ... on InvalidAmount {{ reason scale }}
  ... on SelfTransfer {{ ownerId }}
  ... on WalletNotFound {{ ownerId }}
  ... on IdempotencyKeyReused {{ idempotencyKey }}
  ... on TransferForbidden {{ asset {{ code transfers }} policy }}
  ... on InsufficientBalance {{ available required balance {{ ownerId amount }} }}
  ... on ReceiverRefused {{ ownerId cause }}
}} }}"""

OUTCOME: Final = """query($o: String!, $k: UUID!) { outcomeByKey(ownerId: $o, idempotencyKey: $k) {
  state
  transaction { id type }
  refusal {
    __typename code message
    ... on Replayable { alreadyProcessed }
    ... on TransferForbidden { asset { code transfers } policy }
    ... on ReceiverRefused { ownerId cause }
  }
} }"""


def given(sender: str, receiver: str, amount: int | str, **more: Any) -> dict[str, Any]:
    return {
        "fromOwnerId": sender, "toOwnerId": receiver, "amount": amount, "idempotencyKey": str(uuid4()), **more,
    }  # fmt: skip


async def transfer(client: httpx.AsyncClient, asked: dict[str, Any]) -> dict[str, Any]:
    """Transfer, and return the member of the union that came of it."""
    result: dict[str, Any] = (await gql(client, TRANSFER, input=asked))["transfer"]
    return result


async def history(client: httpx.AsyncClient, owner: str, asset: str = "GOLD") -> dict[str, Any]:
    found: dict[str, Any] = (await gql(client, HISTORY, o=owner, a=asset))["transactions"]
    return found


async def fill(ledger: Ledger, owner: str, asset_code: str) -> None:
    """Top an owner that has nothing up to the most that a wallet may hold."""
    for _ in range(BALANCE_MINOR_MAX // POSTING_MINOR_MAX):
        await post(ledger, "bonus", owner, POSTING_MINOR_MAX, asset_code=asset_code)


@pytest.fixture
async def gifts(ledger: Ledger) -> AsyncIterator[str]:
    """The code of an asset whose policy the test may set."""
    await add_asset(ledger, "GIFTS", "Gifts", 0)
    yield "GIFTS"
    await set_asset(ledger, "GIFTS", TransferPolicy.ALL)


@pytest.mark.parametrize("shards", [(0, 0), (0, 3)], ids=["same shard", "across shards"])
async def test_payload_has_every_field_of_the_senders_side(
    client: httpx.AsyncClient, ledger: Ledger, shards: tuple[int, int]
) -> None:
    sender, receiver = [await new_owner_in(ledger, shard, gold=100) for shard in shards]
    asked = given(sender, receiver, "30", description="for you", reference="gift-1")

    result = await transfer(client, asked)

    transaction = result["transaction"]
    assert (result["__typename"], result["alreadyProcessed"]) == ("TransferPayload", False)
    assert transaction == {
        "__typename": "Transaction",
        "id": transaction["id"],
        "transactionId": transaction["transactionId"],
        "type": "TRANSFER_OUT",
        "direction": "DEBIT",
        "amount": "30",
        "balanceAfter": "70",
        "description": "for you",
        "reference": "gift-1",
        "executedAt": transaction["executedAt"],
        "idempotencyKey": asked["idempotencyKey"],
        "transferId": transaction["transactionId"],
        "counterpartyId": receiver,
        "asset": {"code": "GOLD"},
        "entries": [
            {"__typename": "Entry", "account": "USER", "direction": "DEBIT", "amount": "30"},
            {"__typename": "Entry", "account": "CLEARING", "direction": "CREDIT", "amount": "30"},
        ],
    }
    assert UUID(transaction["transactionId"]).version == 7
    assert TIME.fullmatch(transaction["executedAt"])
    query = f"query($o: String!) {{ balance(ownerId: $o) {{ {BALANCE} }} }}"
    assert result["balance"] == (await gql(client, query, o=sender))["balance"]
    assert (result["balance"]["ownerId"], result["balance"]["amount"]) == (sender, "70")
    assert (result["wallet"]["ownerId"], result["wallet"]["balances"][0]["amount"]) == (sender, "70")
    assert await transfer(client, asked) == {**result, "alreadyProcessed": True}


async def test_receiver_has_a_transaction_of_its_own(client: httpx.AsyncClient, ledger: Ledger) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=100), await new_owner_in(ledger, 1)
    given_half = (await transfer(client, given(sender, receiver, 30, description="for you")))["transaction"]

    got = await history(client, receiver)

    (half,) = got["nodes"]
    assert got["totalCount"] == 1
    assert half == {
        **given_half,
        "id": half["id"],
        "transactionId": half["transactionId"],
        "type": "TRANSFER_IN",
        "direction": "CREDIT",
        "balanceAfter": "30",
        "idempotencyKey": None,
        "counterpartyId": sender,
        "entries": [
            {"__typename": "Entry", "account": "USER", "direction": "CREDIT", "amount": "30"},
            {"__typename": "Entry", "account": "CLEARING", "direction": "DEBIT", "amount": "30"},
        ],
    }
    assert half["transactionId"] != given_half["transactionId"]
    assert half["id"] != given_half["id"]


async def test_both_halves_are_found_by_their_ids(client: httpx.AsyncClient, ledger: Ledger) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=100), await new_owner_in(ledger, 1)
    await transfer(client, given(sender, receiver, 30))
    halves = [(await history(client, owner))["nodes"][0] for owner in (sender, receiver)]
    assert [half["type"] for half in halves] == ["TRANSFER_OUT", "TRANSFER_IN"]

    for half in halves:
        for field in ("node", "transaction"):
            query = f"query($i: ID!) {{ {field}(id: $i) {{ ... on Transaction {{ {TRANSACTION} }} }} }}"
            assert (await gql(client, query, i=half["id"]))[field] == half
    query = f"query($i: [ID!]!) {{ nodes(ids: $i) {{ ... on Transaction {{ {TRANSACTION} }} }} }}"
    assert (await gql(client, query, i=[half["id"] for half in halves]))["nodes"] == halves


async def test_what_is_no_transfer_has_neither_counterparty_nor_transfer_id(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    owner = await new_owner(ledger, gold=100)

    (top_up,) = (await history(client, owner))["nodes"]

    assert (top_up["transferId"], top_up["counterpartyId"]) == (None, None)


async def test_key_is_the_senders(client: httpx.AsyncClient, ledger: Ledger) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=100), await new_owner_in(ledger, 1)
    asked = given(sender, receiver, 30)
    half = (await transfer(client, asked))["transaction"]
    by_key = "query($o: String!, $k: UUID!) { transactionByKey(ownerId: $o, idempotencyKey: $k) { id } }"
    key = asked["idempotencyKey"]

    assert (await gql(client, by_key, o=sender, k=key))["transactionByKey"] == {"id": half["id"]}
    assert (await gql(client, by_key, o=receiver, k=key))["transactionByKey"] is None
    assert (await gql(client, OUTCOME, o=sender, k=key))["outcomeByKey"] == {
        "state": "POSTED",
        "transaction": {"id": half["id"], "type": "TRANSFER_OUT"},
        "refusal": None,
    }
    assert (await gql(client, OUTCOME, o=receiver, k=key))["outcomeByKey"] == {
        "state": "UNKNOWN",
        "transaction": None,
        "refusal": None,
    }


def refusal(typename: str, code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"__typename": typename, "code": code, "message": message, "retryable": False, **more}


async def test_refusals_that_are_not_kept(client: httpx.AsyncClient, ledger: Ledger) -> None:
    sender, receiver, nobody = await new_owner(ledger, gold=100), await new_owner(ledger), new_owner_id()
    asked = given(sender, receiver, 30)
    await transfer(client, asked)
    before = await count_rows(ledger.settings)
    missing = refusal(
        "WalletNotFound",
        "WALLET_NOT_FOUND",
        "Wallet not found: open it with openWallet, then send the request again",
        ownerId=nobody,
    )

    assert await transfer(client, given(sender, receiver, 1, asset="SILVER")) == refusal(
        "AssetNotFound",
        "ASSET_NOT_FOUND",
        "Asset not found: send a code that the query assets returns",
        assetCode="SILVER",
    )
    assert await transfer(client, given(sender, receiver, "0.5")) == refusal(
        "InvalidAmount",
        "INVALID_AMOUNT",
        "Amount has more fraction digits than the asset",
        reason="TOO_PRECISE",
        scale=0,
    )
    assert await transfer(client, given(sender, sender, 1)) == refusal(
        "SelfTransfer",
        "SELF_TRANSFER",
        "Sender and receiver are the same owner: name another receiver",
        ownerId=sender,
    )
    assert await transfer(client, given(nobody, receiver, 1)) == missing
    assert await transfer(client, given(sender, nobody, 1)) == missing
    assert await transfer(client, {**asked, "amount": 31}) == refusal(
        "IdempotencyKeyReused",
        "IDEMPOTENCY_KEY_REUSED",
        "Idempotency key was used for another request",
        idempotencyKey=asked["idempotencyKey"],
    )
    assert await count_rows(ledger.settings) == before


async def test_refusals_that_are_kept(client: httpx.AsyncClient, ledger: Ledger, gifts: str) -> None:
    sender, receiver = await new_owner_in(ledger, 0), await new_owner_in(ledger, 1)
    await post(ledger, "top_up", sender, 100, asset_code=gifts)
    await fill(ledger, receiver, gifts)
    short, full, forbidden = (given(sender, receiver, amount, asset=gifts) for amount in (101, 1, 2))
    before = await count_rows(ledger.settings)

    answers = [(short, await transfer(client, short)), (full, await transfer(client, full))]
    await set_asset(ledger, gifts, TransferPolicy.NONE)
    answers.append((forbidden, await transfer(client, forbidden)))

    assert [answer for _, answer in answers] == [
        refusal(
            "InsufficientBalance",
            "INSUFFICIENT_BALANCE",
            "Insufficient balance",
            alreadyProcessed=False,
            available="100",
            required="101",
            balance={"ownerId": sender, "amount": "100"},
        ),
        refusal(
            "ReceiverRefused",
            "RECEIVER_REFUSED",
            "The receiver cannot take it",
            alreadyProcessed=False,
            ownerId=receiver,
            cause="FULL",
        ),
        refusal(
            "TransferForbidden",
            "TRANSFER_FORBIDDEN",
            "Transfers of this asset are not allowed",
            alreadyProcessed=False,
            asset={"code": gifts, "transfers": "NONE"},
            policy="NONE",
        ),
    ]
    assert await count_rows(ledger.settings) == before._replace(keys=before.keys + 3)
    await set_asset(ledger, gifts, TransferPolicy.ALL)
    for asked, answer in answers:
        if "asset" in answer:
            answer["asset"]["transfers"] = "ALL"  # what holds now, beside the policy that refused
        assert await transfer(client, asked) == {**answer, "alreadyProcessed": True}
        found = (await gql(client, OUTCOME, o=sender, k=asked["idempotencyKey"]))["outcomeByKey"]
        assert (found["state"], found["transaction"]) == ("REFUSED", None)
        told = found["refusal"]
        assert told == {name: value for name, value in {**answer, "alreadyProcessed": True}.items() if name in told}


@pytest.mark.parametrize("field", ["fromOwnerId", "toOwnerId"])
async def test_malformed_owner_id_is_named(client: httpx.AsyncClient, ledger: Ledger, field: str) -> None:
    owner = await new_owner(ledger, gold=100)
    asked = {**given(owner, owner, 1), field: " blank"}
    response = await client.post("/graphql", json={"query": TRANSFER, "variables": {"input": asked}})

    (error,) = response.json()["errors"]
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", field)
    assert error["path"] == ["transfer"]


async def test_policy_of_an_asset_is_told_as_it_is_now(client: httpx.AsyncClient, ledger: Ledger, gifts: str) -> None:
    async def policies() -> dict[str, str]:
        answer = await gql(client, "{ assets { code transfers } }")
        return {asset["code"]: asset["transfers"] for asset in answer["assets"]}

    assert (await policies())[gifts] == "ALL"
    for policy in (TransferPolicy.NONE, TransferPolicy.ALL):
        await set_asset(ledger, gifts, policy)
        found = await policies()
        assert (found[gifts], found["GOLD"]) == (policy.name, "ALL")


async def test_sender_learns_nothing_of_the_receiver_but_its_name(
    client: httpx.AsyncClient, ledger: Ledger, gifts: str
) -> None:
    sender, receiver = await new_owner_in(ledger, 0), await new_owner_in(ledger, 1)
    await post(ledger, "top_up", sender, 100, asset_code=gifts)
    await post(ledger, "top_up", receiver, 7_654_321, asset_code=gifts)
    await post(ledger, "top_up", receiver, "76543.21", asset_code="POINTS")
    document = {"query": TRANSFER, "variables": {"input": given(sender, receiver, 1, asset=gifts)}}

    posted = await client.post("/graphql", json=document)

    assert posted.json()["data"]["transfer"]["__typename"] == "TransferPayload"
    for figure in ("7654321", "7654322", "76543.21"):
        assert figure not in posted.text
    assert posted.text.count(receiver) == 1
    # Nor has what refuses for the receiver's sake a field for them.
    fields = '{ __type(name: "ReceiverRefused") { fields { name } } }'
    names = {field["name"] for field in (await gql(client, fields))["__type"]["fields"]}
    assert names == {"code", "message", "retryable", "ownerId", "cause", "alreadyProcessed"}
