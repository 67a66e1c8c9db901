"""The table of the database's errors in docs/operations.md, held against what callers are told."""

import re
from pathlib import Path

import asyncpg
import pytest

from wallet_gql.db.connecting import NotConnected
from wallet_gql.domain.errors import Unavailable
from wallet_gql.operations import unit_of_work as units
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import retrying, unit_of_work

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"

ROWS = re.findall(r"^\| ((?:\d|none)[^|]*) \| ([^|]*) \| ([^|]*`[A-Z]+`) \| [^|]* \|$", DOCS.read_text(), re.MULTILINE)

# One of each class that the table names as a whole.
EXAMPLES = {"08xxx": "08006", "22xxx": "22003", "23xxx": "23514", "28xxx": "28P01", "42xxx": "42P01"}

CASES = [
    (EXAMPLES.get(state, state), when.startswith("on connecting"), told)
    for states, when, told in ROWS
    for state in re.findall(r"[0-9A-Z]{2}(?:[0-9A-Z]{3}|xxx)", states)
]


def test_every_row_is_read() -> None:
    assert len(ROWS) == 12
    assert len(CASES) >= 24
    assert {told for *_, told in CASES} == {"retried, `UNAVAILABLE`", "`UNAVAILABLE`", "`INTERNAL`"}


def test_no_answer_is_as_the_table_says() -> None:
    for error in (ConnectionRefusedError(), TimeoutError(), ConnectionResetError()):
        assert units.is_away(NotConnected({"host": error}))


@pytest.mark.parametrize(("state", "is_on_connecting", "told"), CASES)
async def test_caller_is_told_what_the_table_says(
    ledger: Ledger, state: str, is_on_connecting: bool, told: str
) -> None:
    attempts = 0

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        async with unit_of_work(ledger.engine) as connection:
            try:
                await connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{state}'; END $$")
            except asyncpg.PostgresError as error:
                if is_on_connecting:
                    raise NotConnected({"host": error}) from error
                raise

    if "INTERNAL" in told:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await retrying(work, deadline_seconds=10, attempts_max=2)
        assert caught.value.sqlstate == state
    else:
        with pytest.raises(Unavailable):
            await retrying(work, deadline_seconds=10, attempts_max=2)
    assert attempts == (2 if told.startswith("retried") else 1)
