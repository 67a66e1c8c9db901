"""Makes the fixtures in this folder with the code of release 0.1.0. It is frozen with them.

Run it with the Python of a checkout of that release (docs/releases.md). It fills a database on an embedded
PostgreSQL 16, sends each request again, and writes down what was answered: `fingerprints.json`, `requests.json`,
`ids.json`, and the database itself as `database.sql`; and the schema. Owners, amounts and keys are the same in every
run; ids and times are not, so the files are only ever made together.
"""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import httpx
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from wallet_gql.db import migrations
from wallet_gql.db.binaries import installed_binaries
from wallet_gql.db.embedded import start
from wallet_gql.domain.model import TransactionType, fingerprint
from wallet_gql.domain.money import parse_decimal, to_minor
from wallet_gql.domain.shards import shard_of
from wallet_gql.graphql import ids
from wallet_gql.graphql.http import GraphQLEndpoint
from wallet_gql.graphql.schema import export_schema
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

FOLDER: Final = Path(__file__).parent
POSTGRES_VERSION: Final = 16  # the oldest that is supported: what it dumps, newer ones restore
SHARD_COUNT: Final = 4
SLOT_COUNT: Final = 3

ASSETS: Final = {
    "GOLD": ("Gold Coins", 0),
    "DIAMOND": ("Diamonds", 0),
    "POINTS": ("Loyalty Points", 2),
    "NANO": ("Nano \u20bf", 9),
    "A_CODE_OF_THIRTY_TWO_CHARACTERS_": ("The longest code", 4),
}

# What is open in 0.1.0 stays reachable: Unicode, invisible characters, the longest and the shortest id.
OWNERS: Final = (
    "alice", "Alice", "bob", "carol", "7", "x" * 128, "zo\u00eb-\u73a9\u5bb6-\U0001f3ae", "zero\u200bwidth",
    "soft\u00adhyphen", "\u0645\u0631\u062d\u0628\u0627", "o'brien \"x\" \\ %s :1, $1", "two  blanks",
)  # fmt: skip
IDLE_OWNERS: Final = ("idle", "idle-\u0394", "idle:2")
# Owner, asset and the largest amount of one posting: a hundred of them are all that a wallet may hold.
FULL: Final = (("full", "GOLD", "1000000000000000"), ("full-of-points", "POINTS", "10000000000000.00"))

TEXTS: Final = (
    None, "Order 17", "", None, "-", "0:", "1:a", "na\u00efve caf\u00e9", "cafe\u0301 (not in NFC)",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u05e9\u05dc\u05d5\u05dd \u202eabc", "tab\tnew\nline\r\n\\.\n\\N", "quote ' \" $$ \\ %s {}",
    "\u2028\ufeff\U0010ffff", " blanks ", "NULL",
)  # fmt: skip
LONGEST: Final = ("y" * 500, "\U0001f600" * 500)

WALLET: Final = "wallet { id ownerId openedAt }"
BALANCE: Final = "balance { id ownerId asset { id code scale } amount }"
TRANSACTION: Final = (
    "id transactionId type direction amount balanceAfter asset { id code } description reference executedAt"
    " idempotencyKey entries { account direction amount }"
)
REFUSED: Final = f"{BALANCE} alreadyProcessed"


def mutation(field: str, name: str, more: str = "") -> str:
    """Return the document that asks a posting for all that 0.1.0 answers, but its messages, which may change."""
    return (
        f"mutation ($input: {name}Input!) {{ {field}(input: $input) {{ __typename"
        f" ... on {name}Payload {{ alreadyProcessed transaction {{ {TRANSACTION} }} {WALLET} {BALANCE} }}"
        " ... on Error { code retryable } ... on IdempotencyKeyReused { idempotencyKey }"
        f" ... on BalanceLimitExceeded {{ limit {REFUSED} }}{more} }} }}"
    )


