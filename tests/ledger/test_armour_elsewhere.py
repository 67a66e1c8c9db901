"""The armour of other roles, servers, schemas and versions, and after a restore."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
import structlog
from armoured import as_server, damage_of, fill, is_shut
from asyncpg import Connection
from conftest import add_assets, database, execute, settings_for
from pydantic import SecretStr
from sqlalchemy import make_url

from wallet_gql.db import migrations
from wallet_gql.embedded import launcher
from wallet_gql.embedded.binaries import installed_binaries
from wallet_gql.embedded.launcher import EmbeddedPostgres, start
from wallet_gql.ledger.armour import check_durability, expected_armour, read_armour
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

PASSWORD: Final = "sesame"  # noqa: S105 - of roles that live as long as a test


@pytest.fixture
def serving(own: Settings, damage: Callable[..., None], worker_id: str) -> Iterator[Settings]:
    """A serving role of its own, for what is done to roles is done to all databases of a server."""
    role = f"armour_{worker_id}"
    damage(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    try:
        migrations.upgrade(own.owner_url(), role)
        url = own.server_url().set(username=role, password=PASSWORD).render_as_string(hide_password=False)
        yield own.model_copy(update={"database_url": SecretStr(url)})
    finally:
        damage(f"REASSIGN OWNED BY {role} TO wallet_owner", f"DROP OWNED BY {role}", f"DROP ROLE {role}")


ALL_TABLES: Final = sorted(expected_armour()["table"])


def may_insert(table: str) -> bool:
    return f"INSERT ON TABLE {table}" in expected_armour()["rights"]


# What is done to a role, and how each thing that is found of it begins.
OF_ROLES: Final = {
    "ALTER ROLE {role} SUPERUSER": ["is a superuser, whom no constraint or trigger stops: serve as a role of its own "],
    "ALTER ROLE {role} CREATEROLE": ["has CREATEROLE: "],
    "ALTER ROLE {role} BYPASSRLS": ["has BYPASSRLS: "],
    "ALTER ROLE {role} REPLICATION": ["has REPLICATION: "],
    "GRANT SET ON PARAMETER session_replication_role TO {role}": ["may set session_replication_role: revoke it"],
    "GRANT pg_execute_server_program TO {role}": ["is a member of pg_execute_server_program: revoke it"],
    "GRANT pg_write_all_data TO {role} WITH INHERIT FALSE": [
        f"has {right}, granted to pg_write_all_data: revoke it"
        for right in (
            *(f"DELETE ON TABLE {table}" for table in ALL_TABLES),
            *(f"INSERT ON TABLE {table}" for table in ALL_TABLES if not may_insert(table)),
            *(f"UPDATE ON SEQUENCE {table}_id_seq" for table in ("account", "asset", "wallet")),
            *(f"UPDATE ON TABLE {table}" for table in ALL_TABLES),
        )
    ],
    "GRANT wallet_owner TO {role}": [
        f"owns {thing}, or is a member of its owner: "
        for thing in (
            "database {database}",
            *(f"function {name.partition('(')[0]}" for name in sorted(expected_armour()["function"])),
            "schema public",
            *(f"table {table}" for table in ALL_TABLES),
        )
    ],
}


@pytest.mark.parametrize("statement", OF_ROLES)
def test_a_role_that_could_do_away_with_the_laws_does_not_serve(
    serving: Settings, damage: Callable[..., None], statement: str
) -> None:
    role, name = serving.server_role(), serving.server_url().database
    assert damage_of(serving) == []
    damage(statement.replace("{role}", str(role)))
    found = damage_of(serving)
    expected = [fault.replace("{database}", str(name)) for fault in OF_ROLES[statement]]
    assert [row for row, _ in found] == [f"role {role}"] * len(expected)
    for (_, fault), beginning in zip(sorted(found), expected, strict=True):
        assert fault.startswith(beginning)
    assert found[0][1] in is_shut(serving)


def test_one_role_that_owns_and_serves_is_warned_of_on_the_embedded_server(
    serving: Settings, damage: Callable[..., None]
) -> None:
    damage(*(f"ALTER TABLE {table} OWNER TO {serving.server_role()}" for table in ALL_TABLES))
    with structlog.testing.capture_logs() as logged:
        assert damage_of(serving) == []
    assert [(line["log_level"], line["role"]) for line in logged] == [("warning", serving.server_role())]
    asyncio.run(fill(serving))
    assert asyncio.run(prove(serving)).findings == []


@contextmanager
def server(version: int, **settings: str) -> Iterator[EmbeddedPostgres]:
    # Not tmp_path: as root that is 0700, and PostgreSQL's account could not enter it.
    folder = Path(tempfile.mkdtemp(prefix="wallet-armour-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with start(folder / "data", version=version, settings=settings) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_one_role_that_owns_and_serves_is_refused_elsewhere(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What tells the embedded server from others is its name.
    monkeypatch.setattr(launcher._Cluster, "name", property(lambda _: f"theirs-{uuid4().hex}"))
    with server(postgres.version) as theirs:
        settings = settings_for(theirs, "wallet")
        settings = settings.model_copy(update={"database_url": settings.migration_database_url})
        migrations.upgrade(settings.owner_url(), settings.server_role())
        fault = (
            "owns the tables, so it may remove their constraints and triggers:"
            " serve as a role of its own that may read and append (deploy/create-database.sh)"
        )
        assert damage_of(settings) == [("role wallet_owner", fault)]
        assert fault in is_shut(settings)


def test_a_server_that_may_lose_what_was_committed_is_refused(postgres: EmbeddedPostgres) -> None:
    with server(postgres.version, fsync="off", full_page_writes="off", synchronous_commit="off") as fast:
        settings = settings_for(fast, "wallet")
        migrations.upgrade(settings.owner_url(), settings.server_role())
        fault = "is off, and a crash would lose what was posted: switch it on"
        expected = [(f"setting {name}", fault) for name in ("fsync", "full_page_writes", "synchronous_commit")]
        assert damage_of(settings) == expected
        assert [(found.row, found.fault) for found in as_server(settings, check_durability)] == expected
        assert "setting fsync: is off" in is_shut(settings)


@pytest.mark.parametrize("value", ["on", "local", "remote_write", "remote_apply"])
def test_every_other_way_to_commit_is_fine(settings: Settings, value: str) -> None:
    async def check(connection: Connection) -> list[Any]:
        await connection.execute(f"SET synchronous_commit = {value}")
        return await check_durability(connection)

    assert as_server(settings, check) == []


def test_the_armour_is_the_same_in_another_schema(
    new_database: Callable[..., Settings], postgres: EmbeddedPostgres
) -> None:
    settings = new_database("armour_schema", template="template0")
    name = str(settings.server_url().database)
    asyncio.run(
        execute(
            database(postgres.superuser_url, name),
            'CREATE SCHEMA "The Books" AUTHORIZATION wallet_owner',
            'GRANT USAGE ON SCHEMA "The Books" TO wallet_server',
            f'ALTER DATABASE {name} SET search_path = "The Books"',
        )
    )
    migrations.upgrade(settings.owner_url(), settings.server_role())
    assert as_server(settings, read_armour) == expected_armour()
    asyncio.run(add_assets(settings))
    asyncio.run(fill(settings))


@pytest.mark.parametrize("version", [16, 18])
def test_the_armour_is_the_same_from_version_to_version_and_after_a_restore(version: int, tmp_path: Path) -> None:
    with server(version) as older, server(18) as newer:
        source, target = settings_for(older, "wallet"), settings_for(newer, "wallet")
        migrations.upgrade(source.owner_url(), source.server_role())
        assert as_server(source, read_armour) == expected_armour()
        asyncio.run(add_assets(source))
        asyncio.run(fill(source))
        # Another owner than the one who migrated.
        asyncio.run(
            execute(
                database(newer.superuser_url, "postgres"),
                f"CREATE ROLE keeper LOGIN PASSWORD '{PASSWORD}'",
                "ALTER DATABASE wallet OWNER TO keeper",
            )
        )
        keeper = target.owner_url().set(username="keeper", password=PASSWORD)
        binaries, dump = installed_binaries(18), tmp_path / "dump"
        for program, url, *arguments in (
            ("pg_dump", make_url(older.superuser_url).set(database="wallet"), "-Fc", f"--file={dump}"),
            ("pg_restore", keeper, "--no-owner", "--exit-on-error", str(dump)),
        ):
            address = url.set(drivername="postgresql").render_as_string(hide_password=False)
            command: list[str | Path] = [binaries / program, f"--dbname={address}", *arguments]
            subprocess.run(command, check=True, capture_output=True)
        assert as_server(target, read_armour) == expected_armour()
        proof = asyncio.run(prove(target))
        assert (proof.entry_count, proof.findings) == (2, [])
        asyncio.run(fill(target))
