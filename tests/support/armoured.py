"""What a database lacks of its armour, as its serving role sees it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
import pytest
from asyncpg import Connection
from conftest import plain
from factories import new_owner

from wallet_gql.ledger.armour import ArmourDamaged, find_damage
from wallet_gql.operations.opening import open_ledger
from wallet_gql.settings import Settings

Result = TypeVar("Result")


def as_server(settings: Settings, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Do something as the serving role."""

    async def run() -> Result:
        connection = await asyncpg.connect(plain(settings.server_url().render_as_string(hide_password=False)))
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def damage_of(settings: Settings) -> list[tuple[str, str]]:
    return [(finding.row, finding.fault) for finding in as_server(settings, find_damage)]


async def fill(settings: Settings) -> None:
    async with open_ledger(settings) as ledger:
        await new_owner(ledger, gold=5)


def is_shut(settings: Settings) -> str:
    """Return what the ledger says when it does not open."""
    with pytest.raises(ArmourDamaged) as refused:
        asyncio.run(fill(settings))
    return str(refused.value)
