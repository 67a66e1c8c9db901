"""Books with limits give no finding, and damage to limits is found, and the damaged row is named."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields

import pytest
from damaged import SHARD
from limited import LimitPlay, play
from lotted import ALICE, FRANK
from planted_damage import DamagedBooks, Planted, damaged_books, new_test_mode_database

from wallet_gql.domain.limits import Rule
from wallet_gql.domain.postings import TransactionView
from wallet_gql.domain.refusals import LimitExceeded
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings


@pytest.fixture(scope="module")
def limit_settings(new_database: Callable[..., Settings]) -> Settings:
    return new_test_mode_database(new_database, "verify_limits")


@pytest.fixture(scope="module")
def played(limit_settings: Settings) -> LimitPlay:
    async def fill() -> LimitPlay:
        async with open_ledger(limit_settings) as ledger:
            for code in ("GOLD", "DIAMOND"):
                await add_asset(ledger, code, code.title(), 0)
            return await play(ledger)

    return asyncio.run(fill())


@pytest.fixture
async def books(
    postgres: EmbeddedPostgres,
    limit_settings: Settings,
    played: LimitPlay,  # noqa: ARG001 - has filled them
) -> AsyncIterator[DamagedBooks]:
    unchecked = ("account", "entry", "hold_step", "idempotency_key", "limit_rule", "transaction")
    async with damaged_books(postgres, limit_settings, unchecked) as books:
        yield books


async def test_limits_without_damage_give_no_finding(books: DamagedBooks) -> None:
    assert await books.findings() == []


def test_the_proof_of_limits_without_damage_has_no_finding(limit_settings: Settings, played: LimitPlay) -> None:
    assert asyncio.run(prove(limit_settings)).findings == []
    assert played.exceeded


def version(rule: Rule) -> str:
    """Return what a version of a limit is called."""
    wallet_id = rule.name.wallet_id
    of = f"wallet {wallet_id}" if wallet_id else "all wallets"
    return f"version {rule.name.step} of the limits of {of} in asset {rule.name.asset_id}"


def change(rule: Rule, values: str) -> str:
    """Damage a version of a limit."""
    return (
        f"UPDATE limit_rule SET {values} WHERE (asset_id, shard, wallet_id, step) = ({', '.join(map(str, rule.name))})"
    )


def entry(view: TransactionView, values: str) -> str:
    """Damage an owner's entry."""
    return f"UPDATE entry SET {values} WHERE (shard, account_id, seq) = ({view.shard}, {view.account_id}, {view.seq})"


def key_of(play: LimitPlay, name: str, values: str) -> str:
    """Damage the key of what was refused, or of a limit."""
    key = play.refusals.get(name) or play.keys[name]
    return f"UPDATE idempotency_key SET {values} WHERE key = '{key}'"


def tell(play: LimitPlay, name: str, **details: object) -> str:
    """Let a key say something else."""
    pairs = ", ".join(f"'{column}', {value}" for column, value in details.items())
    return key_of(play, name, f"details = details || jsonb_build_object({pairs})")


WINDOWS = (
    "rolling_seconds = NULL",
    "rolling_seconds = 0",
    f"rolling_seconds = {366 * 86_400 + 1}",
    "calendar_unit = 1, time_zone = 'UTC'",
    "time_zone = 'UTC'",
    "rolling_seconds = NULL, calendar_unit = 1",
    "rolling_seconds = NULL, calendar_unit = 4, time_zone = 'UTC'",
    "rolling_seconds = NULL, calendar_unit = 1, time_zone = ''",
    "rolling_seconds = NULL, calendar_unit = 1, time_zone = repeat('x', 65)",
    "flow = 1, max_count = NULL",
)


