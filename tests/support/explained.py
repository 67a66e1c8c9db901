"""What statements do: how they find their rows, and what it costs."""

from collections.abc import Iterator
from typing import Any, Final

from asyncpg import Connection


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


_SCANS: Final = {"Seq Scan", "Bitmap Heap Scan"}


class Explained:
    """What a statement did: how many pages it looked at, how many rows it gave, and how it found them."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        self.rows = plan["Actual Rows"]
        self.node_types = {node["Node Type"] for node in nodes(plan)}
        self.tables = {
            node["Relation Name"] for node in nodes(plan) if node["Actual Loops"] and "Relation Name" in node
        }
        """Which tables it looked at, whatever it might have."""
        self.scanned = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] in _SCANS}
        """Which tables it would read as a whole, or in an order of its own."""


async def explain(connection: Connection, mode: str, statement: str, *parameters: object) -> Explained:
    """Run one of the ledger's statements for one caller, planned for its parameters or for any."""
    arrays = ", ".join(_column(statement, n, parameter) for n, parameter in enumerate(parameters, start=1))
    async with connection.transaction():
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE explained AS {statement}")
        # The first run reads the catalogue too.
        await connection.fetch(f"EXECUTE explained({arrays})")
        [plan] = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE explained({arrays})")
        await connection.execute("DEALLOCATE explained")
    return Explained(plan["Plan"])


def _column(statement: str, n: int, value: object) -> str:
    """Return a column of one value as a statement takes its nth parameter: an array, or the lines of a text."""
    if f"string_to_array(${n}," in statement:
        return f"'{value}'"
    return "'{NULL}'" if value is None else f"'{{{value}}}'"
