"""A Hypothesis state machine runs the ledger against the model: through operations, and over HTTP."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID, uuid4

import httpx
import pytest
from batches import on_balance
from conftest import Served
from factories import gql, post
from hypothesis import HealthCheck, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from model.model import Answer, Ask, Books

from wallet_gql.domain.postings import KeyReused, Posted, Refused, WalletMissing
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.reads import PageRequest, WalletAsset
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.wallets import open_wallet
from wallet_gql.settings import Settings

OWNERS = ("ann", "ben", "cy")
KEYS = tuple(f"k{n}" for n in range(12))
AMOUNTS = st.one_of(st.integers(1, 60), st.sampled_from((10**15, 10**15 - 1)))
ASKS = st.builds(
    Ask,
    st.sampled_from(("top_up", "bonus", "spend", "spend")),
    st.sampled_from(OWNERS),
    st.sampled_from(("GOLD", "GOLD", "DIAMOND")),
    AMOUNTS,
    st.sampled_from(KEYS),
    st.sampled_from((None, None, "order")),
)


class Driver(Protocol):
    """A way to the ledger."""

    async def open(self, owner: str) -> bool: ...

    async def post(self, ask: Ask, key: UUID) -> Answer: ...

    async def balance(self, owner: str, asset: str) -> int: ...

    async def history(self, owner: str, asset: str) -> list[tuple[str, int]]: ...


class ByOperations:
    """Drives the ledger by its operations."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def open(self, owner: str) -> bool:
        return (await open_wallet(self.ledger, owner)).already_open

    async def post(self, ask: Ask, key: UUID) -> Answer:
        outcome = await post(
            self.ledger, ask.verb, ask.owner, ask.amount, key, asset_code=ask.asset, reference=ask.reference
        )
        match outcome:
            case Posted():
                after = outcome.transaction.balance_after_minor
                return Answer("posted", after, outcome.balance.amount_minor, outcome.already_processed)
            case Refused():
                name = "limit" if outcome.facts.code is OutcomeCode.BALANCE_LIMIT_EXCEEDED else "insufficient"
                now = outcome.balance.amount_minor
                return Answer(name, on_balance(outcome).balance_before_minor, now, outcome.already_processed)
            case WalletMissing():
                return Answer("wallet missing")
            case KeyReused():
                return Answer("key reused")
        raise AssertionError(outcome)

    async def _account(self, owner: str, asset: str) -> WalletAsset:
        wallet = await self.ledger.reads.wallets.load(OwnerName(shard_of(owner, self.ledger.shard_count), owner))
        assert wallet is not None
        return WalletAsset(wallet, self.ledger.assets[asset])

    async def balance(self, owner: str, asset: str) -> int:
        return (await self.ledger.reads.balances.load(await self._account(owner, asset))).amount_minor

    async def history(self, owner: str, asset: str) -> list[tuple[str, int]]:
        page = await self.ledger.reads.pages.load(PageRequest(await self._account(owner, asset), first=100))
        return [(view.type.name.lower(), view.balance_after_minor) for view in page.transactions]


FIELDS = {"top_up": ("topUp", "TopUp"), "bonus": ("bonus", "Bonus"), "spend": ("spend", "Spend")}
INSUFFICIENT = "... on InsufficientBalance { available balance { amount } replayed: alreadyProcessed }"


