"""Proves the armour, then the books in one snapshot."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import asyncpg
from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import close, connect, create_engine, lend
from wallet_gql.db.migrations import check_at_head
from wallet_gql.ledger.armour import find_damage
from wallet_gql.ledger.reads import read_shard_count
from wallet_gql.ledger.verify import CHECK_COUNT, Finding, count_entries, verify_outside, verify_shard
from wallet_gql.settings import Settings


@dataclass(frozen=True, slots=True)
class Proof:
    """What verification found; no finding is the proof."""

    shard_count: int
    entry_count: int
    findings: list[Finding]


# The service's sessions look up index entries only and end early; a proof reads everything, for as long as it takes.
# Its joins are by hashes: a loop, or a merge by an account alone, takes hours where a hot wallet has more rows than the
# planner believes. A statement is planned once for all shards, which two connections share already.
_FREELY: Final = """
SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = off;
SET LOCAL enable_nestloop = off; SET LOCAL enable_memoize = off; SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL enable_sort = on; SET LOCAL enable_incremental_sort = on; SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL work_mem = '64MB'
"""


# Fewer entries are read sooner than a second connection is made.
_LARGE: Final = "SELECT reltuples > 100000 FROM pg_class WHERE oid = 'entry'::regclass"


async def prove(settings: Settings, on_check: Callable[[int], object] = lambda _: None) -> Proof:
    """Verify the armour, then every shard in one snapshot; `on_check` is told after each check how many there are.

    Large books are read by two connections that share the snapshot, each taking the next shard. Findings of the armour
    come first. Where it lacks a table or a column, the rows cannot be read, and that is one of them.
    """
    # A standby is as good: what it has replayed must balance, too.
    engine = create_engine(settings, may_be_standby=True)
    try:
        await check_at_head(engine)
        async with connect(engine) as connection:
            damage = await find_damage(connection)
        try:
            proof = await _prove_rows(engine, settings.shard_count, on_check)
        except asyncpg.SyntaxOrAccessError as error:
            if not damage:
                raise
            proof = Proof(settings.shard_count, 0, [Finding("armour", None, "the rows", f"cannot be read: {error}")])
        return replace(proof, findings=damage + proof.findings)
    finally:
        await close(engine)


async def _prove_rows(engine: AsyncEngine, configured_shard_count: int, on_check: Callable[[int], object]) -> Proof:
    async with snapshot(engine) as connection:
        # Without the row of the ledger, which is a finding, the settings are the next best to ask.
        shard_count = await read_shard_count(connection) or configured_shard_count
        findings = [finding async for finding in verify_outside(connection, shard_count)]
        shards = iter(range(shard_count))

        def checked() -> None:
            on_check(shard_count * CHECK_COUNT)

        async def read(connection: Connection) -> int:
            entry_count = 0
            for shard in shards:
                findings.extend([finding async for finding in verify_shard(connection, shard, shard_count, checked)])
                entry_count += await count_entries(connection, shard)
            return entry_count

        if await connection.fetchval(_LARGE):
            name = await connection.fetchval("SELECT pg_export_snapshot()")
            async with snapshot(engine, name) as second:
                counts: Sequence[int | BaseException] = await asyncio.gather(
                    read(connection), read(second), return_exceptions=True
                )
        else:
            counts = [await read(connection)]
    failed = [count for count in counts if isinstance(count, BaseException)]
    if failed:
        raise failed[0]
    entry_count = sum(count for count in counts if isinstance(count, int))
    return Proof(shard_count, entry_count, sorted(findings, key=_place))


def _place(finding: Finding) -> tuple[bool, int]:
    """Order by shard; what is in none comes first."""
    return finding.shard is not None, finding.shard or 0


@asynccontextmanager
async def snapshot(engine: AsyncEngine, name: str | None = None) -> AsyncIterator[Connection]:
    """Lend a connection that sees a snapshot: its own, or the exported one of that name."""
    async with lend(engine) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        if name is not None:
            await connection.execute(f"SET TRANSACTION SNAPSHOT '{name}'")
        await connection.execute(_FREELY)
        yield connection
