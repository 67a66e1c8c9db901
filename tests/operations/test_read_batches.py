import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from factories import new_owner, new_owner_id, post
from pydantic import SecretStr

from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.limits import Enforcement, LimitFlow, LimitsSet
from wallet_gql.domain.lots import CreditSource, LotName, LotTerms
from wallet_gql.domain.postings import Held, Posted, TransactionName
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName, WalletStatus
from wallet_gql.ledger.holds import HoldPageRequest
from wallet_gql.ledger.limit_reads import LimitUse
from wallet_gql.ledger.limits import Chain
from wallet_gql.ledger.lot_reads import LotPageRequest
from wallet_gql.ledger.reads import EntryName, OwnTransaction, PageRequest, WalletAsset
from wallet_gql.ledger.searches import SearchRequest
from wallet_gql.ledger.states import WalletId
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.holds import ChangeHoldInput, PlaceHoldInput, capture_hold, place_hold
from wallet_gql.operations.limits import LimitInput, rolling, set_limit
from wallet_gql.operations.opening import Ledger, Reads
from wallet_gql.operations.read_batches import BATCH_SIZE_MAX, STATEMENTS_UNDER_WAY_MAX, ReadBatch
from wallet_gql.operations.reversals import ReverseInput, refund
from wallet_gql.operations.states import StateInput, freeze
from wallet_gql.operations.wallets import open_wallet

DEADLINE_SECONDS = 10


