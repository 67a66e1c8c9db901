import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallet_gql.domain.shards import SHARD_COUNT_DEFAULT, shard_of

unhurried = settings(deadline=None)


# Frozen for ever: an owner whose shard changed would have lost the wallet. Made by `b2sum -l 64`, not by this code.
@pytest.mark.parametrize(
    ("owner_id", "digest"),
    [
        ("player-1", 0x00223886C2E863A9),
        ("demo-alice", 0xEB4FC08792FEE2F7),
        ("demo-bob", 0x1B638D58E43DB94B),
        ("é", 0xCB1ABF8BEFF3192F),
        ("日本語", 0xF419EDD5D4267B48),
        ("🎮", 0xB457FF565904264D),
    ],
)
@pytest.mark.parametrize("shard_count", [1, 4, 64, 1000, 4096])
def test_an_owner_s_shard_never_changes(owner_id: str, digest: int, shard_count: int) -> None:
    assert shard_of(owner_id, shard_count) == digest % shard_count


@pytest.mark.parametrize(
    ("owner_id", "shard"),
    [("player-1", 41), ("demo-alice", 55), ("demo-bob", 11), ("é", 47), ("日本語", 8), ("🎮", 13)],
)
def test_an_owner_s_shard_of_the_default_count_never_changes(owner_id: str, shard: int) -> None:
    assert SHARD_COUNT_DEFAULT == 64
    assert shard_of(owner_id, SHARD_COUNT_DEFAULT) == shard


@unhurried
@given(st.text(), st.integers(1, 4096))
def test_every_owner_has_one_of_the_shards(owner_id: str, shard_count: int) -> None:
    assert 0 <= shard_of(owner_id, shard_count) < shard_count


@unhurried
@given(st.text("éüñaḍ̇ 가", min_size=1))
def test_composed_and_decomposed_spellings_share_a_shard(owner_id: str) -> None:
    shards = {shard_of(unicodedata.normalize(form, owner_id), 4096) for form in ("NFC", "NFD")}
    assert len(shards) == 1


def test_owners_spread_over_all_shards() -> None:
    counts = [0] * 64
    for n in range(64 * 100):
        counts[shard_of(f"player-{n}", 64)] += 1
    assert min(counts) > 60
    assert max(counts) < 140