DOCUMENTS: Final = {
    "topUp": mutation("topUp", "TopUp"),
    "bonus": mutation("bonus", "Bonus"),
    "spend": mutation("spend", "Spend", f" ... on InsufficientBalance {{ available required {REFUSED} }}"),
}
NODE: Final = (
    "query ($id: ID!) { node(id: $id) { __typename id ... on Asset { code name scale }"
    " ... on Wallet { ownerId openedAt } ... on Balance { ownerId asset { id code } amount }"
    f" ... on Transaction {{ {TRANSACTION.removeprefix('id ')} }} }} }}"
)
PAGE: Final = "totalCount pageInfo { hasNextPage hasPreviousPage } nodes { id transactionId }"
PAGES: Final = (
    "query ($ownerId: String!, $asset: String!, $cursor: String!) {"
    f" older: transactions(ownerId: $ownerId, asset: $asset, first: 3, after: $cursor) {{ {PAGE} }}"
    f" newer: transactions(ownerId: $ownerId, asset: $asset, last: 3, before: $cursor) {{ {PAGE} }} }}"
)
CURSORS: Final = (
    "query ($ownerId: String!) { wallet(ownerId: $ownerId) { id balances { id cursor asset { code } } "
    + " ".join(
        f"{code}: transactions(asset: {json.dumps(code)}, first: 4) {{ edges {{ cursor node {{ id }} }} }}"
        for code in ASSETS
    )
    + " } }"
)


@dataclass(frozen=True)
class Request:
    """A posting as a client sends it."""

    mutation: str
    input: dict[str, Any]


class Plan:
    """Requests in the order in which they are posted; keys are drawn from a generator with a fixed seed."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.fillings: list[Request] = []
        self._random = Random("0.1.0")  # noqa: S311 - keys that are the same in every run
        self._descriptions, self._references = cycle(TEXTS), cycle(reversed(TEXTS))

    def key(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def ask(self, mutation: str, owner_id: str, asset: str, amount: str | int, **more: str) -> None:
        """Ask with the next two texts; what is null is sometimes left out, and so is the default asset."""
        texts = {"description": next(self._descriptions), "reference": next(self._references)}
        sent = {name: text for name, text in texts.items() if text is not None or self._random.random() < 0.5}
        default = {} if asset == "GOLD" and self._random.random() < 0.5 else {"asset": asset}
        must = {"ownerId": owner_id, "amount": amount, "idempotencyKey": self.key()}
        self.requests.append(Request(mutation, {**must, **default, **sent, **more}))

    def fill(self, owner_id: str, asset: str, amount: str) -> None:
        """Bring an account to the most that it may hold, by postings that are not written down."""
        self.fillings += [
            Request("topUp", {"ownerId": owner_id, "asset": asset, "amount": amount, "idempotencyKey": self.key()})
            for _ in range(100)
        ]


def plan() -> Plan:
    """Return what is asked of the database: every type, outcome, scale and kind of text."""
    made = Plan()
    for owner_id, asset, amount in FULL:
        made.fill(owner_id, asset, amount)
    smallest = {code: "1" if scale == 0 else f"0.{'1'.rjust(scale, '0')}" for code, (_, scale) in ASSETS.items()}
    codes = cycle(ASSETS)
    for owner_id in OWNERS:
        for asset in sorted({next(codes), next(codes)}):
            made.ask("spend", owner_id, asset, smallest[asset])  # refused: an account that was never used
            made.ask("topUp", owner_id, asset, "12.5" if asset == "POINTS" else 100)
            made.ask("bonus", owner_id, asset, smallest[asset])
            made.ask("spend", owner_id, asset, 7)
            made.ask("spend", owner_id, asset, "100000")  # refused, and kept although the next one brings enough
            made.ask("topUp", owner_id, asset, "100000")
    for owner_id, asset, amount in FULL:
        made.ask("topUp", owner_id, asset, smallest[asset])  # refused: the wallet is full
        made.ask("bonus", owner_id, asset, amount)
        made.ask("spend", owner_id, asset, amount)
        made.ask("topUp", owner_id, asset, amount)
        made.ask("bonus", owner_id, asset, smallest[asset])
        made.ask("spend", owner_id, asset, smallest[asset])
        made.ask("spend", owner_id, "DIAMOND", 1)
    # The bounds of an amount at the finest scale, the longest texts, a key of version 7 in capitals, one key of two
    # owners.
    made.ask("topUp", "bob", "NANO", "1000000")
    made.ask("spend", "bob", "NANO", "0.000000001")
    made.ask("topUp", "bob", "POINTS", "0.5", description=LONGEST[0], reference=LONGEST[1])
    made.ask("bonus", "carol", "GOLD", 3, idempotencyKey="019A0000-0000-7000-8000-0000000000AB")
    for owner_id in ("alice", "Alice"):
        made.ask("topUp", owner_id, "GOLD", 5, idempotencyKey="5eed0000-0000-4000-8000-0000000000ff")
    return made


class Client:
    """Asks the endpoint of one ledger, in this process."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._endpoint = GraphQLEndpoint(ledger.settings)
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(self), base_url="http://wallet.test")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint({**scope, "state": {"ledger": self.ledger, "request_id": "make"}}, receive, send)

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = (await self._http.post("/graphql", json={"query": query, "variables": variables})).json()
        assert "errors" not in answer, answer
        return dict(answer["data"])

    async def post(self, request: Request) -> dict[str, Any]:
        answer = await self.ask(DOCUMENTS[request.mutation], input=request.input)
        return dict(answer[request.mutation])