def of_versions(play: LimitPlay) -> Iterator[Planted]:
    rules, own, out = play.rules, play.rules["own"], play.rules["out"]

    def told(rule: Rule, values: str, fault: str, row: str | None = None) -> Planted:
        return Planted((change(rule, values),), "limit", row or version(rule), fault)

    yield told(out, "asset_id = 99", "its asset does not exist", "version 1 of the limits of all wallets in asset 99")
    yield told(out, "shard = 2", "is of all wallets, but not in shard 0")
    stripe = f"(SELECT min(id) FROM wallet WHERE shard = {SHARD} AND kind = 2)"
    yield told(own, f"wallet_id = {stripe}", "its wallet is not an owner's", "version 1 of the limits of wallet ")
    yield told(own, "wallet_id = 999", "its wallet is not an owner's", "version 1 of the limits of wallet 999 ")
    yield told(
        rules["again"], "step = 9", "follows version 6", version(rules["again"]).replace("version 5", "version 9")
    )
    yield Planted(
        ("ALTER TABLE limit_rule DROP CONSTRAINT limit_rule_pkey", "INSERT INTO limit_rule TABLE limit_rule"),
        "limit", version(own), "follows version 1",
    )  # fmt: skip
    for flow in ("0", "9", "NULL"):
        statements = ("ALTER TABLE limit_rule ALTER flow DROP NOT NULL", change(own, f"flow = {flow}"))
        yield Planted(statements, "limit", version(own), "is of flow ")
    for window in WINDOWS:
        yield told(own, window, "has no window of flow ")
    yield told(rules["balance"], "rolling_seconds = 9", "has no window of flow 1: 9 seconds, unit none in no time zone")
    for maximum in ("max_amount = 0", f"max_amount = {10**18 + 1}", "max_count = 0"):
        yield told(own, maximum, "has no maximum of flow 3: ")
    yield told(rules["balance"], "max_count = 1", "has no maximum of flow 1: 3000, 1 movements")
    for enforcement in ("0", "3"):
        yield told(own, f"enforcement = {enforcement}", f"is enforced by {enforcement}, which does not exist")
    yield told(own, "set_at = '-infinity'", "has no time")
    for late in ("'infinity'", "wallet_now() + interval '2 minutes'"):
        yield told(own, f"set_at = {late}", "is dated in the future: ")
    yield told(rules["second"], "set_at = set_at - interval '1 day'", "is older than the version before it")
    for listed, right in (("{1}", "{1,3}"), ("{3,1}", "{1,3}"), ("{}", "{1,3}"), ("{1,2,3}", "{1,3}")):
        yield told(
            rules["second"],
            f"in_force = '{listed}'",
            f"says that versions {listed} are in force after it, but {right} are",
        )
    yield told(rules["second"], "in_force = '{1,NULL}'", "says that versions {1,NULL} are in force after it, but ")
    # Where the one before it is of another window, it is not its like.
    yield told(
        rules["first"], "rolling_seconds = 7", "says that versions {1,3} are in force after it, but {1,2,3} are",
        version(rules["second"]),
    )  # fmt: skip
    yield told(
        own, "max_amount = NULL, max_count = NULL", "says that versions {1} are in force after it, but {} are"
    )  # fmt: skip
    yield Planted(
        (("INSERT INTO limit_rule SELECT 2, w.shard, w.id, n, gen_random_uuid(), 2, n, NULL, NULL, 1, NULL, 1,"
          " ARRAY(SELECT generate_series(1, n)), 'epoch' FROM generate_series(1, 21) AS n, wallet w"
          f" WHERE w.owner_id = '{FRANK}'"),),
        "limit", "version 21 of the limits of wallet ", "lets 21 limits be in force",
    )  # fmt: skip
    yield Planted((change(own, "shard = 9"),), "shard", "table limit_rule", "has rows in a shard past the last, 3")


