"""Refunds and clawbacks as clients see them: every payload, every refusal, and what each key answers afterwards."""

import asyncio
import re
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from asyncpg import Connection
from batches import new_owner_in
from direct import insert, movement
from factories import gql, new_owner, post
from held import change, place
from tables import count_rows

from wallet_gql.domain.money import BALANCE_MINOR_MAX, MINOR_MAX, POSTING_MINOR_MAX
from wallet_gql.domain.postings import Posted
from wallet_gql.domain.shards import shard_of
from wallet_gql.graphql import ids
from wallet_gql.operations.opening import Ledger

TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)

LINKS: Final = "refundable refunds { id type amount }"
TRANSACTION: Final = f"""
  __typename id transactionId type direction amount balanceAfter description reference metadata executedAt
  idempotencyKey transferId counterpartyId hold {{ id }} asset {{ code }} entries {{ account direction amount }}
  refundOf {{ id type {LINKS} }} {LINKS}
"""
NOW: Final = "wallet { ownerId } balance { amount available held lapsed debt }"

_MEMBERS: Final = """
  __typename
  ... on Error { code message retryable }
  ... on Replayable { alreadyProcessed }
  ... on InvalidAmount { reason scale }
  ... on TransactionNotFound { transactionId }
  ... on IdempotencyKeyReused { idempotencyKey }
  ... on NotRefundable { transaction { id type } }
  ... on RefundExceedsOriginal { refundable required }
  ... on TooMany { counted most }
"""

# Every field of every member.
DOCUMENTS: Final = {
    "refund": f"""mutation($input: RefundInput!) {{ refund(input: $input) {{
      {_MEMBERS}
      ... on RefundPayload {{ transaction {{ {TRANSACTION} }} lapsed repaid {NOW} }}
      ... on BalanceLimitExceeded {{ limit balance {{ ownerId amount }} }}
    }} }}""",
    "clawback": f"""mutation($input: ClawbackInput!) {{ clawback(input: $input) {{
      {_MEMBERS}
      ... on ClawbackPayload {{ clawback {{ {TRANSACTION} }} taken indebted forgone {NOW} }}
      ... on InsufficientBalance {{ available required balance {{ ownerId amount available held }} }}
      ... on ReceiverRefused {{ ownerId cause }}
    }} }}""",
}

HISTORY: Final = f"""query($o: String!, $a: String!) {{ transactions(ownerId: $o, asset: $a) {{
  nodes {{ {TRANSACTION} }}
}} }}"""

OUTCOME: Final = """query($o: String!, $k: UUID!) { outcomeByKey(ownerId: $o, idempotencyKey: $k) {
  state
  transaction { id type amount }
  hold { id }
  refusal {
    __typename code message retryable
    ... on Replayable { alreadyProcessed }
    ... on NotRefundable { transaction { id type } }
    ... on RefundExceedsOriginal { refundable required }
    ... on TooMany { counted most }
    ... on BalanceLimitExceeded { limit balance { ownerId amount } }
    ... on InsufficientBalance { available required balance { ownerId amount available held } }
    ... on ReceiverRefused { ownerId cause }
  }
} }"""

TRANSFER: Final = """mutation($input: TransferInput!) { transfer(input: $input) {
  ... on TransferPayload { transaction { id } }
} }"""


def given(transaction: str, **more: Any) -> dict[str, Any]:
    """Return an input with a key of its own."""
    return {"transactionId": transaction, "idempotencyKey": str(uuid4()), "description": "Why", **more}


