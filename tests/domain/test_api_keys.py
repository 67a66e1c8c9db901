"""The format of API keys: made, read, and refused with a typing error."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_gql.domain.api_keys import LENGTH, Mode, make_key, read_key


@pytest.mark.parametrize("mode", ["live", "test"])
def test_a_key_that_was_made_is_read(mode: Mode) -> None:
    text = make_key(mode)
    key = read_key(text)
    assert key is not None
    assert (key.mode, len(text)) == (mode, LENGTH)
    assert re.fullmatch(rf"wk_{mode}_{key.id}_[0-9A-Za-z]{{49}}", text)


def test_no_two_keys_are_alike() -> None:
    made = [read_key(make_key("live")) for _ in range(100)]
    assert len({key.id for key in made if key}) == len({key.hash for key in made if key}) == 100


def test_neither_secret_nor_hash_is_shown() -> None:
    key = read_key(make_key("live"))
    assert key is not None
    assert repr(key) == f"PresentedKey(id={key.id!r}, mode='live')"


@given(st.integers(0, LENGTH - 1), st.sampled_from("0aZ_ \N{LATIN SMALL LETTER E WITH ACUTE}"))
def test_one_wrong_character_is_noticed(place: int, wrong: str) -> None:
    text = make_key("live")
    other = text[:place] + wrong + text[place + 1 :]
    assert other == text or read_key(other) is None


def test_anything_else_is_no_key() -> None:
    for text in ("", "wk_live_", "Bearer", "wk_live_" + "0" * 100_000, make_key("live")[:-1], make_key("live") + "\n"):
        assert read_key(text) is None
