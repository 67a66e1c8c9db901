"""The order in which refusals win: the table in docs/api.md, played for every mutation that takes a key.

Each pair of neighbours in a mutation's own list is made to hold at once, and the earlier one must be the answer. A new
refusal or mutation fails here until `support/conditions` says how it comes about, or `support/order` why it cannot.
"""

import asyncio
from itertools import pairwise

import httpx
import pytest
from conditions import CONDITIONS, SPECIAL, ask_all, label_of, receivers_of, set_up
from order import (
    EXCUSES,
    FAULT,
    NEVER,
    ROWS,
    is_excused,
    kept_by,
    keyed_mutations,
    members_of,
    neighbours,
    order_of,
    played,
)
from scenes import BASES, World
from tables import count_rows

from wallet_gql.operations.opening import Ledger

MUTATIONS = keyed_mutations()


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_the_earlier_of_two_wins(client: httpx.AsyncClient, ledger: Ledger, mutation: str) -> None:
    world = await World(client, ledger).open()
    order, kept = order_of(mutation), kept_by(mutation)
    # Alone, so that each is known to hold; and in pairs.
    at_once = [*((label,) for label in order), *played(mutation)]
    scenes = await asyncio.gather(*(set_up(world, mutation, *labels) for labels in at_once))
    before = await count_rows(ledger.settings)

    told = [label_of(answer) for answer in await ask_all(scenes)]

    assert dict(zip(at_once, told, strict=True)) == {labels: labels[0] for labels in at_once}
    keys = before.keys + sum(label in kept for label in told)
    assert await count_rows(ledger.settings) == before._replace(keys=keys)


@pytest.mark.parametrize("mutation", [each for each in MUTATIONS if "ReceiverRefused" in order_of(each)])
async def test_whatever_stops_at_the_receiver_is_told_last(
    client: httpx.AsyncClient, ledger: Ledger, mutation: str
) -> None:
    world = await World(client, ledger).open()
    before, causes = order_of(mutation)[-2], receivers_of(mutation)
    scenes = await asyncio.gather(
        *(set_up(world, mutation, *labels) for _ in causes for labels in ((), (before,))),
    )
    await asyncio.gather(*(change(scene) for change, scene in zip(causes.values(), scenes[::2], strict=True)))
    await asyncio.gather(*(change(scene) for change, scene in zip(causes.values(), scenes[1::2], strict=True)))

    answers = await ask_all(scenes)

    assert [answer["cause"] for answer in answers[::2]] == list(causes)
    assert [label_of(answer) for answer in answers[1::2]] == [before] * len(causes)


def test_every_mutation_can_be_played() -> None:
    assert BASES.keys() == set(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_refusal_can_be_made(mutation: str) -> None:
    made = {label for label in order_of(mutation) if label in CONDITIONS or (mutation, label) in SPECIAL}
    assert made == set(order_of(mutation))
    # And there is a row in the table for each of them.
    rows = {row.label: row.name for row in ROWS}
    names = {member.name for member in members_of(mutation) if not member.name.endswith("Payload")}
    never = {label for label, absence in NEVER.items() if mutation in absence.mutations}
    assert {rows[label] for label in {*order_of(mutation), *never}} - {FAULT} >= names


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_pair_is_played_or_excused(mutation: str) -> None:
    order = order_of(mutation)
    assert {pair for pair in pairwise(order) if not is_excused(mutation, *pair)} <= set(played(mutation))
    # And whatever is excused is played with another one.
    assert {label for pair in played(mutation) for label in pair} == set(order)


def test_no_excuse_is_idle() -> None:
    met = {(mutation, pair) for mutation in MUTATIONS for pair in neighbours(mutation)}
    for pair, excuse in EXCUSES.items():
        assert {mutation for mutation, each in met if each == pair} >= excuse.only
    assert EXCUSES.keys() <= {pair for _, pair in met}
    for label, absence in NEVER.items():
        (name,) = (row.name for row in ROWS if row.label == label)
        for mutation in absence.mutations:
            assert name in {member.name for member in members_of(mutation)}, (label, mutation)
