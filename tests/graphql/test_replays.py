"""A key's answer stays: for every mutation, whatever it can be answered with for good, and whatever happens after it.

The same request gets the same answer again, another request is told that the key is used, and `outcomeByKey` agrees.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from api import Endpoint
from batches import new_owner_in
from conditions import (
    OF_LIMITS,
    OF_WALLETS,
    Condition,
    ask_all,
    asked,
    other_closed,
    other_frozen,
    set_up,
    spent,
    with_a_hold,
)
from factories import gql
from histories import HISTORIES, Answered, Other
from order import NEVER, input_fields, is_never, kept_by, keyed_mutations, members_of
from scenes import AMOUNT, ASIDE, ASSET, FUNDS, Answer, Scene, World, first_transaction

from wallet_gql.db import migrations
from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

MUTATIONS: Final = keyed_mutations()

HELD: Final = {"placeHold", "voidHold", "adjustHold"}
"""They post nothing: what is kept is a hold."""

OUTCOME: Final = """query($o: String!, $k: UUID!) { outcomeByKey(ownerId: $o, idempotencyKey: $k) {
  state transaction { id } hold { id } refusal { __typename }
} }"""


def nothing_left(shortfall: str) -> Condition:
    async def change(scene: Scene) -> None:
        await scene.world.do("spend", ownerId=scene.owner, asset=ASSET, amount=FUNDS + AMOUNT)
        scene.change(onShortfall=shortfall)

    return change


def little_left(shortfall: str) -> Condition:
    async def change(scene: Scene) -> None:
        await spent(scene)
        scene.change(onShortfall=shortfall)

    return change


async def done_before(scene: Scene) -> None:
    """Ask for the same under another key."""
    await scene.ask(idempotencyKey=str(uuid4()))


async def empty(scene: Scene) -> None:
    await scene.world.do("spend", ownerId=scene.owner, asset=ASSET, amount=FUNDS)
    scene.change(remainder="REFUSE", toOwnerId=None)


async def forfeited(scene: Scene) -> None:
    await with_a_hold(scene)
    scene.change(remainder="FORFEIT", toOwnerId=None, voidHolds=True)


ANSWERS: Final[dict[str, dict[str, Condition]]] = {
    "transfer": {"to a frozen one": other_frozen, "to a closed one": other_closed},
    "placeHold": {"for an hour": asked(ttlSeconds=3600)},
    "captureHold": {
        "a part, the rest stays": asked(amount=10, keepRemainder=True),
        "a part": asked(amount=10),
        "to a closed one": other_closed,
    },
    "adjustHold": {"for an hour": asked(ttlSeconds=3600), "less": asked(amount=1)},
    "refund": {"a part": asked(amount=10)},
    "clawback": {
        "a part": asked(amount=10),
        "what there is": little_left("AVAILABLE"),
        "nothing": nothing_left("AVAILABLE"),
        "the rest is owed": little_left("DEBT"),
        "all is owed": nothing_left("DEBT"),
        "to a frozen one": other_frozen,
    },
    "freezeWallet": {"all of it": asked(scope="ALL"), "for a while": asked(until="2999-12-31T23:59:59Z")},
    "unfreezeWallet": {"of what is open": done_before},
    "closeWallet": {"empty": empty, "forfeited": forfeited, "to a closed one": other_closed, "again": done_before},
    "reopenWallet": {"of what is open": done_before},
    "setLimit": {
        "by count": asked(maxAmount=None, maxCount=3),
        "of a balance": asked(flow="BALANCE", window=None),
        "a day": asked(window={"calendar": {"unit": "DAY", "timeZone": "Europe/Berlin"}}),
        "again": done_before,
    },
    "removeLimit": {"again": done_before},
}
"""Other ways to be answered than as a rule, and than with what each refusal is made by."""

DIFFERENT: Final[dict[str, Any]] = {
    "amount": AMOUNT + 9,
    "description": "different",
    "reference": "different",
    "metadata": {"different": "yes"},
    "asset": ASIDE,
    "receipt": "different",
    "keepRemainder": True,
    "ttlSeconds": 77,
    "note": "different",
    "scope": "ALL",
    "until": "2998-01-01T00:00:00Z",
    "voidHolds": True,
    "flow": "BONUS",
    "window": {"rollingSeconds": 77},
    "maxAmount": AMOUNT + 9,
    "maxCount": 9,
    "enforcement": "WARN",
}
"""What makes another request of one, field by field."""


@pytest.fixture(scope="module")
def clocked(new_database: Callable[..., Settings]) -> Iterator[Settings]:
    """A database in test mode; the books are verified in the end, for nothing that is wrong in them goes away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WALLET_MODE", "test")
        settings = new_database("replays", template="template0")
        migrations.upgrade(settings.owner_url(), settings.server_role(), "head")
    settings = settings.model_copy(update={"mode": "test"})
    yield settings
    assert asyncio.run(prove(settings)).findings == []


@pytest.fixture
async def world(clocked: Settings) -> AsyncIterator[World]:
    """The service in the test's own process, in test mode."""
    async with open_ledger(clocked) as ledger:
        transport = httpx.ASGITransport(Endpoint(ledger))
        async with httpx.AsyncClient(transport=transport, base_url="http://wallet.test") as client:
            world = await World(client, ledger).open()
            yield world
            await world.allow(TransferPolicy.ALL)


