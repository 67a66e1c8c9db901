"""A session of measurements: what is measured, how one run is done, and the rows that come of it.

A run is a warm-up, a window and a check: the transactions that are new in the books must equal the success payloads,
and nothing may have failed.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from books import STATEMENTS_PER_UNIT, Cluster, Database
from servers import Server, clean_environment
from wrk import Load, LoadFailed, drive

WARM_UP_SECONDS: Final = 1.0
QUICK_SECONDS: Final = 1.0
SQL_NAME: Final = "sql, group commit"
READS: Final = {"balance", "available", "page"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to drive: `kind` is load.lua's. `baseline` names the row of the same round whose rate is 1."""

    name: str
    kind: str
    clients: int = 64
    window_seconds: float = 5
    baseline: str | None = None
    tail_seconds: float = 1.0
    options: dict[str, object] = field(default_factory=dict)
    may_fail: bool = False


@dataclass(slots=True)
class Row:
    """One run. CPU is per request; statements and log bytes are per posting; `wal_images` are its full pages."""

    name: str
    round: int
    clients: int
    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    postings: int
    failed: int
    server_cpu_us: float
    memory_mb: float
    postgres_cpu_us: float | None = None
    statements: float | None = None
    wal_bytes: float | None = None
    wal_images: float | None = None
    of_stock: float | None = None
    of_sql: float | None = None
    extra: dict[str, float] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """Return a figure by its name."""
        return self.extra[name] if name in self.extra else getattr(self, name)

    @property
    def cpu_us(self) -> float:
        """Of the server and of PostgreSQL together."""
        return self.server_cpu_us + (self.postgres_cpu_us or 0)


