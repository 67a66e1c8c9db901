from dataclasses import replace
from hashlib import sha256
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.holds import HoldStepKind
from wallet_gql.domain.limits import (
    MOVEMENTS,
    CalendarUnit,
    Enforcement,
    LimitFlow,
    LimitRequest,
    NewLimit,
    RuleName,
    Window,
)
from wallet_gql.domain.postings import PostingRequest, Receipt, RequestKind, TransactionType, fingerprint
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.wallets import OwnerName, WalletKind, WalletStatus

GOLD = Asset(1, "GOLD", "Gold Coins", 0)
DIAMOND = Asset(2, "DIAMOND", "Diamonds", 0)

unhurried = settings(deadline=None)
# An alphabet in which texts look like the format's own lengths and signs.
texts = st.none() | st.text("0123456789:- ", max_size=6) | st.text(max_size=6)
pairs = st.dictionaries(st.sampled_from("ab1:"), st.text("12:ab ", min_size=1, max_size=4), max_size=3)
receipts = st.none() | st.text("1:a receipt", min_size=1, max_size=4)
asked = st.tuples(
    st.sampled_from(TransactionType), st.sampled_from(["GOLD", "GOLD_1", "G"]), st.integers(1, 10**15), texts, texts
)


def request(**more: object) -> PostingRequest:
    made = PostingRequest(3, "player-1", TransactionType.TOP_UP, GOLD, 100, UUID(int=7), "sword", "r-1")
    return replace(made, **more)  # type: ignore[arg-type] # each test names a field


# Frozen for ever: kept under every key. Made by `printf '1 GOLD 100 --' | sha256sum`, not by this code.
@pytest.mark.parametrize(
    ("asked", "digest"),
    [
        ((TransactionType.TOP_UP, "GOLD", 100, None, None), "6628f5b8136ce51e41fdc0cb51a5e3b6"),
        ((TransactionType.SPEND, "POINTS", 1250, "sword", "r-1"), "541999099e26aaa555d1a934f703b957"),
        ((TransactionType.BONUS, "GOLD", 1, "", "é🎮"), "c658fba06ce785275848caf36405cf5c"),
        ((TransactionType.TOP_UP, "DIAMOND", 10**15, None, "order"), "8d8dea5ec3a4ddc6843bc709500b2a92"),
    ],
)
def test_a_request_s_fingerprint_never_changes(
    asked: tuple[TransactionType, str, int, str | None, str | None], digest: str
) -> None:
    assert fingerprint(*asked).hex() == digest


BERLIN = Window(unit=CalendarUnit.DAY, time_zone="Europe/Berlin")
DAY = Window(rolling_seconds=86_400)


# Made likewise: `printf '112 GOLD 1000 -- flow 7:BALANCE' | sha256sum`.
@pytest.mark.parametrize(
    ("owner", "change", "digest"),
    [
        (
            OwnerName(3, "player-1"),
            NewLimit(LimitFlow.SPEND, BERLIN, 500, None, Enforcement.REFUSE),
            "72ad51d2c9862d224b56e0fcaa4badd1",
        ),
        (None, NewLimit(LimitFlow.IN, DAY, None, 20, Enforcement.WARN), "494f303acd0f2373bdd4ae85e37cbe9a"),
        (None, NewLimit(LimitFlow.BALANCE, None, 1000, None, Enforcement.REFUSE), "f4fa03939eb6efab4859ee7fccb4015b"),
        (OwnerName(3, "player-1"), RuleName(1, 3, 9, 2), "2c3d7ea88dc91d323ed766cbc742a51c"),
    ],
)
def test_the_fingerprint_of_a_change_of_limits_never_changes(
    owner: OwnerName | None, change: NewLimit | RuleName, digest: str
) -> None:
    assert LimitRequest(GOLD, owner, change, UUID(int=7)).fingerprint.hex() == digest


@unhurried
@given(asked, asked)
def test_two_requests_have_one_fingerprint_exactly_when_they_ask_the_same(
    one: tuple[TransactionType, str, int, str | None, str | None],
    other: tuple[TransactionType, str, int, str | None, str | None],
) -> None:
    assert (fingerprint(*one) == fingerprint(*other)) is (one == other)


