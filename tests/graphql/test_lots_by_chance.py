"""Whatever an owner did, and whenever one looks: booking what ended changes nothing that is seen, except `lapsed`."""

from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest
from lots import Player, Service, in_test_mode, service

from wallet_gql.db.engine import connect
from wallet_gql.ledger.sweeping import read_places
from wallet_gql.operations.proof import prove
from wallet_gql.operations.sweeper import sweep
from wallet_gql.settings import Settings

ROUNDS = 12


@pytest.fixture(scope="module")
def clocked(new_database: Callable[..., Settings]) -> Settings:
    return in_test_mode(new_database, "lots_by_chance")


@pytest.fixture
async def served_lots(clocked: Settings) -> AsyncIterator[Service]:
    async with service(clocked) as served:
        yield served
    assert (await prove(clocked)).findings == []


class Chance:
    """A player that does something by chance; what cannot be is refused, and that is all right."""

    def __init__(self, served: Service, player: Player, seed: int) -> None:
        self.served = served
        self.player = player
        self.random = Random(seed)  # noqa: S311 - no secret
        self.holds: list[str] = []
        self.lots: set[str] = set()
        self.spent: list[str] = []

    async def act(self) -> None:
        """Do one thing."""
        verb = self.random.choice(
            ["topUp", "bonus", "bonus", "bonus", "spend", "place", "place", "capture", "void", "refund"]
        )
        await getattr(self, verb)()

    async def topUp(self) -> None:  # noqa: N802 - as the mutation is called
        await self.player.do("topUp", self.random.randint(1, 20))

    async def bonus(self) -> None:
        days = self.random.choice([None, 1, 2, 3, 5])
        ends = None if days is None else await self.served.in_days(days)
        self.lots.add(await self.player.grant(self.random.randint(1, 30), ends, priority=self.random.choice([10, 50])))

    async def spend(self) -> None:
        answer = await self.player.ask("spend", self.random.randint(1, 25), **self.sources())
        if answer["__typename"] == "SpendPayload":
            self.spent.append(answer["transaction"]["id"])

    async def place(self) -> None:
        seconds = self.random.choice([1, 2, 4]) * 86_400
        answer = await self.player.ask("placeHold", self.random.randint(1, 25), ttlSeconds=seconds, **self.sources())
        if answer["__typename"] == "PlaceHoldPayload":
            self.holds.append(answer["hold"]["id"])

    async def capture(self) -> None:
        if self.holds:
            hold, keep = self.random.choice(self.holds), self.random.random() < 0.5
            await self.player.ask("captureHold", self.random.randint(1, 15), holdId=hold, keepRemainder=keep)

    async def void(self) -> None:
        if self.holds:
            await self.player.ask("voidHold", holdId=self.random.choice(self.holds))

    async def refund(self) -> None:
        if self.spent:
            await self.player.ask("refund", self.random.randint(1, 15), transactionId=self.random.choice(self.spent))

    def sources(self) -> dict[str, Any]:
        return self.random.choice([{}, {}, {"sources": ["PURCHASED"]}, {"sources": ["BONUS"]}])

    async def seen(self) -> list[Any]:
        """Return all that is seen of lots; what is in the list, and what is not, adds up."""
        balance, listed = await self.player.balance(), await self.player.lots()
        by_id = {id_: await self.player.left(id_) for id_ in sorted(self.lots)}
        assert {lot["id"] for lot in listed if lot["id"] in self.lots} == {
            id_ for id_, (remaining, _, is_over) in by_id.items() if remaining and not is_over
        }
        held = sum(held for _, held, _ in by_id.values())
        in_lots = sum(remaining for remaining, _, _ in by_id.values())
        assert held <= balance["held"]
        assert in_lots <= balance["amount"]
        return [{**balance, "lapsed": 0}, listed, by_id]


@pytest.mark.parametrize("seed", range(4))
async def test_booking_what_ended_changes_nothing_that_is_seen(served_lots: Service, seed: int) -> None:
    chance = Chance(served_lots, await served_lots.player(), seed)
    engine = served_lots.ledger.engine
    async with connect(engine) as connection:
        places = await read_places(connection, served_lots.ledger.shard_count)
    lapsed = booked = 0
    for _ in range(ROUNDS):
        for _ in range(5):
            await chance.act()
        await served_lots.wait(1)
        before = await chance.seen()
        lapsed += (await chance.player.balance())["lapsed"]
        booked += await sweep(engine, places)
        assert await chance.seen() == before
        assert (await chance.player.balance())["lapsed"] == 0
    assert lapsed
    assert booked
