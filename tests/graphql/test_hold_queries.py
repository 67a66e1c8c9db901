"""Reading holds: by id, by key, in pages, from balances and from transactions; what is over is shown so at once."""

import asyncio
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from batches import PATIENCE_SECONDS, new_owner_in
from factories import gql, new_owner, new_owner_id, post
from held import BALANCE, HOLD, ask, change, fill_with_holds, given, place

from wallet_gql.domain.holds import HoldName
from wallet_gql.endpoint.limits import UNIT_BYTES
from wallet_gql.graphql import ids
from wallet_gql.operations.holds import ChangeHoldInput, void_hold
from wallet_gql.operations.opening import Ledger

PAGE: Final = "nodes { id } edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
HOLDS: Final = f"""query($o: String!, $a: String! = "GOLD", $s: HoldState, $f: Int, $c: String) {{
  holds(ownerId: $o, asset: $a, state: $s, first: $f, after: $c) {{ {PAGE} }}
}}"""
OUTCOME: Final = f"""query($o: String!, $k: UUID!) {{ outcomeByKey(ownerId: $o, idempotencyKey: $k) {{
  state transaction {{ type amount }} hold {{ {HOLD} }} refusal {{ code ... on HoldNotOpen {{ state }} }}
}} }}"""
BY_KEY: Final = "query($o: String!, $k: UUID!) { holdByKey(ownerId: $o, idempotencyKey: $k) { id state } }"


async def states_of(client: httpx.AsyncClient, owner: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await gql(client, HOLDS, o=owner, **more))["holds"]
    return found


def page_ids(page: dict[str, Any]) -> list[str]:
    assert [edge["node"] for edge in page["edges"]] == page["nodes"]
    return [node["id"] for node in page["nodes"]]


async def error_of(client: httpx.AsyncClient, query: str, **variables: Any) -> tuple[str, str, str]:
    response = await client.post("/graphql", json={"query": query, "variables": variables})
    (error,) = response.json()["errors"]
    return error["extensions"]["code"], error["extensions"]["field"], error["message"]


async def expired(client: httpx.AsyncClient, hold: dict[str, Any]) -> dict[str, Any]:
    """Wait until a hold's time is over, and return it."""
    query = f"query($i: ID!) {{ hold(id: $i) {{ {HOLD} }} }}"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found: dict[str, Any] = (await gql(client, query, i=hold["id"]))["hold"]
            if found["state"] != "OPEN":
                return found
            await asyncio.sleep(0.05)


async def of_each_state(client: httpx.AsyncClient, owner: str) -> dict[str, dict[str, Any]]:
    """Place a hold of one for each state; the oldest is the one that expires."""
    holds = {"EXPIRED": await place(client, owner, 1, ttlSeconds=1)}
    await expired(client, holds["EXPIRED"])
    for state in ("CAPTURED", "VOIDED", "OPEN"):
        holds[state] = await place(client, owner, 1)
    await change(client, "captureHold", holds["CAPTURED"])
    await change(client, "voidHold", holds["VOIDED"])
    return holds


async def test_a_hold_is_found_by_its_id(client: httpx.AsyncClient, ledger: Ledger) -> None:
    hold = await place(client, await new_owner(ledger, gold=10), 5, metadata={"a": "x"})
    for field in ("hold", "node"):
        query = f"query($i: ID!) {{ {field}(id: $i) {{ ... on Hold {{ {HOLD} }} }} }}"
        assert (await gql(client, query, i=hold["id"]))[field] == hold
        for name in (HoldName(0, uuid4()), HoldName(32_767, uuid4())):
            assert (await gql(client, query, i=ids.hold_id(name)))[field] is None
    query = "query($i: [ID!]!) { nodes(ids: $i) { ... on Hold { id remaining } } }"
    shown = {"id": hold["id"], "remaining": "5"}
    assert (await gql(client, query, i=[hold["id"]] * 2))["nodes"] == [shown] * 2