@unhurried
@given(texts, texts, texts, texts)
def test_no_pair_of_texts_can_be_taken_for_another(
    description: str | None, reference: str | None, other_description: str | None, other_reference: str | None
) -> None:
    one = fingerprint(TransactionType.TOP_UP, "GOLD", 1, description, reference)
    other = fingerprint(TransactionType.TOP_UP, "GOLD", 1, other_description, other_reference)
    assert (one == other) is ((description, reference) == (other_description, other_reference))


@unhurried
@given(pairs, pairs, receipts, receipts)
def test_no_metadata_and_receipt_can_be_taken_for_others(
    one: dict[str, str], other: dict[str, str], receipt: str | None, other_receipt: str | None
) -> None:
    asked = [
        request(metadata=tuple(sorted(each.items())), receipt=None if text is None else Receipt(0, text)).fingerprint
        for each, text in ((one, receipt), (other, other_receipt))
    ]
    assert (asked[0] == asked[1]) is ((one, receipt) == (other, other_receipt))


# Frozen for ever: kept under every key.
@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"metadata": (("a", "x"), ("b", "yz"))}, "1 GOLD 100 -- metadata 13:1:a1:x1:b2:yz"),
        ({"receipt": Receipt(3, "GPA.1")}, "1 GOLD 100 -- receipt 5:GPA.1"),
        (
            {"metadata": (("a", "é🎮"),), "receipt": Receipt(0, "x")},
            "1 GOLD 100 -- metadata 7:1:a2:é🎮 receipt 1:x",
        ),
    ],
)
def test_fingerprints_of_what_came_later_never_change(more: dict[str, object], text: str) -> None:
    asked = request(description=None, reference=None, **more)
    assert asked.fingerprint == sha256(text.encode()).digest()[:16]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((None, None), ("", None)),
        ((None, None), ("", "")),
        ((None, "a"), ("a", None)),
        (("ab", "c"), ("a", "bc")),
        (("", "1:a"), ("1:a", "")),
        ((None, "-"), ("-", None)),
        (("-", None), (None, None)),
        (("a1:b", "c"), ("a", "b1:c")),
    ],
)
def test_texts_that_join_alike_are_told_apart(
    one: tuple[str | None, str | None], other: tuple[str | None, str | None]
) -> None:
    assert fingerprint(TransactionType.TOP_UP, "GOLD", 1, *one) != fingerprint(
        TransactionType.TOP_UP, "GOLD", 1, *other
    )


@pytest.mark.parametrize(
    "change",
    [
        {"type": TransactionType.BONUS},
        {"type": TransactionType.SPEND},
        {"asset": DIAMOND},
        {"amount_minor": 101},
        {"amount_minor": 1000},
        {"description": "Sword"},
        {"description": "sword "},
        {"description": ""},
        {"description": None},
        {"reference": "r-2"},
        {"reference": None},
        {"description": "r-1", "reference": "sword"},
    ],
)
def test_any_field_that_a_client_asks_for_tells_requests_apart(change: dict[str, object]) -> None:
    assert request(**change).fingerprint != request().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"transaction_id": uuid4()},
        {"idempotency_key": uuid4()},
        {"owner_id": "player-2", "shard": 0},
        {"asset": replace(GOLD, id=9, name="Renamed")},
    ],
)
def test_what_a_client_does_not_ask_for_is_not_in_the_fingerprint(change: dict[str, object]) -> None:
    assert request(**change).fingerprint == request().fingerprint


