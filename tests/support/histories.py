"""What can happen after a request was answered: changes of state, of policy and of time, in the order of a history.

A change is made for all scenes at once. What it finds nothing to do for, it leaves as it is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from conditions import SPECIAL
from factories import gql
from scenes import ASSET, Answer, Scene, World, last_transaction

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.money import POSTING_MINOR_MAX
from wallet_gql.operations.clock import advance_clock

DAY_SECONDS: Final = 86_400


Other: TypeAlias = tuple[str, dict[str, Any]]
"""A mutation, and what it is sent beside the key."""


@dataclass
class Answered:
    """A request, and what it was answered with first."""

    scene: Scene
    asked: dict[str, Any]
    first: Answer
    others: list[Other]
    """Requests that are not the same, and could be answered if they had a key of their own."""


Change: TypeAlias = Callable[[World, Sequence[Answered]], Awaitable[None]]


def each(change: Callable[[Answered], Awaitable[None]]) -> Change:
    """Make a change of what concerns one scene at a time."""

    async def change_all(_: World, answered: Sequence[Answered]) -> None:
        await asyncio.gather(*map(change, answered))

    return change_all


def under(policy: TransferPolicy) -> Change:
    """Set the asset's policy."""

    async def change(world: World, _: Sequence[Answered]) -> None:
        await world.allow(policy)

    return change


def days_pass(days: int) -> Change:
    """Move the clock."""

    async def change(world: World, _: Sequence[Answered]) -> None:
        await advance_clock(world.ledger, days * DAY_SECONDS)

    return change


async def nothing(_: Answered) -> None:
    """Leave everything as it is."""


async def reversed_(answered: Answered) -> None:
    """Reverse what was posted, what it reversed itself, and what the other one received."""
    world, other = answered.scene.world, answered.scene.other
    posted = (answered.first.get("transaction") or {}).get("id")
    originals = {answered.asked.get("transactionId"), posted, await last_transaction(world, other)} - {None}
    for original in originals:
        await world.do("refund", transactionId=original)
        await world.do("clawback", transactionId=original, onShortfall="AVAILABLE", description="because")


async def credited(answered: Answered) -> None:
    for owner in (answered.scene.owner, answered.scene.other):
        await answered.scene.world.give(owner, 10**10)


async def spent(answered: Answered) -> None:
    """Spend all of both, or as much as one posting can."""
    world = answered.scene.world
    for owner in (answered.scene.owner, answered.scene.other):
        query = "query($o: String!, $a: String!) { balance(ownerId: $o, asset: $a) { available } }"
        available = int((await gql(world.client, query, o=owner, a=ASSET))["balance"]["available"])
        await world.do("spend", ownerId=owner, asset=ASSET, amount=min(available, POSTING_MINOR_MAX))


async def too_many(answered: Answered) -> None:
    """Do it as often as there may be, after it was done."""
    if not answered.first["__typename"].endswith("Payload"):
        return
    condition = SPECIAL.get((answered.scene.mutation, "TooMany"))
    if condition is not None:
        await condition(answered.scene)


async def closed(answered: Answered) -> None:
    held = answered.asked.get("holdId") or (answered.first.get("hold") or {}).get("id")
    if held is not None:
        await answered.scene.world.do("voidHold", holdId=held)


def both(act: Callable[[World, str], Awaitable[object]]) -> Change:
    """Make a change of what becomes of either owner's wallet."""

    async def change(answered: Answered) -> None:
        for owner in (answered.scene.owner, answered.scene.other):
            await act(answered.scene.world, owner)

    return each(change)


async def frozen(world: World, owner: str) -> None:
    await world.freeze(owner, "ALL")


async def unfrozen(world: World, owner: str) -> None:
    await world.do("unfreezeWallet", ownerId=owner)


async def wallet_closed(world: World, owner: str) -> None:
    await world.close(owner)


async def reopened(world: World, owner: str) -> None:
    await world.do("reopenWallet", ownerId=owner)


async def limited(world: World, owner: str) -> None:
    """Let an owner move nothing more, and hold nothing more."""
    hour = {"rollingSeconds": 3600}
    for flow, window in (("IN", hour), ("OUT", hour), ("SPEND", hour), ("BALANCE", None)):
        await world.do("setLimit", ownerId=owner, asset=ASSET, flow=flow, window=window, maxAmount=1)


async def unlimited(world: World, owner: str) -> None:
    query = "query($o: String!, $a: String!) { limits(asset: $a, ownerId: $o) { id } }"
    for limit in (await gql(world.client, query, o=owner, a=ASSET))["limits"]:
        removed = await world.do("removeLimit", limitId=limit["id"])
        assert removed["rule"] == limit


async def other_full(answered: Answered) -> None:
    await answered.scene.world.fill(answered.scene.other, 0)


HISTORIES: Final[dict[str, dict[str, Change]]] = {
    "by hand": {
        "nothing": each(nothing),
        "what was moved is reversed": each(reversed_),
        "both are credited": each(credited),
        "transfers are forbidden": under(TransferPolicy.NONE),
        "there are as many as there may be": each(too_many),
        "the hold is closed": each(closed),
        "both wallets are frozen": both(frozen),
        "both wallets are unfrozen": both(unfrozen),
        # Before anybody is made full: what is forfeited ends in one stripe of the treasury.
        "both wallets are closed": both(wallet_closed),
        "both wallets are reopened": both(reopened),
        "the other one is full": each(other_full),
        "both have spent": each(spent),
        "transfers are allowed": under(TransferPolicy.ALL),
        # Last, for who is made full by SQL counts nothing.
        "both are limited": both(limited),
        "nothing is limited": both(unlimited),
    },
    "by time": {
        "nothing": each(nothing),
        "transfers are forbidden": under(TransferPolicy.NONE),
        "both have spent": each(spent),
        "the hold is over": days_pass(8),
        "both are credited": each(credited),
        "transfers are allowed": under(TransferPolicy.ALL),
        "both wallets are closed": both(wallet_closed),
        "a year has passed": days_pass(366),
        "both wallets are reopened": both(reopened),
        "the other one is full": each(other_full),
        "both are limited": both(limited),
    },
}
"""What can happen after a request was answered. Where a wallet can be in another state, a change belongs here."""
