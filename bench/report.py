"""The results: a table, JSON, and what of it docs/performance.md shows."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from session import Row
from targets import Verdict

DOCS: Final = Path(__file__).parent.parent / "docs"
PAGE: Final = DOCS / "performance.md"
_HEADINGS: Final = (
    "", "clients", "requests/s", "p50 ms", "p95 ms", "p99 ms", "server µs", "PostgreSQL µs", "x stock", "x sql",
    "worker MB", "statements", "WAL bytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Results:
    """A session's outcome: medians over the rounds, what was asked and whether it was reached."""

    machine: dict[str, str]
    seconds: float
    rows: list[Row]
    verdicts: list[Verdict]
    endpoint: list[tuple[float, float]]
    faults: list[str]
    proven: dict[str, int]


def write_json(results: Results, every_row: Sequence[Row], file: Path) -> None:
    """Write everything, with each round's rows where there are any."""
    content = {**asdict(results), "rounds": [asdict(row) for row in every_row]}
    if not every_row:
        del content["rounds"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def rows_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [_line(_HEADINGS), _line(["---"] + ["---:"] * (len(_HEADINGS) - 1))]
    return "\n".join(lines + [_line(_cells(row)) for row in rows])


def verdicts_table(verdicts: Sequence[Verdict]) -> str:
    """Return the targets as a table in Markdown."""
    lines = [_line(["", "asked", "measured", "rounds", ""]), _line(["---", "---:", "---:", "---:", "---"])]
    for verdict in verdicts:
        rounds = ", ".join(f"{value:.2f}" for value in verdict.rounds)
        word = "PASS" if verdict.passed else "FAIL"
        lines.append(_line([verdict.text, verdict.limit, f"{verdict.measured:.2f}", rounds, word]))
    return "\n".join(lines)


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a line for each target."""
    return [
        f"{'PASS' if verdict.passed else 'FAIL'}  {verdict.measured:7.2f} {verdict.limit:>7}  {verdict.text}"
        f"  ({', '.join(f'{value:.2f}' for value in verdict.rounds)})"
        for verdict in verdicts
    ]


def publish(results: Results) -> None:
    """Put the tables between the markers of docs/performance.md, and the summary beside it."""
    write_json(results, [], DOCS / "performance" / "results.json")
    machine = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    text = _between(PAGE.read_text(), "table", rows_table(results.rows))
    text = _between(text, "targets", verdicts_table(results.verdicts))
    PAGE.write_text(_between(text, "machine", f"Measured on: {machine}."))


def _between(text: str, name: str, content: str) -> str:
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE} has no markers {start} … {end}")
    return f"{before}{start}\n{content}\n{end}{after}"


def _cells(row: Row) -> list[str]:
    wal = "-" if row.wal_bytes is None else _number(row.wal_bytes)
    if row.wal_images is not None and row.wal_images >= 0.5:
        wal += f" ({_number(row.wal_images)})"
    return [
        row.name,
        str(row.clients),
        _number(row.rate),
        *(_number(value, 2) for value in (row.p50_ms, row.p95_ms, row.p99_ms)),
        *(_number(value) for value in (row.server_cpu_us, row.postgres_cpu_us)),
        *(_number(value, 2) for value in (row.of_stock, row.of_sql)),
        _number(row.memory_mb),
        _number(row.statements, 2),
        wal,
    ]


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