def test_each_request_gets_a_transaction_id_that_sorts_by_time() -> None:
    ids = [PostingRequest(0, "a", TransactionType.BONUS, GOLD, 1, UUID(int=1)).transaction_id for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    assert {id_.version for id_ in ids} == {7}


def test_what_an_owner_gives_lowers_the_owner_s_balance() -> None:
    assert {type_: type_.sign for type_ in TransactionType} == {
        TransactionType.TOP_UP: 1,
        TransactionType.BONUS: 1,
        TransactionType.SPEND: -1,
        TransactionType.TRANSFER_OUT: -1,
        TransactionType.TRANSFER_IN: 1,
        TransactionType.CAPTURE: -1,
        TransactionType.REFUND: 1,
        TransactionType.CLAWBACK: -1,
        TransactionType.REPAYMENT: -1,
        TransactionType.FORFEIT: -1,
        TransactionType.EXPIRY: -1,
    }


def test_numbers_that_are_stored_never_change() -> None:
    assert {kind.name: int(kind) for kind in WalletKind} == {"USER": 1, "TREASURY": 2, "CLEARING": 3, "DEBT": 4}
    assert {type_.name: int(type_) for type_ in TransactionType} == {
        "TOP_UP": 1,
        "BONUS": 2,
        "SPEND": 3,
        "TRANSFER_OUT": 4,
        "TRANSFER_IN": 5,
        "CAPTURE": 6,
        "REFUND": 7,
        "CLAWBACK": 8,
        "REPAYMENT": 9,
        "FORFEIT": 10,
        "EXPIRY": 11,
    }
    assert {kind.name: int(kind) for kind in RequestKind} == {
        "TOP_UP": 1,
        "BONUS": 2,
        "SPEND": 3,
        "TRANSFER": 101,
        "PLACE_HOLD": 102,
        "CAPTURE_HOLD": 103,
        "VOID_HOLD": 104,
        "ADJUST_HOLD": 105,
        "REFUND": 106,
        "CLAWBACK": 107,
        "FREEZE": 108,
        "UNFREEZE": 109,
        "CLOSE": 110,
        "REOPEN": 111,
        "SET_LIMIT": 112,
        "REMOVE_LIMIT": 113,
    }
    assert {status.name: int(status) for status in WalletStatus} == {
        "OPEN": 1,
        "FROZEN_OUT": 2,
        "FROZEN_ALL": 3,
        "CLOSED": 4,
    }
    assert {kind.name: int(kind) for kind in HoldStepKind} == {
        "PLACED": 51,
        "CAPTURED": 52,
        "ADJUSTED": 53,
        "VOIDED": 54,
        "EXPIRED": 55,
    }
    assert {code.name: int(code) for code in OutcomeCode} == {
        "POSTED": 1,
        "BALANCE_LIMIT_EXCEEDED": 2,
        "INSUFFICIENT_BALANCE": 3,
        "TRANSFER_FORBIDDEN": 4,
        "RECEIVER_REFUSED": 5,
        "RECEIPT_USED": 6,
        "HOLD_NOT_OPEN": 7,
        "HOLD_EXCEEDED": 8,
        "TOO_MANY": 9,
        "NOT_REFUNDABLE": 10,
        "REFUND_EXCEEDS_ORIGINAL": 11,
        "WALLET_CLOSED": 12,
        "WALLET_FROZEN": 13,
        "WALLET_NOT_EMPTY": 14,
        "INVALID_EXPIRY": 15,
        "LIMIT_EXCEEDED": 16,
        "HELD": 50,
        "NOTHING": 51,
        "CHANGED": 52,
        "LIMITS_SET": 53,
    }
    assert {flow.name: int(flow) for flow in LimitFlow} == {
        "BALANCE": 1,
        "IN": 2,
        "OUT": 3,
        "TOP_UP": 4,
        "BONUS": 5,
        "SPEND": 6,
        "TRANSFER_OUT": 7,
        "TRANSFER_IN": 8,
    }
    assert {unit.name: int(unit) for unit in CalendarUnit} == {"DAY": 1, "WEEK": 2, "MONTH": 3}
    assert {each.name: int(each) for each in Enforcement} == {"REFUSE": 1, "WARN": 2}
    # Their places in what entries count are stored, too.
    assert [type_.name for type_ in MOVEMENTS] == ["TOP_UP", "BONUS", "SPEND", "TRANSFER_OUT", "TRANSFER_IN"]