def of_keys(play: LimitPlay) -> Iterator[Planted]:
    rules, keys = play.rules, play.keys

    def told(name: str, statement: str, fault: str) -> Planted:
        wallet_id = play.rules[{"removed": "second", "not there": "first"}.get(name, name)].name.wallet_id
        return Planted((statement,), "key of a limit", f"key {keys[name]} of wallet {wallet_id}", fault)

    def lacking(rule: Rule, statement: str) -> Planted:
        return Planted((statement,), "key of a limit", version(rule), "no key asked for it")

    own, other = rules["own"], "id = gen_random_uuid()"
    yield lacking(own, f"DELETE FROM idempotency_key WHERE key = '{keys['own']}'")
    yield lacking(rules["out"], f"DELETE FROM idempotency_key WHERE key = '{keys['out']}'")
    yield lacking(own, change(own, other))
    yield lacking(own, key_of(play, "own", f"wallet_id = {rules['sent'].name.wallet_id}"))
    yield lacking(own, tell(play, "own", asset_id=2))
    for name in ("own", "out", "same", "removed", "not there"):
        yield told(name, key_of(play, name, "details = details - 'step'"), "does not say which version of a limit")
    for name in ("same", "not there"):
        yield told(name, tell(play, name, step=77), "says that it set version 77 of limits in asset 1, which does not")
        yield told(name, tell(play, name, step="'x'::text"), "says that it set version x of limits in asset 1, which")
    # Of a limit that was set again as it is, all versions are gone.
    bobs = f"(asset_id, wallet_id) = (1, {rules['sent'].name.wallet_id})"
    yield told("same", f"DELETE FROM limit_rule WHERE {bobs}", "says that it set version 3 of limits in asset 1,")
    for step in ("2", "'null'::jsonb", "77"):
        yield told("own", tell(play, "own", step=step), f"is not the key of {version(own)}")
    for step in ("1", "2", "4", "5", "'null'::jsonb"):
        yield told("removed", tell(play, "removed", step=step), "is not the key of version 4 of the limits of wallet ")


def of_fingerprints(play: LimitPlay) -> Iterator[Planted]:
    rules, keys = play.rules, play.keys

    def told(name: str, statement: str, of: str | None = None) -> Planted:
        rule = rules[of or name]
        row = f"key {keys[name]} of wallet {rule.name.wallet_id}"
        return Planted((statement,), "key of a limit", row, f"its fingerprint is not what {version(rule)} gives")

    for name, values in (
        ("own", "max_amount = 151"),
        ("own", "max_amount = NULL"),
        ("own", "max_count = 8"),
        ("own", "max_count = NULL"),
        ("own", "rolling_seconds = 86401"),
        ("own", "enforcement = 2"),
        ("again", "enforcement = 1"),
        ("out", "flow = 6"),
        ("balance", "max_amount = 3001"),
        ("in", "calendar_unit = 1"),
        ("in", "time_zone = 'Europe/Berlin'"),
        ("top-ups", "calendar_unit = 2"),
        ("bonuses", "flow = 2"),
    ):
        yield told(name, change(rules[name], values))
    yield told("same", change(rules["second"], "max_amount = 21"), "second")
    yield told("own", f"UPDATE wallet SET owner_id = 'x' WHERE owner_id = '{ALICE}'")
    yield told("out", "UPDATE asset SET code = 'SILVER' WHERE code = 'GOLD'")
    for name, of in (("own", "own"), ("same", "second"), ("removed", "second")):
        yield told(name, key_of(play, name, "fingerprint = sha256('x')::bytea"), of)


