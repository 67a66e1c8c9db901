from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from asyncpg import Connection
from batches import on_balance
from direct import count_rows, insert, movement
from factories import balance, new_owner, new_owner_id
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.money import BALANCE_MINOR_MAX, MINOR_MAX, POSTING_MINOR_MAX, TREASURY_MINOR_MAX
from wallet_gql.domain.postings import (
    POSTING_TYPES,
    KeyReused,
    Posted,
    PostingRequest,
    Refused,
    TransactionType,
    WalletMissing,
)
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.shards import shard_of
from wallet_gql.ledger.posting import Decided, post_batch
from wallet_gql.ledger.treasury import open_stripes, treasuries
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.operations.wallets import open_wallet

TOP_UP, BONUS, SPEND = POSTING_TYPES


def request(
    ledger: Ledger, owner_id: str, type_: TransactionType, amount: int, asset: str = "GOLD", **more: Any
) -> PostingRequest:
    shard = shard_of(owner_id, ledger.shard_count)
    return PostingRequest(
        shard, owner_id, type_, ledger.assets[asset], amount, more.pop("key", None) or uuid4(), **more
    )


async def post_all(ledger: Ledger, requests: Sequence[PostingRequest], slot: int | None = None) -> list[Decided]:
    """Post a batch in a unit of work of its own."""
    async with unit_of_work(ledger.engine) as connection:
        return await post_batch(connection, requests, ledger.slot if slot is None else slot)


async def post_one(ledger: Ledger, request: PostingRequest, slot: int | None = None) -> Decided:
    return (await post_all(ledger, [request], slot))[0]


async def owners_of_shard(ledger: Ledger, shard: int, count: int) -> list[str]:
    owners: list[str] = []
    while len(owners) < count:
        owner_id = new_owner_id()
        if shard_of(owner_id, ledger.shard_count) == shard:
            owners.append(await new_owner(ledger, owner_id=owner_id))
    return owners


def posted(outcome: Decided) -> Posted:
    assert isinstance(outcome, Posted), outcome
    return outcome


def refused(outcome: Decided) -> Refused:
    assert isinstance(outcome, Refused), outcome
    return outcome


async def statements_of(ledger: Ledger, requests: Sequence[PostingRequest]) -> int:
    """Return how many statements posting a batch takes between BEGIN and COMMIT."""
    statements: list[str] = []
    first = request(ledger, await new_owner(ledger), TOP_UP, 1)
    async with unit_of_work(ledger.engine) as connection:
        # The driver asks once a connection what the types of the parameters are.
        await post_batch(connection, [first], ledger.slot)
        with connection.query_logger(lambda record: statements.append(record.query)):
            await post_batch(connection, requests, ledger.slot)
        # The logger's calls are made in the event loop's next turns: a statement more lets them all run.
        await connection.execute("SELECT 1")

    return len(statements)


