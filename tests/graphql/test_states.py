"""Freezing, closing and reopening wallets as clients see it: every field of each answer, and what a status stops."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from batches import new_owner_in
from factories import gql, new_owner, new_owner_id, post
from held import place
from scenes import World
from tables import count_rows

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.money import BALANCE_MINOR_MAX
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.wallets import open_wallet

VERBS: Final = ("freezeWallet", "unfreezeWallet", "closeWallet", "reopenWallet")

STATUS: Final = "status statusSince statusUntil statusNote"
TRANSACTION: Final = """
  type direction amount balanceAfter description idempotencyKey counterpartyId refundable asset { code }
  entries { account direction amount }
"""
# Every field of every member.
MEMBERS: Final = f"""
  __typename
  ... on Error {{ code message retryable }}
  ... on Replayable {{ alreadyProcessed }}
  ... on WalletPayload {{ wallet {{ ownerId {STATUS} }} transactions {{ id {TRANSACTION} }} }}
  ... on SelfTransfer {{ ownerId }}
  ... on WalletNotFound {{ ownerId }}
  ... on IdempotencyKeyReused {{ idempotencyKey }}
  ... on WalletClosed {{ wallet {{ ownerId {STATUS} }} }}
  ... on WalletFrozen {{ status until wallet {{ ownerId {STATUS} }} }}
  ... on TransferForbidden {{ asset {{ code transfers }} policy }}
  ... on WalletNotEmpty {{ openHolds wallet {{ ownerId {STATUS} }} }}
  ... on ReceiverRefused {{ ownerId cause }}
