"""What PostgreSQL does for a spend, counted in instructions: no noise of a machine moves them.

`python bench/instructions.py` (needs valgrind; half a minute): batches of 27 spends, which is what 64 clients come to,
are posted by this code to a server that runs under callgrind, with who asked for them and without. A session of 6
batches is subtracted from one of 26, so that what a session costs once does not count.
"""

import asyncio
import random
import re
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest import mock
from uuid import UUID

from books import Cluster, Database, Lane, Plan, fill, owner_ids

from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.access import ActorKind, AskedBy
from wallet_gql.domain.postings import TransactionType
from wallet_gql.embedded import launcher
from wallet_gql.ledger.posting import post_batch
from wallet_gql.ledger.reads import read_assets
from wallet_gql.operations.unit_of_work import unit_of_work

BATCH: Final = 27
BATCHES: Final = 6, 26
WALLETS: Final = 200
FUNDS_MINOR: Final = 1_000_000
COUNTED_WITHIN_SECONDS: Final = 60
KINDS: Final = {"without who asked": False, "with who asked": True}


def main() -> None:
    """Count and tell."""
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed. On Debian and Ubuntu: apt-get install valgrind.")
    scratch = Path(tempfile.mkdtemp(prefix="wallet-gql-bench-", dir="/var/tmp"))
    scratch.chmod(0o755)
    try:
        found = _count(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    plain = next(iter(found.values()))
    for kind, instructions in found.items():
        print(f"{kind:>20}: {instructions:9,.0f} instructions a spend, {instructions / plain:.3f} times as many")


def _count(scratch: Path) -> dict[str, float]:
    with launcher.start(scratch / "data") as server:
        database = Cluster(server, scratch).create("counted")
        fill(Plan(database, owner_ids(WALLETS), WALLETS, FUNDS_MINOR))
        database.settle()
    with mock.patch.object(launcher, "_spawn", _counting(scratch)), launcher.start(scratch / "data") as server:
        database = Database(Cluster(server, scratch), "counted", database.shard_count)
        counted: dict[tuple[str, int], list[int]] = {}
        # Tables grow meanwhile: forth and back, so that no kind has the larger ones.
        order = [(kind, count) for count in BATCHES for kind in KINDS]
        for kind, count in (*order, *reversed(order)):
            backend = asyncio.run(_post(database, count, KINDS[kind]))
            counted.setdefault((kind, count), []).append(_total(scratch / "data" / f"counted.{backend}"))
    few, many = BATCHES
    spends = (many - few) * BATCH * 2
    return {kind: (sum(counted[kind, many]) - sum(counted[kind, few])) / spends for kind in KINDS}


def _counting(scratch: Path) -> Any:
    """Return what starts a program as the launcher does, but the server under callgrind."""
    spawn, folder = launcher._spawn, scratch / "binaries"

    def start(cluster: Any, program: str, *arguments: str, **more: Any) -> Any:
        if program != "postgres":
            return spawn(cluster, program, *arguments, **more)
        folder.mkdir(exist_ok=True)
        script = folder / program
        valgrind = f"valgrind --tool=callgrind --trace-children=yes --callgrind-out-file={cluster.data_dir}/counted.%p"
        script.write_text(f'#!/bin/sh\nexec {valgrind} {cluster.binaries / program} "$@"\n')
        script.chmod(0o755)
        return spawn(replace(cluster, binaries=folder), program, *arguments, **more)

    return start


async def _post(database: Database, batch_count: int, is_noted: bool) -> int:
    """Post batches on one connection; returns the process of its backend."""
    owners, chosen = owner_ids(WALLETS), random.Random(1)  # noqa: S311 - which wallets is no secret
    engine = create_engine(database.settings())
    try:
        async with connect(engine) as connection:
            asset = next(asset for asset in await read_assets(connection) if asset.code == "GOLD")
        lane = Lane(0, owners, engine, asset, database.shard_count)
        for _ in range(batch_count):
            postings = [lane.posting(owner, TransactionType.SPEND, 1) for owner in chosen.sample(owners, BATCH)]
            if is_noted:
                postings = [replace(each, asked_by=_asker(each.transaction_id)) for each in postings]
            async with unit_of_work(engine) as connection:
                await post_batch(connection, postings, 0)
                backend: int = connection.get_server_pid()
    finally:
        await engine.dispose()
    return backend


def _asker(id_: UUID) -> AskedBy:
    """Return who asked, by a request whose id the service made: it names what was posted."""
    return AskedBy(ActorKind.API_KEY, "bench", id_.hex)


def _total(file: Path) -> int:
    """Return what callgrind counted of a process, as soon as it has ended."""
    give_up = time.monotonic() + COUNTED_WITHIN_SECONDS
    while time.monotonic() < give_up:
        text = file.read_text(errors="replace") if file.exists() else ""
        if found := re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE):
            return int(found[1])
        time.sleep(0.2)
    sys.exit(f"callgrind wrote no total to {file} within {COUNTED_WITHIN_SECONDS} s.")


if __name__ == "__main__":
    main()