class Doubled:
    """Reads from the database twice each number; notes what each statement was asked, and can be held up."""

    def __init__(self, ledger: Ledger) -> None:
        self.statements: list[list[int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.fault: Exception | None = None
        self.batch = ReadBatch(ledger.engine, self._read, DEADLINE_SECONDS)

    async def _read(self, connection: Connection, keys: Sequence[int]) -> list[int]:
        self.statements.append(list(keys))
        await self.may_answer.wait()
        if self.fault is not None:
            raise self.fault
        rows = await connection.fetch("SELECT n * 2 FROM unnest($1::int[]) WITH ORDINALITY AS k(n, o) ORDER BY o", keys)
        return [row[0] for row in rows]

    async def sent(self, count: int) -> None:
        """Wait until so many statements were sent."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.statements) < count:  # noqa: ASYNC110 - what is awaited has no event of its own
                await asyncio.sleep(0)

    async def turns(self) -> None:
        """Let whatever can go on, go on."""
        for _ in range(20):
            await asyncio.sleep(0)


async def test_loads_of_one_turn_share_a_statement(ledger: Ledger) -> None:
    doubled = Doubled(ledger)

    answers = await asyncio.gather(*map(doubled.batch.load, range(50)))

    assert answers == [2 * n for n in range(50)]
    assert doubled.statements == [list(range(50))]


async def test_one_key_asked_often_is_read_once(ledger: Ledger) -> None:
    doubled = Doubled(ledger)

    assert await asyncio.gather(*(doubled.batch.load(n % 3) for n in range(30))) == [n % 3 * 2 for n in range(30)]

    assert doubled.statements == [[0, 1, 2]]


async def test_load_after_the_statement_was_sent_does_not_join_it(ledger: Ledger) -> None:
    doubled = Doubled(ledger)
    doubled.may_answer.clear()
    first = asyncio.ensure_future(doubled.batch.load(1))
    await doubled.sent(1)

    second = asyncio.ensure_future(doubled.batch.load(1))
    await doubled.sent(2)
    doubled.may_answer.set()

    assert [await first, await second] == [2, 2]
    assert doubled.statements == [[1], [1]]


async def test_what_is_asked_while_others_are_read_forms_the_next_statement(ledger: Ledger) -> None:
    doubled = Doubled(ledger)
    doubled.may_answer.clear()
    loads = []
    for n in range(STATEMENTS_UNDER_WAY_MAX):
        loads.append(asyncio.ensure_future(doubled.batch.load(n)))
        await doubled.sent(n + 1)
    for n in range(10, 15):
        loads.append(asyncio.ensure_future(doubled.batch.load(n)))
        await doubled.turns()
    assert len(doubled.statements) == STATEMENTS_UNDER_WAY_MAX
    doubled.may_answer.set()

    assert await asyncio.gather(*loads) == [0, 2, 20, 22, 24, 26, 28]
    assert doubled.statements == [[0], [1], [10, 11, 12, 13, 14]]


async def test_more_keys_than_a_statement_takes_are_divided(ledger: Ledger) -> None:
    doubled = Doubled(ledger)
    count = 2 * BATCH_SIZE_MAX + 1

    assert await asyncio.gather(*map(doubled.batch.load, range(count))) == [2 * n for n in range(count)]

    # Two are under way at once, and either may answer first.
    assert sorted(len(keys) for keys in doubled.statements) == [1, BATCH_SIZE_MAX, BATCH_SIZE_MAX]


async def test_caller_that_goes_away_takes_nothing_from_the_others(ledger: Ledger) -> None:
    doubled = Doubled(ledger)
    doubled.may_answer.clear()
    gone, of_same_key, of_other_key = (asyncio.ensure_future(doubled.batch.load(n)) for n in (1, 1, 2))
    await doubled.sent(1)

    gone.cancel()
    await doubled.turns()
    doubled.may_answer.set()

    assert [await of_same_key, await of_other_key] == [2, 4]
    assert gone.cancelled()
    assert doubled.statements == [[1, 2]]


async def test_caller_that_goes_away_before_the_statement_takes_nothing_from_the_others(ledger: Ledger) -> None:
    doubled = Doubled(ledger)
    gone, stays = (asyncio.ensure_future(doubled.batch.load(1)) for _ in range(2))

    gone.cancel()

    assert await stays == 2
    assert doubled.statements == [[1]]


async def test_error_reaches_every_caller_and_the_next_read_is_fresh(ledger: Ledger) -> None:
    doubled = Doubled(ledger)
    doubled.fault = LookupError("planted")

    answers = await asyncio.gather(*map(doubled.batch.load, (1, 1, 2)), return_exceptions=True)

    assert answers == [doubled.fault] * 3
    doubled.fault = None
    assert await doubled.batch.load(1) == 2


async def test_data_error_is_told_to_who_asked_for_it_only(ledger: Ledger) -> None:
    statements: list[list[int]] = []

    async def divide(connection: Connection, keys: Sequence[int]) -> list[int]:
        statements.append(list(keys))
        rows = await connection.fetch(
            "SELECT 12 / n FROM unnest($1::int[]) WITH ORDINALITY AS k(n, o) ORDER BY o", keys
        )
        return [row[0] for row in rows]

    batch = ReadBatch(ledger.engine, divide, DEADLINE_SECONDS)
    answers = await asyncio.gather(*map(batch.load, (1, 2, 0, 3, 4, 0)), return_exceptions=True)

    assert [answers[n] for n in (0, 1, 3, 4)] == [12, 6, 4, 3]
    assert [type(answers[n]) for n in (2, 5)] == [asyncpg.DivisionByZeroError] * 2
    # Halved, and halved again, until the zero stands alone.
    assert statements == [[1, 2, 0, 3, 4], [1, 2], [0, 3, 4], [0], [3, 4]]


UNREADABLE: dict[str, Callable[[Any], Any]] = {
    "wallets": lambda key: OwnerName(key.shard, "\0"),
    "wallets_by_id": lambda key: (key[0], 2**63),
    "balances": lambda key: WalletAsset(replace(key.wallet, id=2**63), key.asset),
    "owners_balances": lambda key: (OwnerName(key[0].shard, "\0"), key[1]),
    "pages": lambda key: replace(key, offset=2**63 - 1, older_than=0),
    "entries": lambda key: key._replace(asset=replace(key.asset, id=2**15)),
    "transactions": lambda key: EntryName(key.shard, 2**63, 1),
    "transactions_by_key": lambda key: (OwnerName(key[0].shard, "\0"), key[1]),
    "own_transactions": lambda key: key._replace(shard=2**15),
    "owners_of_transactions": lambda key: key._replace(shard=2**15),
    "notes": lambda key: key._replace(shard=2**15),
    "searches": lambda key: key._replace(first=2**31),
    "holds": lambda key: key._replace(shard=2**15),
    "holds_by_key": lambda key: (OwnerName(key[0].shard, "\0"), key[1]),
    "hold_pages": lambda key: replace(key, older_than=2**63),
    "captures": lambda key: key._replace(shard=2**15),
    "holds_of_transactions": lambda key: key._replace(shard=2**15),
    "lots": lambda key: key._replace(shard=2**15),
    "lot_pages": lambda key: replace(key, first=2**31),
    "lot_parts": lambda key: key._replace(shard=2**15),
    "lapsed_again": lambda key: key._replace(shard=2**15),
    "reversals": lambda key: key._replace(shard=2**15),
    "reversing": lambda key: key._replace(shard=2**15),
    "reversed_minor": lambda key: key._replace(shard=2**15),
    "states": lambda key: key._replace(shard=2**15),
    "status_events": lambda key: key._replace(shard=2**15),
    "limit_rules": lambda key: key._replace(shard=2**15),
    "limits_in_force": lambda key: key._replace(shard=2**15),
    "limit_uses": lambda key: WalletAsset(replace(key.wallet, id=2**63), key.asset),
    "limit_resets": lambda key: key._replace(shard=2**15),
}


async def of_lots(ledger: Ledger, *, lapses: bool) -> dict[str, Any]:
    """Return what is asked of lots: one that was spent from, and a refund to it, after its end where it is to lapse."""
    await add_asset(ledger, "TICKETS", "Tickets", 0)
    await set_asset(ledger, "TICKETS", has_lots=True)
    owner, end = await new_owner(ledger), await ledger.reads.clock.load(None) + timedelta(seconds=1 if lapses else 600)
    terms = LotTerms(CreditSource.BONUS, 50, None, end)
    granted = await post(ledger, "bonus", owner, 5, asset_code="TICKETS", terms=terms)
    spent = await post(ledger, "spend", owner, 3, asset_code="TICKETS")
    assert isinstance(granted, Posted)
    assert isinstance(spent, Posted)
    if lapses:
        async with connect(ledger.engine) as connection:
            await connection.execute("SELECT pg_sleep_until($1)", end)
    spend = spent.transaction
    refunded = await refund(ledger, ReverseInput(EntryName(spend.shard, spend.account_id, spend.seq), "", uuid4()))
    assert isinstance(refunded, Posted)
    entry = EntryName(spend.shard, spend.account_id, refunded.transaction.seq)
    return {
        "lots": LotName(spend.shard, spend.account_id, 1),
        "lot_pages": LotPageRequest(WalletAsset(spent.balance.wallet, spend.asset), 5),
        "lot_parts": entry,
        "lapsed_again": entry,
    }


async def of_limits(ledger: Ledger, account: WalletAsset) -> dict[str, Any]:
    """Return what is asked of limits, of an account that has spent something."""
    asked = LimitInput(
        account.asset.code, account.wallet.owner_id, LimitFlow.SPEND, rolling(60), Decimal(5), None, Enforcement.REFUSE,
        uuid4(),
    )  # fmt: skip
    outcome = await set_limit(ledger, asked)
    assert isinstance(outcome, LimitsSet)
    assert outcome.rule is not None
    [use] = await ledger.reads.limit_uses.load(account)
    return {
        "limit_rules": outcome.rule.name,
        "limits_in_force": Chain(account.asset.id, account.wallet.shard, account.wallet.id),
        "limit_uses": account,
        "limit_resets": use.reset,
    }


def timeless(found: Any) -> Any:
    """Return what was read but for the time at which it was, which is in what is used of limits."""
    is_use = isinstance(found, list) and found and isinstance(found[0], LimitUse)
    return [use._replace(reset=None) for use in found] if is_use else found


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_every_kind_of_read_tells_a_data_error_to_its_caller_only(ledger: Ledger, kind: str) -> None:
    posted = await post(ledger, "top_up", await new_owner(ledger), 1, metadata={"level": "7"})
    assert isinstance(posted, Posted)
    placed = await place_hold(ledger, PlaceHoldInput(posted.balance.wallet.owner_id, "GOLD", Decimal(1), uuid4()))
    assert isinstance(placed, Held)
    hold = placed.hold
    captured = await capture_hold(ledger, ChangeHoldInput(hold.name, "", uuid4()))
    assert isinstance(captured, Held)
    assert captured.transaction is not None
    capture = captured.transaction
    refunded = await refund(
        ledger, ReverseInput(EntryName(capture.shard, capture.account_id, capture.seq), "", uuid4())
    )
    assert isinstance(refunded, Posted)
    wallet, view = posted.balance.wallet, posted.transaction
    await freeze(ledger, StateInput(wallet.owner_id, uuid4(), "why"), WalletStatus.FROZEN_OUT, None)
    owner, account = OwnerName(wallet.shard, wallet.owner_id), WalletAsset(wallet, view.asset)
    good: dict[str, Any] = {
        "wallets": owner,
        "wallets_by_id": (wallet.shard, wallet.id),
        "balances": account,
        "owners_balances": (owner, view.asset),
        "pages": PageRequest(account, first=1),
        "entries": view,
        "transactions": EntryName(view.shard, view.account_id, view.seq),
        "transactions_by_key": (owner, view.idempotency_key or uuid4()),
        "own_transactions": OwnTransaction(view.shard, view.id, wallet.id),
        "owners_of_transactions": TransactionName(view.shard, view.id),
        "notes": TransactionName(view.shard, view.id),
        "searches": SearchRequest("game", None, None, 5),
        "holds": hold.name,
        "holds_by_key": (owner, hold.idempotency_key),
        "hold_pages": HoldPageRequest(account, None, 5),
        "captures": hold.name,
        "holds_of_transactions": captured.transaction.name,
        **await of_lots(ledger, lapses=kind == "lapsed_again"),
        "reversals": refunded.transaction.name,
        "reversing": captured.transaction.name,
        "reversed_minor": captured.transaction.name,
        "states": WalletId(wallet.shard, wallet.id),
        "status_events": WalletId(wallet.shard, wallet.id),
        **await of_limits(ledger, account),
    }
    # What has no key cannot be malformed.
    whole = {"assets", "asset_settings", "clock", "api_keys"}
    assert {*good, *whole} == set(Reads.__dataclass_fields__), "a new kind of read: add it here"
    reads: ReadBatch[Any, Any] = getattr(ledger.reads, kind)
    alone = await reads.load(good[kind])
    assert alone

    first, bad, last = await asyncio.gather(
        *map(reads.load, (good[kind], UNREADABLE[kind](good[kind]), good[kind])), return_exceptions=True
    )

    assert timeless(first) == timeless(last) == timeless(alone)
    assert isinstance(bad, asyncpg.PostgresError)
    assert bad.sqlstate is not None
    assert bad.sqlstate.startswith("22")


async def test_database_away_reaches_every_caller(ledger: Ledger) -> None:
    nowhere = ledger.settings.server_url().set(port=1).render_as_string(hide_password=False)
    engine = create_engine(ledger.settings.model_copy(update={"database_url": SecretStr(nowhere)}))
    doubled = Doubled(ledger)
    batch = ReadBatch(engine, doubled._read, DEADLINE_SECONDS)

    answers = await asyncio.gather(*map(batch.load, (1, 2, 3)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [Unavailable] * 3
    assert doubled.statements == []


async def test_error_that_nobody_waits_for_is_no_noise(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    doubled = Doubled(ledger)
    doubled.may_answer.clear()
    doubled.fault = LookupError("planted")
    gone = asyncio.ensure_future(doubled.batch.load(1))
    await doubled.sent(1)

    gone.cancel()
    await doubled.turns()
    doubled.may_answer.set()
    await doubled.turns()

    assert gone.cancelled()
    assert caplog.records == []


async def test_reader_sees_its_own_writes(ledger: Ledger) -> None:
    owner = new_owner_id()
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    gold = ledger.assets["GOLD"]
    assert await ledger.reads.wallets.load(name) is None

    opened = await open_wallet(ledger, owner)

    assert await ledger.reads.wallets.load(name) == opened.wallet
    for amount in range(1, 20):
        outcome = await post(ledger, "top_up", owner, 1)
        assert isinstance(outcome, Posted)
        assert await ledger.reads.owners_balances.load((name, gold)) == outcome.balance
        assert outcome.balance.amount_minor == amount


async def test_each_of_many_writers_sees_its_own_writes(ledger: Ledger) -> None:
    gold = ledger.assets["GOLD"]

    async def write_and_read(owner: str) -> None:
        name = OwnerName(shard_of(owner, ledger.shard_count), owner)
        for amount in range(1, 10):
            await post(ledger, "top_up", owner, 1)
            found = await ledger.reads.owners_balances.load((name, gold))
            assert found is not None
            assert found.amount_minor == amount

    await asyncio.gather(*[write_and_read(await new_owner(ledger)) for _ in range(20)])
