"""The plots of docs/performance.md, drawn from the medians. Needs matplotlib (bench/requirements.txt)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import growth
import matplotlib as mpl
import throughput
from matplotlib import pyplot as plt
from session import Row

OURS: Final = "#1f6f8b"
REFERENCE: Final = "#b9bec4"
ABLATION: Final = "#d9a066"
TEXT: Final = "#33383d"
WIDTH_INCHES: Final = 9

_STYLE: Final = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": REFERENCE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "svg.hashsalt": "wallet-gql",
    "figure.facecolor": "white",
}
_BARS: Final = (
    throughput.TOP_UPS, throughput.TWO_WORKERS, throughput.MANY, throughput.HOT, throughput.MIX, throughput.BALANCES,
    throughput.ABLATION, throughput.ONE_STRIPE, throughput.SQL, throughput.SQL_ALONE, throughput.STOCK,
    throughput.STOCK_QUERY,
)  # fmt: skip


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw what was measured; returns the files."""
    by_name = {row.name: row for row in rows}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(_STYLE):
        if throughput.TOP_UPS.name in by_name:
            drawn.append(_save(_rates(by_name), folder / "rates.svg"))
        if growth.spread_name("1 million", 64) in by_name:
            drawn.append(_save(_growth(by_name), folder / "growth.svg"))
    return drawn


def _save(figure: Any, file: Path) -> Path:
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return file


def _rates(by_name: dict[str, Row]) -> Any:
    """Draw a bar a scenario, with its rate and its ratio to stock."""
    rows = [by_name[scenario.name] for scenario in _BARS if scenario.name in by_name][::-1]
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 0.42 * len(rows) + 1), layout="constrained")
    bars = axes.barh(range(len(rows)), [row.rate for row in rows], color=[_colour(row) for row in rows], height=0.66)
    labels = [f"{row.rate:,.0f}/s" + (f"   {row.of_stock:.2f} x stock" if row.of_stock else "") for row in rows]
    axes.bar_label(bars, labels, padding=4)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(right=max(row.rate for row in rows) * 1.3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("requests a second, answered (64 clients unless said; one worker unless said)")
    figure.suptitle(
        "Beside the references (grey), and with a part taken out (orange)",
        x=0, ha="left", fontsize=11, fontweight="bold",
    )  # fmt: skip
    return figure


def _colour(row: Row) -> str:
    if row.name.startswith(("stock", "sql")):
        return REFERENCE
    return ABLATION if "ablation" in row.name else OURS


def _growth(by_name: dict[str, Row]) -> Any:
    """Draw what a posting and a read cost as tables and accounts grow: flat lines are the point."""
    figure, (rate, latency, wal) = plt.subplots(1, 3, figsize=(WIDTH_INCHES, 3.2), layout="constrained")
    sizes, depths = growth.SIZES, growth.DEPTHS
    spread = [by_name[growth.spread_name(size, 64)] for size in sizes]
    _curve(rate, list(sizes.values()), [row.rate for row in spread], "over 10,000 wallets", OURS)
    one = {n: by_name.get(growth.one_account_name(depth)) for depth, n in depths.items()}
    _curve(
        rate,
        [n for n, row in one.items() if row],
        [row.rate for row in one.values() if row],
        "on one account",
        ABLATION,
    )
    _finish(rate, "Top-ups a second, 64 clients", "postings there are")
    alone = [by_name[growth.spread_name(size, 1)].p50_ms for size in sizes]
    _curve(latency, list(sizes.values()), alone, "a top-up, over 10,000 wallets", OURS)
    reads = [by_name[growth.balance_name(depth)].p50_ms for depth in depths]
    _curve(latency, list(depths.values()), reads, "a balance, of one account", ABLATION)
    _finish(latency, "p50 in ms, one client", "postings or entries there are")
    kilobytes = [row.extra["wal_bytes_of_cycle"] / 1000 for row in spread]
    _curve(wal, list(sizes.values()), kilobytes, "WAL", OURS)
    _finish(wal, "WAL a posting, kB", "postings there are")
    return figure


def _curve(axes: Any, counts: Sequence[int], values: Sequence[float], label: str, colour: str) -> None:
    axes.plot(counts, values, marker="o", color=colour, label=label, clip_on=False)


def _finish(axes: Any, title: str, what: str) -> None:
    axes.set_xscale("log")
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.4)
    axes.set_title(title)
    axes.set_xlabel(what)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(axis="y", color=REFERENCE, alpha=0.4)
    if len(axes.get_lines()) > 1:
        axes.legend(frameon=False, loc="upper left")
