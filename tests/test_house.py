"""Where things may stand, as far as import rules of packages cannot say it: docs/architecture.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from wallet_gql.db.grants import RIGHTS
from wallet_gql.db.tables import metadata

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wallet_gql"

# What other libraries keep for themselves, or move between minor versions.
PRIVATE = ("graphql.execution", "graphql.pyutils", "strawberry.schema", "uvicorn.protocols")


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{each.name}" for each in node.names)


def modules_that_import(*names: str) -> set[str]:
    return {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if any(f"{each}.".startswith(f"{name}.") for each in imported(file) for name in names)
    }


@pytest.mark.parametrize("name", PRIVATE)
def test_private_parts_are_used_in_the_endpoint_only(name: str) -> None:
    users = modules_that_import(name)
    assert {user.partition("/")[0] for user in users} <= {"endpoint"}


def test_migrations_import_no_live_code() -> None:
    versions = sorted((ROOT / "alembic" / "versions").glob("*.py"))
    assert versions
    for version in versions:
        assert {each.partition(".")[0] for each in imported(version)} <= {"sqlalchemy", "alembic"}, version


def test_the_collector_is_spoken_to_in_one_place() -> None:
    assert modules_that_import("gc") == {"endpoint/memory.py"}


def test_every_table_has_its_rights() -> None:
    assert RIGHTS.keys() == metadata.tables.keys() | {"alembic_version"}


LONG = {
    "app.py": {"__call__"},
    "db/connecting.py": {"connector"},
    "db/engine.py": {"create_engine"},
    "endpoint/http.py": {"__call__"},
}
"""Functions that were longer before there was a bound."""

LINES_MAX = 40


def test_functions_are_read_at_one_glance() -> None:
    functions = [
        (str(file.relative_to(PACKAGE)), node)
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [(file, node.name) for file, node in functions if (node.end_lineno or 0) - node.lineno >= LINES_MAX]
    assert {file: {name for other, name in long if other == file} for file, _ in long} == LONG
