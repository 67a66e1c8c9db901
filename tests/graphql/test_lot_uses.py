"""What transactions took from lots, and where it went back to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from factories import gql
from lots import Player, Service, in_test_mode, service, uses

from wallet_gql.graphql.scalars import format_datetime
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings


@pytest.fixture(scope="module")
def clocked(new_database: Callable[..., Settings]) -> Settings:
    return in_test_mode(new_database, "lot_uses")


@pytest.fixture
async def served_lots(clocked: Settings) -> AsyncIterator[Service]:
    async with service(clocked) as served:
        yield served
    assert (await prove(clocked)).findings == []


async def with_two_lots(served: Service) -> tuple[Player, str, str]:
    """Open a wallet with a pool of 100, a lot of 20 that ends in two days, and one of 30 that ends in five."""
    player = await served.player()
    await player.do("topUp", 100)
    later = await player.grant(30, await served.in_days(5), campaign="b")
    sooner = await player.grant(20, await served.in_days(2), campaign="a")
    return player, sooner, later


async def test_a_spend_takes_from_lots_first_and_then_from_the_pool(served_lots: Service) -> None:
    player, sooner, later = await with_two_lots(served_lots)
    spend = (await player.do("spend", 60))["transaction"]
    assert uses(spend) == [(sooner, 20), (later, 30), (None, 10)]
    ends = [each["expiresAt"] for each in spend["lotUses"]]
    assert ends == [(await player.lot(sooner))["expiresAt"], (await player.lot(later))["expiresAt"], None]
    assert uses((await player.do("topUp", 7))["transaction"]) == [(None, 7)]
    # What was posted before the first lot never says anything else.
    assert [uses(each) for each in await player.history()] == [
        [(None, 7)], [(sooner, 20), (later, 30), (None, 10)], [(sooner, 20)], [(later, 30)], [],
    ]  # fmt: skip


async def test_lots_are_spent_by_priority_then_by_end_then_by_age(served_lots: Service) -> None:
    player = await served_lots.player()
    given: list[tuple[int, float | None]] = [(50, None), (50, 3), (51, 1), (0, None), (50, 2), (100, 1), (0, 9)]
    lots = [
        await player.grant(1, None if days is None else await served_lots.in_days(days), priority=priority)
        for priority, days in given
    ]
    spent = [lot for lot, _ in uses((await player.do("spend", 7))["transaction"])]
    assert [given[lots.index(lot or "")] for lot in spent] == [
        (0, 9), (0, None), (50, 2), (50, 3), (50, None), (51, 1), (100, 1),
    ]  # fmt: skip


async def test_a_capture_takes_what_its_hold_has(served_lots: Service) -> None:
    player, sooner, later = await with_two_lots(served_lots)
    hold = await player.hold(60)
    assert await player.remaining() == [(20, 20), (30, 30)]
    newer = await player.grant(5, await served_lots.in_days(1))
    part = await player.do("captureHold", 25, holdId=hold["id"], keepRemainder=True)
    assert uses(part["transaction"]) == [(sooner, 20), (later, 5)]
    whole = await player.do("captureHold", holdId=hold["id"])
    assert uses(whole["transaction"]) == [(later, 25), (None, 10)]
    assert [lot["id"] for lot in await player.lots()] == [newer]


async def test_both_halves_of_a_transfer_say_what_moved(served_lots: Service) -> None:
    player, sooner, later = await with_two_lots(served_lots)
    receiver = await served_lots.player()
    sent = (await player.do("transfer", 35, toOwnerId=receiver.owner))["transaction"]
    assert uses(sent) == [(sooner, 20), (later, 15)]
    [received] = await receiver.history()
    assert (received["type"], [amount for _, amount in uses(received)]) == ("TRANSFER_IN", [20, 15])
    mine = [await player.lot(each) for each in (sooner, later)]
    theirs = [await receiver.lot(lot or "") for lot, _ in uses(received)]
    for own, got in zip(mine, theirs, strict=True):
        assert got["id"] != own["id"]
        assert [got[same] for same in ("expiresAt", "priority", "campaign", "source")] == [
            own[same] for same in ("expiresAt", "priority", "campaign", "source")
        ]
        assert got["origin"]["id"] == received["id"]
        assert got["ownerId"] == receiver.owner
    assert [each["expiresAt"] for each in received["lotUses"]] == [each["expiresAt"] for each in sent["lotUses"]]


async def test_a_refund_goes_back_to_where_it_came_from_last_taken_first(served_lots: Service) -> None:
    player, sooner, later = await with_two_lots(served_lots)
    spend = (await player.do("spend", 60))["transaction"]
    first = await player.do("refund", 35, transactionId=spend["id"])
    assert (uses(first["transaction"]), first["lapsed"]) == ([(later, 25), (None, 10)], "0")
    rest = await player.do("refund", transactionId=spend["id"])
    given_back = dict(uses(rest["transaction"]))
    assert (given_back, rest["lapsed"]) == ({sooner: 20, later: 5}, "0")
    assert await player.remaining() == [(20, 0), (30, 0)]
    # What was granted is what it was.
    assert [lot["amount"] for lot in await player.lots()] == ["20", "30"]


async def again(player: Player, verb: str, **asked: Any) -> dict[str, Any]:
    """Do something, and ask for it again: it is answered alike, but for the balance."""
    key = str(uuid4())
    first = await player.do(verb, **asked, idempotencyKey=key)
    same = await player.do(verb, **asked, idempotencyKey=key)
    changed = {"alreadyProcessed": True, "balance": same["balance"]}
    assert same == {**first, **changed}
    return first


async def test_what_came_from_a_lot_that_has_lapsed_lapses_again(served_lots: Service) -> None:
    player, sooner, later = await with_two_lots(served_lots)
    spend = (await player.do("spend", 60))["transaction"]
    await served_lots.wait(3)
    asked = {"transactionId": spend["id"], "idempotencyKey": str(uuid4())}
    refund = await player.do("refund", **asked)
    assert refund["lapsed"] == "20"
    assert dict(uses(refund["transaction"])) == {sooner: 20, later: 30, None: 10}
    assert refund["balance"] == {"amount": "130", "available": "130", "held": "0", "lapsed": "0"}
    assert await player.left(sooner) == (0, 0, True)
    booked = (await player.history())[0]
    assert (booked["type"], uses(booked)) == ("EXPIRY", [(sooner, 20)])
    # The rest lapses later, and was no part of it.
    await served_lots.wait(3)
    assert (await player.balance())["lapsed"] == 30
    replay = await player.do("refund", **asked)
    assert (replay["alreadyProcessed"], replay["lapsed"]) == (True, "20")
    assert (await player.balance())["lapsed"] == 0


async def test_what_lapses_later_did_not_lapse_at_once(served_lots: Service) -> None:
    player = await served_lots.player()
    lot = await player.grant(10, await served_lots.in_days(1))
    spend = (await player.do("spend", 10))["transaction"]
    refund = await again(player, "refund", transactionId=spend["id"], amount=6)
    assert (refund["lapsed"], uses(refund["transaction"])) == ("0", [(lot, 6)])
    await served_lots.wait(1)
    rest = await again(player, "refund", transactionId=spend["id"])
    assert (rest["lapsed"], uses(rest["transaction"])) == ("4", [(lot, 4)])
    assert [(each["type"], each["amount"]) for each in await player.history()][:4] == [
        ("EXPIRY", "4"), ("REFUND", "4"), ("EXPIRY", "6"), ("REFUND", "6"),
    ]  # fmt: skip


async def test_a_refund_gives_what_has_lapsed_a_new_end(served_lots: Service) -> None:
    player, sooner, later = await with_two_lots(served_lots)
    spend = (await player.do("spend", 60))["transaction"]
    await served_lots.wait(3)
    until = format_datetime(await served_lots.in_days(4))
    refund = await again(player, "refund", transactionId=spend["id"], lapsedUntil=until)
    assert refund["lapsed"] == "0"
    moved = dict(uses(refund["transaction"]))
    assert (moved.pop(later), moved.pop(None)) == (30, 10)
    [(renewed, amount)] = moved.items()
    assert renewed not in {sooner, later}
    lot = await player.lot(renewed or "")
    assert (amount, lot["expiresAt"], lot["campaign"], lot["origin"]["id"]) == (
        20, until, "a", refund["transaction"]["id"],
    )  # fmt: skip


async def test_a_refund_of_what_was_held_of_a_lapsed_lot_lapses_too(served_lots: Service) -> None:
    player = await served_lots.player()
    lot = await player.grant(10, await served_lots.in_days(1))
    hold = await player.hold(10, days=5)
    await served_lots.wait(2)
    capture = (await player.do("captureHold", 6, holdId=hold["id"], keepRemainder=True))["transaction"]
    refund = await again(player, "refund", transactionId=capture["id"])
    assert (refund["lapsed"], uses(refund["transaction"])) == ("6", [(lot, 6)])
    assert await player.left(lot) == (4, 4, True)
    assert (await player.balance())["amount"] == 4


async def test_a_clawback_takes_its_own_lot_first(served_lots: Service) -> None:
    player, sooner, later = await with_two_lots(served_lots)
    bonus = (await player.history())[1]
    assert uses(bonus) == [(later, 30)]
    clawback = await again(player, "clawback", transactionId=bonus["id"], amount=25)
    assert uses(clawback["clawback"]) == [(later, 25)]
    await player.do("spend", 22)
    assert await player.remaining() == [(3, 0)]
    rest = await again(player, "clawback", transactionId=bonus["id"], onShortfall="LOT_ONLY")
    assert (rest["taken"], rest["forgone"], uses(rest["clawback"])) == ("3", "2", [(later, 3)])
    assert await player.left(sooner) == (0, 0, False)


async def test_a_clawback_of_what_was_received_goes_back_with_its_end(served_lots: Service) -> None:
    player, sooner, later = await with_two_lots(served_lots)
    receiver = await served_lots.player()
    await player.do("transfer", 35, toOwnerId=receiver.owner)
    [received] = await receiver.history()
    ends = [each["expiresAt"] for each in received["lotUses"]]
    clawback = (await receiver.do("clawback", transactionId=received["id"]))["clawback"]
    assert uses(clawback) == uses(received)
    back = (await player.history())[0]
    assert (back["type"], [each["expiresAt"] for each in back["lotUses"]]) == ("TRANSFER_IN", ends)
    # A lot has one origin: what came back is another one.
    assert {sooner, later}.isdisjoint(lot for lot, _ in uses(back))
    assert (await player.balance())["available"] == 150


async def test_what_repays_a_debt_takes_from_lots(served_lots: Service) -> None:
    player = await served_lots.player()
    await player.do("topUp", 10)
    top_up = (await player.history())[0]
    await player.grant(1, await served_lots.in_days(1))
    await player.do("spend", 11)
    clawback = await player.do("clawback", transactionId=top_up["id"], onShortfall="DEBT")
    assert (clawback["taken"], clawback["clawback"]) == ("0", None)
    bonus = await player.do("bonus", 25, expiresAt=format_datetime(await served_lots.in_days(3)))
    [(lot, _)] = uses(bonus["transaction"])
    repayment = (await player.history())[0]
    assert (repayment["type"], uses(repayment)) == ("REPAYMENT", [(lot, 10)])
    assert await player.left(lot or "") == (15, 0, False)


CLOSE = """mutation($i: CloseWalletInput!) { closeWallet(input: $i) {
  __typename ... on WalletPayload { transactions { type amount lotUses { amount expiresAt lot { id } } } }
} }"""


@pytest.mark.parametrize("remainder", ["FORFEIT", "TRANSFER"])
async def test_closing_says_which_lots_it_emptied(served_lots: Service, remainder: str) -> None:
    player, sooner, later = await with_two_lots(served_lots)
    receiver = await served_lots.player()
    await player.hold(60)
    asked = {"ownerId": player.owner, "note": "why", "remainder": remainder, "voidHolds": True}
    asked |= {"idempotencyKey": str(uuid4())} | ({"toOwnerId": receiver.owner} if remainder == "TRANSFER" else {})
    await gql(served_lots.client, CLOSE, i=asked)
    last = (await player.history())[0]
    assert last["type"] == {"FORFEIT": "FORFEIT", "TRANSFER": "TRANSFER_OUT"}[remainder]
    assert uses(last) == [(sooner, 20), (later, 30), (None, 100)]
    assert await player.lots() == []
    assert await player.balance() == {"amount": 0, "available": 0, "held": 0, "lapsed": 0}
    if remainder == "TRANSFER":
        [received] = await receiver.history()
        assert [amount for _, amount in uses(received)] == [20, 30, 100]
        assert await receiver.remaining() == [(20, 0), (30, 0)]


async def test_a_lot_of_two_hundred_parts(served_lots: Service) -> None:
    """As many lots as there may be: one more is refused, one spend takes them all, one refund gives them back."""
    player = await served_lots.player()
    await asyncio.gather(*(player.do("bonus", 1, campaign=f"campaign {n}") for n in range(200)))
    refused = await player.ask("bonus", 1, campaign="one more")
    assert (refused["__typename"], refused["code"]) == ("TooMany", "TOO_MANY")
    assert (await player.do("bonus", 1, campaign="campaign 7"))["balance"]["amount"] == "201"
    first = await player.page(100)
    second = await player.page(100, first["pageInfo"]["endCursor"])
    assert [page["pageInfo"]["hasNextPage"] for page in (first, second)] == [True, False]
    ids = [node["id"] for page in (first, second) for node in page["nodes"]]
    assert len(set(ids)) == 200
    spend = (await player.do("spend", 201))["transaction"]
    assert [lot for lot, _ in uses(spend)] == ids
    refund = await player.do("refund", transactionId=spend["id"])
    assert dict(uses(refund["transaction"])) == dict(uses(spend))
    assert (await player.balance())["available"] == 201
