"""What a release gave out stays right: keys replay, fingerprints, ids and cursors mean the same, no row is lost.

Each test runs on the database that the release left, migrated to head by the code under test.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
import httpx
import pytest
import releases
from alembic import command
from api import Endpoint
from conftest import plain
from factories import balance, gql, new_owner, post
from tables import count_rows

from wallet_gql.db import migrations
from wallet_gql.domain.money import parse_decimal, to_minor
from wallet_gql.domain.postings import Posted, PostingRequest, Refused, TransactionType, fingerprint
from wallet_gql.domain.shards import shard_of
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.graphql import ids
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

Record = TypeVar("Record")
Answer = TypeVar("Answer")

POSTINGS: Final = {"topUp": "top_up", "bonus": "bonus", "spend": "spend"}
"""The mutations and what the operations call them."""

COLUMNS: Final = """
SELECT table_name, string_agg(quote_ident(column_name), ', ' ORDER BY column_name)
  FROM information_schema.columns
 WHERE table_schema = 'public' AND table_name <> 'alembic_version'
 GROUP BY table_name
"""


@pytest.fixture(scope="module", params=releases.OLDEST_REVISION)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def restored(
    release: str, new_database: Callable[..., Settings], postgres: EmbeddedPostgres
) -> Callable[[str], Settings]:
    """Restore the release's database under a name of the test's choice."""

    def make(name: str) -> Settings:
        settings = new_database(f"{name}_{release.replace('.', '_')}", template="template0")
        releases.restore(release, settings, postgres.version)
        return settings

    return make


@pytest.fixture(scope="module")
def settings(restored: Callable[[str], Settings]) -> Settings:
    """The release's database at head, in place of an empty one: `ledger` opens it, and proves it after each test."""
    settings = restored("released")
    migrations.upgrade(settings.owner_url(), settings.server_role())
    return settings


