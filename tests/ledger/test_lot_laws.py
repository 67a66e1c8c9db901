"""The database refuses every broken lot, whoever writes it: by SQL as the serving role and as the tables' owner."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg import Connection
from batches import connected, new_owner_in
from direct import account_of, count_rows, insert, movement, refused
from direct_lots import LotAccount, LotAct, insert_acts
from factories import balance, post
from uuid_utils.compat import uuid7

from wallet_gql.domain.holds import Hold
from wallet_gql.domain.lots import CreditSource, LotTerms
from wallet_gql.domain.postings import Held, Posted, TransactionType
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.holds import PlaceHoldInput, place_hold
from wallet_gql.operations.opening import Ledger

CHECK: Final = "23514"
UNIQUE: Final = "23505"
RESTRICT: Final = "23001"
DENIED: Final = "42501"

ASSET: Final = "TICKET"
SHARD: Final = 1
DAY: Final = timedelta(days=1)
SECOND: Final = timedelta(seconds=1)


class Owner:
    """An owner with a pool of 50, lot 1 of 10 for 30 days, and lot 2 of 20 for 20 days, which is spent first.

    A hold of 12, for a week, is all of lot 2.
    """

    def __init__(self, ledger: Ledger, connection: Connection, owner_id: str, hold: Hold) -> None:
        self.ledger = ledger
        self.connection = connection
        self.id = owner_id
        self.hold = hold.id

    async def read(self) -> LotAccount:
        """Return the account as it is, for acts that follow."""
        return await LotAccount.read(self.connection, SHARD, self.id, ASSET, str(self.ledger.slot))


@pytest.fixture
async def ledger_with_lots(ledger: Ledger) -> Ledger:
    if ASSET not in ledger.assets:
        await add_asset(ledger, ASSET, "Tickets", 0)
        await set_asset(ledger, ASSET, has_lots=True)
    return ledger


@pytest.fixture
async def owner(ledger_with_lots: Ledger, server_connection: Connection) -> Owner:
    ledger = ledger_with_lots
    id_ = await new_owner_in(ledger, SHARD)
    now = await server_connection.fetchval("SELECT wallet_now()")
    assert isinstance(await post(ledger, "top_up", id_, 50, asset_code=ASSET), Posted)
    for amount, days, priority in ((10, 30, 50), (20, 20, 10)):
        terms = LotTerms(CreditSource.BONUS, priority, None, now + days * DAY)
        assert isinstance(await post(ledger, "bonus", id_, amount, asset_code=ASSET, terms=terms), Posted)
    held = await place_hold(ledger, PlaceHoldInput(id_, ASSET, Decimal(12), uuid4()))
    assert isinstance(held, Held)
    return Owner(ledger, server_connection, id_, held.hold)


async def test_valid_acts_pass_one_by_one_and_at_once(owner: Owner) -> None:
    account = await owner.read()
    acts = [
        account.spend(12, {2: 8, 1: 4}),
        account.bonus(5, account.now + DAY, 0),
        account.spend(3, {3: 3}),
        account.place(4, {3: 2}),
        account.void(owner.hold),
        account.bonus(6),
        account.spend(2, {}),
    ]
    await insert_acts(owner.connection, acts[0])
    # The order of the rows does not matter.
    await insert_acts(owner.connection, *acts[:0:-1])
    account = await owner.read()
    assert account.live == [3, 2, 1, 4]
    assert [lot["remaining"] for lot in account.lots.values()] == [6, 12, 2, 6]
    assert await balance(owner.ledger, owner.id, ASSET) == 74


def more(number: int) -> Callable[[int], int]:
    return lambda it: it + number


def later(by: timedelta) -> Callable[..., object]:
    return lambda at: at + by


def forgetful(act: LotAct) -> LotAct:
    """Let an entry say nothing of lots."""
    columns = ("lots_after", "lots_seq", "live_lots", "next_due_at", "held_after", "held_seq", "position")
    return act.without("entry", *columns).without("lot_step")


CHAIN: Final = (CHECK, "entry_law_chain")
STEP: Final = (CHECK, "lot_step_law")
LOT: Final = (CHECK, "lot_law")
HOLD: Final = (CHECK, "hold_step_law")
NOT_FOLLOWING: Final = "lots_after is not what was in lots before it and the steps of its lots"
WRONG_LIST: Final = "live_lots are not those that have something left, as they are spent"
UNLISTED: Final = "it does not say which lots have something left"
TOO_LATE: Final = "next_due_at is later than the end of a lot"
NOT_FIRST: Final = "next_due_at is not the first end of an open hold or a lot"
NOT_ITS_OWN: Final = "it is not of the transaction that granted it"
HELD_FREELY: Final = "held does not follow what a hold earmarks"
NOT_FIRST_OF_HOLD: Final = "next_due_at of its entry is not the first end of an open hold or a lot"

# What is tried, by what it is: the sqlstate and the constraint that refuse it, and what they say.
TRIED: Final[dict[str, tuple[Callable[[LotAccount, UUID], LotAct], tuple[str, str], str]]] = {
    # Entries.
    "an account that forgets its lots": (
        lambda a, _: a.spend(1, {}).without("entry", "lots_after", "lots_seq"), CHAIN,
        "what is in lots differs from the entry before it, without a step of a lot",
    ),
    "half of what is in lots": (
        lambda a, _: a.spend(1, {}).without("entry", "lots_after"), CHAIN, "it says half of what is held, or in lots",
    ),
    "less than nothing in lots": (
        lambda a, _: a.spend(1, {}).altered("entry", lots_after=-1), CHAIN,
        "less than nothing is held, or in lots",
    ),
    "more in lots than there is": (
        lambda a, _: a.spend(1, {}).altered("entry", lots_after=80), (CHECK, "entry_balance_after_check"), "",
    ),
    "more in lots, without a step": (
        lambda a, _: a.spend(1, {}).altered("entry", lots_after=more(1)), CHAIN, NOT_FOLLOWING,
    ),
    "a step that its entry does not count": (
        lambda a, _: a.spend(5, {2: 5}).altered("entry", lots_after=more(5)), CHAIN, NOT_FOLLOWING,
    ),
    "a lot that is used up and still listed": (
        lambda a, _: a.spend(18, {2: 8, 1: 10}).altered("entry", live_lots=[2, 1]), CHAIN, WRONG_LIST,
    ),
    "a list that is missing": (
        lambda a, _: a.spend(10, {1: 10}).altered("entry", live_lots=None, lots_seq=3), CHAIN, UNLISTED,
    ),
    "a list of another entry": (
        lambda a, _: a.spend(1, {}).altered("entry", lots_seq=more(-1)), CHAIN, UNLISTED,
    ),
    "a list that says that it is another entry's": (
        lambda a, _: a.bonus(1).altered("entry", lots_seq=more(-1)), CHAIN, WRONG_LIST,
    ),
    "a list in another order": (
        lambda a, _: a.bonus(1).altered("entry", live_lots=[1, 2, 3]), CHAIN, WRONG_LIST,
    ),
    "a list that lacks one": (lambda a, _: a.bonus(1).altered("entry", live_lots=[2, 3]), CHAIN, WRONG_LIST),
    "a list with one too many": (
        lambda a, _: a.spend(1, {}).altered("entry", lots_seq=a.seq, live_lots=[2, 1, 9]), CHAIN, WRONG_LIST,
    ),
    "an expiry before its time": (lambda a, _: a.expire(1), CHAIN, "it takes what has not expired"),
    "a part of an expiry before its time": (lambda a, _: a.expire(2), CHAIN, "it takes what has not expired"),
    "an expiry of the pool": (
        lambda a, _: a.expire(1).without("lot_step").altered("entry", lots_after=more(10), live_lots=None, lots_seq=3),
        CHAIN, "it takes what expires of no lot, or of several",
    ),
    "an expiry of more than its lot": (
        lambda a, _: a.expire(1, 8).altered("lot_step", change=-7, remaining=3).altered("entry", lots_after=more(1)),
        CHAIN, "it takes what expires of no lot, or of several",
    ),
    "a lot that ends before what is due": (
        lambda a, _: a.bonus(1, a.now + DAY).altered("entry", next_due_at=a.now + 7 * DAY), CHAIN, NOT_FIRST,
    ),
    "a lot that ends before what was due": (
        lambda a, h: a.bonus(1, a.now + DAY).altered("entry", next_due_at=a.holds[h]["held_until"]),
        CHAIN, TOO_LATE,
    ),
    "what is due too early": (
        lambda a, _: a.bonus(1, a.now + DAY).altered("entry", next_due_at=later(-SECOND)), CHAIN, NOT_FIRST,
    ),
    "what is due at another time, without a step": (
        lambda a, _: a.spend(1, {}).altered("entry", next_due_at=later(DAY)), CHAIN, NOT_FIRST,
    ),
    "nothing due": (lambda a, _: a.spend(1, {}).altered("entry", next_due_at=None), CHAIN, NOT_FIRST),
    # Steps of lots.
    "a lot that there is not": (
        lambda a, _: a.spend(1, {1: 1}).altered("lot_step", lot=9, step=1), STEP, "no such lot of this account",
    ),
    "a step without an entry": (
        lambda a, _: a.spend(1, {1: 1}).altered("lot_step", seq=more(1)), STEP, "it belongs to no entry",
    ),
    "a step of an entry before lots": (
        lambda a, _: a.spend(0, {1: 0}).without("entry").without("transaction").without("idempotency_key").altered(
            "lot_step", seq=1),
        STEP, "it belongs to no entry",
    ),
    "a step against its entry": (
        lambda a, _: a.spend(1, {1: 1}).altered("lot_step", change=1, remaining=11, granted=11).altered(
            "entry", lots_after=more(2)),
        STEP, "its entry does not move what it changes",
    ),
    "a step that is left out": (
        lambda a, _: a.spend(1, {1: 1}).altered("lot_step", step=more(1)), STEP, "the step before it is missing",
    ),
    "a step that does not follow": (
        lambda a, _: a.spend(1, {1: 1}).altered("lot_step", remaining=more(-1)), STEP,
        "remaining is not what remained before it and its change",
    ),
    "more granted by a spend": (
        lambda a, _: a.spend(1, {1: 1}).altered("lot_step", granted=more(1)), STEP,
        "granted is not what was granted before it, with its change or without",
    ),
    "more held without a hold": (
        lambda a, _: a.spend(1, {1: 1}).altered("lot_step", held=1), STEP, HELD_FREELY,
    ),
    "less held without a hold": (
        lambda a, _: a.spend(1, {2: 1}).altered("lot_step", held=11), STEP, HELD_FREELY,
    ),
    "what is held is spent": (lambda a, _: a.spend(9, {2: 9}), (CHECK, "lot_step_remaining_check"), ""),
    "less than nothing remains": (lambda a, _: a.spend(11, {1: 11}), (CHECK, "lot_step_remaining_check"), ""),
    "a place that is taken": (
        lambda a, _: a.spend(2, {1: 1, 2: 1}).altered("lot_step", 1, place=1),
        (UNIQUE, "lot_step_shard_account_id_seq_place_key"), "",
    ),
    "a place before the first": (
        lambda a, _: a.spend(1, {1: 1}).altered("lot_step", place=0), (CHECK, "lot_step_step_check"), "",
    ),
    "a step twice": (lambda a, _: a.spend(2, {1: 2}).adding("lot_step", place=2), (UNIQUE, "lot_step_pkey"), ""),
    # Lots.
    "a number that is left out": (
        lambda a, _: a.bonus(1).altered("lot", n=9).altered("lot_step", lot=9).altered("entry", live_lots=[2, 1, 9]),
        LOT, "the lot before it is missing",
    ),
    "a lot without a step": (
        lambda a, _: a.bonus(1).without("lot_step").altered("entry", lots_after=more(-1), live_lots=None, lots_seq=3),
        LOT, "it has no first step",
    ),
    "a lot of another entry": (lambda a, _: a.bonus(1).altered("lot", seq=more(-1)), LOT, "it has no first step"),
    "a lot of another time": (
        lambda a, _: a.bonus(1).altered("lot", granted_at=later(SECOND)), LOT, NOT_ITS_OWN,
    ),
    "a lot without its origin": (
        lambda a, _: a.bonus(1, a.now + DAY).altered("lot", origin_id=None), LOT, NOT_ITS_OWN,
    ),
    "a lot of another origin": (
        lambda a, _: a.bonus(1, a.now + DAY).altered("lot", origin_id=uuid7()), LOT, NOT_ITS_OWN,
    ),
    "a lasting lot with an origin": (lambda a, _: a.bonus(1).altered("lot", origin_id=uuid7()), LOT, NOT_ITS_OWN),
    "a number twice": (lambda a, _: a.bonus(1).altered("lot", n=1), (UNIQUE, "lot_pkey"), ""),
    "a lot of no source": (lambda a, _: a.bonus(1).altered("lot", source=3), (CHECK, "lot_source_check"), ""),
    "a lot of another priority": (
        lambda a, _: a.bonus(1).altered("lot", priority=101), (CHECK, "lot_priority_check"), "",
    ),
    "a lot of a campaign without a name": (
        lambda a, _: a.bonus(1).altered("lot", campaign=""), (CHECK, "lot_campaign_check"), "",
    ),
    "a lot that ends never": (
        lambda a, _: a.bonus(1).altered("lot", expires_at="infinity"), (CHECK, "lot_expires_at_check"), "",
    ),
    "a lot before the first": (lambda a, _: a.bonus(1).altered("lot", n=0), (CHECK, "lot_n_check"), ""),
    # Steps of holds.
    "more earmarked than is held": (
        lambda a, _: a.place(2, {1: 3}), HOLD, "its earmarks are not a part of what it holds",
    ),
    "nothing earmarked of a lot": (
        lambda a, _: a.place(2, {1: 0}), HOLD, "its earmarks are not a part of what it holds",
    ),
    "a lot that is earmarked twice": (
        lambda a, _: a.place(2, {1: 2}).altered("hold_step", lots=[1, 1], earmarks=[1, 1]),
        HOLD, "its earmarks are not a part of what it holds",
    ),
    "an earmark without a step": (
        lambda a, _: a.place(2, {1: 2}).without("lot_step"), HOLD, "a lot has no step for what it earmarks",
    ),
    "a release without a step": (
        lambda a, h: a.void(h).without("lot_step"), HOLD, "a lot has no step for what it earmarks",
    ),
    "another earmark than its step's": (
        lambda a, _: a.place(2, {1: 2}).altered("lot_step", held=1), STEP, HELD_FREELY,
    ),
    "lots without amounts": (
        lambda a, _: a.place(2, {1: 2}).altered("hold_step", earmarks=None), (CHECK, "hold_step_earmarks_check"), "",
    ),
    "a hold that ends, of which the lot is due": (
        lambda a, h: a.void(h).altered("entry", next_due_at=a.holds[h]["held_until"]), HOLD, NOT_FIRST_OF_HOLD,
    ),
    "a hold of no source": (
        lambda a, _: a.place(2, {}).altered("hold", sources=3), (CHECK, "hold_sources_check"), "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("first", range(4))
async def test_the_database_refuses(owner: Owner, owner_connection: Connection, first: int) -> None:
    # An owner serves many, for nothing is changed.
    for tried, (alter, (sqlstate, constraint), message) in [*TRIED.items()][first::4]:
        act = alter(await owner.read(), owner.hold)
        for connection in (owner.connection, owner_connection):
            try:
                async with refused(connection, sqlstate, constraint, message):
                    await insert_acts(connection, act)
            except BaseException as error:
                error.add_note(tried)
                raise


async def test_steps_of_a_lot_in_another_order_than_its_entries_are_refused(owner: Owner) -> None:
    account = await owner.read()
    acts = [account.spend(1, {1: 1}).altered("lot_step", seq=more(1)), account.spend(1, {1: 1})]
    acts[1] = acts[1].altered("lot_step", seq=more(-1))
    async with refused(owner.connection, *STEP, "it does not come after the step before it"):
        await insert_acts(owner.connection, *acts)


async def test_a_lot_of_an_asset_without_lots_is_refused(owner: Owner) -> None:
    plain = await new_owner_in(owner.ledger, SHARD, gold=10)
    account = await LotAccount.read(owner.connection, SHARD, plain, "GOLD", str(owner.ledger.slot))
    async with refused(owner.connection, *LOT, "its asset has no lots"):
        await insert_acts(owner.connection, account.bonus(5))


async def test_a_lot_of_the_treasury_is_refused(owner: Owner) -> None:
    stripe = await account_of(owner.connection, SHARD, "47", ASSET, WalletKind.TREASURY)
    account = await owner.read()
    lot = account.bonus(5).altered("lot", account_id=stripe.id)
    async with refused(owner.connection, *LOT, "its account is no owner's"):
        await insert_acts(owner.connection, LotAct({"lot": lot.rows["lot"]}))
    stripes = (await owner.read()).spend(1, {}).altered("entry", 1, lots_after=0, lots_seq=1, live_lots=[])
    async with refused(owner.connection, CHECK, "entry_owners_only_check"):
        await insert_acts(owner.connection, stripes)


async def test_what_has_no_lots_expires_from_no_account(owner: Owner) -> None:
    plain = await new_owner_in(owner.ledger, SHARD, gold=10)
    moved = await movement(owner.connection, SHARD, plain, -10, slot=owner.ledger.slot)
    expiry = int(TransactionType.EXPIRY)
    async with refused(owner.connection, *CHAIN, "it takes what expires of no lot"):
        await insert(owner.connection, moved.altered(type=expiry).of_transaction(type=expiry))
    assert await balance(owner.ledger, plain) == 10


async def test_a_posting_of_a_server_without_lots_is_refused_on_an_account_with_lots(owner: Owner) -> None:
    act = (await owner.read()).spend(1, {})
    act = act.without("entry", "lots_after", "lots_seq", "next_due_at")
    async with refused(owner.connection, *CHAIN, "what is in lots differs from the entry before it"):
        await insert_acts(owner.connection, act)
    assert await balance(owner.ledger, owner.id, ASSET) == 80


@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
async def test_of_two_sessions_that_forgot_to_lock_one_commits(owner: Owner, ends: str) -> None:
    first = (await owner.read()).spend(10, {1: 10})
    second = (await LotAccount.read(owner.connection, SHARD, owner.id, ASSET, "46")).spend(7, {1: 7})
    async with connected(owner.ledger.settings) as other:
        await owner.connection.execute("BEGIN")
        await insert_acts(owner.connection, first)
        waiting = asyncio.create_task(insert_acts(other, second))
        await until_blocked(owner.connection, other)
        await owner.connection.execute(ends)
        if ends == "COMMIT":
            with pytest.raises(asyncpg.UniqueViolationError) as caught:
                await waiting
            assert caught.value.constraint_name in {"entry_pkey", "lot_step_pkey"}
        else:
            await waiting
    assert await balance(owner.ledger, owner.id, ASSET) == (70 if ends == "COMMIT" else 73)
    assert (await owner.read()).lots[1]["remaining"] == (0 if ends == "COMMIT" else 3)


async def test_a_session_that_looked_before_and_comes_after_takes_nothing_twice(owner: Owner) -> None:
    first = (await owner.read()).spend(10, {1: 10})
    late = (await LotAccount.read(owner.connection, SHARD, owner.id, ASSET, "46")).spend(7, {1: 7})
    await insert_acts(owner.connection, first)
    late = late.altered("entry", seq=more(1), balance_after=more(-10), lots_after=more(-10), position=more(1))
    late = late.altered("lot_step", seq=more(1))
    async with refused(owner.connection, UNIQUE, "lot_step_pkey"):
        await insert_acts(owner.connection, late)
    async with refused(owner.connection, CHECK, "lot_step_remaining_check"):
        await insert_acts(owner.connection, late.altered("lot_step", step=more(1), remaining=more(-10)))


async def until_blocked(connection: Connection, other: Connection) -> None:
    """Wait until the other session waits for a lock of this one."""
    async with asyncio.timeout(60):
        while not await connection.fetchval(  # noqa: ASYNC110 - what is awaited has no event of its own
            "SELECT pg_blocking_pids($1) <> '{}'", other.get_server_pid()
        ):
            await asyncio.sleep(0.005)


async def test_lots_are_not_taken_from_an_asset(owner: Owner, owner_connection: Connection) -> None:
    asset = owner.ledger.assets[ASSET].id
    insertion = "INSERT INTO asset_setting (asset_id, step, transfers, has_lots) VALUES ({}, {}, 1, {})"
    for connection in (owner.connection, owner_connection):
        async with refused(connection, CHECK, "asset_setting_law_lots", f"asset {asset} has lots for ever"):
            await connection.execute(insertion.format(asset, 2, "false"))
        async with refused(connection, CHECK, "asset_setting_law_chain"):
            await connection.execute(insertion.format(asset, 3, "true"))


@pytest.mark.parametrize("table", ["lot", "lot_step"])
async def test_nobody_changes(owner: Owner, owner_connection: Connection, table: str) -> None:
    for statement in (f"UPDATE {table} SET shard = shard", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        async with refused(owner.connection, DENIED, message=f"permission denied for table {table}"):
            await owner.connection.execute(statement)
        async with refused(owner_connection, RESTRICT, message=f"{statement.split()[0]} of {table} refused"):
            await owner_connection.execute(statement)
    assert (await count_rows(owner.connection))[table] > 0
