"""Debts as clients see them: what is owed, what repays it, and both again on a replay."""

from base64 import urlsafe_b64encode
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from batches import connected, new_owner_in
from factories import gql, new_owner
from held import place

from wallet_gql.domain.wallets import WalletKind
from wallet_gql.operations.opening import Ledger

BALANCE: Final = "amount available held debt"
TRANSACTION: Final = """
  id type direction amount balanceAfter description idempotencyKey counterpartyId refundable
  refundOf { type } refunds { type amount } entries { account direction amount }
"""
PAYLOADS: Final = {
    "topUp": f"repaid transaction {{ {TRANSACTION} }} balance {{ {BALANCE} }}",
    "bonus": f"repaid transaction {{ {TRANSACTION} }} balance {{ {BALANCE} }}",
    "spend": f"transaction {{ {TRANSACTION} }} balance {{ {BALANCE} }}",
    "refund": f"repaid lapsed transaction {{ {TRANSACTION} }} balance {{ {BALANCE} }}",
    "clawback": f"taken indebted forgone clawback {{ {TRANSACTION} }} balance {{ {BALANCE} }}",
    "transfer": f"transaction {{ {TRANSACTION} }} balance {{ {BALANCE} }}",
    "captureHold": f"transaction {{ {TRANSACTION} }} balance {{ {BALANCE} }}",
    "adjustHold": f"hold {{ remaining }} balance {{ {BALANCE} }}",
    "voidHold": f"hold {{ remaining }} balance {{ {BALANCE} }}",
}
HISTORY: Final = f"""query($o: String!) {{ transactions(ownerId: $o) {{ totalCount nodes {{ {TRANSACTION} }} }}
  balance(ownerId: $o) {{ {BALANCE} }} wallet(ownerId: $o) {{ balance {{ {BALANCE} }} }} }}"""


def given(**fields: Any) -> dict[str, Any]:
    return {"idempotencyKey": str(uuid4()), **fields}