async def fill(clients: Iterator[Client], made: Plan) -> None:
    """Post everything for the first time, one after the other, each through the next worker slot."""
    owners = [*OWNERS, *IDLE_OWNERS, *(owner_id for owner_id, _, _ in FULL)]
    assert {shard_of(owner_id, SHARD_COUNT) for owner_id in owners} == set(range(SHARD_COUNT))
    opening = "mutation ($input: OpenWalletInput!) { openWallet(input: $input) { __typename } }"
    for owner_id in owners:
        await next(clients).ask(opening, input={"ownerId": owner_id})
    for request in (*made.fillings, *made.requests):
        answer = await next(clients).post(request)
        assert not answer["alreadyProcessed"], answer


async def make_requests(clients: Iterator[Client], made: Plan) -> dict[str, Any]:
    """Ask everything again, and write down what is answered."""
    answered: list[dict[str, Any]] = []
    for request in made.requests:
        answer = await next(clients).post(request)
        assert answer["alreadyProcessed"], answer
        answered.append({"mutation": request.mutation, "input": request.input, "answer": answer})
    kinds = {record["answer"]["__typename"] for record in answered}
    assert kinds == {"TopUpPayload", "BonusPayload", "SpendPayload", "InsufficientBalance", "BalanceLimitExceeded"}
    return {"documents": DOCUMENTS, "requests": answered}


async def make_ids(client: Client) -> dict[str, Any]:
    """Write down what ids name, and what lies around cursors."""
    nodes, cursors = [], []

    async def add_node(id_: str) -> None:
        kind, parts, code = ids.decode(id_)
        answer = await client.ask(NODE, id=id_)
        nodes.append({"id": id_, "kind": kind, "parts": parts, "code": code, "node": answer["node"]})

    async def add_cursor(owner_id: str, asset: str, cursor: str) -> None:
        account = {"ownerId": owner_id, "asset": asset}
        _, parts, _ = ids.decode(cursor)
        cursors.append(
            {"cursor": cursor, "parts": parts, **account, **await client.ask(PAGES, **account, cursor=cursor)}
        )

    for code in ASSETS:
        await add_node(ids.asset_id(code))
    for owner_id in (*OWNERS, *IDLE_OWNERS, *(owner_id for owner_id, _, _ in FULL)):
        wallet = (await client.ask(CURSORS, ownerId=owner_id))["wallet"]
        await add_node(wallet["id"])
        for balance in wallet["balances"]:
            edges = wallet[balance["asset"]["code"]]["edges"]
            if edges or owner_id in IDLE_OWNERS[:1]:
                await add_node(balance["id"])
                await add_cursor(owner_id, balance["asset"]["code"], balance["cursor"])
            for edge in edges[1:]:
                await add_node(edge["node"]["id"])
                await add_cursor(owner_id, balance["asset"]["code"], edge["cursor"])
    return {"nodeDocument": NODE, "pagesDocument": PAGES, "nodes": nodes, "cursors": cursors}


