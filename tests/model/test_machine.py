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
from model.model import STATUSES, Answer, Ask, Books

from wallet_gql.domain.postings import Changed, KeyReused, Posted, Refused, Remainder, WalletMissing
from wallet_gql.domain.refusals import OutcomeCode, WalletClosed, WalletFrozen
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName, WalletStatus
from wallet_gql.ledger.reads import PageRequest, WalletAsset
from wallet_gql.ledger.states import WalletId
from wallet_gql.operations import states
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

    async def status(self, owner: str) -> str: ...

    async def history(self, owner: str, asset: str) -> list[tuple[str, int]]: ...


class ByOperations:
    """Drives the ledger by its operations."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def open(self, owner: str) -> bool:
        return (await open_wallet(self.ledger, owner)).already_open

    async def post(self, ask: Ask, key: UUID) -> Answer:
        if ask.verb in STATUSES:
            outcome: object = await self.change(ask, states.StateInput(ask.owner, key, "because"))
        else:
            outcome = await post(
                self.ledger, ask.verb, ask.owner, ask.amount, key, asset_code=ask.asset, reference=ask.reference
            )
        match outcome:
            case Changed():
                return Answer("changed", replayed=outcome.already_processed)
            case Refused(WalletFrozen(status=status)):
                return Answer(status.name, replayed=outcome.already_processed)
            case Refused(WalletClosed()):
                return Answer("closed", replayed=outcome.already_processed)
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

    async def change(self, ask: Ask, asked: states.StateInput) -> states.StateOutcome:
        match ask.verb:
            case "close":
                return await states.close(self.ledger, asked, Remainder.FORFEIT, None, voids_holds=False)
            case "reopen":
                return await states.reopen(self.ledger, asked)
            case "unfreeze":
                return await states.unfreeze(self.ledger, asked)
        return await states.freeze(self.ledger, asked, WalletStatus[STATUSES[ask.verb]], None)

    async def status(self, owner: str) -> str:
        wallet = (await self._account(owner, "GOLD")).wallet
        state = await self.ledger.reads.states.load(WalletId(wallet.shard, wallet.id))
        return "OPEN" if state is None else state.status.name

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
# What is sent besides the owner and the key.
CHANGES: dict[str, tuple[str, dict[str, str]]] = {
    "freeze_out": ("freeze", {}),
    "freeze_all": ("freeze", {"scope": "ALL"}),
    "unfreeze": ("unfreeze", {}),
    "close": ("close", {"remainder": "FORFEIT"}),
    "reopen": ("reopen", {}),
}
STOPPED = """
    ... on WalletClosed { replayed: alreadyProcessed }
    ... on WalletFrozen { status replayed: alreadyProcessed }"""
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
        if ask.verb in CHANGES:
            return await self.change(ask, key)
        field, name = FIELDS[ask.verb]
        query = f"""mutation($input: {name}Input!) {{ {field}(input: $input) {{ __typename
            ... on {name}Payload {{ transaction {{ balanceAfter }} balance {{ amount }} replayed: alreadyProcessed }}
            ... on BalanceLimitExceeded {{ balance {{ amount }} replayed: alreadyProcessed }}
            {STOPPED}
            {INSUFFICIENT if field == "spend" else ""} }} }}"""
        posting = {"ownerId": ask.owner, "asset": ask.asset, "amount": str(ask.amount), "idempotencyKey": str(key)}
        if ask.reference is not None:
            posting["reference"] = ask.reference
        result: dict[str, Any] = (await gql(self.client, query, input=posting))[field]
        if (told := self.told_without_balance(result)) is not None:
            return told
        match result["__typename"]:
            case "InsufficientBalance":
                at, outcome = int(result["available"]), "insufficient"
            case "BalanceLimitExceeded":
                at, outcome = int(result["balance"]["amount"]), "limit"
            case _:
                at, outcome = int(result["transaction"]["balanceAfter"]), "posted"
        return Answer(outcome, at, int(result["balance"]["amount"]), result["replayed"])

    async def change(self, ask: Ask, key: UUID) -> Answer:
        verb, more = CHANGES[ask.verb]
        query = f"""mutation($input: {verb.title()}WalletInput!) {{ {verb}Wallet(input: $input) {{ __typename
            ... on WalletPayload {{ replayed: alreadyProcessed }} {STOPPED} }} }}"""
        asked = {"ownerId": ask.owner, "idempotencyKey": str(key), "note": "because", **more}
        told = self.told_without_balance((await gql(self.client, query, input=asked))[f"{verb}Wallet"])
        assert told is not None
        return told

    def told_without_balance(self, result: dict[str, Any]) -> Answer | None:
        match result["__typename"]:
            case "WalletNotFound":
                return Answer("wallet missing")
            case "IdempotencyKeyReused":
                return Answer("key reused")
            case "WalletPayload":
                return Answer("changed", replayed=result["replayed"])
            case "WalletClosed":
                return Answer("closed", replayed=result["replayed"])
            case "WalletFrozen":
                return Answer(result["status"], replayed=result["replayed"])
        return None

    async def status(self, owner: str) -> str:
        query = "query($o: String!) { wallet(ownerId: $o) { status } }"
        return str((await gql(self.client, query, o=owner))["wallet"]["status"])

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

    @rule(verb=st.sampled_from(("freeze_out", "freeze_all", "unfreeze", "close", "reopen", "reopen")),
          owner=st.sampled_from(OWNERS), key=st.sampled_from(KEYS))  # fmt: skip
    def change(self, verb: str, owner: str, key: str) -> None:
        real = [self.real(Ask(verb, owner, "", 0, key))]
        self.compare([ask for ask, _ in real], self.runner.run(self.post_together(real)))

    def compare(self, asks: list[Ask], answers: list[Answer]) -> None:
        for ask, answer in zip(asks, answers, strict=True):
            note(f"{ask} -> {answer}")
            assert self.books.post(ask) == answer

    @invariant()
    def balances_and_histories_agree(self) -> None:
        if hasattr(self, "books"):
            self.runner.run(self.agree())

    async def agree(self) -> None:
        owners = self.books.balances
        accounts = [self.account_agrees(owner, asset) for owner in owners for asset in ("GOLD", "DIAMOND")]
        await asyncio.gather(*map(self.status_agrees, owners), *accounts)

    async def status_agrees(self, owner: str) -> None:
        assert await self.driver.status(owner) == self.books.status(owner)

    async def account_agrees(self, owner: str, asset: str) -> None:
        assert await self.driver.balance(owner, asset) == self.books.balance(owner, asset)
        assert await self.driver.history(owner, asset) == self.books.history.get((owner, asset), [])[:100]


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