async def ask(client: httpx.AsyncClient, verb: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Ask, and return the member of the union that came of it."""
    result: dict[str, Any] = (await gql(client, DOCUMENTS[verb], input=asked))[verb]
    return result


async def ask_and_replay(client: httpx.AsyncClient, verb: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Ask twice, and return the first answer: the second is the same but for saying so."""
    result = await ask(client, verb, asked)
    assert result["alreadyProcessed"] is False
    assert await ask(client, verb, asked) == {**result, "alreadyProcessed": True}
    return result


async def refused(
    client: httpx.AsyncClient, ledger: Ledger, verb: str, asked: dict[str, Any], *, is_kept: bool
) -> dict[str, Any]:
    """Ask for what must be refused: nothing moves, and a key is there afterwards only where it is kept."""
    before = await count_rows(ledger.settings)
    result = await ask(client, verb, asked)
    assert not result["__typename"].endswith("Payload"), result
    assert ("alreadyProcessed" in result) is is_kept
    assert await count_rows(ledger.settings) == before._replace(keys=before.keys + is_kept)
    return result


async def kept(client: httpx.AsyncClient, ledger: Ledger, owner: str, verb: str, asked: dict[str, Any]) -> Any:
    """Ask for what must be refused for good: a retry and the key tell the same."""
    result = await refused(client, ledger, verb, asked, is_kept=True)
    assert result["alreadyProcessed"] is False
    again = {**result, "alreadyProcessed": True}
    assert await ask(client, verb, asked) == again
    assert await outcome(client, owner, asked) == {
        "state": "REFUSED",
        "transaction": None,
        "hold": None,
        "refusal": again,
    }
    return result


async def outcome(client: httpx.AsyncClient, owner: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what became of a request, by its key."""
    found: dict[str, Any] = (await gql(client, OUTCOME, o=owner, k=asked["idempotencyKey"]))["outcomeByKey"]
    return found


async def posted(ledger: Ledger, verb: str, owner: str, amount: int | str, **more: Any) -> str:
    """Post, and return the id of the transaction."""
    result = await post(ledger, verb, owner, amount, **more)
    assert isinstance(result, Posted)
    return ids.transaction_id(result.transaction)


async def history(client: httpx.AsyncClient, owner: str, asset: str = "GOLD") -> list[dict[str, Any]]:
    """Return an owner's transactions, newest first."""
    found: list[dict[str, Any]] = (await gql(client, HISTORY, o=owner, a=asset))["transactions"]["nodes"]
    return found


async def sent(client: httpx.AsyncClient, sender: str, receiver: str, amount: int) -> tuple[str, str]:
    """Transfer, and return the ids of both halves, the sender's first."""
    asked = {"fromOwnerId": sender, "toOwnerId": receiver, "amount": amount, "idempotencyKey": str(uuid4())}
    out: str = (await gql(client, TRANSFER, input=asked))["transfer"]["transaction"]["id"]
    return out, (await history(client, receiver))[0]["id"]


async def captured(client: httpx.AsyncClient, owner: str, amount: int) -> str:
    """Hold and capture, and return the id of the transaction."""
    hold = await place(client, owner, amount)
    transaction: str = (await change(client, "captureHold", hold))["transaction"]["id"]
    return transaction


def refusal(typename: str, code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"__typename": typename, "code": code, "message": message, "retryable": False, **more}


def exceeds(refundable: str, required: str) -> dict[str, Any]:
    return refusal(
        "RefundExceedsOriginal",
        "REFUND_EXCEEDS_ORIGINAL",
        "More than is left of the transaction",
        alreadyProcessed=False,
        refundable=refundable,
        required=required,
    )


def not_refundable(transaction: str, type_: str) -> dict[str, Any]:
    return refusal(
        "NotRefundable",
        "NOT_REFUNDABLE",
        "The transaction cannot be reversed so",
        alreadyProcessed=False,
        transaction={"id": transaction, "type": type_},
    )


def now(owner: str, amount: str, held: int = 0) -> dict[str, Any]:
    """Return the wallet and the balance as every payload shows them."""
    available = f"{int(amount) - held}" if held else amount
    balance = {"amount": amount, "available": available, "held": f"{held}", "lapsed": "0", "debt": "0"}
    return {"wallet": {"ownerId": owner}, "balance": balance}


def shown(transaction: dict[str, Any], asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a refund or a clawback against the treasury as it must be shown, but for what is given."""
    assert TIME.fullmatch(transaction["executedAt"])
    assert UUID(transaction["transactionId"]).version == 7
    is_refund = more["type"] == "REFUND"
    sides = (("USER", "CREDIT"), ("TREASURY", "DEBIT")) if is_refund else (("USER", "DEBIT"), ("TREASURY", "CREDIT"))
    return {
        "__typename": "Transaction",
        "id": transaction["id"],
        "transactionId": transaction["transactionId"],
        "direction": sides[0][1],
        "description": asked["description"],
        "reference": None,
        "metadata": None,
        "executedAt": transaction["executedAt"],
        "idempotencyKey": asked["idempotencyKey"],
        "transferId": None,
        "counterpartyId": None,
        "hold": None,
        "asset": {"code": "GOLD"},
        "entries": [{"account": kind, "direction": way, "amount": more["amount"]} for kind, way in sides],
        "refundable": None,
        "refunds": [],
        **more,
    }


def of(original: str, type_: str, refundable: str, *reversing: dict[str, Any]) -> dict[str, Any]:
    """Return an original as what reverses it shows it: with all that does, the newest first."""
    refunds = [{name: each[name] for name in ("id", "type", "amount")} for each in reversing]
    return {"id": original, "type": type_, "refundable": refundable, "refunds": refunds}


async def test_a_refund_shows_every_field(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    spend = await posted(ledger, "spend", owner, 60)
    texts = {"description": "Out of stock", "reference": "ticket-7", "metadata": {"agent": "iris"}}
    asked = given(spend, amount="25", **texts)
    result = await ask_and_replay(client, "refund", asked)
    transaction = result["transaction"]
    assert result == {
        "__typename": "RefundPayload",
        "alreadyProcessed": False,
        "transaction": shown(
            transaction,
            asked,
            type="REFUND",
            amount="25",
            balanceAfter="65",
            refundOf=of(spend, "SPEND", "35", transaction),
            **texts,
        ),
        "lapsed": "0",
        "repaid": "0",
        **now(owner, "65"),
    }
    assert (await history(client, owner))[0] == transaction
    # The original tells both of them too; nothing else of it has changed.
    assert (await history(client, owner))[1]["refundable"] == "35"
    assert (await outcome(client, owner, asked)) == {
        "state": "POSTED",
        "transaction": {"id": transaction["id"], "type": "REFUND", "amount": "25"},
        "hold": None,
        "refusal": None,
    }


async def test_refunds_in_parts_and_the_last_takes_all_that_is_left(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    await posted(ledger, "top_up", owner, "10.00", asset_code="POINTS")
    spend = await posted(ledger, "spend", owner, "7.50", asset_code="POINTS")
    parts = [given(spend, amount="2.5"), given(spend, amount="0.01"), given(spend)]
    transactions: list[dict[str, Any]] = []
    for asked, amount, balance, left in zip(
        parts, ("2.50", "0.01", "4.99"), ("5.00", "5.01", "10.00"), ("5.00", "4.99", "0.00"), strict=True
    ):
        result = await ask_and_replay(client, "refund", asked)
        transaction = result["transaction"]
        transactions.insert(0, transaction)
        assert (transaction["type"], transaction["amount"], transaction["balanceAfter"]) == ("REFUND", amount, balance)
        assert transaction["refundOf"] == of(spend, "SPEND", left, *transactions)
        assert (result["balance"]["amount"], result["lapsed"], result["repaid"]) == (balance, "0.00", "0.00")
    assert await kept(client, ledger, owner, "refund", given(spend)) == exceeds("0.00", "7.50")
    assert await kept(client, ledger, owner, "refund", given(spend, amount="0.01")) == exceeds("0.00", "0.01")
    # A late retry tells the first one as it was, and the rest as it is now.
    again = await ask(client, "refund", parts[0])
    last = of(spend, "SPEND", "0.00", *transactions)
    assert again["transaction"] == {**transactions[2], "refundOf": last}
    assert (again["balance"]["amount"], again["alreadyProcessed"]) == ("10.00", True)


async def test_refund_of_one_more_than_is_left(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    spend = await posted(ledger, "spend", owner, 60)
    assert await kept(client, ledger, owner, "refund", given(spend, amount=61)) == exceeds("60", "61")
    assert (await ask(client, "refund", given(spend, amount=59)))["balance"]["amount"] == "99"
    above = given(spend, amount=2)
    assert await kept(client, ledger, owner, "refund", above) == exceeds("1", "2")
    assert (await ask(client, "refund", given(spend, amount=1)))["balance"]["amount"] == "100"
    # It was refused for good, with what was left then.
    assert await ask(client, "refund", above) == {**exceeds("1", "2"), "alreadyProcessed": True}


async def test_a_capture_is_given_back(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = await place(client, owner, 60)
    capture = (await change(client, "captureHold", hold, amount=20, keepRemainder=True))["transaction"]["id"]
    result = await ask_and_replay(client, "refund", given(capture, amount=5))
    assert result["transaction"]["refundOf"] == of(capture, "CAPTURE", "15", result["transaction"])
    assert {name: result[name] for name in ("wallet", "balance")} == now(owner, "85", held=40)
    # What the hold still promises is not given back with it: the capture took 20 of it.
    assert await kept(client, ledger, owner, "refund", given(capture, amount=16)) == exceeds("15", "16")


@pytest.mark.parametrize(("verb", "type_"), [("top_up", "TOP_UP"), ("bonus", "BONUS")])
async def test_a_clawback_shows_every_field(client: httpx.AsyncClient, ledger: Ledger, verb: str, type_: str) -> None:
    owner = await new_owner(ledger, gold=10)
    credit = await posted(ledger, verb, owner, 100)
    texts = {"description": "Chargeback", "reference": "case-1", "metadata": {"bank": "b"}}
    asked = given(credit, amount="40", **texts)
    result = await ask_and_replay(client, "clawback", asked)
    transaction = result["clawback"]
    assert result == {
        "__typename": "ClawbackPayload",
        "alreadyProcessed": False,
        "clawback": shown(
            transaction,
            asked,
            type="CLAWBACK",
            amount="40",
            balanceAfter="70",
            refundOf=of(credit, type_, "60", transaction),
            **texts,
        ),
        "taken": "40",
        "indebted": "0",
        "forgone": "0",
        **now(owner, "70"),
    }
    assert (await history(client, owner))[0] == transaction
    assert (await outcome(client, owner, asked)) == {
        "state": "POSTED",
        "transaction": {"id": transaction["id"], "type": "CLAWBACK", "amount": "40"},
        "hold": None,
        "refusal": None,
    }
    assert await kept(client, ledger, owner, "clawback", given(credit, amount=61)) == exceeds("60", "61")
    rest = await ask_and_replay(client, "clawback", given(credit))
    assert (rest["taken"], rest["forgone"], rest["balance"]["amount"]) == ("60", "0", "10")
    assert rest["clawback"]["refundOf"] == of(credit, type_, "0", rest["clawback"], transaction)
    assert await kept(client, ledger, owner, "clawback", given(credit)) == exceeds("0", "100")


async def test_a_clawback_of_more_than_is_available_is_refused(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    top_up = await posted(ledger, "top_up", owner, 100)
    await place(client, owner, 30)
    await posted(ledger, "spend", owner, 20)
    assert await kept(client, ledger, owner, "clawback", given(top_up, amount=51)) == refusal(
        "InsufficientBalance",
        "INSUFFICIENT_BALANCE",
        "Insufficient balance",
        alreadyProcessed=False,
        available="50",
        required="51",
        balance={"ownerId": owner, "amount": "80", "available": "50", "held": "30"},
    )
    whole = await kept(client, ledger, owner, "clawback", given(top_up, onShortfall="REFUSE"))
    assert (whole["available"], whole["required"]) == ("50", "100")
    result = await ask_and_replay(client, "clawback", given(top_up, amount=50))
    assert (result["taken"], result["forgone"], result["clawback"]["balanceAfter"]) == ("50", "0", "30")
    assert {name: result[name] for name in ("wallet", "balance")} == now(owner, "30", held=30)


async def test_a_clawback_takes_what_is_available_and_forgoes_the_rest(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    owner = await new_owner(ledger)
    top_up = await posted(ledger, "top_up", owner, 100)
    await place(client, owner, 30)
    await posted(ledger, "spend", owner, 50)
    fits, named, whole = (
        given(top_up, onShortfall="AVAILABLE", **more) for more in ({"amount": 5}, {"amount": 40}, {})
    )
    result = await ask_and_replay(client, "clawback", fits)
    assert (result["taken"], result["forgone"], result["indebted"]) == ("5", "0", "0")
    result = await ask_and_replay(client, "clawback", named)
    assert (result["taken"], result["forgone"], result["indebted"]) == ("15", "25", "0")
    assert {name: result[name] for name in ("wallet", "balance")} == now(owner, "30", held=30)
    assert result["clawback"]["refundOf"]["refundable"] == "80"
    await posted(ledger, "bonus", owner, 10)
    result = await ask_and_replay(client, "clawback", whole)
    # All that was left of it was 80.
    assert (result["taken"], result["forgone"], result["indebted"]) == ("10", "70", "0")
    await posted(ledger, "bonus", owner, 200)
    assert (await ask(client, "clawback", given(top_up)))["taken"] == "70"
    # Retries say what was forgone then, whatever was reversed since.
    for asked, taken, forgone in ((fits, "5", "0"), (named, "15", "25"), (whole, "10", "70")):
        again = await ask(client, "clawback", asked)
        assert (again["alreadyProcessed"], again["taken"], again["forgone"]) == (True, taken, forgone)
        assert (again["balance"]["amount"], again["clawback"]["refundOf"]["refundable"]) == ("160", "0")


@pytest.mark.parametrize("amount", [None, 40], ids=["all", "an amount"])
async def test_a_clawback_with_nothing_available(client: httpx.AsyncClient, ledger: Ledger, amount: int | None) -> None:
    owner = await new_owner(ledger)
    top_up = await posted(ledger, "top_up", owner, 100)
    await place(client, owner, 100)
    asked = given(top_up, amount=amount, onShortfall="AVAILABLE")
    before = await count_rows(ledger.settings)
    nothing = await ask_and_replay(client, "clawback", asked)
    assert nothing == {
        "__typename": "ClawbackPayload",
        "alreadyProcessed": False,
        "clawback": None,
        "taken": "0",
        "indebted": "0",
        "forgone": f"{amount or 100}",
        **now(owner, "100", held=100),
    }
    assert await count_rows(ledger.settings) == before._replace(keys=before.keys + 1)
    told = {"state": "NOTHING", "transaction": None, "hold": None, "refusal": None}
    assert await outcome(client, owner, asked) == told
    # It is not counted as a reversal, and a late retry does not take what came since.
    await posted(ledger, "bonus", owner, 7)
    again = await ask(client, "clawback", asked)
    assert again == {**nothing, "alreadyProcessed": True, **now(owner, "107", held=100)}
    assert await outcome(client, owner, asked) == told
    credit = (await history(client, owner))[1]
    assert (credit["refundable"], credit["refunds"]) == ("100", [])
    # With a new key it does.
    result = await ask(client, "clawback", {**asked, "idempotencyKey": str(uuid4())})
    assert (result["taken"], result["forgone"]) == ("7", f"{(amount or 100) - 7}")


@pytest.mark.parametrize("shards", [(0, 0), (0, 3)], ids=["same shard", "across shards"])
async def test_what_was_received_goes_back_to_its_sender(
    client: httpx.AsyncClient, ledger: Ledger, shards: tuple[int, int]
) -> None:
    sender, receiver = [await new_owner_in(ledger, shard, gold=100) for shard in shards]
    _, received = await sent(client, sender, receiver, 40)
    asked = given(received, amount=15, description="Sent by mistake", reference="case-2")
    result = await ask_and_replay(client, "clawback", asked)
    transaction = result["clawback"]
    expected = shown(
        transaction,
        asked,
        type="CLAWBACK",
        amount="15",
        balanceAfter="125",
        description="Sent by mistake",
        reference="case-2",
        transferId=transaction["transactionId"],
        counterpartyId=sender,
        refundOf=of(received, "TRANSFER_IN", "25", transaction),
        entries=[
            {"account": "USER", "direction": "DEBIT", "amount": "15"},
            {"account": "CLEARING", "direction": "CREDIT", "amount": "15"},
        ],
    )
    assert transaction == expected
    assert (result["taken"], result["forgone"], result["indebted"]) == ("15", "0", "0")
    assert {name: result[name] for name in ("wallet", "balance")} == now(receiver, "125")
    returned = (await history(client, sender))[0]
    given_back = {name: returned[name] for name in ("type", "direction", "amount", "balanceAfter", "entries")}
    assert given_back == {
        "type": "TRANSFER_IN",
        "direction": "CREDIT",
        "amount": "15",
        "balanceAfter": "75",
        "entries": [
            {"account": "USER", "direction": "CREDIT", "amount": "15"},
            {"account": "CLEARING", "direction": "DEBIT", "amount": "15"},
        ],
    }
    assert (returned["idempotencyKey"], returned["transferId"]) == (None, transaction["transactionId"])
    # It is a transfer like any other to who got it back: it has not reversed anything of the sender's.
    assert (returned["counterpartyId"], returned["refundOf"], returned["refundable"]) == (receiver, None, "15")
    posted_by_key = {"id": transaction["id"], "type": "CLAWBACK", "amount": "15"}
    assert (await outcome(client, receiver, asked))["transaction"] == posted_by_key
    assert (await outcome(client, sender, asked))["state"] == "UNKNOWN"


async def test_what_an_escrow_paid_goes_back_to_its_payer(client: httpx.AsyncClient, ledger: Ledger) -> None:
    payer, paid = await new_owner(ledger, gold=100), await new_owner(ledger)
    hold = await place(client, payer, 60, toOwnerId=paid)
    await change(client, "captureHold", hold)
    received = (await history(client, paid))[0]["id"]
    result = await ask_and_replay(client, "clawback", given(received, onShortfall="AVAILABLE"))
    assert (result["taken"], result["clawback"]["counterpartyId"], result["clawback"]["hold"]) == ("60", payer, None)
    assert (await history(client, payer))[0]["balanceAfter"] == "100"


async def test_sender_who_can_take_nothing_back(client: httpx.AsyncClient, ledger: Ledger) -> None:
    sender, receiver = await new_owner(ledger, gold=2), await new_owner(ledger)
    _, received = await sent(client, sender, receiver, 2)
    for _ in range(BALANCE_MINOR_MAX // POSTING_MINOR_MAX - 1):
        await posted(ledger, "bonus", sender, POSTING_MINOR_MAX)
    await posted(ledger, "bonus", sender, POSTING_MINOR_MAX - 1)
    full = refusal(
        "ReceiverRefused",
        "RECEIVER_REFUSED",
        "The receiver cannot take it",
        alreadyProcessed=False,
        ownerId=sender,
        cause="FULL",
    )
    asked = given(received, onShortfall="AVAILABLE")
    assert await kept(client, ledger, receiver, "clawback", asked) == full
    assert (await ask(client, "clawback", given(received, amount=1)))["taken"] == "1"
    assert await ask(client, "clawback", asked) == {**full, "alreadyProcessed": True}


async def test_types_that_are_not_reversed_so(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, other = await new_owner(ledger, gold=100), await new_owner(ledger, gold=100)
    paid = {"SPEND": await posted(ledger, "spend", owner, 5), "CAPTURE": await captured(client, owner, 5)}
    credited = {"TOP_UP": await posted(ledger, "top_up", owner, 5), "BONUS": await posted(ledger, "bonus", owner, 5)}
    never = {"TRANSFER_OUT": (await sent(client, owner, other, 5))[0]}
    credited["TRANSFER_IN"] = (await sent(client, other, owner, 5))[1]
    never["REFUND"] = (await ask(client, "refund", given(paid["SPEND"], amount=1)))["transaction"]["id"]
    never["CLAWBACK"] = (await ask(client, "clawback", given(credited["BONUS"], amount=1)))["clawback"]["id"]
    for verb, originals in (("refund", credited | never), ("clawback", paid | never)):
        for type_, id_ in originals.items():
            asked = given(id_)
            assert await kept(client, ledger, owner, verb, asked) == not_refundable(id_, type_), (verb, type_)
    # What neither reverses says so at once.
    query = "query($id: ID!) { transaction(id: $id) { refundable refunds { id } } }"
    for id_ in never.values():
        assert (await gql(client, query, id=id_))["transaction"] == {"refundable": None, "refunds": []}


@pytest.mark.parametrize(("verb", "of_verb"), [("refund", "spend"), ("clawback", "bonus")])
async def test_the_fiftieth_passes_and_no_other(
    client: httpx.AsyncClient, ledger: Ledger, verb: str, of_verb: str
) -> None:
    owner = await new_owner(ledger, gold=200)
    original = await posted(ledger, of_verb, owner, 60)
    results = await asyncio.gather(*(ask(client, verb, given(original, amount=1)) for _ in range(49)))
    assert {result["alreadyProcessed"] for result in results} == {False}
    assert (await ask(client, verb, given(original, amount=1)))["alreadyProcessed"] is False
    many = refusal(
        "TooMany",
        "TOO_MANY",
        "There are as many as there may be",
        alreadyProcessed=False,
        counted="REFUNDS",
        most=50,
    )
    assert await kept(client, ledger, owner, verb, given(original)) == many
    # What is not there is told first.
    assert await kept(client, ledger, owner, verb, given(original, amount=11)) == exceeds("10", "11")
    query = "query($id: ID!) { transaction(id: $id) { refundable refunds { id } } }"
    found = (await gql(client, query, id=original))["transaction"]
    assert (found["refundable"], len({each["id"] for each in found["refunds"]})) == ("10", 50)


async def test_a_refund_above_the_most_that_an_account_holds(
    client: httpx.AsyncClient, ledger: Ledger, server_connection: Connection
) -> None:
    owner = await new_owner(ledger, gold=100)
    spend = await posted(ledger, "spend", owner, 60)
    # More than the API posts at once, so by SQL.
    shard = shard_of(owner, ledger.shard_count)
    await insert(server_connection, await movement(server_connection, shard, owner, MINOR_MAX - 50))
    assert await kept(client, ledger, owner, "refund", given(spend, amount=11)) == refusal(
        "BalanceLimitExceeded",
        "BALANCE_LIMIT_EXCEEDED",
        "Balance limit exceeded",
        alreadyProcessed=False,
        limit=str(BALANCE_MINOR_MAX),
        balance={"ownerId": owner, "amount": str(MINOR_MAX - 10)},
    )
    assert (await ask(client, "refund", given(spend, amount=10)))["balance"]["amount"] == str(MINOR_MAX)


VERBS: Final = {"refund": "spend", "clawback": "bonus"}


@pytest.mark.parametrize("verb", VERBS)
async def test_refusals_that_are_not_kept(client: httpx.AsyncClient, ledger: Ledger, verb: str) -> None:
    owner = await new_owner(ledger)
    await posted(ledger, "top_up", owner, 100, asset_code="POINTS")
    original = await posted(ledger, VERBS[verb], owner, 60, asset_code="POINTS")
    # The scale is the original's, which is looked for after what needs no scale.
    for amount, reason, scale, message in (
        ("0", "NOT_POSITIVE", None, "Amount must be greater than zero"),
        ("-1", "NOT_POSITIVE", None, "Amount must be greater than zero"),
        ("0.001", "TOO_PRECISE", 2, "Amount has more fraction digits than the asset"),
        (f"{POSTING_MINOR_MAX // 100}.01", "TOO_LARGE", 2, "Amount is larger than one posting may move"),
    ):
        expected = refusal("InvalidAmount", "INVALID_AMOUNT", message, reason=reason, scale=scale)
        assert await refused(client, ledger, verb, given(original, amount=amount), is_kept=False) == expected
    used = given(original, amount="0.01")
    await ask(client, verb, used)
    reused = refusal(
        "IdempotencyKeyReused",
        "IDEMPOTENCY_KEY_REUSED",
        "Idempotency key was used for another request",
        idempotencyKey=used["idempotencyKey"],
    )
    another = await posted(ledger, VERBS[verb], owner, 1, asset_code="POINTS")
    others: list[dict[str, Any]] = [
        {"amount": "0.02"}, {"amount": None}, {"description": "x"}, {"reference": "x"}, {"metadata": {"a": "b"}},
        {"transactionId": another},
    ]  # fmt: skip
    if verb == "clawback":
        others.append({"onShortfall": "AVAILABLE"})
    for other in others:
        assert await refused(client, ledger, verb, {**used, **other}, is_kept=False) == reused, other
    other_verb = "clawback" if verb == "refund" else "refund"
    assert await refused(client, ledger, other_verb, used, is_kept=False) == reused
    # What differs only in its writing is the same.
    written: list[dict[str, Any]] = [{"amount": "00.01"}, {"reference": None}, {"metadata": {}}]
    for same in written:
        assert (await ask(client, verb, {**used, **same}))["alreadyProcessed"] is True, same


@pytest.mark.parametrize("verb", VERBS)
async def test_transaction_that_there_is_not(client: httpx.AsyncClient, ledger: Ledger, verb: str) -> None:
    owner = await new_owner_in(ledger, 1, gold=100)
    original = await posted(ledger, VERBS[verb], owner, 60)
    _, (shard, account, seq), _ = ids.decode(original)
    # In an account that has entries which are no transactions: where a hold was placed.
    hold = await place(client, owner, 1)
    missing = [
        f"Transaction:{shard}:{account}:{seq + 1}",
        f"Transaction:{shard}:{account}:{seq + 2}",
        f"Transaction:{shard}:{account}:0",
        f"Transaction:{shard}:{2**63 - 1}:1",
        f"Transaction:{shard + 1}:{account}:{seq}",
        f"Transaction:{2**15 - 1}:{account}:{seq}",
    ]
    for text in missing:
        id_ = ids._encode(text)
        assert await refused(client, ledger, verb, given(id_), is_kept=False) == refusal(
            "TransactionNotFound",
            "TRANSACTION_NOT_FOUND",
            "Transaction not found: send the id of a transaction as it was received",
            transactionId=id_,
        )
    await change(client, "voidHold", hold)


@pytest.mark.parametrize("verb", VERBS)
async def test_transaction_as_the_treasury_sees_it(
    client: httpx.AsyncClient, ledger: Ledger, server_connection: Connection, verb: str
) -> None:
    owner = await new_owner(ledger, gold=100)
    original = await posted(ledger, VERBS[verb], owner, 60)
    _, (shard, account, seq), _ = ids.decode(original)
    row = await server_connection.fetchrow(
        "SELECT other.account_id, other.seq FROM entry own JOIN entry other USING (shard, transaction_id)"
        " WHERE (own.shard, own.account_id, own.seq) = ($1, $2, $3) AND other.account_id <> own.account_id",
        shard, account, seq,
    )  # fmt: skip
    asked = given(ids._encode(f"Transaction:{shard}:{row[0]}:{row[1]}"))
    assert (await refused(client, ledger, verb, asked, is_kept=False))["__typename"] == "TransactionNotFound"


@pytest.mark.parametrize("verb", VERBS)
async def test_id_that_is_no_transaction_s(client: httpx.AsyncClient, ledger: Ledger, verb: str) -> None:
    not_ours = "is not one of this service's: send it exactly as it was received."
    cases = {
        "": not_ours,
        "x": not_ours,
        "x" * 201: not_ours,
        str(uuid4()): not_ours,
        ids._encode("Transaction:0:1"): not_ours,
        ids._encode("Transaction:0:1:-1"): not_ours,
        ids._encode("Transaction:0:01:1"): not_ours,
        ids._encode(f"Transaction:0:1:{2**63}"): not_ours,
        ids._encode("Transaction:40000:1:1"): not_ours,
    }
    for name in ("Asset:GOLD", "Wallet:0:1", "Balance:0:1:1", "Cursor:0:1:1:1", "Hold:0:1"):
        kind = name.split(":")[0].lower()
        cases[ids._encode(name)] = f"is the id of a {kind}: send the id of a transaction."
    before = await count_rows(ledger.settings)
    for id_, fault in cases.items():
        response = await client.post("/graphql", json={"query": DOCUMENTS[verb], "variables": {"input": given(id_)}})
        answer = response.json()
        (error,) = answer["errors"]
        assert (answer["data"], error["path"]) == ({verb: None}, [verb])
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "transactionId")
        assert error["message"] == f"transactionId {fault}"
    assert await count_rows(ledger.settings) == before


async def test_a_clawback_says_why(client: httpx.AsyncClient, ledger: Ledger) -> None:
    top_up = await posted(ledger, "top_up", await new_owner(ledger), 60)
    before = await count_rows(ledger.settings)
    for description in ("", " ", "\n\t", "\u2003", None):
        asked = given(top_up, description=description)
        response = await client.post("/graphql", json={"query": DOCUMENTS["clawback"], "variables": {"input": asked}})
        (error,) = response.json()["errors"]
        assert error["extensions"]["code"] == "BAD_USER_INPUT"
        assert "description" in error["message"]
        if description is not None:
            assert error["message"] == "description is blank: say why, for people to read."
            assert error["extensions"]["field"] == "description"
    assert await count_rows(ledger.settings) == before


async def test_key_is_the_owner_s_whose_transaction_it_is(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, other = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 2, gold=10)
    spends = [await posted(ledger, "spend", each, 5) for each in (owner, other)]
    asked = given(spends[0])
    await ask(client, "refund", asked)
    # The same key is another one with another owner.
    result = await ask_and_replay(client, "refund", {**asked, "transactionId": spends[1]})
    assert result["wallet"]["ownerId"] == other
    assert (await outcome(client, owner, asked))["transaction"]["id"] != result["transaction"]["id"]
    # But it is one for all kinds of requests of one owner.
    topped = await post(ledger, "top_up", owner, 5, UUID(asked["idempotencyKey"]))
    assert type(topped).__name__ == "KeyReused"
