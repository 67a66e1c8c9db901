"""Proves the books in one snapshot."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wallet_gql.db.engine import create_engine, lend
from wallet_gql.db.migrations import check_at_head
from wallet_gql.ledger.reads import read_shard_count
from wallet_gql.ledger.verify import Finding, count_entries, verify_outside, verify_shard
from wallet_gql.settings import Settings


@dataclass(frozen=True, slots=True)
class Proof:
    """What verification found; no finding is the proof."""

    shard_count: int
    entry_count: int
    findings: list[Finding]


# The service's sessions look up index entries only and end early; a proof reads everything, for as long as it takes.
_FREELY: Final = """
SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;
SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL work_mem = '64MB'
"""


async def prove(settings: Settings, on_shard: Callable[[], object] = lambda: None) -> Proof:
    """Verify every shard in one snapshot; `on_shard` is called after each."""
    engine = create_engine(settings)
    try:
        await check_at_head(engine)
        async with lend(engine) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(_FREELY)
            shard_count = await read_shard_count(connection)
            findings = [finding async for finding in verify_outside(connection, shard_count)]
            entry_count = 0
            for shard in range(shard_count):
                findings += [finding async for finding in verify_shard(connection, shard, shard_count)]
                entry_count += await count_entries(connection, shard)
                on_shard()
            return Proof(shard_count, entry_count, findings)
    finally:
        await engine.dispose()
