"""What must be reached, and whether it was: each the median over the rounds of a ratio within one round."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

import access
import fresh
import growth
import holds
import limits
import lots
import proofs
import sweeps
import throughput
import transfers
from endpoint import RATIO_MAX
from session import Row


class Figure(NamedTuple):
    """A figure of a row."""

    row: str
    name: str


@dataclass(frozen=True, slots=True)
class Target:
    """A figure, over another one of the same round if there is one, and its limit."""

    text: str
    figure: Figure
    base: Figure | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured: the median, and the figure of each round."""

    text: str
    limit: str
    measured: float
    rounds: list[float]
    passed: bool


# What is asked to be "the same" or "no worse" may differ by this much: two runs of one thing do.
SAME: Final = 1.1
NO_WORSE: Final = 1.05

_SMALL, _LARGE = "10 thousand", "1 million"
_DEEP_SMALL: Final = "10"


def _rate(row: str) -> Figure:
    return Figure(row, "rate")


def _cpu(row: str) -> Figure:
    return Figure(row, "cpu_us")


def _p50(row: str) -> Figure:
    return Figure(row, "p50_ms")


_TOP_UPS: Final = _rate(throughput.TOP_UPS.name)
_SPREAD_SMALL: Final = growth.spread_name(_SMALL, 64)
_SPREAD_LARGE: Final = growth.spread_name(_LARGE, 64)

TARGETS: Final = (
    Target("Top-ups, 64 clients, one worker: rate over stock", _TOP_UPS, _rate(throughput.STOCK.name), at_least=1.0),
    Target("Top-ups: rate over a transaction per request", _TOP_UPS, _rate(throughput.ABLATION.name), at_least=5.0),
    Target(
        "Two workers at 256 clients: rate over one worker's",
        _rate(throughput.TWO_WORKERS_MANY.name), _rate(throughput.MANY.name), at_least=1.3,
    ),
    Target("The hot wallet: rate over the spread rate", _rate(throughput.HOT.name), _TOP_UPS, at_least=0.85),
    Target(
        "Transfers across shards, 64 clients: rate over spends", _rate(transfers.TRANSFERS.name),
        _rate(transfers.SPENDS.name), at_least=0.6,
    ),
    Target(
        "Place + capture, 64 clients: pairs over spends (requests over spends: twice that)",
        Figure(holds.PAIRS.name, "pair_rate"), _rate(holds.SPENDS.name), at_least=0.35,
    ),
    Target(
        "A balance of an account with 5 open holds over one without: CPU of server and PostgreSQL",
        _cpu(holds.HELD_BALANCES.name), _cpu(holds.PLAIN_BALANCES.name), at_most=SAME,
    ),
    Target(
        "Spends with an API key over those without credentials: CPU of server and PostgreSQL (0.95 of the rate)",
        _cpu(access.KEY.name), _cpu(access.WITHOUT.name), at_most=1.053,
    ),
    Target(
        "Spends with tokens over those without credentials: CPU of server and PostgreSQL (0.9 of the rate)",
        _cpu(access.TOKEN.name), _cpu(access.WITHOUT.name), at_most=1.111,
    ),
    Target(
        "10,000 holds that end at once, beside spends: seconds until all ends are booked",
        Figure(sweeps.MEANWHILE.name, "booked_seconds"), at_most=30,
    ),
    Target(
        "Spends while the ends of 10,000 holds are booked: p99 over before",
        Figure(sweeps.MEANWHILE.name, "p99_ms"), Figure(sweeps.BEFORE.name, "p99_ms"), at_most=2,
    ),
    Target(
        "Spends over 50 live lots, from at most two, over plain ones: CPU of server and PostgreSQL (0.6 of the rate)",
        _cpu(lots.LOTTED.name), _cpu(lots.PLAIN.name), at_most=1.667,
    ),
    Target(
        "100,000 lots that lapse at the same midnight, beside spends: seconds until all are booked",
        Figure(lots.MIDNIGHT.meanwhile.name, "booked_seconds"), at_most=180,
    ),
    Target(
        "Spends while 100,000 lots that have lapsed are booked: p99 over before",
        Figure(lots.MIDNIGHT.meanwhile.name, "p99_ms"), Figure(lots.MIDNIGHT.before.name, "p99_ms"), at_most=2,
    ),
    Target(
        "Top-ups under a rolling limit with 10,000 movements in its window over plain ones: CPU (0.8 of the rate)",
        _cpu(limits.LIMITED.name), _cpu(limits.PLAIN.name), at_most=1.25,
    ),
    Target(
        "Top-ups under a rolling limit that was set after these movements over plain ones: CPU (0.8 of the rate)",
        _cpu(limits.LATE.name), _cpu(limits.PLAIN.name), at_most=1.25,
    ),
    # What was asked is that it stays what it was, of such books; that of books of all kinds is the harder half.
    Target("verify, top-ups alone: entries per second", _rate(proofs.TOP_UPS.name), at_least=150_000),
    Target("verify, all kinds of movements: entries per second", _rate(proofs.ALL_KINDS.name), at_least=150_000),
    Target(
        "A fresh database: the hot wallet's slowest 2 s over the spread's",
        Figure(fresh.HOT.name, "slowest_rate"), Figure(fresh.SPREAD.name, "slowest_rate"), at_least=0.9,
    ),
    Target(
        "Balance reads: rate over stock's query rate",
        _rate(throughput.BALANCES.name), _rate(throughput.STOCK_QUERY.name), at_least=1.0,
    ),
    Target(
        "Growth, 1 million over 10 thousand postings: latency (p50, one client)",
        _p50(growth.spread_name(_LARGE, 1)), _p50(growth.spread_name(_SMALL, 1)), at_most=SAME,
    ),
    Target(
        "Growth, 10 thousand over 1 million postings: rate (64 clients)",
        _rate(_SPREAD_SMALL), _rate(_SPREAD_LARGE), at_most=SAME,
    ),
    Target(
        "Growth, 1 million over 10 thousand postings: WAL bytes a posting, over a checkpoint's cycle",
        Figure(_SPREAD_LARGE, "wal_bytes_of_cycle"), Figure(_SPREAD_SMALL, "wal_bytes_of_cycle"), at_most=SAME,
    ),
    Target(
        "Growth: a balance at 1 million over one at 10 entries (p50, one client)",
        _p50(growth.balance_name(_LARGE)), _p50(growth.balance_name(_DEEP_SMALL)), at_most=SAME,
    ),
    Target(
        "The 1,000th page over the first (p50, one client)",
        _p50(growth.page_name(1000, 1)), _p50(growth.page_name(1, 1)), at_most=SAME,
    ),
    Target(
        "One client alone: p50 over a transaction per request",
        _p50(throughput.ALONE.name), _p50(throughput.ABLATION_ALONE.name), at_most=NO_WORSE,
    ),
    Target(
        "64 clients: p99 over p50",
        Figure(throughput.TOP_UPS.name, "p99_ms"), _p50(throughput.TOP_UPS.name), at_most=4.0,
    ),
    Target("256 clients: requests that failed or were OVERLOADED", Figure(throughput.MANY.name, "failed"), at_most=0),
    Target("256 clients: rate over that of 64 (no collapse)", _rate(throughput.MANY.name), _TOP_UPS, at_least=0.8),
    Target(
        "Worker memory after 200,000 more requests over at first",
        Figure(throughput.MEMORY_LAST.name, "memory_mb"), Figure(throughput.MEMORY_FIRST.name, "memory_mb"),
        at_most=1.1,
    ),
)  # fmt: skip