def of_flows(play: LimitPlay) -> Iterator[Planted]:
    posted, counted = play.posted, play.posted["counted"]

    def told(statement: str, fault: str, view: TransactionView = counted, later: int = 0) -> Planted:
        row = f"account {view.account_id}, seq {view.seq + later}"
        return Planted((statement,), "flows", row, fault)

    captured, warned, gems = posted["held, 2"], posted["warned"], posted["gems"]
    yield told(entry(captured, "flows = NULL"), "does not count what moved, as the entry before it does", captured)
    yield told(entry(counted, "flows = NULL"), "says that {0,0,0,0,20,1,0,0,0,0,7} moved, but it should be {0", later=1)
    stripe = f"(SELECT min(id) FROM account WHERE shard = {counted.shard} AND wallet_kind = 2)"
    yield Planted(
        ((f"UPDATE entry SET flows = '{{0,0,0,0,0,0,0,0,0,0,1}}' WHERE shard = {counted.shard} AND seq = 1"
          f" AND account_id = {stripe}"),),
        "flows", ", seq 1", "counts what moved, but is not an owner's",
    )  # fmt: skip
    for place in range(1, 12):
        statement = entry(counted, f"flows[{place}] = flows[{place}] + 1")
        yield told(statement, "says that {")
        yield told(statement, "says that {", later=1)
    for flows in ("flows[1:10]", "flows || 0::numeric", "'{}'", "array_replace(flows, 20, NULL)", "ARRAY[flows]"):
        yield told(entry(counted, f"flows = {flows}"), "says that {")
    # A capture counts as a spend, once; a refund as nothing.
    yield told(entry(captured, "type = 4"), "says that {0,0,0,0,22,2,0,0,0,0,7} moved, but it should be {0", captured)
    back = posted["paid back"]
    yield told(entry(back, "type = 1"), "says that {", back)
    yield told(entry(warned, f"amount = {-(2**63)}"), "says that {", warned)
    flows = f"{{100,1,0,0,0,0,0,0,0,0,{gems.seq}}}"
    yield told(entry(gems, f"flows = '{flows}'"), "counts what moved, but that was not limited", gems)
    first = posted["gives way"]
    yield told(
        "UPDATE limit_rule SET set_at = set_at + interval '90 minutes' WHERE wallet_id = 0",
        "counts what moved, but that was not limited", first,
    )  # fmt: skip


# What a refusal may keep that is not what it should be: no statement fails of it.
GARBAGE = ("'null'::jsonb", "'x'::text", "1.5", "-1", "1e30::numeric", "'[]'::jsonb", "true")


def of_garbage(play: LimitPlay) -> Iterator[Planted]:
    name = "beside holds"
    row = f"key {play.refusals[name]} of wallet "
    for column in (each.name for each in fields(LimitExceeded) if each.name not in {"asset", "used_minor", "held"}):
        for value in GARBAGE:
            statement = tell(play, name, **{column: value})
            yield Planted((statement,), "limit exceeded", row, "does not say on what it was judged")
    for column in ("held", "used_minor", "seq"):
        statement = key_of(play, name, f"details = details - '{column}'")
        yield Planted((statement,), "limit exceeded", row, "does not say on what it was judged")
    for value in GARBAGE:
        statement = tell(play, name, asset_id=value)
        yield Planted((statement,), "limit exceeded", row, "does not say on what it was judged")
    for held in ("7", "7@", "@7", "7@8 ", " 7@8", "7@8,9@8", "7@-8", "7@99999999999999999"):
        statement = tell(play, name, held=f"'{held}'::text")
        yield Planted((statement,), "limit exceeded", row, "does not say on what it was judged")
    for others in ("0:0:1:5:1", "0:0:1:5:1:+", "0:0:1:5:1:7@8+", "0:0:1:5::", " 0:0:1:5:1:", "0:0:1:5:1:  0:0:1:5:1:"):
        statement = tell(play, name, others=f"'{others}'::text")
        yield Planted((statement,), "limit exceeded", row, "does not say on what it was judged")
    for value in ("'x'::text", "-1", "1.5"):
        statement = tell(play, name, used_minor=value)
        yield Planted((statement,), "limit exceeded", row, "does not say on what it was judged")
    yield Planted((key_of(play, name, "details = NULL"),), "limit exceeded", row, "does not say on what it was judged")