def kept_answers(mutation: str) -> list[str]:
    """Name what a mutation can be answered with for good: payloads, and kept refusals."""
    return ["as a rule", *ANSWERS.get(mutation, ()), *kept_by(mutation)]


def kept_members(mutation: str) -> set[str]:
    """Return the members of the result that say whether they repeat an answer."""
    kept = {member.name for member in members_of(mutation) if "alreadyProcessed" in member.fields}
    return kept - {label for label in NEVER if is_never(mutation, label)}


async def kept_scene(world: World, mutation: str, answer: str) -> Scene:
    """Return a scene in which a mutation is answered so."""
    scene = await set_up(world, mutation, *({answer} & {*kept_by(mutation)}))
    if answer in ANSWERS.get(mutation, ()):
        await ANSWERS[mutation][answer](scene)
    scene.change(idempotencyKey=str(uuid4()))
    return scene


async def other_requests(scene: Scene) -> list[Other]:
    """Return requests that differ in one thing each from a scene's, and could be answered under a key of their own."""
    values = dict(DIFFERENT)
    fields = input_fields(scene.mutation)
    if "toOwnerId" in fields:
        values["toOwnerId"] = await new_owner_in(scene.world.ledger, 2)
    for name in ("holdId", "limitId"):
        values[name] = scene.spare
    if "transactionId" in fields:
        values["transactionId"] = await first_transaction(scene.world, scene.owner)
    if scene.asked.get("flow") == "BALANCE":
        for name in ("flow", "window", "maxCount"):
            del values[name]
    if scene.asked.get("remainder") in {"REFUSE", "FORFEIT"}:
        del values["toOwnerId"]
    if scene.asked.get("onShortfall") is None:
        values["onShortfall"] = "AVAILABLE"
    differing = {name: value for name, value in values.items() if name in fields and scene.asked.get(name) != value}
    of_another_kind = {"ownerId": scene.owner, "asset": ASIDE, "amount": 1}
    return [
        *((scene.mutation, {**scene.asked, name: value}) for name, value in differing.items()),
        ("spend" if scene.mutation == "bonus" else "bonus", of_another_kind),
    ]


async def faults_of(answered: Answered, turn: int) -> dict[str, Any]:
    """Ask for the same again, and for one of the others under the same key; returns what is answered wrongly."""
    world, key = answered.scene.world, answered.asked["idempotencyKey"]
    again = await world.do(answered.scene.mutation, **answered.asked)
    mutation, fields = answered.others[turn % len(answered.others)]
    other = await world.do(mutation, **{**fields, "idempotencyKey": key})
    faults = {} if again == {**answered.first, "alreadyProcessed": True} else {"again": again}
    return faults if other["__typename"] == "IdempotencyKeyReused" else {**faults, f"{mutation} with {fields}": other}


async def outcome_by_key(answered: Answered) -> Answer:
    """Ask what became of a key."""
    variables = {"o": answered.scene.owner, "k": answered.asked["idempotencyKey"]}
    outcome: Answer = (await gql(answered.scene.world.client, OUTCOME, **variables))["outcomeByKey"]
    return outcome


def outcome_of(mutation: str, first: Answer) -> Answer:
    """Return what `outcomeByKey` says of a key that was answered so."""
    outcome: Answer = {"state": "REFUSED", "transaction": None, "hold": None, "refusal": None}
    if not first["__typename"].endswith("Payload"):
        return {**outcome, "refusal": {"__typename": first["__typename"]}}
    if mutation in HELD:
        return {**outcome, "state": "HELD", "hold": first["hold"]}
    if mutation in OF_WALLETS or mutation in OF_LIMITS:
        return {**outcome, "state": "CHANGED"}
    posted = first.get("transaction") or first.get("refund") or first.get("clawback")
    return {**outcome, "state": "NOTHING" if posted is None else "POSTED", "transaction": posted}


async def answer_for_good(world: World, mutation: str, answers: Sequence[str]) -> list[Answered]:
    """Have a mutation answered in these ways."""
    scenes = await asyncio.gather(*(kept_scene(world, mutation, answer) for answer in answers))
    firsts = await ask_all(scenes)
    others = await asyncio.gather(*map(other_requests, scenes))
    asked = [scene.asked for scene in scenes]
    return list(map(Answered, scenes, asked, firsts, others))


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_keys_answer_stays_whatever_happens(world: World, mutation: str, history: str) -> None:
    answers = kept_answers(mutation)
    answered = await answer_for_good(world, mutation, answers)
    assert {each.first["__typename"] for each in answered} == kept_members(mutation)
    assert {each.first["alreadyProcessed"] for each in answered} == {False}
    outcomes = [outcome_of(mutation, each.first) for each in answered]
    assert await asyncio.gather(*map(outcome_by_key, answered)) == outcomes

    wrong: dict[tuple[str, str], dict[str, Any]] = {}
    for turn, (state, change) in enumerate(HISTORIES[history].items()):
        await change(world, answered)
        faults = await asyncio.gather(*(faults_of(each, turn) for each in answered))
        wrong |= {(answer, state): fault for answer, fault in zip(answers, faults, strict=True) if fault}
    # Each of the other requests had its turn.
    assert max(len(each.others) for each in answered) <= len(HISTORIES[history])

    assert wrong == {}
    assert await asyncio.gather(*map(outcome_by_key, answered)) == outcomes
