"""Proves the books in one snapshot, on a connection of its own whose planner may scan."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from wallet_gql.db.engine import create_engine
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


async def prove(settings: Settings, on_shard: Callable[[], object] = lambda: None) -> Proof:
    """Verify every shard in one snapshot; `on_shard` is called after each."""
    engine = create_engine(settings)
    await check_at_head(engine)
    await engine.dispose()
    url = settings.server_url().set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url, timeout=settings.connect_timeout_seconds)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            shard_count = await read_shard_count(connection)
            findings = [finding async for finding in verify_outside(connection, shard_count)]
            entry_count = 0
            for shard in range(shard_count):
                findings += [finding async for finding in verify_shard(connection, shard, shard_count)]
                entry_count += await count_entries(connection, shard)
                on_shard()
                await asyncio.sleep(0)
        return Proof(shard_count, entry_count, findings)
    finally:
        await connection.close()