class ByHttp:
    """Drives the ledger over HTTP."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def open(self, owner: str) -> bool:
        query = (
            "mutation($o: String!) { openWallet(input: {ownerId: $o}) { ... on OpenWalletPayload { alreadyOpen } } }"
        )
        return bool((await gql(self.client, query, o=owner))["openWallet"]["alreadyOpen"])

    async def post(self, ask: Ask, key: UUID) -> Answer:
        field, name = FIELDS[ask.verb]
        query = f"""mutation($input: {name}Input!) {{ {field}(input: $input) {{ __typename
            ... on {name}Payload {{ transaction {{ balanceAfter }} balance {{ amount }} replayed: alreadyProcessed }}
            ... on BalanceLimitExceeded {{ balance {{ amount }} replayed: alreadyProcessed }}
            {INSUFFICIENT if field == "spend" else ""} }} }}"""
        posting = {"ownerId": ask.owner, "asset": ask.asset, "amount": str(ask.amount), "idempotencyKey": str(key)}
        if ask.reference is not None:
            posting["reference"] = ask.reference
        result: dict[str, Any] = (await gql(self.client, query, input=posting))[field]
        match result["__typename"]:
            case "WalletNotFound":
                return Answer("wallet missing")
            case "IdempotencyKeyReused":
                return Answer("key reused")
            case "InsufficientBalance":
                at, outcome = int(result["available"]), "insufficient"
            case "BalanceLimitExceeded":
                at, outcome = int(result["balance"]["amount"]), "limit"
            case _:
                at, outcome = int(result["transaction"]["balanceAfter"]), "posted"
        return Answer(outcome, at, int(result["balance"]["amount"]), result["replayed"])

    async def balance(self, owner: str, asset: str) -> int:
        query = "query($o: String!, $a: String!) { balance(ownerId: $o, asset: $a) { amount } }"
        return int((await gql(self.client, query, o=owner, a=asset))["balance"]["amount"])

    async def history(self, owner: str, asset: str) -> list[tuple[str, int]]:
        query = """query($o: String!, $a: String!) {
            transactions(ownerId: $o, asset: $a, first: 100) { nodes { type balanceAfter } } }"""
        nodes = (await gql(self.client, query, o=owner, a=asset))["transactions"]["nodes"]
        return [(node["type"].lower(), int(node["balanceAfter"])) for node in nodes]


class Machine(RuleBasedStateMachine):
    """Every outcome, balance and history equals the model's."""

    runner: asyncio.Runner
    driver: Driver

    @initialize()
    def begin(self) -> None:
        self.books = Books()
        self.suffix = uuid4().hex
        self.keys = {key: uuid4() for key in KEYS}

    def real(self, ask: Ask) -> tuple[Ask, UUID]:
        return replace(ask, owner=f"{ask.owner}-{self.suffix}"), self.keys[ask.key]

    @rule(owner=st.sampled_from(OWNERS))
    def open(self, owner: str) -> None:
        name = f"{owner}-{self.suffix}"
        assert self.runner.run(self.driver.open(name)) == self.books.open(name)

    @rule(asks=st.lists(ASKS, min_size=1, max_size=12))
    def post_at_once(self, asks: list[Ask]) -> None:
        """Requests that are sent at once are answered as if in the order of their sending, wallet by wallet."""
        real = [self.real(ask) for ask in asks]
        self.compare([ask for ask, _ in real], self.runner.run(self.post_together(real)))

    async def post_together(self, real: list[tuple[Ask, UUID]]) -> list[Answer]:
        return await asyncio.gather(*(self.driver.post(ask, key) for ask, key in real))

    def compare(self, asks: list[Ask], answers: list[Answer]) -> None:
        for ask, answer in zip(asks, answers, strict=True):
            note(f"{ask} -> {answer}")
            assert self.books.post(ask) == answer

    @invariant()
    def balances_and_histories_agree(self) -> None:
        for owner in getattr(self, "books", Books()).balances:
            for asset in ("GOLD", "DIAMOND"):
                assert self.runner.run(self.driver.balance(owner, asset)) == self.books.balance(owner, asset)
                shown = self.runner.run(self.driver.history(owner, asset))
                assert shown == self.books.history.get((owner, asset), [])[:100]


class HttpMachine(Machine):
    """Over HTTP two requests may overtake each other on the way: only those of different wallets are sent at once."""

    @rule(asks=st.lists(ASKS, min_size=1, max_size=12))
    def post_at_once(self, asks: list[Ask]) -> None:
        one_each = {ask.owner: self.real(ask) for ask in asks}
        real = list(one_each.values())
        self.compare([ask for ask, _ in real], self.runner.run(self.post_together(real)))


LIMITS = hypothesis_settings(
    max_examples=25,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def run(machine: type[Machine], runner: asyncio.Runner, driver: Driver) -> None:
    bound = type("Bound", (machine,), {"runner": runner, "driver": driver})
    run_state_machine_as_test(bound, settings=LIMITS)


def test_operations_agree_with_the_model(runner: asyncio.Runner, settings: Settings) -> None:
    opening = open_ledger(settings)
    ledger = runner.run(opening.__aenter__())
    try:
        run(Machine, runner, ByOperations(ledger))
    finally:
        runner.run(opening.__aexit__(None, None, None))
    assert runner.run(prove(settings)).findings == []


def test_http_agrees_with_the_model(runner: asyncio.Runner, served: Served, settings: Settings) -> None:
    client = httpx.AsyncClient(base_url=served.url.removesuffix("/graphql"), timeout=30)
    try:
        run(HttpMachine, runner, ByHttp(client))
    finally:
        runner.run(client.aclose())
    assert runner.run(prove(settings)).findings == []
