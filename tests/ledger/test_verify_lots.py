"""Books with lots give no finding, and damage to lots is found, and the damaged row is named."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from lotted import CAROL, Play, play
from planted_damage import DamagedBooks, Planted, damaged_books, new_test_mode_database

from wallet_gql.domain.holds import Hold
from wallet_gql.domain.postings import RequestKind, TransactionView, fingerprint
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings


@pytest.fixture(scope="module")
def lot_settings(new_database: Callable[..., Settings]) -> Settings:
    return new_test_mode_database(new_database, "verify_lots")


@pytest.fixture(scope="module")
def played(lot_settings: Settings) -> Play:
    async def fill() -> Play:
        async with open_ledger(lot_settings) as ledger:
            for code in ("GOLD", "DIAMOND"):
                await add_asset(ledger, code, code.title(), 0)
            return await play(ledger)

    return asyncio.run(fill())


@pytest.fixture
async def books(postgres: EmbeddedPostgres, lot_settings: Settings, played: Play) -> AsyncIterator[DamagedBooks]:  # noqa: ARG001 - filled
    unchecked = ("account", "asset_setting", "entry", "hold", "hold_step", "lot", "lot_step", "transaction")
    async with damaged_books(postgres, lot_settings, unchecked) as books:
        await books.connection.execute("ALTER TABLE lot_step DROP CONSTRAINT lot_step_shard_account_id_seq_place_key")
        yield books


async def test_lots_without_damage_give_no_finding(books: DamagedBooks) -> None:
    assert await books.findings() == []


def test_the_proof_of_lots_without_damage_has_no_finding(lot_settings: Settings, played: Play) -> None:
    assert asyncio.run(prove(lot_settings)).findings == []
    assert played.posted


def step(view: TransactionView, values: str, where: str = "true") -> str:
    """Damage the steps of lots that belong to an owner's entry."""
    return (
        f"UPDATE lot_step SET {values} WHERE shard = {view.shard} AND account_id = {view.account_id}"
        f" AND seq = {view.seq} AND {where}"
    )


def entry(view: TransactionView, values: str) -> str:
    """Damage an owner's entry."""
    return f"UPDATE entry SET {values} WHERE (shard, account_id, seq) = ({view.shard}, {view.account_id}, {view.seq})"


def lot(view: TransactionView, n: int, values: str) -> str:
    """Damage a lot of an owner's account."""
    return f"UPDATE lot SET {values} WHERE (shard, account_id, n) = ({view.shard}, {view.account_id}, {n})"


def hold_step(hold: Hold, step: int, values: str) -> str:
    """Damage a step of a hold."""
    return f"UPDATE hold_step SET {values} WHERE hold_id = '{hold.id}' AND step = {step}"


def without(view: TransactionView, table: str = "lot_step") -> str:
    """Take away the steps that belong to an owner's entry."""
    where = f"(shard, account_id, seq) = ({view.shard}, {view.account_id}, {view.seq})"
    return f"DELETE FROM {table} WHERE {where}"


def of_lots(play: Play) -> Iterator[Planted]:
    posted, account = play.posted, play.posted["plain"].account_id
    plain, name = posted["plain"], f"lot 4 of account {account}"
    stripe = f"(SELECT min(id) FROM account WHERE shard = {plain.shard} AND wallet_kind = 2)"
    moved = step(plain, f"seq = {posted['over several'].seq}, place = 9")
    yield Planted(("UPDATE account SET wallet_kind = 2",), "lot", name, "its account is not an owner's")
    yield Planted(("DELETE FROM asset_setting",), "lot", name, "its asset had no lots")
    yield Planted((lot(plain, 4, "n = 9"),), "lot", f"lot 5 of account {account}", "follows lot 3")
    yield Planted((lot(plain, 4, "seq = 2"),), "lot", name, f"its first step is of seq {plain.seq}, not 2")
    yield Planted(
        (moved, lot(plain, 4, f"seq = {posted['over several'].seq}")), "lot", name, "was granted by an entry of type 3"
    )
    yield Planted(
        (lot(plain, 4, "granted_at = granted_at + interval '1 us'"),), "lot", name, "its time is not that of the entry"
    )
    yield Planted((lot(plain, 4, "origin_id = gen_random_uuid()"),), "lot", name, "its origin is transaction")
    yield Planted((lot(plain, 4, "source = 1"),), "lot", name, "is of source 1, which makes no lots")
    outside = lot(plain, 4, "shard = 9")
    yield Planted((outside,), "shard", "table lot", "has rows in a shard past the last, 3")
    yield Planted((step(plain, "shard = 9"),), "shard", "table lot_step", "has rows in a shard past the last, 3")
    yield Planted(
        (f"INSERT INTO asset_setting (asset_id, step, transfers) VALUES ({plain.asset.id}, 2, 1)",),
        "asset setting", f"setting 2 of asset {plain.asset.id}", "takes lots from an asset that has them for ever",
    )  # fmt: skip
    yield Planted(
        (f"UPDATE entry SET lots_seq = 1, lots_after = 0 WHERE shard = {plain.shard} AND account_id = {stripe}",),
        "chain", "seq 1", "has lots, but is not an owner's",
    )  # fmt: skip


