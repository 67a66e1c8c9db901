import asyncio
import string
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import environment
from factories import balance, new_owner, post

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.postings import AssetMissing, Posted
from wallet_gql.operations.assets import add_asset, find_asset, list_assets
from wallet_gql.operations.demo import ASSETS
from wallet_gql.operations.opening import Ledger


def new_code() -> str:
    return "T" + uuid4().hex[:10].upper()


async def assets_in_the_database(ledger: Ledger) -> set[Asset]:
    return set(await list_assets(ledger))


async def test_added_asset_is_found_and_listed_last(ledger: Ledger) -> None:
    code = new_code()
    before = await list_assets(ledger)

    asset = await add_asset(ledger, code, "Test Tokens", 3)

    assert (asset.code, asset.name, asset.scale) == (code, "Test Tokens", 3)
    assert await find_asset(ledger, code) == asset
    assert await list_assets(ledger) == [*before, asset]


async def test_adding_it_again_changes_nothing(ledger: Ledger) -> None:
    code = new_code()
    asset = await add_asset(ledger, code, "Test Tokens", 3)
    before = await assets_in_the_database(ledger)

    assert await add_asset(ledger, code, "Test Tokens", 3) == asset
    assert await assets_in_the_database(ledger) == before


async def test_adding_what_is_there_costs_no_id(ledger: Ledger) -> None:
    asset = await add_asset(ledger, new_code(), "Test Tokens", 3)
    for _ in range(20):
        await add_asset(ledger, asset.code, "Test Tokens", 3)
        # Not by seeding: it gives an asset lots for ever, and other tests use it in this database.
        await add_asset(ledger, *ASSETS[-1])

    # Other tests add assets too, but each worker has a database of its own.
    assert (await add_asset(ledger, new_code(), "Next Tokens", 0)).id == asset.id + 1


async def test_asset_that_two_add_at_once_is_one(ledger: Ledger) -> None:
    code = new_code()

    added = await asyncio.gather(*(add_asset(ledger, code, "Test Tokens", 3) for _ in range(8)))

    assert len(set(added)) == 1


@pytest.mark.parametrize(("name", "scale"), [("Test Tokens", 2), ("Other Tokens", 3), ("Other Tokens", 2)])
async def test_asset_never_changes(ledger: Ledger, name: str, scale: int) -> None:
    code = new_code()
    asset = await add_asset(ledger, code, "Test Tokens", 3)

    with pytest.raises(BadUserInput, match="choose another code; an asset never changes"):
        await add_asset(ledger, code, name, scale)

    assert await find_asset(ledger, code) == asset


@pytest.mark.parametrize(
    ("code", "name", "scale", "field"),
    [
        *((code, "Name", 0, "code") for code in ("", "gold", "1UP", "_A", "A B", "Ä", "A\n", "A\0", "A" * 33, "A-B")),
        *(("NEWCODE", name, 0, "name") for name in ("", "x" * 101, " a", "a ", "a\n", "\0", "\u2028", "\ud800")),
        *(("NEWCODE", "Name", scale, "scale") for scale in (-1, 10)),
        ("bad", "", -1, "code"),
        ("NEWCODE", "", -1, "name"),
    ],
)
async def test_malformed_asset_is_refused(ledger: Ledger, code: str, name: str, scale: int, field: str) -> None:
    before = await assets_in_the_database(ledger)

    with pytest.raises(BadUserInput) as caught:
        await add_asset(ledger, code, name, scale)

    assert caught.value.field == field
    assert await assets_in_the_database(ledger) == before


@pytest.mark.parametrize("scale", [0, 9])
async def test_scale_at_its_limits_is_exact(ledger: Ledger, scale: int) -> None:
    code = (new_code() + string.ascii_uppercase)[:32]
    await add_asset(ledger, code, "x" * 100, scale)
    owner = await new_owner(ledger)

    smallest = "1" if scale == 0 else "0." + "0" * (scale - 1) + "1"
    assert isinstance(await post(ledger, "top_up", owner, smallest, asset_code=code), Posted)

    assert await balance(ledger, owner, code) == 1


async def test_asset_added_by_another_process_is_found_while_the_ledger_is_open(ledger: Ledger) -> None:
    code = new_code()
    owner = await new_owner(ledger)
    assert await post(ledger, "top_up", owner, 5, asset_code=code) == AssetMissing(code)
    subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
        [Path(sys.executable).with_name("wallet-gql"), "add-asset", code, "--name", "Other Tokens", "--scale", "1"],
        env=environment(ledger.settings),
        check=True,
        capture_output=True,
    )

    outcome = await post(ledger, "top_up", owner, "5.5", asset_code=code)

    assert isinstance(outcome, Posted)
    assert outcome.balance.amount_minor == 55


async def test_demo_assets_are_the_first(ledger: Ledger) -> None:
    listed = [(asset.code, asset.name, asset.scale) for asset in await list_assets(ledger)]

    assert tuple(listed[: len(ASSETS)]) == ASSETS


async def test_unknown_code_is_not_found(ledger: Ledger) -> None:
    for code in ("", "NONE", "gold", "GOLD ", "\0", "\ud800", "A" * 10_000):
        assert await find_asset(ledger, code) is None