def judge(rows: Sequence[Row], endpoint_rounds: Sequence[tuple[float, float]]) -> list[Verdict]:
    """Judge every target whose rows were measured."""
    verdicts = [verdict for target in TARGETS if (verdict := _judge(target, rows)) is not None]
    if endpoint_rounds:
        ratios = [ours / stock for stock, ours in endpoint_rounds]
        text = "A constant-answer mutation: our endpoint's CPU over stock's"
        verdicts.append(_verdict(text, ratios, None, RATIO_MAX))
    return verdicts


def _judge(target: Target, rows: Sequence[Row]) -> Verdict | None:
    ratios = []
    for number in sorted({row.round for row in rows}):
        value = _value(rows, number, target.figure)
        base = 1.0 if target.base is None else _value(rows, number, target.base)
        if value is not None and base is not None:
            ratios.append(value / base)
    if not ratios:
        return None
    # One failure in one round is a failure.
    measured = [max(ratios)] if target.figure.name == "failed" else ratios
    return _verdict(target.text, measured, target.at_least, target.at_most)


def _verdict(text: str, ratios: list[float], at_least: float | None, at_most: float | None) -> Verdict:
    measured = median(ratios)
    if at_least is not None:
        return Verdict(text, f"≥ {at_least:g}", measured, ratios, measured >= at_least)
    assert at_most is not None
    return Verdict(text, f"≤ {at_most:g}", measured, ratios, measured <= at_most)


def _value(rows: Sequence[Row], number: int, figure: Figure) -> float | None:
    row = next((row for row in rows if (row.name, row.round) == (figure.row, number)), None)
    return None if row is None else row.value(figure.name)
