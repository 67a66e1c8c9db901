"""This code beside an earlier commit's: has a plain posting become dearer?

`python bench/against.py COMMIT [--pairs 25]`: what is committed here and there is served from two databases of one
PostgreSQL, and driven in turn, by 64 clients over 1,000 wallets. The pairs are compared: a machine that changes its
speed changes both of a pair.
"""

import argparse
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final
from uuid import uuid4

import servers
from books import Cluster, Database, cluster, owner_ids
from wrk import LoadFailed, check_installed, drive

CLIENTS: Final = 64
WALLETS: Final = 1000
FUNDS: Final = 1_000_000
KINDS: Final = ("top_up", "spend")
SECONDS: Final = 2
"""Short windows, many pairs: what disturbs a machine comes and goes."""


class Used(Database):
    """A database that is used by the code in a folder."""

    def __init__(self, cluster: Cluster, name: str, folder: Path) -> None:
        """Make and migrate it by that code."""
        super().__init__(cluster, name, shard_count=64)
        self.folder = folder
        cluster.execute(f"CREATE DATABASE {name} OWNER wallet_owner")
        self.command("migrate")
        self.command("add-asset", "GOLD", "--name", "Gold Coins", "--scale", "0")

    def environment(self) -> dict[str, str]:
        """Return what gives a command this database and this code."""
        return {**super().environment(), "PYTHONPATH": str(self.folder)}


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gave; CPU is per posting, of the server and of PostgreSQL."""

    rate: float
    server_us: float
    postgres_us: float
    p99_ms: float

    @property
    def cpu_us(self) -> float:
        """Of both together."""
        return self.server_us + self.postgres_us


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--pairs", type=int, default=25)
    arguments = parser.parse_args()
    try:
        check_installed()
        runs = _measure(arguments.commit, arguments.pairs)
    except LoadFailed as error:
        sys.exit(f"Error: {error}")
    print(f"{arguments.pairs} pairs against {arguments.commit}: median, and from least to most")
    for kind, pairs in runs.items():
        for name in ("rate", "cpu_us", "server_us", "postgres_us", "p99_ms"):
            ratios = [getattr(ours, name) / getattr(theirs, name) for theirs, ours in pairs]
            print(f"{kind:>7} {name:>11}: {median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})")


def _measure(commit: str, pair_count: int) -> dict[str, list[tuple[Run, Run]]]:
    runs: dict[str, list[tuple[Run, Run]]] = {kind: [] for kind in KINDS}
    with cluster() as own, _code(commit, own.scratch / "theirs") as theirs, _code("HEAD", own.scratch / "ours") as ours:
        databases = Used(own, "theirs", theirs), Used(own, "ours", ours)
        with _serving(databases[0]) as first, _serving(databases[1]) as second:
            sides = (first, second)
            for server in sides:
                _fund(server)
                _drive(server, own, "top_up")
            for number in range(pair_count):
                places = (0, 1) if number % 2 else (1, 0)
                found = {(place, kind): _drive(sides[place], own, kind) for place in places for kind in KINDS}
                for kind, pairs in runs.items():
                    pairs.append((found[0, kind], found[1, kind]))
    return runs


@contextmanager
def _serving(database: Used) -> Iterator[servers.Server]:
    with servers.service(database.cluster.scratch, database.environment()) as server:
        yield server


@contextmanager
def _code(commit: str, folder: Path) -> Iterator[Path]:
    """Unpack a commit's code."""
    command = ["/usr/bin/env", "git", "archive", commit, "wallet_gql", "alembic"]
    packed = subprocess.run(command, cwd=servers.HERE.parent, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    yield folder


def _fund(server: servers.Server) -> None:
    for owner in owner_ids(WALLETS):
        server.ask(
            f'mutation {{ openWallet(input: {{ownerId: "{owner}"}}) {{ __typename }} topUp(input: {{ownerId: "{owner}",'
            f' amount: "{FUNDS}", idempotencyKey: "{uuid4()}"}}) {{ __typename }} }}'
        )


def _drive(server: servers.Server, own: Cluster, kind: str) -> Run:
    before = server.cpu_seconds(), own.processes.cpu_seconds()
    load = drive(f"{server.url}/graphql", kind, clients=CLIENTS, window_seconds=SECONDS, wallets=WALLETS)
    if load.failed:
        raise LoadFailed(f"{load.failed} requests failed, the first of them: {load.first_failure}")
    after = server.cpu_seconds(), own.processes.cpu_seconds()
    server_us, postgres_us = ((now - then) * 1e6 / load.requests for then, now in zip(before, after, strict=True))
    return Run(load.rate, server_us, postgres_us, load.p99_ms)


if __name__ == "__main__":
    main()
