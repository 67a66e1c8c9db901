import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.text import check_owner_id, check_text, is_asset_code

unhurried = settings(deadline=None)
any_text = st.text(st.characters(exclude_categories=[]), max_size=8)


@pytest.mark.parametrize(
    "owner_id",
    ["a", "A", "player-1", "user@example.com", "auth0|5f7c", "first last", "é", "日本語", "🎮", "a" * 128, "é" * 128],
)
def test_an_owner_id_in_normal_form_is_taken_as_it_is(owner_id: str) -> None:
    assert check_owner_id(owner_id) == owner_id


@pytest.mark.parametrize(
    ("owner_id", "fault"),
    [
        ("", "has 0 characters"),
        ("a" * 129, "has 129 characters"),
        (" ", "blank"),
        (" a", "blank"),
        ("a ", "blank"),
        ("a\n", "blank"),
        ("\u00a0a", "blank"),
        ("a\u3000", "blank"),
        ("a\x00b", "control character"),
        ("a\tb", "control character"),
        ("a\nb", "control character"),
        ("a\x7fb", "control character"),
        ("a\u0080b", "control character"),
        ("a\u2028b", "control character"),
        ("a\u2029b", "control character"),
        ("a\ud800b", "control character"),
        ("\udfff", "control character"),
        ("e\u0301", "normalization form C"),
        ("\u212b", "normalization form C"),
        ("\u1112\u1161\u11ab", "normalization form C"),
    ],
)
def test_a_malformed_owner_id_is_refused_with_its_field_and_fault(owner_id: str, fault: str) -> None:
    with pytest.raises(BadUserInput, match=fault) as refusal:
        check_owner_id(owner_id)
    assert refusal.value.field == "ownerId"
    assert str(refusal.value).startswith("ownerId ")


def test_the_field_that_is_named_is_the_caller_s() -> None:
    with pytest.raises(BadUserInput, match=r"^ownerIds\[3\] has 0 characters: send 1 to 128\.$") as refusal:
        check_owner_id("", "ownerIds[3]")
    assert refusal.value.field == "ownerIds[3]"


@unhurried
@given(any_text)
def test_an_owner_id_that_is_taken_is_one_that_the_database_can_hold_and_has_one_spelling(owner_id: str) -> None:
    try:
        taken = check_owner_id(owner_id)
    except BadUserInput:
        return
    assert taken == owner_id
    assert "\x00" not in taken.encode().decode()
    assert taken == taken.strip() == unicodedata.normalize("NFC", taken)
    assert taken


@pytest.mark.parametrize("text", [None, "", " ", "a\nb", " kept ", "e\u0301", "é" * 500, "🎮" * 500, "\u2028"])
def test_a_text_is_taken_as_it_is(text: str | None) -> None:
    assert check_text(text, "description") is text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a" * 501, "has 501 characters"),
        ("é" * 501, "has 501 characters"),
        ("a\x00b", "NUL"),
        ("é\x00", "NUL"),
        ("\ud800", "lone surrogate"),
        ("a\udfffb", "lone surrogate"),
        ("\ude00\ud83d", "lone surrogate"),
    ],
)
def test_a_malformed_text_is_refused_with_its_field_and_fault(text: str, fault: str) -> None:
    with pytest.raises(BadUserInput, match=fault) as refusal:
        check_text(text, "reference")
    assert refusal.value.field == "reference"


@unhurried
@given(any_text)
def test_a_text_is_taken_exactly_when_the_database_can_hold_it(text: str) -> None:
    try:
        can_be_held = "\x00" not in text and bool(text.encode() or not text)
    except UnicodeEncodeError:
        can_be_held = False
    if can_be_held:
        assert check_text(text, "description") is text
    else:
        with pytest.raises(BadUserInput):
            check_text(text, "description")


@pytest.mark.parametrize("code", ["G", "GOLD", "GOLD_2", "A1", "A_", "A" * 32])
def test_a_code_of_capitals_digits_and_underscores_can_be_an_asset_s(code: str) -> None:
    assert is_asset_code(code)


@pytest.mark.parametrize(
    "code",
    ["", "gold", "Gold", "1G", "_G", "G-1", "G OLD", "GOLD\n", " GOLD", "GÖLD", "G\uff11", "\uff27", "A" * 33, "G\x00"],
)
def test_any_other_code_cannot(code: str) -> None:
    assert not is_asset_code(code)