def of_refusals(play: LimitPlay) -> Iterator[Planted]:
    exceeded, rules = play.exceeded, play.rules

    def told(name: str, statement: str, fault: str) -> Planted:
        return Planted((statement,), "limit exceeded", f"key {play.refusals[name]} of wallet ", fault)

    def telling(name: str, fault: str, **details: object) -> Planted:
        return told(name, tell(play, name, **details), fault)

    own, of_all, held = exceeded["in a new window"], exceeded["of all"], exceeded["beside holds"]
    yield telling("of all", "was judged on account 2, which is not its wallet's", account_id=2)
    yield telling("of all", "was judged on account 0, which is not its wallet's", account_id=0)
    yield telling("of all", f"was judged on account {of_all.account_id}, which is not its wallet's", asset_id=2)
    yield telling("never opened", "was judged on account 0, which is not its wallet's", seq=1)
    bob = rules["sent"].name.wallet_id
    yield telling("of all", "names version 77 of the limits of wallet 0 (shard 0), which does not exist", rule_step=77)
    yield telling("of all", "names version 1 of the limits of wallet 77 (shard 0), which does not", rule_wallet_id=77)
    yield telling("of all", f"names version 1 of the limits of wallet 0 (shard {SHARD}), which does", rule_shard=SHARD)
    yield telling(
        "of all", f"names version 1 of the limits of wallet {bob} (shard {SHARD}), which is another wallet's",
        rule_shard=SHARD, rule_wallet_id=bob,
    )  # fmt: skip
    for values in ("flow = 1", "enforcement = 2", "max_amount = NULL, max_count = NULL"):
        yield told(
            "of all", change(rules["out"], values), "names version 1 of the limits of wallet 0 (shard 0), which re"
        )
    late = change(rules["out"], "set_at = set_at + interval '90 minutes'")
    yield told("of all", late, "names version 1 of the limits of wallet 0 (shard 0), which was not in force at ")
    gone = change(rules["in"], "in_force = '{2}', set_at = set_at - interval '90 minutes'")
    yield told("of all", gone, "names version 1 of the limits of wallet 0 (shard 0), which was not in force at ")
    yield telling("of all", "was judged after seq 99, which does not exist", seq=99)
    yield telling("of all", "was judged at ", at_us=of_all.at_us + 1)
    yield telling("of all", "was judged at ", at_us=of_all.at_us - 1)
    yield told("of all", key_of(play, "of all", "created_at = created_at - interval '1 us'"), "was judged at ")
    yield telling("in a new window", "was judged after seq 12, but seq 13 was there", seq=12)
    early = f"UPDATE entry SET executed_at = executed_at - interval '90 minutes' WHERE account_id = {own.account_id}"
    yield told(
        "in a new window", f"{early} AND shard = {SHARD} AND seq > {own.seq}", "was judged after seq 14, but seq 15"
    )
    opened = play.posted["opened"]
    yield told(
        "never opened", entry(opened, "executed_at = 'epoch'"), "was judged after seq 0, but seq 1 was there"
    )  # fmt: skip
    first, *others = held.held.split()
    for wrong in ("", first, " ".join([*others, first, first]), held.held.replace("@1", "@2"), f"1{held.held}"):
        yield telling("beside holds", "says that holds held {", held=f"'{wrong}'::text")
    yield telling("of a day", "says that holds held {1@2}, but it should be {}", held="'1@2'::text")
    # An escrow is not spent.
    before = play.holds["open before"]
    yield told(
        "not counted yet",
        f"UPDATE hold SET receiver_shard = {SHARD}, receiver_wallet_id = {bob} WHERE id = '{before.id}'",
        "says that holds held {7@",
    )
    yield telling(
        "of all", "says that version 1 of the limits of wallet 0 (shard 0) was exceeded, but", amount_minor=10
    )
    yield told(
        "of all", change(rules["out"], "max_amount = 101"), "says that version 1 of the limits of wallet 0 (shard"
    )
    yield told("sent, thrice", change(rules["sent"], "max_count = 3"), "says that version 1 of the limits of wallet ")


def of_figures(play: LimitPlay) -> Iterator[Planted]:
    exceeded = play.exceeded

    def told(name: str, statement: str) -> Planted:
        facts, row = exceeded[name], f"key {play.refusals[name]} of wallet "
        held = [int(each.split("@")[0]) for each in facts.held.split()]
        moved = f"says that {facts.used_minor - sum(held)} moved by {facts.used_count - len(held)} movements in its"
        return Planted((statement,), "limit exceeded", row, moved if "details" not in statement else "says that ")

    # Of rolling windows, some of it uncounted, and of the calendar's.
    for name, facts in exceeded.items():
        for by in (1, -1):
            if facts.used_minor or by > 0:
                yield told(name, tell(play, name, used_minor=facts.used_minor + by))
            if facts.used_count or by > 0:
                yield told(name, tell(play, name, used_count=facts.used_count + by))
    # All that she ever spent, by one movement less than holds are.
    yield told("in a new window", tell(play, "in a new window", used_minor=100, used_count=0))
    spent = play.posted["a new window"]
    yield told("in a new window", change(play.rules["spends"], f"rolling_seconds = {9 * 86_400}"))
    yield told("in a new window", entry(spent, "executed_at = executed_at - interval '61 minutes'"))
    yield told("in a new window", entry(spent, "amount = amount - 1"))
    yield told("in a new window", entry(spent, "type = 4"))
    for name, days in (("of a day", 2), ("of a month", 32)):
        moved = f"account_id = {exceeded[name].account_id}"
        longer = f"UPDATE entry SET executed_at = executed_at - interval '{days} days' WHERE {moved}"
        yield told(name, f"{longer} AND seq = 1")