def make_fingerprints() -> dict[str, Any]:
    """Pair requests with their fingerprints: all types, scales and texts, amounts at both bounds."""
    records = []

    def add(type_: TransactionType, asset: str, amount: str, description: str | None, reference: str | None) -> None:
        scale = ASSETS[asset][1]
        amount_minor = to_minor(parse_decimal(amount), scale)
        assert isinstance(amount_minor, int), amount_minor
        condensed = fingerprint(type_, asset, amount_minor, description, reference)
        asked = {"type": type_.name, "asset": asset, "scale": scale, "amount": amount, "amountMinor": amount_minor}
        records.append({**asked, "description": description, "reference": reference, "fingerprint": condensed.hex()})

    types, codes = cycle(TransactionType), cycle(ASSETS)
    for code, (_, scale) in ASSETS.items():
        unit = 10**scale
        for amount in (f"{1 / unit:.{scale}f}", "12", "12.5" if scale else "125", str(10**15 // unit)):
            for type_ in TransactionType:
                add(type_, code, amount, None, None)
    for text in TEXTS + LONGEST:
        for description, reference in ((text, None), (None, text), (text, text), (text, "Order 17")):
            add(next(types), next(codes), "3", description, reference)
    return {"fingerprints": records}


def write(name: str, parts: dict[str, Any]) -> None:
    """Write JSON with one record of a list to a line, so that two versions can be compared."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        return json.dumps(value)

    body = ",\n".join(f"{json.dumps(part)}: {text(value)}" for part, value in parts.items())
    (FOLDER / name).write_text(f"{{\n{body}\n}}\n")


async def make(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        ledgers = [await stack.enter_async_context(open_ledger(settings)) for _ in range(SLOT_COUNT)]
        assert [ledger.slot for ledger in ledgers] == list(range(SLOT_COUNT))
        for code, (name, scale) in ASSETS.items():
            await add_asset(ledgers[0], code, name, scale)
        clients = [Client(ledger) for ledger in ledgers]
        made = plan()
        await fill(cycle(clients), made)
        write("requests.json", await make_requests(cycle(clients), made))
        write("ids.json", await make_ids(clients[0]))
    assert (await prove(settings)).findings == []


def dump(settings: Settings) -> bytes:
    """Return the database's dump, without what differs from machine to machine."""
    url = settings.owner_url()
    program = installed_binaries(POSTGRES_VERSION) / "pg_dump"
    connection = {"HOST": url.host, "PORT": str(url.port), "USER": url.username, "DATABASE": url.database}
    environment = {f"PG{name}": value or "" for name, value in connection.items()}
    environment |= {"PGPASSWORD": str(url.password), "PGCLIENTENCODING": "UTF8"}
    command: list[str | Path] = [program, "--no-owner", "--restrict-key=released"]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout


def main() -> None:
    assert version("wallet-gql") == FOLDER.name, "run it with the Python of a checkout of this release"
    for name in [name for name in os.environ if name == "DATABASE_URL" or name.startswith("WALLET_")]:
        del os.environ[name]
    os.environ["WALLET_SHARD_COUNT"] = str(SHARD_COUNT)  # the first migration reads it
    (FOLDER / "schema.graphql").write_text(export_schema())
    write("fingerprints.json", make_fingerprints())
    scratch = Path(tempfile.mkdtemp(prefix="wallet-gql-release-", dir="/tmp"))
    scratch.chmod(0o755)
    try:
        with start(scratch / "data", version=POSTGRES_VERSION) as server:
            settings = Settings(
                _env_file=None,
                DATABASE_URL=SecretStr(server.server_url),
                migration_database_url=SecretStr(server.owner_url),
                shard_count=SHARD_COUNT,
                pool_size=10,
            )
            migrations.upgrade(settings.owner_url(), settings.server_role())
            asyncio.run(make(settings))
            (FOLDER / "database.sql").write_bytes(dump(settings))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
