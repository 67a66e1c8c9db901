"""Metadata: what is taken, what is refused, and that it is a part of what a key was used for."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from batches import added, new_owner_in
from factories import new_owner, post
from tables import count_rows

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.holds import Hold
from wallet_gql.domain.postings import Held, KeyReused, Posted, Refused, TransactionName
from wallet_gql.operations.holds import ChangeHoldInput, PlaceHoldInput, capture_hold, place_hold
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.transfers import TransferInput, transfer

PAIRS: Final = {"level": "7", "campaign": "spring"}

# At each bound; in all 4,096 bytes; keys that Python's and the database's order must agree on.
TAKEN: Final[dict[str, dict[str, str]]] = {
    "one pair": {"a": "b"},
    "20 pairs": {f"key-{n}": str(n) for n in range(20)},
    "a key of one character": {"_": "x"},
    "a key of 40 characters": {"k" * 40: "x"},
    "every kind of character in keys": {"azAZ09_.-": "x"},
    "keys that sort by bytes only": {key: key for key in ("a", "B", "_", "-", ".", "aa", "Aa", "a.", "a_", "10", "9")},
    "a value of one character": {"a": " "},
    "a value of 500 characters": {"a": "x" * 500},
    "500 characters of four bytes": {"a": "🎮" * 500},
    "line breaks and controls": {"a": "b\n\t\x01\x7f"},
    "4,096 bytes": {f"k{n}": "x" * 500 for n in range(8)} | {"rest": "x" * (4096 - 8 * 502 - 4)},
    "4,096 bytes that JSON writes in six each": {f"k{n}": "\x01" * 500 for n in range(8)}
    | {"rest": "\x01" * (4096 - 8 * 502 - 4)},
    "what looks like a fingerprint": {"a": "1:b2:cd", "b": " metadata 3:1:a"},
}

REFUSED: Final[dict[str, tuple[dict[str, Any], str, str]]] = {
    "21 pairs": ({f"key-{n}": "x" for n in range(21)}, "metadata", "has 21 pairs: send at most 20"),
    "4,097 bytes": (
        {f"k{n}": "x" * 500 for n in range(8)} | {"rest": "x" * (4097 - 8 * 502 - 4)},
        "metadata",
        "has 4097 bytes of keys and values: send at most 4096",
    ),
    "4,100 bytes in 2,054 characters": (
        {f"k{n}": "é" * 500 for n in range(4)} | {"rest": "é" * 44},
        "metadata",
        "has 4100 bytes of keys and values: send at most 4096",
    ),
    **{
        f"the key {key!r}": (
            {key: "x"},
            "metadata",
            "has a key that is malformed: use 1 to 40 letters, digits, full stops, hyphens and _",
        )
        for key in ("", "k" * 41, "a b", "a\n", "é", "a/b", "a:b", "٣", "a\x00", "\ud800")
    },
    "an empty value": ({"a": ""}, "metadata.a", "has 0 characters: send 1 to 500"),
    "a value of 501 characters": ({"a": "x" * 501}, "metadata.a", "has 501 characters: send 1 to 500"),
    "NUL": ({"a": "x\x00"}, "metadata.a", "contains NUL: send text without U+0000"),
    "a lone surrogate": ({"a": "\ud83d"}, "metadata.a", "contains a lone surrogate: send well-formed Unicode"),
    **{
        f"the value {value!r}": ({"a": value}, "metadata.a", "is not a string: send flat pairs of strings")
        for value in (None, True, 1, 1.5, ["x"], {"b": "x"}, {})
    },
}


def cases(of: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", of)


async def metadata_of(ledger: Ledger, shard: int, id_: UUID) -> dict[str, str] | None:
    return (await ledger.reads.notes.load(TransactionName(shard, id_))).metadata


async def posted_with(ledger: Ledger, metadata: dict[str, Any]) -> dict[str, str] | None:
    """Post with metadata, and return what is read of it."""
    outcome = await post(ledger, "bonus", await new_owner(ledger), 1, metadata=metadata)
    assert isinstance(outcome, Posted)
    return await metadata_of(ledger, outcome.transaction.shard, outcome.transaction.id)


async def placed(ledger: Ledger, owner: str, **more: Any) -> Hold:
    outcome = await place_hold(ledger, PlaceHoldInput(owner, "GOLD", Decimal(10), uuid4(), **more))
    assert isinstance(outcome, Held)
    return outcome.hold


@cases(TAKEN)
async def test_what_is_within_the_bounds_is_kept_as_it_is(ledger: Ledger, case: str) -> None:
    assert await posted_with(ledger, TAKEN[case]) == TAKEN[case]


@cases(REFUSED)
async def test_what_is_not_is_refused_with_its_field(ledger: Ledger, case: str) -> None:
    metadata, field, fault = REFUSED[case]
    owner = await new_owner(ledger, gold=10)
    before = await count_rows(ledger.settings)
    with pytest.raises(BadUserInput) as refused:
        await post(ledger, "spend", owner, 1, metadata=metadata)
    assert (refused.value.field, str(refused.value)) == (field, f"{field} {fault}.")
    assert await count_rows(ledger.settings) == before


ASKED: Final[dict[str, Callable[[Ledger, str, Hold, dict[str, Any]], Awaitable[object]]]] = {
    "top_up": lambda ledger, owner, _, pairs: post(ledger, "top_up", owner, 1, metadata=pairs),
    "bonus": lambda ledger, owner, _, pairs: post(ledger, "bonus", owner, 1, metadata=pairs),
    "spend": lambda ledger, owner, _, pairs: post(ledger, "spend", owner, 1, metadata=pairs),
    "transfer": lambda ledger, owner, _, pairs: transfer(
        ledger, TransferInput(owner, "another", "GOLD", Decimal(1), uuid4(), metadata=pairs)
    ),
    "place_hold": lambda ledger, owner, _, pairs: place_hold(
        ledger, PlaceHoldInput(owner, "GOLD", Decimal(1), uuid4(), metadata=pairs)
    ),
    "capture_hold": lambda ledger, _, hold, pairs: capture_hold(
        ledger, ChangeHoldInput(hold.name, "shown", uuid4(), metadata=pairs)
    ),
}


@pytest.mark.parametrize("verb", ASKED)
async def test_every_request_that_takes_metadata_checks_it(ledger: Ledger, verb: str) -> None:
    owner = await new_owner(ledger, gold=20)
    hold = await placed(ledger, owner)
    before = await count_rows(ledger.settings)
    with pytest.raises(BadUserInput, match=r"^metadata\.a is not a string"):
        await ASKED[verb](ledger, owner, hold, {"a": 1})
    assert await count_rows(ledger.settings) == before


@pytest.mark.parametrize("verb", ["top_up", "bonus", "spend"])
async def test_an_empty_object_is_as_none(ledger: Ledger, verb: str) -> None:
    owner, key = await new_owner(ledger, gold=10), uuid4()
    before = await count_rows(ledger.settings)
    first = await post(ledger, verb, owner, 1, key)
    again = await post(ledger, verb, owner, 1, key, metadata={})
    assert isinstance(first, Posted)
    assert again == replace(first, already_processed=True)
    assert await metadata_of(ledger, first.transaction.shard, first.transaction.id) is None
    assert await count_rows(ledger.settings) == added(before, transactions=1)


async def test_the_order_of_keys_does_not_matter(ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    first = await post(ledger, "top_up", owner, 1, key, metadata=PAIRS)
    again = await post(ledger, "top_up", owner, 1, key, metadata=dict(reversed(PAIRS.items())))
    assert isinstance(first, Posted)
    assert again == replace(first, already_processed=True)


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"level": "7"},
        {**PAIRS, "level": "8"},
        {**PAIRS, "more": "x"},
        {"Level": "7", "campaign": "spring"},
        {"level": "spring", "campaign": "7"},
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["top_up", "bonus", "spend"])
async def test_other_metadata_is_another_request(ledger: Ledger, verb: str, other: dict[str, str]) -> None:
    owner, key = await new_owner(ledger, gold=10), uuid4()
    first = await post(ledger, verb, owner, 1, key, metadata=PAIRS)
    assert isinstance(first, Posted)
    before = await count_rows(ledger.settings)
    assert await post(ledger, verb, owner, 1, key, metadata=other) == KeyReused(key)
    assert await count_rows(ledger.settings) == before
    assert await metadata_of(ledger, first.transaction.shard, first.transaction.id) == PAIRS


async def test_a_refusal_is_kept_for_its_metadata_too(ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    first = await post(ledger, "spend", owner, 1, key, metadata=PAIRS)
    assert isinstance(first, Refused)
    assert await post(ledger, "spend", owner, 1, key, metadata=PAIRS) == replace(first, already_processed=True)
    assert await post(ledger, "spend", owner, 1, key) == KeyReused(key)


@pytest.mark.parametrize("shards", [(0, 0), (0, 3)], ids=["same shard", "across shards"])
async def test_both_halves_of_a_transfer_have_it(ledger: Ledger, shards: tuple[int, int]) -> None:
    sender, receiver = [await new_owner_in(ledger, shard, gold=10) for shard in shards]
    asked = TransferInput(sender, receiver, "GOLD", Decimal(1), uuid4(), metadata=PAIRS)
    outcome = await transfer(ledger, asked)
    assert isinstance(outcome, Posted)
    assert outcome.transaction.counterpart is not None
    for half in (TransactionName(outcome.transaction.shard, outcome.transaction.id), outcome.transaction.counterpart):
        assert await metadata_of(ledger, *half) == PAIRS
    assert await transfer(ledger, asked) == replace(outcome, already_processed=True)
    assert await transfer(ledger, replace(asked, metadata={})) == KeyReused(asked.idempotency_key)


@pytest.mark.parametrize("is_escrow", [False, True], ids=["for the platform", "escrow"])
async def test_a_hold_has_its_own_and_each_capture_its_own(ledger: Ledger, *, is_escrow: bool) -> None:
    owner, receiver = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 1)
    hold = await placed(ledger, owner, metadata=PAIRS, to_owner_id=receiver if is_escrow else None)
    asked = ChangeHoldInput(hold.name, "shown", uuid4(), Decimal(1), keep_remainder=True, metadata={"part": "1"})

    first = await capture_hold(ledger, asked)
    second = await capture_hold(ledger, replace(asked, idempotency_key=uuid4(), metadata={}))

    assert isinstance(first, Held)
    assert isinstance(second, Held)
    assert first.transaction is not None
    assert second.transaction is not None
    assert await metadata_of(ledger, *hold.name) == PAIRS
    assert await metadata_of(ledger, hold.shard, first.transaction.id) == {"part": "1"}
    assert await metadata_of(ledger, hold.shard, second.transaction.id) is None
    if is_escrow:
        assert first.transaction.counterpart is not None
        assert await metadata_of(ledger, *first.transaction.counterpart) == {"part": "1"}
    assert await capture_hold(ledger, replace(asked, metadata=PAIRS)) == KeyReused(asked.idempotency_key)


async def test_a_key_that_placed_a_hold_is_used_for_its_metadata(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=20)
    asked = PlaceHoldInput(owner, "GOLD", Decimal(10), uuid4(), metadata=PAIRS)
    first = await place_hold(ledger, asked)
    assert isinstance(first, Held)
    again = await place_hold(ledger, replace(asked, metadata=dict(reversed(PAIRS.items()))))
    assert isinstance(again, Held)
    assert (again.hold, again.already_processed) == (first.hold, True)
    for other in ({}, {"level": "7"}):
        assert await place_hold(ledger, replace(asked, metadata=other)) == KeyReused(asked.idempotency_key)
