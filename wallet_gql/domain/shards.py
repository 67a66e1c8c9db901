"""Where an owner lives: one shard, for ever.

A posting touches one shard only, so shards are what lanes, treasury stripes and, later, machines divide.
"""

import unicodedata
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Final

SHARD_COUNT_DEFAULT: Final = 64


@lru_cache(maxsize=65_536)
def shard_of(owner_id: str, shard_count: int) -> int:
    """Return the shard of an owner: BLAKE2b-64 of the id as NFC UTF-8, modulo the database's shard count."""
    digest = blake2b(unicodedata.normalize("NFC", owner_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shard_count


def shard_of_receipt(receipt: str, shard_count: int) -> int:
    """Return the shard of a receipt: the first two bytes of its SHA-256, which SQL can compute too."""
    return int.from_bytes(sha256(receipt.encode()).digest()[:2], "big") % shard_count