"""
WALLET: Final = f"query($o: String!) {{ wallet(ownerId: $o) {{ {STATUS} openedAt }} }}"
HISTORY: Final = f"""query($o: String!, $a: String! = "GOLD") {{
  transactions(ownerId: $o, asset: $a) {{ totalCount nodes {{ id {TRANSACTION} }} }}
}}"""
OUTCOME: Final = f"""query($o: String!, $k: UUID!) {{ outcomeByKey(ownerId: $o, idempotencyKey: $k) {{
  state transaction {{ id }} hold {{ id }}
  refusal {{
    __typename code
    ... on WalletFrozen {{ status until wallet {{ {STATUS} }} }}
    ... on WalletNotEmpty {{ openHolds }}
    ... on TransferForbidden {{ asset {{ code }} policy }}
    ... on ReceiverRefused {{ ownerId cause }}
  }}
}} }}"""


def document(verb: str) -> str:
    input_type = f"{verb[0].upper()}{verb[1:]}Input!"
    return f"mutation($input: {input_type}) {{ {verb}(input: $input) {{ {MEMBERS} }} }}"


def given(owner: str, **more: Any) -> dict[str, Any]:
    return {"ownerId": owner, "idempotencyKey": str(uuid4()), "note": "because", **more}


async def ask(client: httpx.AsyncClient, verb: str, asked: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = (await gql(client, document(verb), input=asked))[verb]
    return answer


async def wrong(client: httpx.AsyncClient, verb: str, asked: dict[str, Any]) -> object:
    """Return the field that the one error names which comes of it; what stops at the type is told in a message."""
    response = await client.post("/graphql", json={"query": document(verb), "variables": {"input": asked}})
    (error,) = response.json()["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT", error
    return error["extensions"].get("field") or error["message"]


async def status(client: httpx.AsyncClient, owner: str) -> dict[str, Any]:
    wallet: dict[str, Any] = (await gql(client, WALLET, o=owner))["wallet"]
    return wallet


async def history(client: httpx.AsyncClient, owner: str, asset: str = "GOLD") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gql(client, HISTORY, o=owner, a=asset))["transactions"]["nodes"]
    return found


async def outcome(client: httpx.AsyncClient, asked: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await gql(client, OUTCOME, o=asked["ownerId"], k=asked["idempotencyKey"]))["outcomeByKey"]
    return found


def in_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_a_wallet_is_open_since_it_was_opened(client: httpx.AsyncClient, ledger: Ledger) -> None:
    wallet = await status(client, await new_owner(ledger))
    opened_at = wallet["openedAt"]
    assert wallet == {
        "status": "OPEN", "statusSince": opened_at, "statusUntil": None, "statusNote": None, "openedAt": opened_at
    }  # fmt: skip


async def test_every_field_of_every_payload(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    since = in_time((await status(client, owner))["statusSince"])
    for verb, more, name in (
        ("freezeWallet", {}, "FROZEN_OUT"),
        ("freezeWallet", {"scope": "ALL", "until": "2899-01-01T01:00:00+01:00"}, "FROZEN_ALL"),
        ("unfreezeWallet", {}, "OPEN"),
        ("closeWallet", {}, "CLOSED"),
        ("reopenWallet", {"note": None}, "OPEN"),
    ):
        asked = given(owner, **more)
        answer = await ask(client, verb, asked)
        now = await status(client, owner)
        del now["openedAt"]
        assert answer == {
            "__typename": "WalletPayload",
            "alreadyProcessed": False,
            "wallet": {"ownerId": owner, **now},
            "transactions": [],
        }
        assert (now["status"], now["statusNote"]) == (name, asked["note"])
        assert now["statusUntil"] == ("2899-01-01T00:00:00.000000Z" if "until" in more else None)
        assert in_time(now["statusSince"]) > since
        since = in_time(now["statusSince"])
        assert await ask(client, verb, asked) == {**answer, "alreadyProcessed": True}
        assert await outcome(client, asked) == {
            "state": "CHANGED", "transaction": None, "hold": None, "refusal": None
        }  # fmt: skip


async def test_a_replay_shows_the_wallet_as_it_is(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    freeze, unfreeze = given(owner), given(owner, note="mistake")
    await ask(client, "freezeWallet", freeze)
    await ask(client, "unfreezeWallet", unfreeze)
    again = await ask(client, "freezeWallet", freeze)
    assert (again["alreadyProcessed"], again["wallet"]["status"], again["wallet"]["statusNote"]) == (
        True, "OPEN", "mistake"
    )  # fmt: skip


SPEND: Final = "mutation($input: SpendInput!) { spend(input: $input) { %s ... on Error { code message retryable } } }"


async def test_every_field_of_the_refusals_of_a_status(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    spend = (
        SPEND
        % f"""
      __typename ... on Replayable {{ alreadyProcessed }}
      ... on WalletFrozen {{ status until wallet {{ {STATUS} }} }} ... on WalletClosed {{ wallet {{ {STATUS} }} }}
    """
    )
    for verb, more, expected in (
        ("freezeWallet", {}, {"__typename": "WalletFrozen", "status": "FROZEN_OUT", "until": None}),
        (
            "freezeWallet",
            {"scope": "ALL", "until": "2899-01-01T00:00:00Z"},
            {"__typename": "WalletFrozen", "status": "FROZEN_ALL", "until": "2899-01-01T00:00:00.000000Z"},
        ),
        ("closeWallet", {"remainder": "FORFEIT"}, {"__typename": "WalletClosed"}),
    ):
        await ask(client, verb, given(owner, **more))
        now = await status(client, owner)
        del now["openedAt"]
        before = await count_rows(ledger.settings)
        asked = {"ownerId": owner, "amount": 1, "idempotencyKey": str(uuid4())}
        code, message = {
            "WalletFrozen": ("WALLET_FROZEN", "The wallet is frozen"),
            "WalletClosed": ("WALLET_CLOSED", "The wallet is closed"),
        }[expected["__typename"] or ""]
        refusal = {
            **expected, "code": code, "message": message, "retryable": False, "alreadyProcessed": False, "wallet": now
        }  # fmt: skip
        assert (await gql(client, spend, input=asked))["spend"] == refusal
        assert await count_rows(ledger.settings) == before._replace(keys=before.keys + 1)
        assert (await gql(client, spend, input=asked))["spend"] == {**refusal, "alreadyProcessed": True}
        kept = await outcome(client, asked)
        told = {name: kept["refusal"].get(name) for name in expected}
        assert (kept["state"], told) == ("REFUSED", expected)


async def test_every_field_of_the_refusals_of_a_closing(client: httpx.AsyncClient, ledger: Ledger) -> None:
    await add_asset(ledger, "BADGES", "Badges", 0)
    owner, other, shut = [await new_owner_in(ledger, shard) for shard in range(3)]
    await post(ledger, "bonus", owner, 5, asset_code="BADGES")
    await place(client, owner, 1, asset="BADGES")
    await ask(client, "closeWallet", given(shut))
    to_other = {"remainder": "TRANSFER", "toOwnerId": other}
    now = {"ownerId": owner, **await status(client, owner)}
    del now["openedAt"]
    await set_asset(ledger, "BADGES", TransferPolicy.NONE)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (
            to_other,
            {
                "__typename": "TransferForbidden", "code": "TRANSFER_FORBIDDEN", "policy": "NONE",
                "message": "Transfers of this asset are not allowed", "asset": {"code": "BADGES", "transfers": "NONE"},
            },
        ),
        (
            {},
            {
                "__typename": "WalletNotEmpty", "code": "WALLET_NOT_EMPTY", "openHolds": 1, "wallet": now,
                "message": "The wallet is not empty",
            },
        ),
    ]  # fmt: skip
    for more, refusal in cases:
        await assert_kept(client, ledger, given(owner, **more), refusal)
    await set_asset(ledger, "BADGES", TransferPolicy.ALL)
    refusal = {
        "__typename": "ReceiverRefused", "code": "RECEIVER_REFUSED", "message": "The receiver cannot take it",
        "ownerId": shut, "cause": "CLOSED",
    }  # fmt: skip
    await assert_kept(client, ledger, given(owner, remainder="TRANSFER", toOwnerId=shut, voidHolds=True), refusal)


async def assert_kept(
    client: httpx.AsyncClient, ledger: Ledger, asked: dict[str, Any], refusal: dict[str, Any]
) -> None:
    before = await count_rows(ledger.settings)
    answer = await ask(client, "closeWallet", asked)
    assert answer == {**refusal, "retryable": False, "alreadyProcessed": False}
    rows = await count_rows(ledger.settings)
    assert rows._replace(accounts=0) == before._replace(keys=before.keys + 1, accounts=0)
    assert await ask(client, "closeWallet", asked) == {**answer, "alreadyProcessed": True}
    kept = await outcome(client, asked)
    assert kept["state"] == "REFUSED"
    shown = kept["refusal"]
    if "asset" in shown:
        assert shown.pop("asset")["code"] == refusal["asset"]["code"]
    assert {name: refusal[name] for name in shown} == shown


async def test_refusals_that_are_not_kept(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, nobody = await new_owner(ledger), new_owner_id()
    before = await count_rows(ledger.settings)
    for verb in VERBS:
        answer = await ask(client, verb, given(nobody))
        assert (answer["__typename"], answer["ownerId"]) == ("WalletNotFound", nobody)
    to_nobody = {"remainder": "TRANSFER", "toOwnerId": nobody}
    assert (await ask(client, "closeWallet", given(owner, **to_nobody)))["ownerId"] == nobody
    answer = await ask(client, "closeWallet", given(owner, remainder="TRANSFER", toOwnerId=owner))
    assert (answer["__typename"], answer["ownerId"]) == ("SelfTransfer", owner)
    assert await count_rows(ledger.settings) == before
    first = given(owner)
    await ask(client, "unfreezeWallet", first)
    for verb in VERBS:
        answer = await ask(client, verb, {**first, "note": "another"})
        assert (answer["__typename"], answer["idempotencyKey"]) == ("IdempotencyKeyReused", first["idempotencyKey"])


BAD_INPUT: Final[list[tuple[str, dict[str, Any], str]]] = [
    *((verb, {"ownerId": " x"}, "ownerId") for verb in VERBS),
    *((verb, {"note": "x" * 501}, "note") for verb in VERBS),
    *((verb, {"note": "a\x00b"}, "note") for verb in VERBS),
    ("freezeWallet", {"until": "0001-01-01T00:00:00Z"}, "until"),
    ("freezeWallet", {"until": "0001-01-01T00:00:00+14:00"}, "until"),
    ("freezeWallet", {"until": "3000-01-01T00:00:01Z"}, "until"),
    ("freezeWallet", {"until": "9999-12-31T23:59:59.999999Z"}, "until"),
    ("closeWallet", {"remainder": "TRANSFER"}, "toOwnerId"),
    ("closeWallet", {"remainder": "TRANSFER", "toOwnerId": None}, "toOwnerId"),
    ("closeWallet", {"remainder": "TRANSFER", "toOwnerId": "x "}, "toOwnerId"),
    ("closeWallet", {"remainder": "FORFEIT", "toOwnerId": "somebody"}, "toOwnerId"),
    ("closeWallet", {"toOwnerId": "somebody"}, "toOwnerId"),
]


async def test_bad_input_names_its_field(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    before = await count_rows(ledger.settings)
    for verb, more, field in BAD_INPUT:
        assert await wrong(client, verb, given(owner, **more)) == field, more
    for until in ("2030-01-01T00:00:00", "2030-01-01", "tomorrow", 1893456000):
        assert "at .until" in str(await wrong(client, "freezeWallet", given(owner, until=until)))
    for verb in ("freezeWallet", "closeWallet"):
        asked = given(owner)
        del asked["note"]
        for missing in (asked, {**asked, "note": None}):
            assert "note" in str(await wrong(client, verb, missing))
    assert await count_rows(ledger.settings) == before
    assert (await status(client, owner))["status"] == "OPEN"


@pytest.mark.parametrize("verb", ["unfreezeWallet", "reopenWallet"])
async def test_a_note_can_be_left_out(client: httpx.AsyncClient, ledger: Ledger, verb: str) -> None:
    asked = given(await new_owner(ledger), note=None)
    first = await ask(client, verb, asked)
    del asked["note"]
    assert await ask(client, verb, asked) == {**first, "alreadyProcessed": True}


@pytest.mark.parametrize("until", ["1970-01-01T00:00:00Z", "2020-01-01T00:00:00+14:00", None])
async def test_a_freeze_that_is_over_freezes_nothing(
    client: httpx.AsyncClient, ledger: Ledger, until: str | None
) -> None:
    owner = await new_owner(ledger, gold=10)
    frozen = await ask(client, "freezeWallet", given(owner))
    until = until or datetime.now(UTC).isoformat()
    answer = await ask(client, "freezeWallet", given(owner, scope="ALL", until=until))
    wallet = answer["wallet"]
    assert (wallet["status"], wallet["statusUntil"], wallet["statusNote"]) == ("OPEN", None, None)
    # It was not open before it was frozen last.
    assert in_time(wallet["statusSince"]) > in_time(frozen["wallet"]["statusSince"])
    assert (await gql(client, SPEND % "__typename", input=spending(owner)))["spend"]["__typename"] == "SpendPayload"
    assert (await ask(client, "closeWallet", given(owner)))["__typename"] == "WalletNotEmpty"


def spending(owner: str) -> dict[str, Any]:
    return {"ownerId": owner, "amount": 1, "idempotencyKey": str(uuid4())}


async def test_a_freeze_ends_as_it_says(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    until = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=123456)
    asked = given(owner, until=until.isoformat())
    answer = await ask(client, "freezeWallet", asked)
    assert in_time(answer["wallet"]["statusUntil"]) == until
    # The same instant, in the words of another time zone.
    elsewhere = until.astimezone(tz=None).isoformat()
    assert (await ask(client, "freezeWallet", {**asked, "until": elsewhere}))["alreadyProcessed"] is True
    # Another end of the same freeze, and none, are another freeze; the same again is none.
    for more in ({"until": (until + timedelta(days=1)).isoformat()}, {}):
        later = await ask(client, "freezeWallet", given(owner, **more))
        assert in_time(later["wallet"]["statusSince"]) > in_time(answer["wallet"]["statusSince"])
        assert await ask(client, "freezeWallet", given(owner, **more)) == later


async def play(client: httpx.AsyncClient, owner: str, other: str, ids: dict[str, str]) -> dict[str, str]:
    """Ask for everything that moves or changes something of an owner; returns what each is answered with."""
    requests: dict[str, tuple[str, dict[str, Any]]] = {
        "spend": ("spend", {"ownerId": owner, "amount": 1}),
        "transfer": ("transfer", {"fromOwnerId": owner, "toOwnerId": other, "amount": 1}),
        "placeHold": ("placeHold", {"ownerId": owner, "amount": 1}),
        "raise": ("adjustHold", {"holdId": ids["hold"], "amount": 41}),
        "topUp": ("topUp", {"ownerId": owner, "amount": 1}),
        "bonus": ("bonus", {"ownerId": owner, "amount": 1}),
        "receive": ("transfer", {"fromOwnerId": other, "toOwnerId": owner, "amount": 1}),
        "escrow": ("captureHold", {"holdId": ids["escrow"], "amount": 1, "keepRemainder": True}),
        "captureHold": ("captureHold", {"holdId": ids["hold"], "amount": 1, "keepRemainder": True}),
        "refund": ("refund", {"transactionId": ids["spend"], "amount": 1}),
        "longer": ("adjustHold", {"holdId": ids["hold"], "ttlSeconds": 800_000}),
        "lower": ("adjustHold", {"holdId": ids["hold"], "amount": 20}),
        "clawback": ("clawback", {"transactionId": ids["bonus"], "amount": 1, "description": "Why"}),
        "debt": (
            "clawback",
            {"transactionId": ids["bonus"], "amount": 1, "onShortfall": "DEBT", "description": "Why"},
        ),
        "voidHold": ("voidHold", {"holdId": ids["hold"]}),
        "voidEscrow": ("voidHold", {"holdId": ids["escrow"]}),
    }
    answers = {}
    for name, (verb, asked) in requests.items():
        variables = {"input": {"idempotencyKey": str(uuid4()), **asked}}
        query = f"mutation($input: {verb[0].upper()}{verb[1:]}Input!) {{ {verb}(input: $input) {{ __typename }} }}"
        answers[name] = (await gql(client, query, **variables))[verb]["__typename"]
    return answers


LEAVES: Final = {"spend", "transfer", "placeHold", "raise"}
MOVES: Final = LEAVES | {"topUp", "bonus", "captureHold", "refund"}


@pytest.mark.parametrize(("scope", "stopped"), [("OUT", LEAVES), ("ALL", MOVES)])
async def test_what_a_freeze_stops_and_lets_through(
    client: httpx.AsyncClient, ledger: Ledger, scope: str, stopped: set[str]
) -> None:
    owner, other = await new_owner_in(ledger, 0), await new_owner_in(ledger, 1, gold=100)
    await post(ledger, "bonus", owner, 100)
    await post(ledger, "spend", owner, 10)
    spent, credited = [node["id"] for node in await history(client, owner)]
    ids = {
        "spend": spent,
        "bonus": credited,
        "hold": (await place(client, owner, 40))["id"],
        "escrow": (await place(client, other, 10, toOwnerId=owner))["id"],
    }
    await ask(client, "freezeWallet", given(owner, scope=scope))
    answers = await play(client, owner, other, ids)
    assert {name for name, answer in answers.items() if answer == "WalletFrozen"} == stopped
    at_the_receiver = {"receive", "escrow"} if scope == "ALL" else set()
    assert {name for name, answer in answers.items() if answer == "ReceiverRefused"} == at_the_receiver
    others = {answer for name, answer in answers.items() if name not in stopped | at_the_receiver}
    assert {answer for answer in others if not answer.endswith("Payload")} == set()


async def test_what_is_closed_and_what_is_frozen(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    await ask(client, "freezeWallet", given(owner))
    # It was not closed, so it stays as it is.
    assert (await ask(client, "reopenWallet", given(owner)))["wallet"]["status"] == "FROZEN_OUT"
    closed = (await ask(client, "closeWallet", given(owner)))["wallet"]
    assert (await ask(client, "closeWallet", given(owner, note="again")))["wallet"] == closed
    for verb in ("freezeWallet", "unfreezeWallet"):
        answer = await ask(client, verb, given(owner))
        assert answer == {
            "__typename": "WalletClosed", "code": "WALLET_CLOSED", "message": "The wallet is closed",
            "retryable": False, "alreadyProcessed": False, "wallet": closed,
        }  # fmt: skip


async def with_credits(ledger: Ledger, shard: int) -> str:
    owner = await new_owner_in(ledger, shard)
    for asset, amount in (("GOLD", "7"), ("POINTS", "2.50")):
        await post(ledger, "bonus", owner, amount, asset_code=asset)
    return owner


async def test_a_closing_forfeits_every_asset(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await with_credits(ledger, 0)
    await place(client, owner, 5)
    await place(client, owner, "1.25", asset="POINTS")
    asked = given(owner, remainder="FORFEIT", voidHolds=True)
    answer = await ask(client, "closeWallet", asked)
    assert answer["transactions"] == [
        (await history(client, owner, asset))[0] for asset in ("GOLD", "POINTS")
    ]  # fmt: skip
    gold, points = answer["transactions"]
    assert points == {
        "id": points["id"], "type": "FORFEIT", "direction": "DEBIT", "amount": "2.50", "balanceAfter": "0.00",
        "description": "because", "idempotencyKey": None, "counterpartyId": None, "refundable": None,
        "asset": {"code": "POINTS"},
        "entries": [
            {"account": "USER", "direction": "DEBIT", "amount": "2.50"},
            {"account": "TREASURY", "direction": "CREDIT", "amount": "2.50"},
        ],
    }  # fmt: skip
    assert (gold["amount"], gold["asset"]["code"]) == ("7", "GOLD")
    node = "query($i: ID!) { node(id: $i) { ... on Transaction { type amount } } }"
    assert (await gql(client, node, i=points["id"]))["node"] == {"type": "FORFEIT", "amount": "2.50"}
    await ask(client, "reopenWallet", given(owner))
    again = await ask(client, "closeWallet", asked)
    assert (again["wallet"]["status"], again["transactions"]) == ("OPEN", answer["transactions"])


@pytest.mark.parametrize("shard", [0, 1, 2], ids=["of the same shard", "of another lane", "of the same lane"])
async def test_a_closing_gives_every_asset_to_another_owner(
    client: httpx.AsyncClient, ledger: Ledger, shard: int
) -> None:
    owner, other = await with_credits(ledger, 0), await new_owner_in(ledger, shard)
    answer = await ask(client, "closeWallet", given(owner, remainder="TRANSFER", toOwnerId=other))
    assert [
        (each["type"], each["amount"], each["balanceAfter"], each["counterpartyId"])
        for each in answer["transactions"]
    ] == [("TRANSFER_OUT", "7", "0", other), ("TRANSFER_OUT", "2.50", "0.00", other)]  # fmt: skip
    for asset, amount in (("GOLD", "7"), ("POINTS", "2.50")):
        [received] = await history(client, other, asset)
        assert received["description"] is None
        assert (received["type"], received["amount"], received["counterpartyId"]) == ("TRANSFER_IN", amount, owner)
        # It can be taken back, but not to a wallet that is closed.
        assert await clawed_back(client, received["id"]) == "ReceiverRefused"
    await ask(client, "reopenWallet", given(owner))
    for asset, amount in (("GOLD", "7"), ("POINTS", "2.50")):
        assert await clawed_back(client, (await history(client, other, asset))[0]["id"]) == "ClawbackPayload"
        returned, sent = (await history(client, owner, asset))[:2]
        assert (returned["type"], returned["amount"], returned["balanceAfter"]) == ("TRANSFER_IN", amount, amount)
        assert sent["type"] == "TRANSFER_OUT"


async def clawed_back(client: httpx.AsyncClient, transaction_id: str) -> object:
    query = "mutation($input: ClawbackInput!) { clawback(input: $input) { __typename } }"
    asked = {"transactionId": transaction_id, "idempotencyKey": str(uuid4()), "description": "Why"}
    return (await gql(client, query, input=asked))["clawback"]["__typename"]


async def test_a_wallet_that_never_had_an_account(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, other = await new_owner(ledger), await new_owner(ledger)
    for more in ({}, {"remainder": "FORFEIT"}, {"remainder": "TRANSFER", "toOwnerId": other}):
        answer = await ask(client, "closeWallet", given(owner, voidHolds=True, **more))
        assert (answer["wallet"]["status"], answer["transactions"]) == ("CLOSED", [])
        await ask(client, "reopenWallet", given(owner))


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("unfreezeWallet", {}),
        ("freezeWallet", {}),
        ("freezeWallet", {"until": "2899-01-01T00:00:00Z"}),
        ("freezeWallet", {"until": "2020-01-01T00:00:00Z"}),
        ("closeWallet", {}),
    ],
)
async def test_a_first_debt_changes_no_status(
    client: httpx.AsyncClient, ledger: Ledger, verb: str, more: dict[str, Any]
) -> None:
    owner = await new_owner(ledger, gold=10)
    await post(ledger, "spend", owner, 10)
    await ask(client, verb, given(owner, **more))
    before = await status(client, owner)
    query = "mutation($input: ClawbackInput!) { clawback(input: $input) { ... on ClawbackPayload { indebted } } }"
    top_up = (await history(client, owner))[-1]["id"]
    asked = {"transactionId": top_up, "onShortfall": "DEBT", "description": "Why", "idempotencyKey": str(uuid4())}
    assert (await gql(client, query, input=asked))["clawback"] == {"indebted": "10"}
    assert await status(client, owner) == before


async def test_an_owner_that_is_opened_again_stays_closed(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    await ask(client, "closeWallet", given(owner))
    await open_wallet(ledger, owner)
    assert (await status(client, owner))["status"] == "CLOSED"
    many = f"query($o: [String!]!) {{ wallets(ownerIds: $o) {{ {STATUS} openedAt }} }}"
    assert (await gql(client, many, o=[owner]))["wallets"] == [await status(client, owner)]


async def test_what_is_given_and_forfeited_may_be_more_than_a_posting(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    world = await World(client, ledger).open()
    owner, other = await new_owner(ledger), await new_owner(ledger)
    await world.fill(owner, 0)
    given_away = await ask(client, "closeWallet", given(owner, remainder="TRANSFER", toOwnerId=other))
    forfeited = await ask(client, "closeWallet", given(other, remainder="FORFEIT"))
    amounts = [each["amount"] for answer in (given_away, forfeited) for each in answer["transactions"]]
    assert amounts == [str(BALANCE_MINOR_MAX)] * 2