def of_steps(play: Play) -> Iterator[Planted]:
    posted, several, plain = play.posted, play.posted["over several"], play.posted["plain"]
    account, of_bonuses, escrow = plain.account_id, posted["of bonuses"], posted["escrow, None"]
    first = f"step 1 of lot 4 of account {account}"

    def told(statement: str, fault: str, row: str = f"step 2 of lot 4 of account {account}") -> Planted:
        return Planted((statement,), "lot step", row, fault)

    n_4 = "lot = 4"
    yield told(f"DELETE FROM lot WHERE account_id = {account} AND n = 4", "its lot does not exist", first)
    yield told(step(several, "step = 9", n_4), "follows step 1", f"step 3 of lot 4 of account {account}")
    yield told(step(several, "seq = 1", n_4), f"is of seq 1, but follows seq {plain.seq}")
    yield told(step(plain, "seq = 1000"), "no entry belongs to it", first)
    yield told(step(several, "place = 9", n_4), "its place is 9, but should be 3")
    yield told(step(several, "change = -1000", n_4), "changes -1000, but its entry moves -65")
    yield told(step(plain, "change = -7"), "changes -7, but its entry moves 7", first)
    yield told(entry(plain, "type = 1"), "is put in by type 1", first)
    yield told(step(several, "remaining = 3", n_4), "3 remains after it, but should be 2")
    yield told(step(several, "granted = 8", n_4), "8 was granted up to it, which does not follow 7")
    yield told(step(several, "held = 1", n_4), "1 is held after it, but should be 0")
    yield Planted(
        (step(of_bonuses, "change = -3, remaining = -1", n_4), step(of_bonuses, "change = -1", "lot = 3")),
        "lot step", f"step 3 of lot 4 of account {account}", "of 7 that was granted -1 remains, and 0 of it is held",
    )  # fmt: skip
    yield Planted(
        (("INSERT INTO lot_step (shard, account_id, lot, step, seq, place, change, granted, remaining, held)"
         f" SELECT shard, account_id, lot, step + 1, {escrow.seq}, 1, -1, granted, remaining - 1, held FROM lot_step"
         f" WHERE shard = {escrow.shard} AND account_id = {escrow.account_id} AND lot = 3 ORDER BY step DESC LIMIT 1"),
         f"UPDATE lot_step SET seq = 1 WHERE account_id = {escrow.account_id} AND lot = 3 AND seq > {escrow.seq}"),
        "lot step", f"of lot 3 of account {escrow.account_id}", "takes 1, but a hold gives up 0",
    )  # fmt: skip
    yield told(
        lot(several, 1, "expires_at = '2001-01-01'"), "takes of a lot that was over at 2001-01-01",
        f"step 2 of lot 1 of account {account}",
    )  # fmt: skip
    yield told(
        step(several, "place = 3 - place", "place < 3"), "takes after lot 2, which is spent later",
        f"step 2 of lot 1 of account {account}",
    )  # fmt: skip
    yield told(
        step(several, "change = -29, remaining = 1", "lot = 1"), "takes after lot 1, of which 1 is left",
        f"step 2 of lot 2 of account {account}",
    )  # fmt: skip
    yield told(
        step(posted["sword, 17"], "place = 3 - place"), "takes after lot 1, which is spent later",
        f"of lot 2 of account {posted['sword, 17'].account_id}",
    )  # fmt: skip