@pytest.mark.parametrize("kind", ["Asset:GOLD", "Wallet:0:1", "Balance:0:1:1", "Transaction:0:1:1", "Cursor:0:1:1:1"])
async def test_hold_is_not_asked_for_by_another_id(client: httpx.AsyncClient, kind: str) -> None:
    query = "query($i: ID!) { hold(id: $i) { id } }"
    assert await error_of(client, query, i=ids._encode(kind)) == (
        "BAD_USER_INPUT",
        "id",
        "id is not the id of a hold: send a hold's id.",
    )


async def test_holds_are_listed_newest_first_and_by_state(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    holds = await of_each_state(client, owner)
    newest_first = [hold["id"] for hold in reversed(holds.values())]
    assert page_ids(await states_of(client, owner)) == newest_first
    for state, hold in holds.items():
        assert page_ids(await states_of(client, owner, s=state)) == [hold["id"]]
    query = f"""query($o: String!) {{ balance(ownerId: $o) {{
      ofItself: holds {{ {PAGE} }} all: holds(state: null) {{ {PAGE} }} expired: holds(state: EXPIRED) {{ {PAGE} }}
    }} }}"""
    found = (await gql(client, query, o=owner))["balance"]
    assert page_ids(found["ofItself"]) == [holds["OPEN"]["id"]]
    assert page_ids(found["all"]) == newest_first
    assert page_ids(found["expired"]) == [holds["EXPIRED"]["id"]]


@pytest.mark.parametrize("state", [None, "OPEN", "VOIDED"])
async def test_pages(client: httpx.AsyncClient, ledger: Ledger, state: str | None) -> None:
    owner = await new_owner(ledger, gold=100)
    placed = [await place(client, owner, 1) for _ in range(7)]
    if state == "VOIDED":
        for hold in placed:
            await change(client, "voidHold", hold)
    await post(ledger, "spend", owner, 1)
    expected = [hold["id"] for hold in reversed(placed)]
    found: list[str] = []
    cursor, sizes = None, []
    while True:
        page = await states_of(client, owner, s=state, f=3, c=cursor)
        found += page_ids(page)
        sizes.append(len(page["nodes"]))
        info = page["pageInfo"]
        assert info["startCursor"] == page["edges"][0]["cursor"]
        assert info["endCursor"] == page["edges"][-1]["cursor"]
        assert info["hasPreviousPage"] is (cursor is not None)
        if not info["hasNextPage"]:
            break
        cursor = info["endCursor"]
    assert (found, sizes) == (expected, [3, 3, 1])
    # What is placed meanwhile does not shift the pages that follow.
    first = await states_of(client, owner, s=state, f=3)
    await place(client, owner, 1)
    second = await states_of(client, owner, s=state, f=3, c=first["pageInfo"]["endCursor"])
    assert page_ids(second) == expected[3:6]


async def test_page_in_a_state_looks_at_so_many_holds_only(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    oldest = await place(client, owner, 1)
    await change(client, "captureHold", oldest)
    for _ in range(2):
        holds = await fill_with_holds(ledger, owner, 99)
        await asyncio.gather(*(void_hold(ledger, ChangeHoldInput(each.name, "shown", uuid4())) for each in holds))
    assert page_ids(await states_of(client, owner, s="CAPTURED", f=1)) == [oldest["id"]]
    newest = [await place(client, owner, 1) for _ in range(2)]

    page = await states_of(client, owner, s="CAPTURED", f=1)

    # 200 newer ones were looked at: the list goes on, without a hold.
    assert (page["nodes"], page["pageInfo"]["hasNextPage"]) == ([], True)
    rest = await states_of(client, owner, s="CAPTURED", f=1, c=page["pageInfo"]["endCursor"])
    assert (page_ids(rest), rest["pageInfo"]["hasNextPage"]) == ([oldest["id"]], False)
    # Open ones are found by look-ups, however many were closed.
    found = await states_of(client, owner, s="OPEN", f=10)
    assert page_ids(found) == [hold["id"] for hold in reversed(newest)]


async def test_an_answer_weighs_at_most_what_its_cost_says(client: httpx.AsyncClient, ledger: Ledger) -> None:
    # A character takes six bytes where JSON escapes it.
    long, receiver = "\x01" * 500, await new_owner(ledger)
    owner = await new_owner(ledger, gold=100)
    pairs = {f"k{n}": long for n in range(8)} | {"rest": long[:70]}
    for _ in range(3):
        hold = await place(client, owner, 1, toOwnerId=receiver, description=long, reference=long, metadata=pairs)
        await change(client, "captureHold", hold)
    fields = HOLD.replace("captures { type amount }", "")  # of which it had fewer than it may have
    query = f'{{ holds(ownerId: "{owner}", first: 3) {{ nodes {{ {fields} }} }} }}'
    answer = await client.post("/graphql", json={"query": query}, headers={"x-graphql-cost": "1"})
    assert len(answer.json()["data"]["holds"]["nodes"]) == 3
    cost = answer.json()["extensions"]["cost"]["requested"]
    assert 3 * 30_000 < len(answer.content) <= cost * UNIT_BYTES + 100


async def test_a_page_has_ten_unless_it_is_said(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    for _ in range(11):
        await place(client, owner, 1)
    page = await states_of(client, owner)
    assert (len(page["nodes"]), page["pageInfo"]["hasNextPage"]) == (10, True)


async def test_lists_of_nothing(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    info = {"hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None}
    for state in (None, "OPEN", "EXPIRED"):
        for asset in ("GOLD", "DIAMOND"):
            assert await states_of(client, owner, s=state, a=asset) == {"nodes": [], "edges": [], "pageInfo": info}
    assert (await gql(client, HOLDS, o=new_owner_id()))["holds"] is None
    assert (await gql(client, HOLDS, o=owner, a="SILVER"))["holds"] is None


async def test_malformed_page_arguments(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, other = await new_owner(ledger, gold=10), await new_owner(ledger, gold=10)
    await place(client, other, 1)
    stranger = (await states_of(client, other))["edges"][0]["cursor"]
    for variables, field, message in (
        ({"f": 0}, "first", "first is 0: send 1 to 100."),
        ({"f": 101}, "first", "first is 101: send 1 to 100."),
        ({"c": "x"}, "after", "after is not one of this service's: send it exactly as it was received."),
        (
            {"c": stranger},
            "after",
            "after is a cursor of another account: send a cursor of this wallet and asset.",
        ),
    ):
        assert await error_of(client, HOLDS, o=owner, **variables) == ("BAD_USER_INPUT", field, message)


async def test_what_is_over_is_shown_so_at_once(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    stays = await place(client, owner, 5)
    hold = await place(client, owner, 60, ttlSeconds=1)
    await change(client, "captureHold", hold, amount=20, keepRemainder=True)

    found = await expired(client, hold)

    # Nobody has booked it: it was only read.
    assert found == {
        **hold,
        "state": "EXPIRED",
        "captured": "20",
        "released": "40",
        "remaining": "0",
        "closedAt": hold["heldUntil"],
        "captures": [{"type": "CAPTURE", "amount": "20"}],
    }
    query = f"query($o: String!) {{ balance(ownerId: $o) {{ {BALANCE} holds {{ nodes {{ id }} }} }} }}"
    assert (await gql(client, query, o=owner))["balance"] == {
        "amount": "80", "available": "75", "held": "5", "lapsed": "0", "debt": "0",
        "holds": {"nodes": [{"id": stays["id"]}]},
    }  # fmt: skip
    for verb, more in (("captureHold", {}), ("voidHold", {}), ("adjustHold", {"ttlSeconds": 60})):
        late = await ask(client, verb, given(holdId=hold["id"], **more))
        assert (late["__typename"], late["state"]) == ("HoldNotOpen", "EXPIRED")
        assert late["hold"] == {"id": hold["id"], "state": "EXPIRED"}
    # Now it is booked, for those requests were decided after its end; nobody sees a difference.
    assert await expired(client, hold) == found


async def test_transaction_shows_the_hold_that_it_captured(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, receiver = await new_owner_in(ledger, 0, gold=100), await new_owner_in(ledger, 1)
    hold, escrow = await place(client, owner, 10), await place(client, owner, 20, toOwnerId=receiver)
    await change(client, "captureHold", hold)
    await change(client, "captureHold", escrow)
    transfer = "mutation($i: TransferInput!) { transfer(input: $i) { __typename } }"
    sent = {"fromOwnerId": owner, "toOwnerId": receiver, "amount": 1, "idempotencyKey": str(uuid4())}
    await gql(client, transfer, i=sent)
    query = "query($o: String!) { transactions(ownerId: $o) { totalCount nodes { type hold { id state } } } }"

    async def history(of: str) -> list[tuple[str, Any]]:
        found = (await gql(client, query, o=of))["transactions"]
        assert found["totalCount"] == len(found["nodes"])
        return [(node["type"], node["hold"]) for node in found["nodes"]]

    captured, paid = [{"id": each["id"], "state": "CAPTURED"} for each in (hold, escrow)]
    assert await history(owner) == [
        ("TRANSFER_OUT", None), ("TRANSFER_OUT", paid), ("CAPTURE", captured), ("TOP_UP", None),
    ]  # fmt: skip
    assert await history(receiver) == [("TRANSFER_IN", None), ("TRANSFER_IN", paid)]


async def test_captures_are_the_owner_s_transactions_newest_first(client: httpx.AsyncClient, ledger: Ledger) -> None:
    hold = await place(client, await new_owner(ledger, gold=100), 10)
    taken = [
        (await change(client, "captureHold", hold, amount=amount, keepRemainder=True))["transaction"]["id"]
        for amount in (1, 2, 3)
    ]
    query = "query($i: ID!) { hold(id: $i) { captures { id hold { id } } } }"
    assert (await gql(client, query, i=hold["id"]))["hold"]["captures"] == [
        {"id": id_, "hold": {"id": hold["id"]}} for id_ in reversed(taken)
    ]


async def test_keys_tell_what_became_of_requests_for_holds(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, stranger = await new_owner(ledger, gold=100), await new_owner(ledger)
    hold = await place(client, owner, 10)
    adjust, capture, void, late = (given(holdId=hold["id"]) for _ in range(4))
    await ask(client, "adjustHold", adjust | {"amount": 20})
    await ask(client, "captureHold", capture | {"amount": 5, "keepRemainder": True})
    await ask(client, "voidHold", void)
    await ask(client, "voidHold", late)
    now = (await gql(client, f"query($i: ID!) {{ hold(id: $i) {{ {HOLD} }} }}", i=hold["id"]))["hold"]
    assert now["state"] == "VOIDED"
    held = {"state": "HELD", "transaction": None, "hold": now, "refusal": None}
    posted = {"state": "POSTED", "transaction": {"type": "CAPTURE", "amount": "5"}, "hold": None, "refusal": None}
    refused = {
        "state": "REFUSED", "transaction": None, "hold": None,
        "refusal": {"code": "HOLD_NOT_OPEN", "state": "VOIDED"},
    }  # fmt: skip
    unknown = {"state": "UNKNOWN", "transaction": None, "hold": None, "refusal": None}
    found = {"id": hold["id"], "state": "VOIDED"}
    for key, outcome, by_key in (
        (hold["idempotencyKey"], held, found),
        (adjust["idempotencyKey"], held, found),
        (void["idempotencyKey"], held, found),
        (capture["idempotencyKey"], posted, None),
        (late["idempotencyKey"], refused, None),
        (str(uuid4()), unknown, None),
    ):
        assert (await gql(client, OUTCOME, o=owner, k=key))["outcomeByKey"] == outcome
        assert (await gql(client, BY_KEY, o=owner, k=key))["holdByKey"] == by_key
        # The key is the owner's.
        assert (await gql(client, OUTCOME, o=stranger, k=key))["outcomeByKey"] == unknown
        assert (await gql(client, BY_KEY, o=stranger, k=key))["holdByKey"] is None
        assert (await gql(client, BY_KEY, o=new_owner_id(), k=key))["holdByKey"] is None


async def test_receiver_of_an_escrow_has_no_key_of_it(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner, receiver = await new_owner_in(ledger, 0, gold=100), await new_owner_in(ledger, 1)
    hold = await place(client, owner, 10, toOwnerId=receiver)
    captured = given(holdId=hold["id"])
    await ask(client, "captureHold", captured)
    for key in (hold["idempotencyKey"], captured["idempotencyKey"]):
        assert (await gql(client, OUTCOME, o=receiver, k=key))["outcomeByKey"]["state"] == "UNKNOWN"
    assert page_ids(await states_of(client, receiver)) == []