async def ask(client: httpx.AsyncClient, verb: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Ask for what is posted; returns the payload."""
    payload = f"{verb[0].upper()}{verb[1:]}"
    query = f"""mutation($input: {payload}Input!) {{ {verb}(input: $input) {{
      __typename ... on {payload}Payload {{ alreadyProcessed {PAYLOADS[verb]} }} }} }}"""
    answer: dict[str, Any] = (await gql(client, query, input=asked))[verb]
    assert answer["__typename"] == f"{payload}Payload", answer
    return answer


async def do(client: httpx.AsyncClient, verb: str, **fields: Any) -> dict[str, Any]:
    """Ask, and ask again: everything but the balance is as it was."""
    asked = given(**({"description": "Why"} if verb == "clawback" else {}) | fields)
    first = await ask(client, verb, asked)
    assert await ask(client, verb, asked) == {**first, "alreadyProcessed": True}
    return first


async def history(client: httpx.AsyncClient, owner: str) -> list[dict[str, Any]]:
    page = (await gql(client, HISTORY, o=owner))["transactions"]
    found: list[dict[str, Any]] = page["nodes"]
    assert page["totalCount"] == len(found)
    return found


def numbers(amount: int, debt: int, held: int = 0) -> dict[str, str]:
    return {"amount": str(amount), "available": str(amount - held), "held": str(held), "debt": str(debt)}


def leg(account: str, amount: int) -> dict[str, str]:
    return {"account": account, "direction": "CREDIT" if amount > 0 else "DEBIT", "amount": str(abs(amount))}


async def credited_and_spent(client: httpx.AsyncClient, owner: str, amount: int, spent: int) -> str:
    """Return the id of a top-up of which so much was spent."""
    top_up = await do(client, "topUp", ownerId=owner, amount=amount)
    assert top_up["repaid"] == "0"
    await do(client, "spend", ownerId=owner, amount=spent)
    id_: str = top_up["transaction"]["id"]
    return id_


async def in_debt(client: httpx.AsyncClient, owner: str) -> None:
    """Let an owner owe 70, and have nothing."""
    top_up = await credited_and_spent(client, owner, 100, 70)
    await do(client, "clawback", transactionId=top_up, onShortfall="DEBT")


async def test_what_is_owed_and_what_was_taken(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = await credited_and_spent(client, owner, 100, 70)
    answer = await do(client, "clawback", transactionId=top_up, onShortfall="DEBT", description="chargeback")
    told = {name: answer[name] for name in ("taken", "indebted", "forgone")}
    assert told == {"taken": "30", "indebted": "70", "forgone": "0"}
    assert answer["balance"] == numbers(0, 70)
    taken = answer["clawback"]
    assert taken["entries"] == [leg("USER", -30), leg("TREASURY", 100), leg("DEBT", -70)]
    assert (taken["amount"], taken["balanceAfter"], taken["refundOf"]) == ("30", "0", {"type": "TOP_UP"})
    found = await gql(client, HISTORY, o=owner)
    assert found["balance"] == found["wallet"]["balance"] == numbers(0, 70)
    newest, _, oldest = found["transactions"]["nodes"]
    assert newest == taken
    # It was taken back whole, though only a part of it was there.
    assert (oldest["refundable"], oldest["refunds"]) == ("0", [{"type": "CLAWBACK", "amount": "30"}])


@pytest.mark.parametrize(("asked", "owed"), [({}, "100"), ({"amount": 40}, "40")])
async def test_what_is_all_owed(client: httpx.AsyncClient, ledger: Ledger, asked: dict[str, int], owed: str) -> None:
    owner = await new_owner(ledger)
    top_up = await credited_and_spent(client, owner, 100, 100)
    answer = await do(client, "clawback", transactionId=top_up, onShortfall="DEBT", **asked)
    told = [answer[name] for name in ("clawback", "taken", "indebted", "forgone")]
    assert told == [None, "0", owed, "0"]
    assert answer["balance"] == numbers(0, int(owed))
    # It is none of the owner's history: nothing of the owner's moved.
    assert len(await history(client, owner)) == 2


async def test_what_is_there_is_taken_whatever_is_to_become_of_the_rest(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    for shortfall in ("REFUSE", "AVAILABLE", "DEBT"):
        owner = await new_owner(ledger)
        top_up = await credited_and_spent(client, owner, 100, 40)
        answer = await do(client, "clawback", transactionId=top_up, amount=60, onShortfall=shortfall)
        told = [answer[name] for name in ("taken", "indebted", "forgone")]
        assert told == ["60", "0", "0"]
        assert answer["balance"] == numbers(0, 0)
        assert answer["clawback"]["entries"] == [leg("USER", -60), leg("TREASURY", 60)]


@pytest.mark.parametrize(("amount", "repaid", "left", "owed"), [(50, 50, 0, 20), (70, 70, 0, 0), (100, 70, 30, 0)])
@pytest.mark.parametrize("verb", ["topUp", "bonus"])
async def test_a_credit_repays(
    client: httpx.AsyncClient, ledger: Ledger, verb: str, amount: int, repaid: int, left: int, owed: int
) -> None:
    owner = await new_owner(ledger)
    await in_debt(client, owner)
    answer = await do(client, verb, ownerId=owner, amount=amount)
    assert (answer["repaid"], answer["balance"]) == (str(repaid), numbers(left, owed))
    repayment, credit = (await history(client, owner))[:2]
    assert credit == answer["transaction"]
    assert repayment == {
        "id": repayment["id"], "type": "REPAYMENT", "direction": "DEBIT", "amount": str(repaid),
        "balanceAfter": str(left), "description": None, "idempotencyKey": None, "counterpartyId": None,
        "refundable": None, "refundOf": None, "refunds": [], "entries": [leg("USER", -repaid), leg("DEBT", repaid)],
    }  # fmt: skip
    query = "query($i: ID!) { node(id: $i) { id ... on Transaction { type } } transaction(id: $i) { type amount } }"
    found = await gql(client, query, i=repayment["id"])
    assert found["node"] == {"id": repayment["id"], "type": "REPAYMENT"}
    assert found["transaction"] == {"type": "REPAYMENT", "amount": str(repaid)}


async def test_a_repayment_cannot_be_reversed(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    await in_debt(client, owner)
    await do(client, "bonus", ownerId=owner, amount=100)
    repayment = (await history(client, owner))[0]["id"]
    for verb in ("refund", "clawback"):
        query = f"mutation($input: {verb.capitalize()}Input!) {{ {verb}(input: $input) {{ __typename }} }}"
        assert (await gql(client, query, input=given(transactionId=repayment, description="Why")))[verb][
            "__typename"
        ] == "NotRefundable"


async def test_a_refund_repays(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    await in_debt(client, owner)
    spend = (await history(client, owner))[1]
    assert spend["type"] == "SPEND"
    answer = await do(client, "refund", transactionId=spend["id"], amount=60)
    assert (answer["repaid"], answer["lapsed"], answer["balance"]) == ("60", "0", numbers(0, 10))
    answer = await do(client, "refund", transactionId=spend["id"])
    assert (answer["repaid"], answer["balance"]) == ("10", numbers(0, 0))


async def test_what_a_hold_releases_repays(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = (await do(client, "topUp", ownerId=owner, amount=100))["transaction"]["id"]
    captured, lowered, voided = [await place(client, owner, amount) for amount in (50, 30, 20)]
    answer = await do(client, "clawback", transactionId=top_up, onShortfall="DEBT")
    assert (answer["clawback"], answer["balance"]) == (None, numbers(100, 100, held=100))
    answer = await do(client, "captureHold", holdId=captured["id"], amount=10)
    assert answer["balance"] == numbers(50, 60, held=50)
    answer = await do(client, "adjustHold", holdId=lowered["id"], amount=25)
    assert answer["balance"] == numbers(45, 55, held=45)
    answer = await do(client, "voidHold", holdId=voided["id"])
    assert answer["balance"] == numbers(25, 35, held=25)
    types = [(each["type"], each["amount"]) for each in await history(client, owner)]
    assert types == [
        ("REPAYMENT", "20"), ("REPAYMENT", "5"), ("REPAYMENT", "40"), ("CAPTURE", "10"), ("TOP_UP", "100")
    ]  # fmt: skip


@pytest.mark.parametrize("shard", [0, 1, 2])
async def test_a_transfer_that_is_taken_back(client: httpx.AsyncClient, ledger: Ledger, shard: int) -> None:
    sender, owner = await new_owner_in(ledger, shard, gold=100), await new_owner_in(ledger, 0)
    await do(client, "transfer", fromOwnerId=sender, toOwnerId=owner, amount=60)
    [received] = await history(client, owner)
    await do(client, "spend", ownerId=owner, amount=45)
    answer = await do(client, "clawback", transactionId=received["id"], onShortfall="DEBT")
    assert [answer[name] for name in ("taken", "indebted", "forgone")] == ["15", "45", "0"]
    assert answer["clawback"]["entries"] == [
        leg("USER", -15), leg("TREASURY", 45), leg("CLEARING", 15), leg("DEBT", -45)
    ]  # fmt: skip
    assert answer["clawback"]["counterpartyId"] == sender
    # Who had sent it gets what was there, and sees nothing of a debt.
    returned = (await history(client, sender))[0]
    assert (returned["type"], returned["amount"], returned["balanceAfter"]) == ("TRANSFER_IN", "15", "55")
    assert returned["entries"] == [leg("USER", 15), leg("CLEARING", -15)]
    # What is received repays; the sender is told nothing of it.
    sent = await do(client, "transfer", fromOwnerId=sender, toOwnerId=owner, amount=50)
    assert sent["balance"] == numbers(5, 0)
    assert [each["type"] for each in (await history(client, owner))[:2]] == ["REPAYMENT", "TRANSFER_IN"]
    assert (await gql(client, HISTORY, o=owner))["balance"] == numbers(5, 0)


@pytest.mark.parametrize("shard", [0, 1, 2])
async def test_what_returns_to_a_sender_and_what_an_escrow_pays_repays(
    client: httpx.AsyncClient, ledger: Ledger, shard: int
) -> None:
    debtor, other = await new_owner_in(ledger, shard, gold=60), await new_owner_in(ledger, 0, gold=100)
    await do(client, "transfer", fromOwnerId=debtor, toOwnerId=other, amount=60)
    [received, _] = await history(client, other)
    await in_debt(client, debtor)
    await do(client, "clawback", transactionId=received["id"], amount=50)
    assert (await gql(client, HISTORY, o=debtor))["balance"] == numbers(0, 20)
    escrow = await place(client, other, 30, toOwnerId=debtor)
    answer = await do(client, "captureHold", holdId=escrow["id"])
    # Whoever pays is told nothing of what the other one owed.
    assert answer["transaction"]["entries"] == [leg("USER", -30), leg("CLEARING", 30)]
    assert (await gql(client, HISTORY, o=debtor))["balance"] == numbers(10, 0)
    assert [(each["type"], each["amount"]) for each in (await history(client, debtor))[:4]] == [
        ("REPAYMENT", "20"), ("TRANSFER_IN", "30"), ("REPAYMENT", "50"), ("TRANSFER_IN", "50")
    ]  # fmt: skip


async def test_a_debt_is_paid_in_the_order_of_a_document(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = await credited_and_spent(client, owner, 100, 100)
    query = """mutation($clawback: ClawbackInput!, $bonus: BonusInput!, $more: BonusInput!) {
      clawback(input: $clawback) { ... on ClawbackPayload { indebted wallet { balance { debt } } } }
      bonus(input: $bonus) { ... on BonusPayload { repaid wallet { balance { amount debt } } } }
      more: bonus(input: $more) { ... on BonusPayload { repaid wallet { balance { amount debt } } } }
    }"""
    found = await gql(
        client,
        query,
        clawback=given(transactionId=top_up, onShortfall="DEBT", description="Why"),
        bonus=given(ownerId=owner, amount=70),
        more=given(ownerId=owner, amount=70),
    )
    assert found == {
        "clawback": {"indebted": "100", "wallet": {"balance": {"debt": "100"}}},
        "bonus": {"repaid": "70", "wallet": {"balance": {"amount": "0", "debt": "30"}}},
        "more": {"repaid": "30", "wallet": {"balance": {"amount": "40", "debt": "0"}}},
    }


async def test_what_is_owed_cannot_be_named(client: httpx.AsyncClient, ledger: Ledger) -> None:
    """Ids are opaque, but whoever takes them apart finds nothing that is not an owner's."""
    owner = await new_owner_in(ledger, 3)
    await in_debt(client, owner)
    async with connected(ledger.settings) as connection:
        rows = await connection.fetch(
            "SELECT w.kind, w.id AS wallet, a.id AS account FROM wallet w"
            " JOIN account a ON a.shard = 3 AND a.wallet_id = w.id"
            " WHERE w.shard = 3 AND w.owner_id = $1 ORDER BY w.kind",
            owner,
        )
    for row in rows:
        for text in (f"Wallet:3:{row['wallet']}", f"Balance:3:{row['wallet']}:1", f"Transaction:3:{row['account']}:1"):
            id_ = urlsafe_b64encode(text.encode()).decode().rstrip("=")
            node = (await gql(client, "query($i: ID!) { node(id: $i) { __typename } }", i=id_))["node"]
            shown = text.partition(":")[0] if row["kind"] == WalletKind.USER else None
            assert (node and node["__typename"]) == shown
    assert [row["kind"] for row in rows] == [WalletKind.USER, WalletKind.DEBT]