@pytest.mark.parametrize("size", [1, 1000])
async def test_a_batch_takes_four_statements_and_one_more_where_accounts_are_opened(ledger: Ledger, size: int) -> None:
    owners = [await new_owner(ledger) for _ in range(min(size, 20))]
    assets = ("GOLD", "DIAMOND", "POINTS")
    requests = [request(ledger, owners[n % len(owners)], TOP_UP, 5, assets[n // len(owners) % 3]) for n in range(size)]
    assert await statements_of(ledger, requests) == 5
    again = [request(ledger, made.owner_id, SPEND, 1, made.asset.code) for made in requests]
    assert await statements_of(ledger, again) == 4
    # Replays are read, and nothing is inserted.
    assert await statements_of(ledger, again) == 3
    unknown = [request(ledger, new_owner_id(), SPEND, 1) for _ in range(size)]
    assert await statements_of(ledger, unknown) == 1


async def test_arrival_order_decides_within_a_batch(ledger: Ledger) -> None:
    owner, other = await new_owner(ledger), await new_owner(ledger)
    outcomes = await post_all(
        ledger,
        [
            request(ledger, owner, TOP_UP, 10),
            request(ledger, other, SPEND, 10),
            request(ledger, owner, SPEND, 10),
            request(ledger, other, TOP_UP, 10),
        ],
    )
    assert [posted(outcomes[n]).balance.amount_minor for n in (0, 2, 3)] == [10, 0, 10]
    late = refused(outcomes[1])
    facts = on_balance(late)
    assert (facts.code, facts.balance_before_minor, facts.amount_minor) == (OutcomeCode.INSUFFICIENT_BALANCE, 0, 10)
    assert (await balance(ledger, owner), await balance(ledger, other)) == (0, 10)


async def test_each_outcome_tells_where_the_account_stood_at_its_turn(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=7)
    outcomes = await post_all(
        ledger, [request(ledger, owner, type_, n) for type_, n in ((BONUS, 3), (SPEND, 4), (TOP_UP, 1), (SPEND, 9))]
    )
    views = [posted(outcome) for outcome in outcomes[:3]]
    assert [view.transaction.seq for view in views] == [2, 3, 4]
    assert [view.transaction.amount_minor for view in views] == [3, -4, 1]
    assert [view.transaction.balance_after_minor for view in views] == [10, 6, 7]
    assert [(view.balance.seq, view.balance.amount_minor) for view in views] == [(2, 10), (3, 6), (4, 7)]
    assert (refused(outcomes[3]).balance.seq, refused(outcomes[3]).balance.amount_minor) == (4, 7)


async def test_the_transaction_in_an_outcome_is_the_one_in_the_books(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    made = request(ledger, owner, BONUS, 125, "POINTS", description="Sword, é🎮", reference="r-1")
    view = posted(await post_one(ledger, made)).transaction
    assert (view.id, view.type, view.idempotency_key) == (made.transaction_id, BONUS, made.idempotency_key)
    assert (view.description, view.reference, view.asset) == ("Sword, é🎮", "r-1", ledger.assets["POINTS"])
    async with unit_of_work(ledger.engine) as connection:
        rows = await connection.fetch(
            "SELECT t.type, t.wallet_id, t.description, t.reference, t.idempotency_key, t.executed_at,"
            "       e.account_id, e.seq, e.amount, e.balance_after"
            "  FROM transaction t JOIN entry e ON (e.shard, e.transaction_id) = (t.shard, t.id)"
            "  JOIN account a ON (a.shard, a.id) = (e.shard, e.account_id) AND a.wallet_id = t.wallet_id"
            " WHERE (t.shard, t.id) = ($1, $2)",
            view.shard,
            view.id,
        )
    assert [tuple(row) for row in rows] == [
        (
            2, view.wallet_id, "Sword, é🎮", "r-1", made.idempotency_key, view.executed_at,
            view.account_id, 1, 125, 125,
        )
    ]  # fmt: skip


async def test_the_same_key_twice_in_a_batch_replays(ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    first, second, third = await post_all(
        ledger,
        [
            request(ledger, owner, TOP_UP, 10, key=key),
            request(ledger, owner, TOP_UP, 5),
            request(ledger, owner, TOP_UP, 10, key=key),
        ],
    )
    assert not posted(first).already_processed
    assert posted(third).already_processed
    assert posted(third).transaction == posted(first).transaction
    assert posted(third).balance == posted(second).balance
    assert await balance(ledger, owner) == 15


async def test_the_same_key_with_another_request_in_a_batch_is_reused(ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    first, *others = await post_all(
        ledger,
        [
            request(ledger, owner, TOP_UP, 10, key=key),
            request(ledger, owner, TOP_UP, 11, key=key),
            request(ledger, owner, BONUS, 10, key=key),
            request(ledger, owner, TOP_UP, 10, "DIAMOND", key=key),
            request(ledger, owner, TOP_UP, 10, key=key, description="other"),
            request(ledger, owner, TOP_UP, 10, key=key, reference="other"),
        ],
    )
    assert not posted(first).already_processed
    assert others == [KeyReused(key)] * 5
    assert (await balance(ledger, owner), await balance(ledger, owner, "DIAMOND")) == (10, 0)


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_kept_key_is_replayed_beside_others_that_reuse_it_in_one_batch(
    ledger: Ledger, is_refused: bool
) -> None:
    owner, key = await new_owner(ledger, gold=10), uuid4()
    asked = {"type_": SPEND if is_refused else TOP_UP, "amount": 50, "key": key, "description": "Sword"}
    first = await post_one(ledger, request(ledger, owner, **asked))  # type: ignore[arg-type]
    others: list[dict[str, Any]] = [{"asset": "DIAMOND"}, {"amount": 51}, {"description": "Shield"}, {"type_": BONUS}]
    batch = [asked, *({**asked, **other} for other in others)]
    for requests in (batch, batch[::-1]):
        outcomes = await post_all(ledger, [request(ledger, owner, **made) for made in requests])
        outcomes = outcomes if requests is batch else outcomes[::-1]
        assert outcomes[1:] == [KeyReused(key)] * 4
        if is_refused:
            again = refused(outcomes[0])
            assert again.already_processed
            assert (again.facts.code, on_balance(again).amount_minor, on_balance(again).balance_before_minor) == (
                OutcomeCode.INSUFFICIENT_BALANCE, 50, 10,
            )  # fmt: skip
        else:
            assert posted(outcomes[0]).already_processed
            assert posted(outcomes[0]).transaction == posted(first).transaction
    assert await balance(ledger, owner) == (10 if is_refused else 60)


async def test_the_keys_of_two_owners_are_independent(ledger: Ledger) -> None:
    one, other, key = await new_owner(ledger), await new_owner(ledger), uuid4()
    first, second = await post_all(
        ledger, [request(ledger, one, TOP_UP, 10, key=key), request(ledger, other, BONUS, 20, key=key)]
    )
    assert (posted(first).already_processed, posted(second).already_processed) == (False, False)
    assert (await balance(ledger, one), await balance(ledger, other)) == (10, 20)


async def test_many_owners_and_assets_post_in_one_batch(ledger: Ledger) -> None:
    owners = [await new_owner(ledger) for _ in range(12)]
    asked = [
        request(ledger, owner, TOP_UP, 100 * n + m + 1, asset)
        for m, asset in enumerate(("GOLD", "DIAMOND", "POINTS"))
        for n, owner in enumerate(owners)
    ]
    missing = request(ledger, new_owner_id(), TOP_UP, 1)
    outcomes = await post_all(ledger, [*asked[:7], missing, *asked[7:]])
    assert outcomes.pop(7) == WalletMissing(missing.owner_id)
    for made, outcome in zip(asked, outcomes, strict=True):
        assert posted(outcome).balance.wallet.owner_id == made.owner_id
        assert posted(outcome).transaction.id == made.transaction_id
        assert await balance(ledger, made.owner_id, made.asset.code) == made.amount_minor


async def test_an_unknown_owner_leaves_nothing_behind(ledger: Ledger, server_connection: Connection) -> None:
    owner_id, key = new_owner_id(), uuid4()
    before = await count_rows(server_connection)
    assert await post_one(ledger, request(ledger, owner_id, TOP_UP, 5, key=key)) == WalletMissing(owner_id)
    assert await count_rows(server_connection) == before
    await open_wallet(ledger, owner_id)
    assert not posted(await post_one(ledger, request(ledger, owner_id, TOP_UP, 5, key=key))).already_processed


async def test_a_batch_that_is_replayed_recognises_its_own_work(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=5)
    batch = [request(ledger, owner, TOP_UP, 10), request(ledger, owner, SPEND, 100), request(ledger, owner, SPEND, 3)]
    first = await post_all(ledger, batch)
    again = await post_all(ledger, batch)
    assert posted(again[0]).transaction == posted(first[0]).transaction
    assert posted(again[2]) == posted(first[2])
    assert (posted(again[0]).already_processed, refused(again[1]).already_processed) == (False, False)
    assert await balance(ledger, owner) == 12


async def test_a_replay_by_another_request_is_already_processed_and_shows_the_balance_of_now(ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    first = posted(await post_one(ledger, request(ledger, owner, TOP_UP, 10, key=key)))
    await post_one(ledger, request(ledger, owner, SPEND, 4))
    again = posted(await post_one(ledger, request(ledger, owner, TOP_UP, 10, key=key)))
    assert again.already_processed
    assert again.transaction == first.transaction
    assert (again.balance.amount_minor, again.balance.seq) == (6, 2)


async def test_a_refusal_is_kept_with_the_balance_it_was_made_on(ledger: Ledger, server_connection: Connection) -> None:
    owner, key = await new_owner(ledger, gold=10), uuid4()
    before = await count_rows(server_connection)
    first = refused(await post_one(ledger, request(ledger, owner, SPEND, 11, key=key)))
    assert (first.facts.code, on_balance(first).balance_before_minor, first.already_processed) == (
        OutcomeCode.INSUFFICIENT_BALANCE, 10, False,
    )  # fmt: skip
    assert await count_rows(server_connection) == {**before, "idempotency_key": before["idempotency_key"] + 1}
    await post_one(ledger, request(ledger, owner, TOP_UP, 90))
    again = refused(await post_one(ledger, request(ledger, owner, SPEND, 11, key=key)))
    assert (again.facts.code, on_balance(again).balance_before_minor, on_balance(again).amount_minor) == (
        first.facts.code,
        10,
        11,
    )
    assert (again.balance.amount_minor, again.already_processed) == (100, True)
    assert await balance(ledger, owner) == 100
    assert await post_one(ledger, request(ledger, owner, SPEND, 12, key=key)) == KeyReused(key)


async def test_a_spend_from_an_account_that_was_never_used_is_refused_without_opening_one(
    ledger: Ledger, server_connection: Connection
) -> None:
    owner = await new_owner(ledger)
    before = await count_rows(server_connection)
    outcome = refused(await post_one(ledger, request(ledger, owner, SPEND, 1, "DIAMOND")))
    assert (outcome.facts.code, outcome.balance.amount_minor, outcome.balance.seq) == (
        OutcomeCode.INSUFFICIENT_BALANCE,
        0,
        0,
    )
    assert await count_rows(server_connection) == {**before, "idempotency_key": before["idempotency_key"] + 1}


async def test_an_owner_s_times_never_run_backwards(ledger: Ledger, server_connection: Connection) -> None:
    [owner] = await owners_of_shard(ledger, 0, 1)
    ahead = await movement(
        server_connection, 0, owner, 50, slot="44", executed_at=datetime.now(UTC) + timedelta(seconds=30)
    )
    await insert(server_connection, ahead)
    mine = posted(await post_one(ledger, request(ledger, owner, SPEND, 1)))
    assert mine.transaction.executed_at == ahead.transaction.executed_at


async def test_a_clock_that_jumped_ahead_does_not_reach_others_by_the_stripe(
    ledger: Ledger, server_connection: Connection
) -> None:
    slot = 61
    await open_stripes(server_connection, treasuries(slot, ledger.shard_count))
    [ahead, behind] = await owners_of_shard(ledger, 0, 2)
    planted = await movement(
        server_connection, 0, ahead, 50, slot=slot, executed_at=datetime.now(UTC) + timedelta(seconds=30)
    )
    await insert(server_connection, planted)
    outcomes = await post_all(
        ledger,
        [
            request(ledger, behind, TOP_UP, 1),
            request(ledger, ahead, TOP_UP, 1),
            request(ledger, behind, TOP_UP, 1),
            request(ledger, behind, SPEND, 2),
        ],
        slot,
    )
    times = [posted(outcome).transaction.executed_at for outcome in outcomes]
    assert times[1] == planted.transaction.executed_at
    assert times[0] == times[2] == times[3] < times[1]
    # The stripe's own entries carry their transactions' times, in whatever order they are.
    rows = await server_connection.fetch(
        "SELECT e.executed_at FROM entry e WHERE (e.shard, e.account_id) = (0, $1) ORDER BY e.seq",
        planted.treasury.account_id,
    )
    assert [row[0] for row in rows] == [planted.transaction.executed_at, *times]


async def test_an_owner_more_than_a_minute_ahead_of_the_clock_waits_for_it(
    ledger: Ledger, server_connection: Connection
) -> None:
    [ahead, other] = await owners_of_shard(ledger, 2, 2)
    known, spend = request(ledger, ahead, TOP_UP, 1), request(ledger, ahead, SPEND, 10**6)
    await post_one(ledger, known)
    transaction = server_connection.transaction()
    await transaction.start()
    planted = await movement(
        server_connection, 2, ahead, 50, slot="44", executed_at=datetime.now(UTC) + timedelta(minutes=2)
    )
    await insert(server_connection, planted)
    asked = [request(ledger, ahead, TOP_UP, 1), spend, request(ledger, other, TOP_UP, 1), replace(known)]
    with capture_logs() as logs:
        first, second, *rest = await post_batch(server_connection, asked, ledger.slot)
    kept = await server_connection.fetch(
        "SELECT key FROM idempotency_key WHERE key = ANY($1)", [made.idempotency_key for made in asked[:2]]
    )
    await transaction.rollback()
    assert isinstance(first, Unavailable)
    assert isinstance(second, Unavailable)
    # Others' requests are posted, and what is known is answered.
    assert posted(rest[0]).transaction.executed_at < planted.transaction.executed_at
    assert posted(rest[1]).transaction.id == known.transaction_id
    assert kept == []
    assert [(log["event"], log["log_level"], log["shard"]) for log in logs] == [("wallet_ahead_of_clock", "error", 2)]


async def stripes(connection: Connection) -> dict[tuple[int, str], int]:
    """Return each treasury stripe's balance, in all assets, by its shard and slot."""
    rows = await connection.fetch(
        "SELECT w.shard, w.owner_id, coalesce(sum(e.amount), 0)::bigint FROM wallet w"
        "  LEFT JOIN account a ON (a.shard, a.wallet_id) = (w.shard, w.id)"
        "  LEFT JOIN entry e ON (e.shard, e.account_id) = (a.shard, a.id)"
        " WHERE w.kind = 2 GROUP BY w.shard, w.owner_id"
    )
    return {(shard, slot): total for shard, slot, total in rows}


async def test_only_the_treasury_stripe_of_the_slot_moves(ledger: Ledger, server_connection: Connection) -> None:
    slot = 59
    await open_stripes(server_connection, treasuries(slot, ledger.shard_count))
    owner = (await owners_of_shard(ledger, 2, 1))[0]
    before = await stripes(server_connection)
    await post_one(ledger, request(ledger, owner, TOP_UP, 100), slot)
    after = await stripes(server_connection)
    assert {name: total - before[name] for name, total in after.items() if total != before[name]} == {(2, "59"): -100}


async def test_what_one_slot_credited_another_can_debit(ledger: Ledger, server_connection: Connection) -> None:
    slot = 58
    await open_stripes(server_connection, treasuries(slot, ledger.shard_count))
    owner = await new_owner(ledger, gold=100)
    # The stripe of this slot was never used in GOLD.
    outcome = posted(await post_one(ledger, request(ledger, owner, SPEND, 30), slot))
    assert outcome.balance.amount_minor == 70
    assert (await stripes(server_connection))[shard_of(owner, ledger.shard_count), "58"] == 30


async def test_a_balance_reaches_its_limit_and_no_further(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    full = BALANCE_MINOR_MAX // POSTING_MINOR_MAX
    over = request(ledger, owner, BONUS, 1)
    outcomes = await post_all(
        ledger,
        [
            *(request(ledger, owner, TOP_UP, POSTING_MINOR_MAX) for _ in range(full)),
            over,
            request(ledger, owner, SPEND, 1),
            request(ledger, owner, BONUS, 2),
            request(ledger, owner, BONUS, 1),
        ],
    )
    assert all(isinstance(outcome, Posted) for outcome in outcomes[:full])
    assert refused(outcomes[full]).facts.code is OutcomeCode.BALANCE_LIMIT_EXCEEDED
    assert on_balance(refused(outcomes[full])).balance_before_minor == BALANCE_MINOR_MAX
    assert posted(outcomes[full + 1]).balance.amount_minor == BALANCE_MINOR_MAX - 1
    assert refused(outcomes[full + 2]).facts.code is OutcomeCode.BALANCE_LIMIT_EXCEEDED
    assert posted(outcomes[full + 3]).balance.amount_minor == BALANCE_MINOR_MAX
    assert await balance(ledger, owner) == BALANCE_MINOR_MAX
    # The refusal is kept: room that came later does not let its retry through.
    await post_one(ledger, request(ledger, owner, SPEND, 1000))
    again = refused(await post_one(ledger, request(ledger, owner, BONUS, 1, key=over.idempotency_key)))
    assert (again.facts.code, again.already_processed) == (OutcomeCode.BALANCE_LIMIT_EXCEEDED, True)
    assert await balance(ledger, owner) == BALANCE_MINOR_MAX - 1000


async def test_the_limit_counts_for_each_asset_alone(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    outcomes = await post_all(
        ledger,
        [
            request(ledger, owner, TOP_UP, POSTING_MINOR_MAX, asset)
            for asset in ("GOLD", "DIAMOND")
            for _ in range(BALANCE_MINOR_MAX // POSTING_MINOR_MAX)
        ],
    )
    assert all(isinstance(outcome, Posted) for outcome in outcomes)


async def bring_to(connection: Connection, shard: int, slot: int | str, owners: Sequence[str], total: int) -> None:
    """Move so many credits, with a sign, to owners from a stripe: as much at once as the database lets through."""
    sign = 1 if total > 0 else -1
    for n, owner in enumerate(owners):
        amount = min(MINOR_MAX, abs(total) - n * MINOR_MAX)
        await insert(connection, await movement(connection, shard, owner, sign * amount, slot=slot))


async def test_a_stripe_at_its_lower_bound_refuses_nobody_and_keeps_nothing(
    ledger: Ledger, server_connection: Connection
) -> None:
    slot = 57
    await open_stripes(server_connection, treasuries(slot, ledger.shard_count))
    [other, *whales] = await owners_of_shard(ledger, 3, 10)
    await bring_to(server_connection, 3, slot, whales, TREASURY_MINOR_MAX - 10)
    asked = [
        request(ledger, other, TOP_UP, 11),
        request(ledger, other, TOP_UP, 10),
        request(ledger, other, BONUS, 1),
        request(ledger, other, SPEND, 1),
        request(ledger, other, BONUS, 1),
    ]
    with capture_logs() as logs:
        outcomes = await post_all(ledger, asked, slot)
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Posted, Unavailable, Posted, Posted]
    assert [(log["event"], log["slot"], log["asset"]) for log in logs] == [("treasury_stripe_exhausted", "57", "GOLD")]
    assert (await stripes(server_connection))[3, "57"] == -TREASURY_MINOR_MAX
    # Another stripe has room, for the same keys too.
    again = posted(await post_one(ledger, replace(asked[0], transaction_id=uuid7())))
    assert (again.balance.amount_minor, again.already_processed) == (21, False)


async def test_a_stripe_at_its_upper_bound_refuses_nobody_and_keeps_nothing(
    ledger: Ledger, server_connection: Connection
) -> None:
    slot = 56
    await open_stripes(server_connection, treasuries(slot, ledger.shard_count))
    whales = await owners_of_shard(ledger, 3, 9)
    await bring_to(server_connection, 3, "45", whales, TREASURY_MINOR_MAX)
    await bring_to(server_connection, 3, slot, whales, 10 - TREASURY_MINOR_MAX)
    whale = whales[-1]
    await insert(server_connection, await movement(server_connection, 3, whale, 10, slot="46"))
    over, last = await post_all(ledger, [request(ledger, whale, SPEND, 11), request(ledger, whale, SPEND, 10)], slot)
    assert isinstance(over, Unavailable)
    assert posted(last).balance.amount_minor == 10
    assert (await stripes(server_connection))[3, "56"] == TREASURY_MINOR_MAX


async def test_a_spend_that_the_owner_cannot_pay_is_refused_whatever_the_stripe_holds(
    ledger: Ledger, server_connection: Connection
) -> None:
    slot = 55
    await open_stripes(server_connection, treasuries(slot, ledger.shard_count))
    [poor, *whales] = await owners_of_shard(ledger, 3, 10)
    await bring_to(server_connection, 3, "48", whales, TREASURY_MINOR_MAX)
    await bring_to(server_connection, 3, slot, whales, -TREASURY_MINOR_MAX)
    [outcome] = await post_all(ledger, [request(ledger, poor, SPEND, 1)], slot)
    assert refused(outcome).facts.code is OutcomeCode.INSUFFICIENT_BALANCE


async def test_a_posting_at_the_scale_s_last_digit_is_exact(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    outcomes = await post_all(ledger, [request(ledger, owner, TOP_UP, 1, "POINTS") for _ in range(10)])
    total = posted(outcomes[-1]).balance.amount_minor
    assert Decimal(total).scaleb(-2) == Decimal("0.10")


async def test_what_a_unit_of_work_that_fails_has_posted_is_undone(
    ledger: Ledger, server_connection: Connection
) -> None:
    owner = await new_owner(ledger, gold=1)
    before = await count_rows(server_connection)
    made = request(ledger, owner, TOP_UP, 10, "DIAMOND")

    async def fail() -> None:
        async with unit_of_work(ledger.engine) as connection:
            posted((await post_batch(connection, [made], ledger.slot))[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await count_rows(server_connection) == before
    assert not posted(await post_one(ledger, made)).already_processed