def of_others(play: LimitPlay) -> Iterator[Planted]:
    """Damage what a refusal says of the other limits that it exceeded."""
    name = "beside holds"
    told, other = play.exceeded[name].every()
    shown = f"version {other.rule_step} of the limits of wallet {other.rule_wallet_id} (shard {other.rule_shard})"
    figures = [other.rule_shard, other.rule_wallet_id, other.rule_step, other.used_minor, other.used_count]
    faults = ("names version ", "names version ", "names version ", "says that ", "says that ")
    row = f"key {play.refusals[name]} of wallet "
    for n, fault in enumerate(faults):
        for by in (1, 90):
            wrong = [each + by * (n == m) for m, each in enumerate(figures)]
            held = other.held.replace(" ", "+")
            statement = tell(play, name, others=f"'{':'.join(map(str, wrong))}:{held}'::text")
            yield Planted((statement,), "limit exceeded", row, fault)
    statement = tell(play, name, others=f"'{':'.join(map(str, figures))}:'::text")
    yield Planted((statement,), "limit exceeded", row, "says that holds held {}, but it should be {")
    rule = play.rules["spends"]
    assert (rule.name.shard, rule.name.wallet_id, rule.name.step) == tuple(figures[:3])
    yield Planted((change(rule, "max_amount = 152"),), "limit exceeded", row, f"says that {shown} was exceeded, but it")
    assert told.rule_step != other.rule_step


def of_nothing_limited(play: LimitPlay) -> Iterator[Planted]:
    counted, exceeded, none = play.posted["counted"], play.refusals["of all"], "DELETE FROM limit_rule"
    row = f"account {counted.account_id} ({ALICE}), seq {counted.seq}"
    yield Planted((none,), "chain", row, "counts what moved, but nothing was ever limited")
    for key in (exceeded, play.keys["not there"]):
        others = f"DELETE FROM idempotency_key WHERE outcome IN (16, 53) AND key <> '{key}'"
        yield Planted((none, others), "key", f"key {key} of wallet ", "is about a limit, but none was ever set")


def of_balances(play: LimitPlay) -> Iterator[Planted]:
    name, rule = "too rich", play.rules["balance"]

    def told(statement: str, most: object) -> Planted:
        row = f"key {play.refusals[name]} of wallet "
        return Planted((statement,), "refusal", row, f"says that at most {most} may be held, which no")

    for most, shown in (("2999", "2999"), ("'x'::text", "x"), ("'null'::jsonb", ""), ("'[]'::jsonb", "[]")):
        yield told(tell(play, name, limit_minor=most), shown)
    other = ("max_amount = 3001", "flow = 2", "enforcement = 2", "asset_id = 99", "set_at = 'infinity'", "shard = 2")
    for values in other:
        yield told(change(rule, values), 3000)


@pytest.mark.parametrize(
    "planted",
    [
        of_versions,
        of_keys,
        of_fingerprints,
        of_flows,
        of_garbage,
        of_refusals,
        of_figures,
        of_others,
        of_nothing_limited,
        of_balances,
    ],
)
async def test_planted_damage_is_found_and_named(
    books: DamagedBooks, played: LimitPlay, planted: Callable[[LimitPlay], Iterator[Planted]]
) -> None:
    await books.assert_each_is_found(planted(played))