@pytest.fixture
async def client(ledger: Ledger, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose requests must not move anything."""
    before = await count_rows(settings)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(Endpoint(ledger)), base_url="http://wallet.test"
    ) as http:
        yield http
    assert await count_rows(settings) == before


async def fetch(url: str, *statements: str) -> list[list[Any]]:
    connection = await asyncpg.connect(plain(url))
    try:
        return [await connection.fetch(statement) for statement in statements]
    finally:
        await connection.close()


async def for_each(records: Sequence[Record], ask: Callable[[Record], Awaitable[Answer]]) -> list[Answer]:
    """Ask for every record, some at once: never so many that a service which sheds load would refuse one."""
    turns = asyncio.Semaphore(32)

    async def ask_in_turn(record: Record) -> Answer:
        async with turns:
            return await ask(record)

    return await asyncio.gather(*map(ask_in_turn, records))


def test_every_release_is_tested() -> None:
    assert sorted(releases.OLDEST_REVISION) == sorted(path.parent.name for path in releases.FOLDER.glob("*/make.py"))


def test_a_request_has_the_fingerprint_that_was_stored(release: str) -> None:
    records = releases.read(release, "fingerprints.json")["fingerprints"]
    assert records
    for record in records:
        amount_minor = to_minor(parse_decimal(record["amount"]), record["scale"])
        assert isinstance(amount_minor, int)
        assert amount_minor == record["amountMinor"]
        found = fingerprint(
            TransactionType[record["type"]],
            record["asset"],
            amount_minor,
            record["description"],
            record["reference"],
        )
        assert found.hex() == record["fingerprint"], record


async def test_a_stored_key_has_the_fingerprint_of_its_request(release: str, ledger: Ledger) -> None:
    recorded = releases.read(release, "requests.json")["requests"]
    [rows] = await fetch(
        ledger.settings.server_url().render_as_string(hide_password=False),
        "SELECT w.owner_id, k.key, k.fingerprint"
        "  FROM idempotency_key k JOIN wallet w ON (w.shard, w.id) = (k.shard, k.wallet_id)",
    )
    stored = {(owner_id, key): value for owner_id, key, value in rows}
    for record in recorded:
        sent = record["input"]
        asset = ledger.assets[sent.get("asset", "GOLD")]
        amount_minor = to_minor(Decimal(sent["amount"]), asset.scale)
        assert isinstance(amount_minor, int)
        request = PostingRequest(
            shard_of(sent["ownerId"], ledger.shard_count),
            sent["ownerId"],
            TransactionType[POSTINGS[record["mutation"]].upper()],
            asset,
            amount_minor,
            UUID(sent["idempotencyKey"]),
            sent.get("description"),
            sent.get("reference"),
        )
        assert stored[request.owner_id, request.idempotency_key] == request.fingerprint, record


def test_an_id_decodes_to_what_it_did(release: str) -> None:
    nodes = releases.read(release, "ids.json")["nodes"]
    assert {record["kind"] for record in nodes} == {"Asset", "Wallet", "Balance", "Transaction"}
    for record in nodes:
        assert ids.decode(record["id"]) == (record["kind"], tuple(record["parts"]), record["code"])


async def test_an_id_names_what_it_did_and_is_given_out_again(release: str, client: httpx.AsyncClient) -> None:
    recorded = releases.read(release, "ids.json")
    nodes = recorded["nodes"]
    found = await for_each(nodes, lambda record: gql(client, recorded["nodeDocument"], id=record["id"]))
    for record, answer in zip(nodes, found, strict=True):
        # The answer's own id is the one that is given out today.
        assert record["node"]["id"] == record["id"]
        assert answer["node"] == record["node"]


async def test_a_cursor_stands_where_it_did(release: str, client: httpx.AsyncClient) -> None:
    recorded = releases.read(release, "ids.json")
    cursors = recorded["cursors"]
    assert {record["parts"][-1] for record in cursors} >= {0, 1, 100}
    names = ("ownerId", "asset", "cursor")
    pages = await for_each(
        cursors, lambda record: gql(client, recorded["pagesDocument"], **{name: record[name] for name in names})
    )
    for record, page in zip(cursors, pages, strict=True):
        # Later cursors may hold more positions behind these.
        decoded = ids.decode(record["cursor"])
        assert (decoded.kind, [*decoded.parts[: len(record["parts"])]]) == ("Cursor", record["parts"])
        assert page == {"older": record["older"], "newer": record["newer"]}


def explicit(sent: dict[str, Any]) -> dict[str, Any]:
    """Write a request out: what was left out as its default, the key in the other case, the amount as text."""
    texts = {"amount": str(sent["amount"]), "idempotencyKey": sent["idempotencyKey"].swapcase()}
    return {"asset": "GOLD", "description": None, "reference": None, **sent, **texts}


async def test_a_request_replays_over_graphql(release: str, client: httpx.AsyncClient) -> None:
    recorded = releases.read(release, "requests.json")
    requests = [
        (record, sent) for record in recorded["requests"] for sent in (record["input"], explicit(record["input"]))
    ]
    answers = await for_each(
        requests, lambda request: gql(client, recorded["documents"][request[0]["mutation"]], input=request[1])
    )
    for (record, sent), answer in zip(requests, answers, strict=True):
        assert record["answer"]["alreadyProcessed"]
        assert answer == {record["mutation"]: record["answer"]}, sent
    answered = {record["answer"]["__typename"] for record in recorded["requests"]}
    assert answered >= {"TopUpPayload", "BonusPayload", "SpendPayload", "InsufficientBalance", "BalanceLimitExceeded"}


async def test_a_request_replays_over_the_operations(release: str, ledger: Ledger, settings: Settings) -> None:
    before = await count_rows(settings)
    requests = releases.read(release, "requests.json")["requests"]

    async def ask(record: dict[str, Any]) -> object:
        sent = record["input"]
        return await post(
            ledger,
            POSTINGS[record["mutation"]],
            sent["ownerId"],
            sent["amount"],
            UUID(sent["idempotencyKey"]),
            asset_code=sent.get("asset", "GOLD"),
            description=sent.get("description"),
            reference=sent.get("reference"),
        )

    for record, outcome in zip(requests, await for_each(requests, ask), strict=True):
        answer = record["answer"]
        assert isinstance(outcome, Posted | Refused)
        assert outcome.already_processed
        if isinstance(outcome, Posted):
            assert str(outcome.transaction.id) == answer["transaction"]["transactionId"]
        else:
            assert outcome.facts.code.name == answer["code"]
    assert await count_rows(settings) == before


def others(record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield requests under the same key that each ask for something else."""
    asked, sent = record["mutation"], record["input"]
    yield from ((other, sent) for other in POSTINGS if other != asked)
    yield asked, sent | {"amount": 2 if Decimal(sent["amount"]) != 2 else 3}
    yield asked, sent | {"asset": "POINTS" if sent.get("asset") != "POINTS" else "GOLD", "amount": 1}
    for text in ("description", "reference"):
        yield asked, sent | {text: "another" if sent.get(text) is not None else ""}


async def test_a_key_with_another_request_is_reused(release: str, client: httpx.AsyncClient) -> None:
    recorded = releases.read(release, "requests.json")
    requests = [other for record in recorded["requests"] for other in others(record)]
    answers = await for_each(requests, lambda request: gql(client, recorded["documents"][request[0]], input=request[1]))
    for (mutation, sent), answer in zip(requests, answers, strict=True):
        assert answer[mutation] == {
            "__typename": "IdempotencyKeyReused",
            "code": "IDEMPOTENCY_KEY_REUSED",
            "retryable": False,
            "idempotencyKey": sent["idempotencyKey"].lower(),
        }


async def test_the_books_are_proven(settings: Settings) -> None:
    proof = await prove(settings)
    assert (proof.entry_count, proof.findings) == ((await count_rows(settings)).entries, [])
    assert proof.entry_count > 0


def test_migrations_up_and_down_change_no_row_and_the_books_go_on(
    release: str, restored: Callable[[str], Settings]
) -> None:
    settings = restored("migrated")
    url, role = settings.owner_url(), settings.server_role()
    text = url.render_as_string(hide_password=False)
    [columns] = asyncio.run(fetch(text, COLUMNS))
    assert len(columns) >= 7

    def digests() -> dict[str, tuple[int, str]]:
        """Return each table's rows as the release knows them: how many, and a digest."""
        digest = "count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text))"
        statements = [f"SELECT {digest} FROM (SELECT {names} FROM {table}) AS t" for table, names in columns]
        found = asyncio.run(fetch(text, *statements))
        return {table: tuple(rows[0]) for (table, _), rows in zip(columns, found, strict=True)}

    before = digests()
    assert all(count > 0 for count, _ in before.values())
    migrations.upgrade(url, role)
    assert digests() == before
    migrations.downgrade(url, role, releases.OLDEST_REVISION[release])
    assert digests() == before
    migrations.upgrade(url, role)
    assert digests() == before
    command.check(migrations.configuration(url, role))

    async def go_on() -> None:
        async with open_ledger(settings) as ledger:
            for owner_id in ("alice", "zero\u200bwidth", "idle", await new_owner(ledger)):
                held = await balance(ledger, owner_id)
                assert isinstance(await post(ledger, "top_up", owner_id, 5), Posted)
                assert await balance(ledger, owner_id) == held + 5
        assert (await prove(settings)).findings == []

    asyncio.run(go_on())