def of_entries(play: Play) -> Iterator[Planted]:
    posted, plain, pool = play.posted, play.posted["plain"], play.posted["of the pool"]
    several, lapses, swept = posted["over several"], posted["lapses"], posted["swept"]

    def told(statement: str, fault: str, view: TransactionView = plain, later: int = 0) -> Planted:
        row = f"account {view.account_id}, seq {view.seq + later}"
        return Planted((statement,), "lots of an account", row, fault)

    yield told(entry(plain, "lots_after = 1"), "1 is in lots after it, but should be 78")
    yield told(entry(plain, "balance_after = 1"), "78 is in lots and in no hold, but 1 is available")
    yield told(entry(pool, "live_lots = '{2}'"), "says which lots have something left, but changes none of them", pool)
    yield told(entry(plain, "live_lots = NULL"), "does not say which lots have something left")
    yield told(entry(pool, "lots_seq = 1"), "says that seq 1 listed its lots, which it did not", pool)
    yield told(
        entry(plain, "live_lots = '{2,1,4,3}'"),
        "says that lots {2,1,4,3} have something left, but {1,2,4,3} have, as they are spent",
    )
    bought = posted["bought"]
    yield Planted(
        (step(bought, "change = -9, remaining = 1", "lot = 3"), entry(bought, "lots_after = 1")),
        "lots of an account", f"account {bought.account_id}, seq {bought.seq}",
        "takes of the pool, but 1 is left in lots",
    )  # fmt: skip
    yield told(entry(several, "type = 11"), "takes what expires of no lot, or of several", several)
    yield told(lot(lapses, 1, "expires_at = '2099-01-01'"), "takes what expires, but not before 2099-01-01", lapses, 1)
    expired = posted["to Carol"]
    # What a hold has of it outlives it.
    part = f"(SELECT min(seq) FROM entry WHERE account_id = {expired.account_id} AND seq > {expired.seq} AND type = 11)"
    yield Planted(
        (f"UPDATE lot_step SET remaining = remaining + 1 WHERE account_id = {expired.account_id} AND seq = {part}",),
        "lots of an account", f"account {expired.account_id}, seq", "leaves 1 of what expires",
    )  # fmt: skip
    for values in ("next_due_at + interval '1 s'", "next_due_at - interval '1 s'", "NULL"):
        yield told(entry(plain, f"next_due_at = {values}"), "says that something is due at")
        yield told(entry(swept, f"next_due_at = {values}"), "says that something is due at", swept)

    def missing(view: TransactionView, values: str) -> Planted:
        return Planted((entry(view, values),), "chain", f", seq {view.seq}", "does not say what is in lots")

    yield missing(plain, "lots_seq = NULL, lots_after = NULL, live_lots = NULL")
    yield missing(plain, "lots_seq = NULL")
    yield missing(posted["before lots"], "type = 11")
    yield missing(posted["before lots"], "live_lots = '{}'")


def of_uses(play: Play) -> Iterator[Planted]:
    posted, plain, bought = play.posted, play.posted["plain"], play.posted["bought"]
    name = f"transaction {plain.id}"
    yield Planted((without(plain),), "bonus", name, "puts 0 of 7 into 0 lots")
    yield Planted((step(plain, "change = 6"),), "bonus", name, "puts 6 of 7 into 1 lots")
    there, joined = posted["there"], posted["joined"]
    assert there.counterpart is not None
    assert joined.counterpart is not None
    for values in ("priority = 99", "campaign = 'x'", "campaign = NULL", "expires_at = expires_at + interval '1 s'"):
        yield Planted(
            (f"UPDATE lot SET {values} WHERE origin_id = '{there.counterpart.id}'",),
            "transfer of lots", f"transaction {there.id}", "moves lots (",
        )  # fmt: skip
    yield Planted((without(joined),), "transfer of lots", f"transaction {joined.counterpart.id}", "moves lots (")
    back, part = posted["with an end"], posted["part"]
    refund = f"transaction {part.id}"
    yield Planted((without(part),), "refund of lots", refund, "does not put 4 into lot 3")
    yield Planted((without(bought),), "refund of lots", refund, "puts 4 into lot 3, which its original did not take")
    yield Planted((step(part, "change = 3"),), "refund of lots", refund, "puts 3 into lot 3, but gives back 4 of lot 3")
    yield Planted(
        (lot(back, 4, "campaign = 'other'"),),
        "refund of lots",
        f"transaction {back.id}",
        "puts 4 into lot 4, but gives",
    )