class Session:
    """The rows so far, and what went wrong."""

    def __init__(self, cluster: Cluster, *, quick: bool) -> None:
        """Take the cluster; `quick` is for developing: short windows, small tables, one round.

        What should cost the same is compared in `pairs`, one right after the other, for more rounds.
        """
        self.cluster = cluster
        self.quick = quick
        self.rounds = range(1, 2 if quick else 4)
        self.pairs = range(1, 2 if quick else 8)
        self.wallet_count = 1000 if quick else 10_000
        self.rows: list[Row] = []
        self.faults: list[str] = []
        self.proven: dict[str, int] = {}
        self._started = time.monotonic()

    def measure(self, number: int, scenario: Scenario, server: Server, database: Database | None = None) -> Row:
        """Do one run with wrk."""
        options = {"wallets": self.wallet_count, **scenario.options}

        def run(seconds: float, tail_seconds: float) -> Load:
            return drive(
                server.url, scenario.kind, clients=scenario.clients, window_seconds=seconds,
                tail_seconds=tail_seconds, **options,
            )  # fmt: skip

        posts = database is not None and scenario.kind not in READS
        before = database.count() if database and posts else 0
        warm = run(WARM_UP_SECONDS, scenario.tail_seconds)
        server_cpu, costs = server.cpu_seconds(), Costs(self.cluster)
        # What is slow needs a longer tail to be answered.
        load = run(self._seconds(scenario), max(scenario.tail_seconds, 2 * warm.max_ms / 1000))
        row = make_row(scenario, number, load)
        row.server_cpu_us = (server.cpu_seconds() - server_cpu) * 1e6 / max(1, load.requests)
        row.memory_mb = server.memory_mb()
        row.extra |= {"slowest_rate": load.slowest_rate(), "pair_rate": load.pair_rate}
        if database:
            costs.add(row, load)
        self._check(scenario, [warm, load], database.count() - before if database and posts else None)
        return self.keep(row, scenario)

    def measure_sql(self, number: int, scenario: Scenario, mode: str, database: Database) -> Row:
        """Do one run of the reference *sql*."""
        before, costs = database.count(), Costs(self.cluster)
        command = [
            sys.executable, str(Path(__file__).with_name("sql.py")), mode, f"--wallets={self.wallet_count}",
            f"--callers={scenario.clients}", f"--window={self._seconds(scenario)}", f"--warmup={WARM_UP_SECONDS}",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=self.cluster.scratch, env=clean_environment(database.environment()), capture_output=True,
            text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode != 0:
            raise LoadFailed(f"sql.py failed: {done.stderr}")
        answer = json.loads(done.stdout)
        load = Load(**answer["load"])
        row = make_row(scenario, number, load)
        row.server_cpu_us, row.memory_mb = answer["cpu_us"], answer["memory_mb"]
        costs.add(row, load)
        self._check(scenario, [load], database.count() - before)
        return self.keep(row, scenario)

    def prove(self, database: Database) -> int:
        """Verify a database's books, where a finding fails the session; returns how many entries there are."""
        proof = database.prove()
        self.proven[database.name] = proof.entry_count
        self.faults += [f"verify {database.name}: {finding}" for finding in proof.findings[:3]]
        self.say(f"verify {database.name}: {proof.entry_count:,} entries, {len(proof.findings)} findings")
        return proof.entry_count

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"{time.monotonic() - self._started:6.0f} s  {text}", flush=True)

    def find(self, name: str, number: int) -> Row | None:
        """Return the row of a name and a round."""
        return next((row for row in self.rows if (row.name, row.round) == (name, number)), None)

    def medians(self) -> list[Row]:
        """Return a row for each name, with the median over the rounds of each figure."""
        names = dict.fromkeys(row.name for row in self.rows)
        return [_median([row for row in self.rows if row.name == name]) for name in names]

    def keep(self, row: Row, scenario: Scenario) -> Row:
        """Add a row, and say its figures."""
        row.of_stock = self._ratio(row, scenario.baseline)
        row.of_sql = self._ratio(row, SQL_NAME) if row.postings and scenario.baseline else None
        self.rows.append(row)
        self.say(
            f"{row.round}  {row.name:44} {row.rate:8,.0f}/s  p50 {row.p50_ms:7.2f}  p99 {row.p99_ms:7.2f} ms"
            f"  CPU {row.server_cpu_us:6.0f} µs" + (f"  FAILED {row.failed}" if row.failed else "")
        )
        return row

    def _seconds(self, scenario: Scenario) -> float:
        return QUICK_SECONDS if self.quick else scenario.window_seconds

    def _check(self, scenario: Scenario, loads: list[Load], new_count: int | None) -> None:
        posted = sum(load.postings for load in loads)
        for load in loads:
            if load.failed and not scenario.may_fail:
                self.faults.append(f"{scenario.name}: {load.failed} failed; the first: {load.first_failure[:500]}")
        if new_count is not None and posted != new_count:
            self.faults.append(f"{scenario.name}: {posted} success payloads, {new_count} transactions in the books")

    def _ratio(self, row: Row, baseline: str | None) -> float | None:
        base = self.find(baseline, row.round) if baseline else None
        return row.rate / base.rate if base else None


class Costs:
    """What PostgreSQL spent since this was made."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._mark = cluster.mark()
        self._cpu_seconds = cluster.processes.cpu_seconds()

    def add(self, row: Row, load: Load) -> None:
        """Write it into a row."""
        row.postgres_cpu_us = (self._cluster.processes.cpu_seconds() - self._cpu_seconds) * 1e6 / max(1, load.requests)
        if load.postings:
            wal = self._cluster.wal_since(self._mark)
            row.statements = STATEMENTS_PER_UNIT * wal.commit_count / load.postings
            row.wal_bytes, row.wal_images = wal.bytes / load.postings, wal.image_bytes / load.postings


def make_row(scenario: Scenario, number: int, load: Load) -> Row:
    """Return a row of a load, whose costs are not known yet."""
    return Row(
        scenario.name, number, scenario.clients, load.rate, load.p50_ms, load.p95_ms, load.p99_ms, load.max_ms,
        load.requests, load.postings, load.failed, server_cpu_us=0, memory_mb=0,
    )  # fmt: skip


def _median(rows: list[Row]) -> Row:
    def of(name: str) -> Any:
        values = [value for row in rows if (value := row.value(name)) is not None]
        return median(values) if values else None

    apart = {"name", "round", "clients", "failed", "extra"}
    figures = {name: of(name) for name in Row.__dataclass_fields__ if name not in apart}
    extra = {name: of(name) for name in rows[0].extra}
    return replace(rows[0], round=0, failed=max(row.failed for row in rows), extra=extra, **figures)
