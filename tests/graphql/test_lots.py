"""Lots and balances as clients see them: what lapses is gone at once, and what is held of it stays until that ends."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from uuid import uuid4

import pytest
from factories import gql, new_owner
from lots import ASSET, Player, Service, in_test_mode, service, uses

from wallet_gql.db.engine import connect
from wallet_gql.graphql.scalars import format_datetime
from wallet_gql.ledger.sweeping import read_places
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.proof import prove
from wallet_gql.operations.sweeper import sweep
from wallet_gql.settings import Settings


@pytest.fixture(scope="module")
def clocked(new_database: Callable[..., Settings]) -> Settings:
    return in_test_mode(new_database, "lots")


@pytest.fixture
async def served_lots(clocked: Settings) -> AsyncIterator[Service]:
    async with service(clocked) as served:
        yield served
    assert (await prove(clocked)).findings == []


def figures(amount: int, held: int = 0, lapsed: int = 0) -> dict[str, int]:
    return {"amount": amount, "available": amount - held, "held": held, "lapsed": lapsed}


async def test_thirty_on_friday_and_twenty_next_week(served_lots: Service) -> None:
    player = await served_lots.player()
    monday, friday, next_week = [await served_lots.in_days(days) for days in (0, 4, 9)]
    await player.do("topUp", 100)
    forever = await player.grant(5, priority=0)
    later = await player.grant(20, next_week, campaign="autumn", priority=10)
    sooner = await player.do("bonus", 30, expiresAt=format_datetime(friday))
    lots = await player.lots()
    assert [(lot["remaining"], lot["expiresAt"]) for lot in lots] == [
        ("30", format_datetime(friday)),
        ("20", format_datetime(next_week)),
        ("5", None),
    ]
    [(sooner_id, _)] = uses(sooner["transaction"])
    assert [lot["id"] for lot in lots] == [sooner_id, later, forever]
    granted_at = lots[1].pop("grantedAt")
    assert lots[1] == {
        "__typename": "Lot",
        "id": later,
        "ownerId": player.owner,
        "asset": {"code": ASSET},
        "source": "BONUS",
        "priority": 10,
        "campaign": "autumn",
        "amount": "20",
        "remaining": "20",
        "held": "0",
        "expiresAt": format_datetime(next_week),
        "expired": False,
        "origin": {"id": lots[1]["origin"]["id"], "type": "BONUS", "amount": "20", "ownerId": player.owner},
    }
    assert format_datetime(monday) <= granted_at < format_datetime(friday)
    assert lots[0]["origin"]["id"] == sooner["transaction"]["id"]
    assert lots[2]["origin"] is None
    assert await player.balance() == figures(155)


async def test_equal_bonuses_that_never_end_are_one_lot(served_lots: Service) -> None:
    player, end = await served_lots.player(), await served_lots.in_days(1)
    first = await player.grant(5, campaign="a")
    assert await player.grant(6, campaign="a") == first
    assert await player.grant(7, campaign="b") != first
    assert await player.grant(8, end) != await player.grant(9, end)
    await player.do("spend", 18)
    lot = await player.lot(first)
    assert (lot["amount"], lot["remaining"]) == ("11", "10")
    assert [lot["amount"] for lot in await player.lots()] == ["11", "7"]


async def test_what_has_lapsed_is_gone_before_it_is_booked(served_lots: Service) -> None:
    player = await served_lots.player()
    await player.do("topUp", 10)
    sooner = await player.grant(30, await served_lots.in_days(2))
    await player.grant(20, await served_lots.in_days(7))
    await player.do("spend", 4)
    assert await player.balance() == figures(56)
    await served_lots.wait(2)
    assert await player.balance() == figures(30, lapsed=26)
    assert await player.remaining() == [(20, 0)]
    assert await player.left(sooner) == (0, 0, True)
    assert len(await player.history()) == 4
    # It is booked before anything is decided.
    refused = await player.ask("spend", 31)
    assert (refused["__typename"], refused["available"]) == ("InsufficientBalance", "30")
    assert await player.balance() == figures(30)
    booked = (await player.history())[0]
    assert (booked["type"], booked["amount"], uses(booked)) == ("EXPIRY", "26", [(sooner, 26)])
    assert await player.left(sooner) == (0, 0, True)
    assert (await player.do("spend", 30))["balance"]["amount"] == "0"


async def test_a_sweep_changes_nothing_that_is_seen(served_lots: Service) -> None:
    player = await served_lots.player()
    lots = [await player.grant(30, await served_lots.in_days(1)) for _ in range(2)]
    await player.hold(40, days=9)
    places = await places_of(served_lots)
    await served_lots.wait(1)

    async def seen() -> list[Any]:
        balance = await player.balance()
        return [{**balance, "lapsed": 0}, await player.lots(), [await player.left(each) for each in lots]]

    before = await seen()
    assert await player.balance() == figures(40, held=40, lapsed=20)
    await sweep(served_lots.ledger.engine, places)
    assert await player.balance() == figures(40, held=40)
    assert await seen() == before


async def places_of(served: Service) -> Any:
    async with connect(served.ledger.engine) as connection:
        return await read_places(connection, served.ledger.shard_count)


async def test_what_is_held_outlives_its_end(served_lots: Service) -> None:
    player = await served_lots.player()
    lot = await player.grant(30, await served_lots.in_days(1))
    hold = await player.hold(20, days=3)
    assert await player.remaining() == [(30, 20)]
    await served_lots.wait(1)
    assert await player.balance() == figures(20, held=20, lapsed=10)
    assert await player.lots() == []
    assert await player.left(lot) == (20, 20, True)
    captured = await player.do("captureHold", 15, holdId=hold["id"], keepRemainder=True)
    assert uses(captured["transaction"]) == [(lot, 15)]
    assert await player.balance() == figures(5, held=5)
    assert await player.left(lot) == (5, 5, True)
    voided = await player.do("voidHold", holdId=hold["id"])
    assert voided["balance"] == {"amount": "0", "available": "0", "held": "0", "lapsed": "0"}
    assert await player.balance() == figures(0)
    assert await player.left(lot) == (0, 0, True)
    assert [(each["type"], uses(each)) for each in await player.history()] == [
        ("EXPIRY", [(lot, 5)]),
        ("CAPTURE", [(lot, 15)]),
        ("EXPIRY", [(lot, 10)]),
        ("BONUS", [(lot, 30)]),
    ]


async def test_what_holds_kept_lapses_when_they_end_booked_or_not(served_lots: Service) -> None:
    player = await served_lots.player()
    await player.do("topUp", 1)
    lot = await player.grant(30, await served_lots.in_days(1))
    await player.hold(12, days=2)
    await player.hold(10, days=4)
    for waited, seen, left in (
        (1, figures(23, held=22, lapsed=8), (22, 22, True)),
        (1, figures(11, held=10, lapsed=20), (10, 10, True)),
        (2, figures(1, lapsed=30), (0, 0, True)),
    ):
        await served_lots.wait(waited)
        assert await player.balance() == seen
        assert await player.left(lot) == left
        assert await player.lots() == []
    assert (await player.do("spend", 1))["balance"]["amount"] == "0"
    assert await player.balance() == figures(0)


async def test_what_a_hold_had_that_is_over_is_free_again(served_lots: Service) -> None:
    player = await served_lots.player()
    first = await player.grant(30, await served_lots.in_days(9))
    await player.grant(10)
    await player.hold(25, days=1)
    await player.hold(10, days=2)
    assert await player.remaining() == [(30, 30), (10, 5)]
    await served_lots.wait(1)
    assert await player.balance() == figures(40, held=10)
    assert await player.remaining() == [(30, 5), (10, 5)]
    assert await player.left(first) == (30, 5, False)


async def test_an_account_without_lots_has_none(served_lots: Service) -> None:
    player = await served_lots.player()
    assert await player.balance() == figures(0)
    assert await player.lots() == []
    top_up = await player.do("topUp", 5)
    assert top_up["transaction"]["lotUses"] == []
    assert await player.lots() == []


async def filled(served: Service, ends: list[int | None]) -> tuple[Player, list[str]]:
    """Open a wallet with a lot for each end; returns the lots in the order in which they are listed."""
    player = await served.player()
    granted = {
        n: await player.grant(n + 1, None if days is None else await served.in_days(days), campaign=f"c{n}")
        for n, days in enumerate(ends)
    }
    in_order = sorted(granted, key=lambda n: (ends[n] is None, ends[n] or 0, n))
    return player, [granted[n] for n in in_order]


async def test_pages(served_lots: Service) -> None:
    player, listed = await filled(served_lots, [5, None, 3, 9, None, 1, 7])
    found: list[str] = []
    cursor, sizes = None, []
    while True:
        page = await player.page(3, cursor)
        found += [node["id"] for node in page["nodes"]]
        sizes.append(len(page["nodes"]))
        info = page["pageInfo"]
        assert info["startCursor"] == page["edges"][0]["cursor"]
        assert info["endCursor"] == page["edges"][-1]["cursor"]
        assert info["hasPreviousPage"] is (cursor is not None)
        if not info["hasNextPage"]:
            break
        cursor = info["endCursor"]
    assert (found, sizes) == (listed, [3, 3, 1])
    assert [node["id"] for node in (await player.page())["nodes"]] == listed
    for place, edge in enumerate((await player.page())["edges"]):
        page = await player.page(2, edge["cursor"])
        assert [node["id"] for node in page["nodes"]] == listed[place + 1 : place + 3]


async def test_what_lapses_or_is_spent_between_pages_shifts_none(served_lots: Service) -> None:
    player, listed = await filled(served_lots, [1, 2, 3, 4, None])
    first = await player.page(2)
    assert [node["id"] for node in first["nodes"]] == listed[:2]
    await served_lots.wait(1)
    cursor = first["pageInfo"]["endCursor"]
    assert [node["id"] for node in (await player.page(2, cursor))["nodes"]] == listed[2:4]
    # The lot of the cursor itself is used up.
    await player.do("spend", 2)
    assert [node["id"] for node in (await player.page(2, cursor))["nodes"]] == listed[2:4]
    assert [node["id"] for node in (await player.page())["nodes"]] == listed[2:]


PAGE: Final = """query($o: String!, $a: String!, $f: Int, $c: String) {
  balance(ownerId: $o, asset: $a) { lots(first: $f, after: $c) { nodes { id } } }
}"""


async def error_of(player: Player, asset: str = ASSET, **given: Any) -> tuple[str, str]:
    answer = await player.client.post(
        "/graphql", json={"query": PAGE, "variables": {"o": player.owner, "a": asset, **given}}
    )
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    return error["extensions"]["field"], error["message"]


async def test_a_page_is_asked_for_by_good_arguments(served_lots: Service) -> None:
    (player, _), (other, _) = [await filled(served_lots, [5, None]) for _ in range(2)]
    cursors = [edge["cursor"] for edge in (await other.page())["edges"]]
    for cursor in cursors:
        assert await error_of(player, c=cursor) == (
            "after", "after is a cursor of another account: send a cursor of this wallet and asset.",
        )  # fmt: skip
    history = await gql(
        served_lots.client,
        "query($o: String!, $a: String!) { transactions(ownerId: $o, asset: $a) { edges { cursor } } }",
        o=player.owner,
        a=ASSET,
    )
    lot = (await player.page())["nodes"][0]["id"]
    for cursor in (history["transactions"]["edges"][0]["cursor"], lot):
        assert await error_of(player, c=cursor) == (
            "after", "after is not a cursor of this list: send an edge's cursor as it was received.",
        )  # fmt: skip
    for size in (0, 101):
        assert await error_of(player, f=size) == ("first", f"first is {size}: send 1 to 100.")


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        "LotCursor:0:1:1", "LotCursor:0:1:1:1:0", "LotCursor:0:1:1:1:1:1", "LotCursor:0:1:1:2147483648",
        "LotCursor:0:1:32768:1", "LotCursor:32768:1:1:1", "LotCursor:0:1:1:1:253402300800000000", "LotCursor:0:1:1:01",
        "Lot:0:1", "Lot:0:1:1:1", "Lot:32768:1:1", "Lot:0:1:2147483648", "Lot:0:9223372036854775808:1", "Lot:0:1:-1",
    ],
)  # fmt: skip
async def test_what_this_service_never_made(served_lots: Service, text: str) -> None:
    player = await served_lots.player()
    field, message = await error_of(player, c=encoded(text))
    assert (field, message.split(":")[0]) == ("after", "after is not one of this service's")
    answer = await served_lots.client.post("/graphql", json={"query": f'{{ node(id: "{encoded(text)}") {{ id }} }}'})
    assert answer.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_a_lot_that_there_is_not(served_lots: Service) -> None:
    player = await served_lots.player()
    await player.grant(1)
    for text in ("Lot:0:1:2147483647", "Lot:32767:9223372036854775807:1", "Lot:0:0:0"):
        assert await player.lot(encoded(text)) is None
    answer = await served_lots.client.post(
        "/graphql", json={"query": f'{{ node(id: "{encoded("LotCursor:0:1:1:1")}") {{ id }} }}'}
    )
    assert answer.json()["errors"][0]["message"] == "id is a cursor, not an id: send the id of a node."


async def test_lots_of_many_owners_are_read_together(served_lots: Service) -> None:
    players = [await served_lots.player() for _ in range(3)]
    ids = [await player.grant(n + 1, await served_lots.in_days(3)) for n, player in enumerate(players)]
    unknown = encoded("Lot:0:999999:1")
    text = "query($i: [ID!]!) { nodes(ids: $i) { ... on Lot { ownerId amount } } }"
    answer = await gql(served_lots.client, text, i=[*ids, unknown, ids[0]])
    owned = [{"ownerId": player.owner, "amount": str(n + 1)} for n, player in enumerate(players)]
    assert answer["nodes"] == [*owned, None, owned[0]]


async def test_an_asset_without_lots_has_empty_lists(served_lots: Service) -> None:
    code = f"COINS_{uuid4().hex[:8].upper()}"
    await add_asset(served_lots.ledger, code, "Coins", 0)
    owner = await new_owner(served_lots.ledger)
    text = """mutation($i: BonusInput!) { bonus(input: $i) { ... on BonusPayload {
      transaction { lotUses { amount } } balance { lapsed lots { nodes { id } pageInfo { hasNextPage endCursor } } }
    } } }"""
    asked = {"ownerId": owner, "asset": code, "amount": "5", "idempotencyKey": str(uuid4())}
    nothing = {"nodes": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}
    assert (await gql(served_lots.client, text, i=asked))["bonus"] == {
        "transaction": {"lotUses": []},
        "balance": {"lapsed": "0", "lots": nothing},
    }
