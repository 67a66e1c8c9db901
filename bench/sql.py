"""The reference *sql*: the ledger's statements by asyncpg, without HTTP and GraphQL, in one process.

`grouped` goes through group commit, as the service does; `alone` is a transaction per posting. Prints one line of JSON.
"""

import argparse
import asyncio
import json
import random
import resource
import time
from dataclasses import asdict
from uuid import uuid4

import uvloop
from ablation import posting_alone
from books import owner_ids
from wrk import Load

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.postings import Posted, PostingRequest, TransactionType
from wallet_gql.domain.shards import shard_of
from wallet_gql.operations.opening import Post, open_ledger
from wallet_gql.settings import Settings


class Callers:
    """Callers that each post a top-up, wait for its outcome, and post the next."""

    def __init__(self, post: Post, requests: "Requests") -> None:
        """Take how to post and what."""
        self._post = post
        self._requests = requests
        self.milliseconds: list[float] = []
        self.posting_count = 0
        self.failed_count = 0

    async def run(self, count: int, seconds: float) -> None:
        """Let `count` callers post for a while."""
        self.milliseconds = []
        end = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(self._call(end))

    async def _call(self, end: float) -> None:
        while (started := time.perf_counter()) < end:
            outcome = await self._post(self._requests.make(), None)
            if isinstance(outcome, Posted) and not outcome.already_processed:
                self.posting_count += 1
            else:
                self.failed_count += 1
            if (answered := time.perf_counter()) <= end:
                self.milliseconds.append((answered - started) * 1000)


class Requests:
    """Top-ups of 1 over many wallets, each with a fresh key."""

    def __init__(self, wallet_count: int, settings: Settings, asset: Asset) -> None:
        """Take the number of wallets and the asset."""
        self._owners = owner_ids(wallet_count)
        self._shard_count = settings.shard_count
        self._asset = asset

    def make(self) -> PostingRequest:
        """Return the next."""
        owner = random.choice(self._owners)  # noqa: S311 - load, no secret
        shard = shard_of(owner, self._shard_count)
        return PostingRequest(shard, owner, TransactionType.TOP_UP, self._asset, 1, uuid4())


async def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Warm up, measure a window, and return a `Load`'s fields and the CPU seconds of the window."""
    settings = Settings()
    async with open_ledger(settings) as ledger:
        post = ledger.post if arguments.mode == "grouped" else posting_alone(ledger)
        callers = Callers(post, Requests(arguments.wallets, settings, ledger.assets["GOLD"]))
        await callers.run(arguments.callers, arguments.warmup)
        warm, cpu = callers.posting_count, time.process_time()
        await callers.run(arguments.callers, arguments.window)
        cpu = time.process_time() - cpu
    times = sorted(callers.milliseconds)
    load = Load(
        requests=callers.posting_count + callers.failed_count,
        postings=callers.posting_count,
        rate=len(times) / arguments.window,
        p50_ms=times[len(times) // 2],
        p95_ms=times[len(times) * 95 // 100],
        p99_ms=times[len(times) * 99 // 100],
        max_ms=times[-1],
        failed=callers.failed_count,
    )
    return {
        "load": asdict(load),
        "cpu_us": cpu * 1e6 / (callers.posting_count - warm),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["grouped", "alone"])
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--wallets", type=int, default=10_000)
    parser.add_argument("--warmup", type=float, default=1)
    parser.add_argument("--window", type=float, default=5)
    print(json.dumps(uvloop.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