def of_earmarks(play: Play) -> Iterator[Planted]:
    holds, sword = play.holds, play.holds["sword"]

    def told(statement: str, fault: str, step: int = 1, hold: Hold = sword) -> Planted:
        return Planted((statement,), "earmark", f"step {step} of hold {hold.id}", fault)

    yield told(hold_step(sword, 1, "earmarks = NULL"), "names other lots than amounts")
    for marks in ("{17,10,19}", "{17,10,0}"):
        yield told(
            hold_step(sword, 1, f"earmarks = '{marks}'"), f"earmarks {marks} of lots {{2,1,3}}, which is no part"
        )
    yield told(hold_step(sword, 1, "lots = '{2,1,1}'"), "earmarks {17,10,10} of lots {2,1,1}, which is no part")
    of_bonuses, of_the_pool, escrow = holds["of bonuses"], holds["of the pool"], holds["escrow"]
    yield told(
        hold_step(of_the_pool, 1, "lots = '{3}', earmarks = '{1}'"), "has earmarks, but its hold takes from no lots",
        hold=of_the_pool,
    )  # fmt: skip
    yield told(
        hold_step(of_bonuses, 1, "earmarks = '{2}'"), "holds what is in no lot, but its hold takes from lots alone",
        hold=of_bonuses,
    )  # fmt: skip
    yield told(
        hold_step(sword, 1, "lots = '{1,2,3}', earmarks = '{10,17,10}'"),
        "earmarks lots {1,2,3}, which do not end in that order",
    )
    yield told(
        hold_step(escrow, 1, "lots = '{3}', earmarks = '{1}'"), "a lot has no step for what it earmarks", hold=escrow
    )
    yield told(step(play.posted["sword, 17"], "change = change + 1", "place = 1"), "does not use up first", 5)
    yield told(hold_step(sword, 5, "earmarks = '{4,10}'"), "does not use up first what ends first", 5)


def of_keys(play: Play) -> Iterator[Planted]:
    posted, ends, back = play.posted, play.posted["ends"], play.posted["with an end"]

    def told(statement: str, view: TransactionView, check: str = "key") -> Planted:
        row = f"key {view.idempotency_key} of wallet {view.wallet_id}"
        return Planted((statement,), check, row, f"its fingerprint is not what transaction {view.id} gives")

    for values in ("campaign = 'x'", "campaign = NULL", "priority = 50", "expires_at = expires_at + interval '1 us'"):
        yield told(lot(ends, 1, values), ends)
    for values in ("priority = 61", "campaign = 'd'"):
        yield told(lot(ends, 3, values), posted["joins"])
    yield told(lot(back, 4, "expires_at = expires_at + interval '1 us'"), back, "key of a movement")
    for name, check, kind, more in (
        ("over several", "key", RequestKind.SPEND, (("sources", "PURCHASED"),)),
        ("over several", "key", RequestKind.SPEND, (("sources", "BONUS"), ("x", "y"))),
        ("of the pool", "key", RequestKind.SPEND, (("sources", "BONUS"),)),
        ("there", "key of a movement", RequestKind.TRANSFER, (("sources", "PURCHASED"), ("to", CAROL))),
    ):
        view = posted[name]
        other = fingerprint(kind, "GOLD", abs(view.amount_minor), view.description, None, *more)
        where = f"WHERE key = '{view.idempotency_key}'"
        yield told(f"UPDATE idempotency_key SET fingerprint = '\\x{other.hex()}' {where}", view, check)
    for name, sources in (("sword", 1), ("sword", 2), ("of bonuses", "NULL"), ("of the pool", 2)):
        hold = play.holds[name]
        yield Planted(
            (f"UPDATE hold SET sources = {sources} WHERE id = '{hold.id}'",),
            "key of a hold", f"key {hold.idempotency_key} of wallet {hold.wallet.id}",
            f"its fingerprint is not what step 1 of hold {hold.id} gives",
        )  # fmt: skip
    yield Planted(
        (("UPDATE idempotency_key SET details = details || jsonb_build_object('balance_before_minor', 77)"
         f" WHERE key = '{play.refused[0]}'"),),
        "refusal", f"key {play.refused[0]} of wallet {ends.wallet_id}", "says refused on 77, which no account",
    )  # fmt: skip
    yield Planted(
        (f"UPDATE wallet SET owner_id = '321' WHERE kind = 2 AND owner_id = '64' AND shard = {ends.shard}",),
        "owner", "(321)", "is the treasury's, but its owner id is not a slot, 0 to 320",
    )  # fmt: skip


@pytest.mark.parametrize("planted", [of_lots, of_steps, of_entries, of_uses, of_earmarks, of_keys])
async def test_planted_damage_is_found_and_named(
    books: DamagedBooks, played: Play, planted: Callable[[Play], Iterator[Planted]]
) -> None:
    await books.assert_each_is_found(planted(played))
