"""The mistakes that `run.py` plants: what goes wrong, and who should notice.

Each takes the place of a function, a method or a constant, by its name: `wrong`, made from `right`, which stands there.
So a mutant outlives every change that keeps the name, and says what it does in code of its own.
"""

from typing import Final, NamedTuple

LEDGER_TESTS: Final = ("tests/ledger",)
POSTING_TESTS: Final = ("tests/ledger", "tests/operations")
OPERATIONS_TESTS: Final = ("tests/operations",)
GROUP_COMMIT_TESTS: Final = ("tests/operations/group_commit",)
RELEASED_TESTS: Final = ("tests/released",)
RACE_TESTS: Final = ("tests/ledger", "tests/concurrency", "tests/operations/group_commit")

LAWS: Final = "alembic/versions/0003_shapes_and_bounds.py"
TRANSFER_LAWS: Final = "alembic/versions/0004_transfers.py"
HOLD_LAWS: Final = "alembic/versions/0006_holds.py"
REVERSAL_LAWS: Final = "alembic/versions/0008_reversals.py"

STATE_LAWS: Final = "alembic/versions/0009_wallet_states.py"
LOT_LAWS: Final = "alembic/versions/0015_lots.py"
ENTRY_LAW: Final = f"{LOT_LAWS}:ENTRY_LAW"
LIMIT_LAWS: Final = "alembic/versions/0016_limits.py"

STATE_TESTS: Final = ("tests/operations/test_states.py",)
DEBT_TESTS: Final = ("tests/operations/test_debts.py",)
HOLD_TESTS: Final = ("tests/ledger/test_judge_holds.py", "tests/operations/test_holds.py")
REVERSAL_TESTS: Final = ("tests/operations/test_reversals.py",)
REVERSAL_LAW_TESTS: Final = ("tests/ledger/test_reversal_laws.py",)

ACCESS_TESTS: Final = ("tests/endpoint/test_access.py",)
FIELD_TESTS: Final = ("tests/endpoint/test_every_field.py",)
OWNER_TESTS: Final = ("tests/endpoint/test_other_owners.py",)
LOT_TESTS: Final = ("tests/ledger/test_judge_lots.py", "tests/operations/test_lots.py", "tests/model/test_lots.py")
LOT_LAW_TESTS: Final = ("tests/ledger/test_lot_laws.py",)
LIMIT_TESTS: Final = ("tests/ledger/test_judge_limits.py", "tests/domain/test_limits.py", "tests/model/test_limits.py")
LIMIT_LAW_TESTS: Final = ("tests/ledger/test_limit_laws.py",)
ISSUANCE_TESTS: Final = ("tests/operations/test_issuance.py",)
ASKED_BY_TESTS: Final = ("tests/endpoint/test_asked_by.py",)
CREDENTIAL_TESTS: Final = ("tests/endpoint/test_credentials.py",)


class Change(NamedTuple):
    """What takes the place of `target` (`module:name`, or `file:name`): Python that makes `wrong` of `right`."""

    target: str
    wrong: str


class Mutant(NamedTuple):
    """A mistake, and the tests that are run on it."""

    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]


# Locks taken by nobody: the statements only read.
_UNLOCKED: Final = tuple(
    Change(
        f"wallet_gql.ledger.locks:{statement}",
        'import re\nwrong = re.sub(" FOR NO KEY UPDATE( SKIP LOCKED)?", "", right)',
    )
    for statement in ("_LOCK", "_LOCK_FREE")
)

# The real locks, taken after what they should have protected was read.
_LOCK_LATE: Final = """
async def lock_late(connection, accounts):
    for row in sorted({(each.wallet.shard, each.kind, each.wallet.id) for each in accounts}):
        await connection.fetch("SELECT FROM wallet WHERE (shard, kind, id) = ($1, $2, $3) FOR NO KEY UPDATE", *row)
"""

_READ_UNLOCKED: Final = """
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.reads import read_wallets

async def read(connection, names):
    found = await read_wallets(connection, [OwnerName(name.shard, name.owner_id) for name in names])
    return {name: each for name, each in zip(names, found) if each}
"""

MUTANTS: Final = (
    Mutant("no lock", _UNLOCKED, RACE_TESTS),
    Mutant(
        "locks in the wrong order",
        (
            Change(
                "wallet_gql.ledger.locks:_LOCK",
                'wrong = right.replace("ORDER BY w.kind <> 1, w.shard, w.id", "ORDER BY w.kind DESC, w.id DESC")',
            ),
        ),
        RACE_TESTS,
    ),
    Mutant(
        "locks in no order",
        (
            Change(
                "wallet_gql.ledger.locks:_LOCK",
                'wrong = right.replace("ORDER BY w.kind <> 1, w.shard, w.id", "ORDER BY random()")',
            ),
        ),
        ("tests/concurrency/test_races_of_reversals.py",),
    ),
    Mutant(
        "head read before the lock",
        (
            *_UNLOCKED,
            Change(
                "wallet_gql.ledger.posting:read_heads",
                _LOCK_LATE
                + """
async def wrong(connection, accounts):
    now = await right(connection, accounts)
    await lock_late(connection, accounts.values())
    return now
""",
            ),
        ),
        RACE_TESTS,
    ),
    Mutant(
        "key looked up outside the lock",
        (
            *_UNLOCKED,
            Change(
                "wallet_gql.ledger.posting:lock_items",
                _LOCK_LATE
                + """
async def wrong(connection, *arguments, **more):
    items = await right(connection, *arguments, **more)
    found = [item for item in items if isinstance(item, Item)]
    EARLY[id(connection)] = await read_keys_now(connection, {wanted_key(item) for item in found})
    await lock_late(connection, [account for item in found for account in item.accounts])
    return items

global EARLY, read_keys_now
EARLY, read_keys_now = {}, read_keys
""",
            ),
            Change(
                "wallet_gql.ledger.posting:read_keys",
                """
async def wrong(connection, wanted):
    return EARLY.pop(id(connection))
""",
            ),
        ),
        RACE_TESTS,
    ),
    Mutant(
        "commit acknowledged early",
        (
            Change(
                "wallet_gql.operations.group_commit:GroupCommit._post",
                """
import contextvars
global BATCH
BATCH = contextvars.ContextVar("batch")

async def wrong(self, batch, **more):
    BATCH.set(batch)
    return await right(self, batch, **more)
""",
            ),
            Change(
                "wallet_gql.operations.group_commit:post_batch",
                """
async def wrong(*arguments, **more):
    outcomes = await right(*arguments, **more)
    for item, outcome in zip(BATCH.get(), outcomes):
        item.answer(outcome)
    return outcomes
""",
            ),
        ),
        (*OPERATIONS_TESTS, "tests/test_crash.py"),
    ),
    Mutant(
        "batch retried without its keys",
        (
            Change(
                "wallet_gql.operations.group_commit:post_batch",
                """
from dataclasses import replace
from uuid import uuid4
seen = set()

async def wrong(connection, requests, *arguments, **more):
    ids = {request.transaction_id for request in requests}
    if ids & seen:
        requests = [replace(each, idempotency_key=uuid4(), transaction_id=uuid4()) for each in requests]
    seen.update(ids)
    return await right(connection, requests, *arguments, **more)
""",
            ),
        ),
        OPERATIONS_TESTS,
    ),
    Mutant(
        "refusal not kept",
        (
            Change(
                "wallet_gql.ledger.decide:_refuse",
                """
def wrong(batch, *arguments):
    refused = right(batch, *arguments)
    batch.others[KeptRow].pop()
    return refused
""",
            ),
        ),
        POSTING_TESTS,
    ),
    Mutant(
        "treasury leg forgotten",
        (
            Change(
                "wallet_gql.ledger.posting:_INSERT",
                r"""
import re
wrong = right.replace("ORDER BY shard, account_id", "WHERE NOT may_go_negative ORDER BY shard, account_id")
""",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "sign flipped",
        (
            Change(
                "wallet_gql.domain.postings:TransactionType.sign", "wrong = property(lambda self: -right.fget(self))"
            ),
        ),
        POSTING_TESTS,
    ),
    Mutant(
        "balance check off by one",
        (
            Change(
                "wallet_gql.ledger.judge:judge_balance",
                """
def wrong(account, amount_minor):
    return None if account.balance_minor + amount_minor == -1 else right(account, amount_minor)
""",
            ),
        ),
        POSTING_TESTS,
    ),
    Mutant(
        "balance check too strict by one",
        (
            Change(
                "wallet_gql.ledger.judge:judge_balance",
                """
def wrong(account, amount_minor):
    return right(account, amount_minor - (account.balance_minor + amount_minor == 0))
""",
            ),
        ),
        POSTING_TESTS,
    ),
    Mutant(
        "cursor off by one",
        (
            Change(
                "wallet_gql.ledger.reads:_PAGES",
                'wrong = right.replace("wanted.older_than - 1", "wanted.older_than")',
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "outcome given to the wrong caller",
        (
            Change(
                "wallet_gql.operations.group_commit:GroupCommit._post",
                """
async def wrong(self, batch, **more):
    return [*await right(self, batch, **more)][::-1]
""",
            ),
        ),
        OPERATIONS_TESTS,
    ),
    Mutant(
        "another request under a key is taken for a replay",
        (
            Change(
                "wallet_gql.ledger.decide:replay",
                """
def wrong(batch, first, item):
    return right(batch, replace(first, fingerprint=item.request.fingerprint), item)
""",
            ),
        ),
        POSTING_TESTS,
    ),
    Mutant(
        "replay moves credits again",
        (
            Change(
                "wallet_gql.ledger.decide:decide",
                """
def wrong(batch, item):
    first = batch.answered.get(item.key)
    if first is not None and first.outcome is not None:
        del batch.answered[item.key]
    return right(batch, item)
""",
            ),
        ),
        POSTING_TESTS,
    ),
    Mutant(
        "a fingerprint says that a new field was left out",
        (
            Change(
                "wallet_gql.domain.postings:fingerprint",
                'wrong = lambda *arguments: sha256(right(*arguments) + b"-").digest()[:16]',
            ),
        ),
        RELEASED_TESTS,
    ),
    Mutant(
        "ids and cursors are written another way, and read so",
        (
            Change("wallet_gql.graphql.ids:urlsafe_b64encode", "wrong = lambda plain: right(plain[::-1])"),
            Change("wallet_gql.graphql.ids:urlsafe_b64decode", "wrong = lambda text: right(text)[::-1]"),
        ),
        RELEASED_TESTS,
    ),
    Mutant(
        "the clock runs backwards",
        (Change("wallet_gql.ledger.judge:time_of", "wrong = lambda now, *owners: now"),),
        LEDGER_TESTS,
    ),
    Mutant(
        "doubt of a COMMIT forgotten while parked",
        (
            Change(
                "wallet_gql.operations.group_commit:_Item.answer",
                """
def wrong(self, result):
    self.is_in_doubt = False
    right(self, result)
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "doubt of a COMMIT never told to its requests",
        (
            Change(
                "wallet_gql.operations.group_commit:retrying",
                """
def wrong(work, *, deadline_seconds, on_doubt):
    return right(work, deadline_seconds=deadline_seconds)
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "batch split on a fault of the server",
        (Change("wallet_gql.operations.group_commit:verdict", "wrong = lambda error: Verdict.DATA"),),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "free wallets wait behind locked ones",
        (
            Change(
                "wallet_gql.operations.group_commit:find_busy",
                """
async def wrong(_, owners, **__):
    return set(owners)
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "a locked wallet never stands in line",
        (
            Change(
                "wallet_gql.operations.group_commit:GroupCommit._stand_in_line",
                """
async def wrong(self):
    pass
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "a wallet parked just after others never stands in line",
        (
            Change(
                "wallet_gql.operations.group_commit:GroupCommit._park",
                """
def wrong(self, item):
    is_standing, self._is_standing = self._is_standing, self._is_standing or self._is_looking
    was_looking = self._is_looking
    right(self, item)
    if was_looking:
        self._is_standing = is_standing
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "the last that was parked comes first",
        (
            Change(
                "wallet_gql.operations.group_commit:_Item.wait_in",
                """
def wrong(self, queue):
    self.queue = queue
    queue.appendleft(self)
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "what was parked waits behind what came after it",
        (
            Change(
                "wallet_gql.operations.group_commit:_Item.wait_in",
                """
def wrong(self, queue):
    self.queue = queue
    queue.append(self)
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "what was parked comes back without its marks",
        (
            Change(
                "wallet_gql.operations.group_commit:GroupCommit._unpark",
                """
def wrong(self, group):
    marks = [dict(lane.held) for lane in self._lanes]
    right(self, group)
    for lane, held in zip(self._lanes, marks, strict=True):
        lane.held = held
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "what was parked comes back in the wrong order",
        (
            Change(
                "wallet_gql.operations.group_commit:GroupCommit._unpark",
                """
def wrong(self, group):
    group.queue.reverse()
    right(self, group)
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "of two groups that become one the second turns its order",
        (
            Change(
                "wallet_gql.operations.group_commit:GroupCommit._merge",
                """
def wrong(self, group, other):
    items = [*group.queue, *reversed(other.queue)]
    right(self, group, other)
    group.queue.clear()
    group.queue.extend(items)
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "what another lane keeps waiting is overtaken",
        (
            Change(
                "wallet_gql.operations.group_commit:GroupCommit._is_held",
                "wrong = staticmethod(lambda item, others: False)",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "what is parked is posted beside a lane's batch of its wallets",
        (
            Change(
                "wallet_gql.operations.group_commit:GroupCommit._take_parked",
                """
def wrong(self, group):
    owners = [lane.owners for lane in self._lanes]
    for lane in self._lanes:
        lane.owners = set()
    batch = right(self, group)
    for lane, own in zip(self._lanes, owners, strict=True):
        lane.owners = own
    return batch
""",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "what cannot be in time is let in",
        (Change("wallet_gql.operations.group_commit:_Lane.seconds_until_posted", "wrong = lambda self, now: 0.0"),),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "outcome of a key told without the lock",
        (
            Change(
                "wallet_gql.ledger.outcomes:lock_wallets",
                _READ_UNLOCKED + "wrong = read",
            ),
            Change(
                "wallet_gql.ledger.outcomes:lock_free_wallets",
                _READ_UNLOCKED
                + """
async def wrong(connection, names):
    return await read(connection, names), set()
""",
            ),
        ),
        ("tests/operations/test_outcomes.py",),
    ),
    Mutant(
        "data error told to the whole batch of reads",
        (Change("wallet_gql.operations.read_batches:verdict", "wrong = lambda error: Verdict.FAULT"),),
        ("tests/operations/test_read_batches.py",),
    ),
    Mutant(
        "the ledger opens without its armour",
        (
            Change(
                "wallet_gql.operations.opening:check_armour",
                """
async def wrong(connection):
    pass
""",
            ),
        ),
        ("tests/ledger/test_armour.py",),
    ),
    Mutant(
        "a disabled law passes for an enabled one",
        (
            Change(
                "wallet_gql.ledger.armour:_OBJECTS",
                "wrong = right.replace(\"ELSE 'disabled'\", \"ELSE 'enabled always'\")",
            ),
        ),
        ("tests/ledger/test_armour.py",),
    ),
    Mutant(
        "a false refusal passes",
        (
            Change(
                "wallet_gql.ledger.verify:_CHECKS",
                r"""
import re
late = r" OR until < at - interval '1 hour'(?=\) AND NOT)"
wrong = right | {"refusal": re.sub(late, "", right["refusal"])}
""",
            ),
        ),
        ("tests/ledger/test_verify_refusals.py",),
    ),
    Mutant(
        "the stripe's clock binds its owners",
        (
            Change(
                "wallet_gql.ledger.decide:_post",
                """
def wrong(batch, item, *movements):
    times = [each.executed_at for each in item.accounts if each.executed_at is not None]
    item.owner.executed_at = max(times, default=None)
    return right(batch, item, *movements)
""",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "a clock that jumped ahead is followed",
        (Change("wallet_gql.ledger.judge:is_ahead", "wrong = lambda now, account: False"),),
        LEDGER_TESTS,
    ),
    Mutant(
        "the end of a stripe is kept as its owner's refusal",
        (
            Change(
                "wallet_gql.ledger.judge:judge_stripe",
                """
def wrong(batch, leg):
    if right(batch, leg) is not None:
        return BalanceLimitExceeded(leg.account.asset, 0, abs(leg.amount_minor))
""",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "a look-up that is no fence",
        (
            Change(
                "wallet_gql.ledger.lookups:all_rows",
                r"""
import re
wrong = lambda *arguments, **key: re.sub(r"BETWEEN (\S+) AND \1", r"= \1", right(*arguments, **key))
""",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "a law's look-up that is no fence",
        (
            Change(
                f"{LAWS}:ACCOUNT_LAW",
                r"""
import re
wrong = re.sub(r"BETWEEN (\S+) AND \1\s+ORDER BY w.id", r"= \1", right)
""",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "sessions that sort",
        (
            Change(
                "wallet_gql.db.engine:_session_settings",
                'wrong = lambda settings: right(settings) | {"enable_sort": "on"}',
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "a transaction of any shape",
        (Change(ENTRY_LAW, r'wrong = right.replace("OR NOT judged.has_shape", "")'),),
        LEDGER_TESTS,
    ),
    Mutant(
        "legs of two assets",
        (Change(ENTRY_LAW, r'wrong = right.replace(" OR judged.is_mixed", "")'),),
        LEDGER_TESTS,
    ),
    Mutant(
        "clearing leg forgotten",
        (
            Change(
                "wallet_gql.ledger.posting:_INSERT",
                r"""
type_ = element(TransactionRow, "type", "n", first=2)
own = f"WHERE NOT (may_go_negative AND {type_} IN (4, 5))"
wrong = right.replace("ORDER BY shard, account_id", own + " ORDER BY shard, account_id")
""",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "transfer's other half forgotten",
        (
            Change(
                "wallet_gql.ledger.posting:_INSERT",
                r"""
type_ = element(TransactionRow, "type", "n", first=2)
wrong = right.replace("FROM posted ORDER BY shard, id", "FROM posted WHERE type <> 5 ORDER BY shard, id").replace(
    "ORDER BY shard, account_id", f"WHERE {type_} <> 5 ORDER BY shard, account_id"
)
""",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "receiver's limit not judged",
        (Change("wallet_gql.ledger.judge:judge_receiver", "wrong = lambda account, amount_minor: None"),),
        LEDGER_TESTS,
    ),
    Mutant(
        "transfer policy ignored",
        (Change("wallet_gql.ledger.judge:judge_policy", "wrong = lambda batch, request: None"),),
        LEDGER_TESTS,
    ),
    Mutant(
        "receiver's clock not looked at",
        (
            Change(
                "wallet_gql.ledger.judge:judge_transfer",
                """
def wrong(batch, item):
    if item.receiver is None or item.receiver.executed_at is None:
        return right(batch, item)
    head, item.receiver.executed_at = item.receiver.executed_at, None
    decision = right(batch, item)
    item.receiver.executed_at = head
    return decision
""",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "the receiver's clock has no say in a transfer's time",
        (
            Change(
                "wallet_gql.ledger.judge:time_of",
                "wrong = lambda now, *owners: right(now, owners[0])",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "accounts that a batch opens for its own debits are forgotten",
        (
            Change(
                "wallet_gql.ledger.decide:accounts_needed",
                """
def wrong(batch, items):
    return [account for item in items for account in right(batch, [item])]
""",
            ),
        ),
        ("tests/ledger/test_transfer_batches.py",),
    ),
    Mutant(
        "a transfer without its other half passes the law",
        (
            Change(
                f"{TRANSFER_LAWS}:TRANSACTION_LAW",
                'wrong = right.replace("WHERE t.counterpart_id IS NOT NULL", "WHERE false")',
            ),
        ),
        ("tests/ledger/test_transfer_laws.py",),
    ),
    *(
        Mutant(
            f"the law of halves does not look at {what}",
            (Change(f"{TRANSFER_LAWS}:TRANSACTION_LAW", f"wrong = right.replace({condition!r}, {instead!r})"),),
            ("tests/ledger/test_transfer_laws.py",),
        )
        for what, condition, instead in (
            ("their types", "OR o.type = t.type", ""),
            ("their wallets", "OR (o.shard, o.wallet_id) = (t.shard, t.wallet_id)", ""),
            ("what they name", "OR (o.counterpart_shard, o.counterpart_id) IS DISTINCT FROM (t.shard, t.id)", ""),
            ("their amounts", "(own.amount, own.asset_id)", "(other.amount, own.asset_id)"),
            ("their assets", "(own.amount, own.asset_id)", "(own.amount, other.asset_id)"),
        )
    ),
    Mutant(
        "verify does not pair transfers",
        (
            Change(
                "wallet_gql.ledger.verify:_CHECKS",
                """wrong = right | {"transfer": "SELECT '', '' WHERE $1::int < 0"}""",
            ),
        ),
        ("tests/ledger/test_verify_transfers.py",),
    ),
    Mutant(
        "verify does not look at a transfer's fingerprint",
        (
            Change(
                "wallet_gql.ledger.verify:_CHECKS",
                """
check = "key of a movement"
wrong = right | {check: right[check].replace("AND t.type IN (4, 6, 7)", "AND t.type IN (6, 7)")}
""",
            ),
        ),
        ("tests/ledger/test_verify_transfers.py",),
    ),
    Mutant(
        "verify does not sum clearing",
        (
            Change(
                "wallet_gql.ledger.verify:_CLEARED",
                'wrong = right.replace("HAVING sum(h.balance_after) <> 0", "HAVING false")',
            ),
        ),
        ("tests/ledger/test_verify_transfers.py",),
    ),
    Mutant(
        "hold not deducted",
        (
            Change(
                "wallet_gql.ledger.heads:Account.available_minor",
                "wrong = property(lambda account: account.balance_minor)",
            ),
        ),
        HOLD_TESTS,
    ),
    Mutant(
        "remainder lost",
        (
            Change(
                "wallet_gql.ledger.judge_holds:closed",
                """
def wrong(hold, kind):
    return replace(hold, kind=kind) if kind is HoldStepKind.CAPTURED else right(hold, kind)
""",
            ),
        ),
        HOLD_TESTS,
    ),
    Mutant(
        "capture counted twice",
        (
            Change(
                "wallet_gql.ledger.judge_holds:replace",
                """
def wrong(hold, **columns):
    if "capture_count" in columns:
        columns["capture_count"] += 1
    return right(hold, **columns)
""",
            ),
        ),
        HOLD_TESTS,
    ),
    Mutant(
        "what is due is not booked first",
        (Change("wallet_gql.ledger.posting:book_due", "wrong = lambda batch, accounts: None"),),
        ("tests/operations/test_holds.py", "tests/concurrency/test_races_of_holds.py"),
    ),
    Mutant(
        "a hold that is over can be captured",
        (Change("wallet_gql.domain.holds:Hold.is_due", "wrong = property(lambda hold: False)"),),
        HOLD_TESTS,
    ),
    Mutant(
        "a hold can be made to last for ever",
        (
            Change(
                "wallet_gql.domain.holds:Hold.latest_end",
                "wrong = property(lambda hold: hold.placed_at + timedelta(days=365))",
            ),
        ),
        HOLD_TESTS,
    ),
    Mutant(
        "a replay tells the hold as it was",
        (
            Change(
                "wallet_gql.ledger.decide:replay",
                """
def wrong(batch, first, item):
    again = right(batch, first, item)
    return replace(again, hold=first.outcome.hold) if isinstance(again, Held) else again
""",
            ),
        ),
        HOLD_TESTS,
    ),
    Mutant(
        "reads show what is over as held",
        (Change("wallet_gql.ledger.lookups:HELD", 'wrong = "coalesce(head.held_after, 0)"'),),
        ("tests/ledger/test_reads_of_holds.py",),
    ),
    Mutant(
        "pages begin where the seq says",
        (
            Change(
                "wallet_gql.ledger.reads:_PAGES",
                'wrong = right.replace("WHERE head.position IS NOT NULL AND c.shard", "WHERE false AND c.shard")',
            ),
        ),
        ("tests/ledger/test_reads_of_holds.py",),
    ),
    Mutant(
        "a fork of a hold is no conflict",
        (Change("wallet_gql.operations.unit_of_work:_LEDGER_KEYS", 'wrong = right - {"hold_step_pkey"}'),),
        ("tests/operations/test_unit_of_work.py",),
    ),
    *(
        Mutant(
            f"the law of steps does not look at {what}",
            (Change(f"{LOT_LAWS}:HOLD_STEP_LAW", f"wrong = right.replace({condition!r}, {instead!r})"),),
            ("tests/ledger/test_hold_laws.py",),
        )
        for what, condition, instead in (
            ("what remains", "WHEN p.amount = p.captured + p.released", "WHEN false"),
            ("whether there is a step before it", " IS NOT TRUE", " IS FALSE"),
            ("its change", "WHEN s.change <>", "WHEN false AND s.change <>"),
            ("its count of captures", "WHEN s.capture_count <>", "WHEN false AND s.capture_count <>"),
            ("what its entry moves", "WHEN e.amount <> coalesce", "WHEN false AND e.amount <> coalesce"),
            ("the type of its entry", "AND e.type <> CASE", "AND false AND e.type <> CASE"),
            ("the time of an end", "AND s.at >= s.held_until", ""),
            ("whose hold it is", "WHEN h.id IS NULL OR h.account_id <> s.account_id", "WHEN h.id IS NULL"),
            ("which holds are open", "WHEN s.open_holds <>", "WHEN false AND s.open_holds <>"),
            (
                "when the first ends",
                "WHEN e.next_due_at IS DISTINCT FROM",
                "WHEN e.next_due_at <> e.next_due_at OR false AND e.next_due_at <>",
            ),
        )
    ),
    *(
        Mutant(
            f"the law of entries does not look at {what}",
            (Change(ENTRY_LAW, f"wrong = right.replace({condition!r}, {instead!r})"),),
            ("tests/ledger/test_hold_laws.py",),
        )
        for what, condition, instead in (
            ("what is held", "OR e.held_after <> coalesce(p.held_after, 0) + s.change", ""),
            ("who forgets what is held", "WHEN e.held_seq IS NULL AND", "WHEN false AND"),
            ("positions", "WHEN e.position <>", "WHEN false AND e.position <>"),
            ("captures of no hold", "WHEN e.type = 6 AND", "WHEN false AND"),
        )
    ),
    Mutant(
        "the law of holds does not look at whose account it is",
        (
            Change(
                f"{HOLD_LAWS}:HOLD_LAW",
                'wrong = right.replace("a.wallet_kind IS DISTINCT FROM 1 OR a.wallet_id <> h.wallet_id OR", "")',
            ),
        ),
        ("tests/ledger/test_hold_laws.py",),
    ),
    *(
        Mutant(
            f"verify does not look at {what}",
            (
                Change(
                    "wallet_gql.ledger.verify:_CHECKS",
                    f"""wrong = right | {{{check!r}: "SELECT '', '' WHERE $1::int < 0"}}""",
                ),
            ),
            ("tests/ledger/test_verify_holds.py",),
        )
        for what, check in (
            ("steps of holds", "hold"),
            ("the holds of accounts", "hold of an account"),
            ("the keys of holds", "key of a hold"),
        )
    ),
    Mutant(
        "refund bound off by one",
        (
            Change(
                "wallet_gql.ledger.judge_reversals:judge_reversal",
                """
def wrong(batch, item):
    decision = right(batch, item)
    if not isinstance(decision, RefundExceedsOriginal) or decision.amount_minor != decision.refundable_minor + 1:
        return decision
    judge = judge_refund if item.request.kind is RequestKind.REFUND else judge_clawback
    before = batch.reversed.get(item.request.original.name, Reversed(0, 0))
    return judge(batch, item, before, decision.amount_minor)
""",
            ),
        ),
        REVERSAL_TESTS,
    ),
    Mutant(
        "refund bound too strict by one",
        (
            Change(
                "wallet_gql.ledger.judge_reversals:judge_refund",
                """
def wrong(batch, item, before, amount_minor):
    original = item.request.original
    left_minor = abs(original.amount_minor) - before.amount_minor
    if amount_minor == left_minor:
        return RefundExceedsOriginal(original.asset, left_minor, amount_minor)
    return right(batch, item, before, amount_minor)
""",
            ),
        ),
        REVERSAL_TESTS,
    ),
    Mutant(
        "what was refunded before is forgotten",
        (
            Change(
                "wallet_gql.ledger.posting:read_reversed",
                """
async def wrong(connection, originals):
    return {}
""",
            ),
        ),
        REVERSAL_TESTS,
    ),
    Mutant(
        "what the batch refunded is forgotten",
        (
            Change(
                "wallet_gql.ledger.append:append",
                """
def wrong(batch, *arguments):
    before = dict(batch.reversed)
    right(batch, *arguments)
    batch.reversed = before
""",
            ),
        ),
        REVERSAL_TESTS,
    ),
    Mutant(
        "refunds are not counted",
        (Change("wallet_gql.ledger.judge_reversals:REVERSALS_MAX", "wrong = 51"),),
        ("tests/concurrency/test_races_of_reversals.py",),
    ),
    Mutant(
        "clawback takes what is held",
        (
            Change(
                "wallet_gql.ledger.judge_reversals:judge_clawback",
                """
def wrong(batch, item, *arguments):
    held_minor, item.owner.held_minor = item.owner.held_minor, 0
    decision = right(batch, item, *arguments)
    item.owner.held_minor = held_minor
    return decision
""",
            ),
        ),
        REVERSAL_TESTS,
    ),
    Mutant(
        "what a clawback forgoes is not counted where it takes nothing",
        (
            Change(
                "wallet_gql.ledger.decide:_forgo",
                "wrong = lambda batch, item, asked, forgone: right(batch, item, asked, Forgone(0))",
            ),
        ),
        REVERSAL_TESTS,
    ),
    Mutant(
        "what a clawback forgoes is counted by what was left, not by what was asked for",
        (
            Change(
                "wallet_gql.graphql.reversals:ClawbackPayload.of",
                "wrong = classmethod(lambda cls, outcome, asked: right.__func__(cls, outcome, None))",
            ),
        ),
        ("tests/graphql/test_reversals.py",),
    ),
    Mutant(
        "sender's half forgotten",
        (
            Change(
                "wallet_gql.ledger.judge_reversals:judge_clawback",
                """
def wrong(*arguments):
    decision = right(*arguments)
    return Movements(decision[:1]) if isinstance(decision, Movements) else decision
""",
            ),
        ),
        REVERSAL_TESTS,
    ),
    Mutant(
        "what was received goes to the treasury",
        (
            Change(
                "wallet_gql.operations.reversals:_sender",
                """
async def wrong(ledger, original):
    return None
""",
            ),
        ),
        REVERSAL_TESTS,
    ),
    Mutant(
        "step of a reversal not written",
        (
            Change(
                "wallet_gql.ledger.append:append",
                """
def wrong(batch, *arguments):
    right(batch, *arguments)
    batch.others.pop(ReversalRow, None)
""",
            ),
        ),
        REVERSAL_TESTS,
    ),
    Mutant(
        "a key does not tell a clawback that takes all from one that takes what is available",
        (
            Change(
                "wallet_gql.domain.postings:ReverseRequest.fingerprint",
                "wrong = property(lambda self: right.fget(replace(self, on_shortfall=Shortfall.REFUSE)))\n"
                "from dataclasses import replace",
            ),
        ),
        ("tests/domain/test_postings.py", "tests/graphql/test_reversals.py"),
    ),
    Mutant(
        "a fork of what is reversed is no conflict",
        (Change("wallet_gql.operations.unit_of_work:_LEDGER_KEYS", 'wrong = right - {"reversal_pkey"}'),),
        ("tests/operations/test_unit_of_work.py",),
    ),
    *(
        Mutant(
            f"the law of reversals does not look at {what}",
            (Change(f"{REVERSAL_LAWS}:REVERSAL_LAW", f"wrong = right.replace({condition!r}, {instead!r})"),),
            REVERSAL_LAW_TESTS,
        )
        for what, condition, instead in (
            ("how much the original moved", "WHEN r.reversed_after > original.amount", "WHEN false"),
            ("what was reversed before", "WHEN r.reversed_after <> coalesce", "WHEN false AND r.step <> coalesce"),
            ("what its transaction moves", "WHEN r.amount <> own.amount", "WHEN false"),
            ("the step before it", "WHEN r.step > 1 AND p.step IS NULL", "WHEN false"),
            ("types", "WHEN (t.type, o.type) NOT IN", "WHEN false AND (t.type, o.type) NOT IN"),
            ("whose transactions they are", "WHEN o.wallet_id <> t.wallet_id OR", "WHEN"),
            ("the asset", "OR own.asset_id <> original.asset_id", ""),
            ("whether there is a transaction", "WHEN o.id IS NULL OR t.id IS NULL", "WHEN o.id IS NULL"),
        )
    ),
    Mutant(
        "a refund that names no original passes the law",
        (
            Change(
                f"{REVERSAL_LAWS}:transaction_law",
                'wrong = lambda: right().replace("WHERE t.type IN (7, 8) AND r.step IS NULL", "WHERE false")',
            ),
        ),
        REVERSAL_LAW_TESTS,
    ),
    Mutant(
        "a debt is not repaid",
        (Change("wallet_gql.ledger.append:_repay", "wrong = lambda *cause: None"),),
        DEBT_TESTS,
    ),
    Mutant(
        "more is repaid than is available",
        (
            Change(
                "wallet_gql.ledger.append:_repay",
                """
def wrong(batch, account, debt, cause, executed_at):
    held, account.held_minor = account.held_minor, 0
    right(batch, account, debt, cause, executed_at)
    account.held_minor = held
""",
            ),
        ),
        DEBT_TESTS,
    ),
    Mutant(
        "what a release makes available repays nothing",
        (
            Change(
                "wallet_gql.ledger.decide:_hold",
                """
def wrong(batch, item, fingerprint, change):
    debt, item.owner.debt = item.owner.debt, None
    outcome = right(batch, item, fingerprint, change)
    item.owner.debt = debt
    return outcome
""",
            ),
        ),
        DEBT_TESTS,
    ),
    Mutant(
        "what the end of a hold makes available repays nothing",
        (
            Change(
                "wallet_gql.ledger.decide:book_due",
                """
def wrong(batch, accounts):
    for account in accounts:
        debt, account.debt = account.debt, None
        right(batch, [account])
        account.debt = debt
""",
            ),
        ),
        ("tests/ledger/test_judge_states.py",),
    ),
    Mutant(
        "a frozen owner can pay",
        (Change("wallet_gql.ledger.judge:NOTHING_LEAVES", "wrong = right - {WalletStatus.FROZEN_OUT}"),),
        STATE_TESTS,
    ),
    Mutant(
        "a receiver is never frozen or closed",
        (
            Change(
                "wallet_gql.ledger.judge:judge_receiver",
                """
def wrong(batch, account, amount_minor):
    refusal = right(batch, account, amount_minor)
    return refusal if refusal is not None and refusal.cause is ReceiverCause.FULL else None
""",
            ),
        ),
        STATE_TESTS,
    ),
    Mutant(
        "a freeze never ends by itself",
        (Change("wallet_gql.domain.wallets:WalletState.at", "wrong = lambda state, now: state"),),
        STATE_TESTS,
    ),
    Mutant(
        "a late unfreeze undoes a newer freeze",
        (
            Change(
                "wallet_gql.ledger.decide:decide",
                """
def wrong(batch, item):
    again = judge_state(batch, item) if isinstance(item, StateItem) and item.key in batch.answered else None
    if isinstance(again, StateChange) and again.after is not None:
        append_state(batch, again.after, item.request.transaction_id)
    return right(batch, item)
""",
            ),
        ),
        STATE_TESTS,
    ),
    Mutant(
        "a closing forgets all assets but one",
        (
            Change(
                "wallet_gql.ledger.judge_states:judge_close",
                "wrong = lambda batch, item: right(batch, item._replace(remains=item.remains[:1]))",
            ),
        ),
        STATE_TESTS,
    ),
    Mutant(
        "a closing forgets the holds",
        (Change("wallet_gql.ledger.judge_states:_voided", "wrong = lambda remains: ()"),),
        STATE_TESTS,
    ),
    Mutant(
        "a closing does not ask whether there are holds",
        (
            Change(
                "wallet_gql.ledger.judge_states:_judge_empty",
                "wrong = lambda request, remains: right(replace(request, voids_holds=True), remains)",
            ),
        ),
        STATE_TESTS,
    ),
    *(
        Mutant(
            f"the law of states does not look at {what}",
            (Change(f"{STATE_LAWS}:WALLET_STATE_LAW", f"wrong = right.replace({condition!r}, {instead!r})"),),
            ("tests/ledger/test_state_laws.py",),
        )
        for what, condition, instead in (
            ("what is left in a closed wallet", "p.status IS DISTINCT FROM 4 AND EXISTS", "false AND EXISTS"),
            ("what a closed wallet owes", "ARRAY[n.wallet_id, n.debt_wallet_id]", "ARRAY[n.wallet_id]"),
            ("what was closed", "WHEN p.status = 4 AND", "WHEN false AND"),
            ("whether there is a state before it", "AND p.step IS NULL", "AND p.step = 0"),
            ("whose debts it names", "WHEN n.debt_wallet_id IS NOT NULL\n", "WHEN n.debt_wallet_id = 0\n"),
            ("since when another status is", "(n.status, n.since) = (p.status, p.since)", "n.since = p.since"),
        )
    ),
    *(
        Mutant(
            f"the law of entries does not look at {what}",
            (Change(ENTRY_LAW, f"wrong = right.replace({condition!r}, {instead!r})"),),
            ("tests/ledger/test_state_laws.py",),
        )
        for what, condition, instead in (
            ("debts above zero", "AND (e.balance_after > 0\n", "AND (false\n"),
            ("whose debts they move", "IS DISTINCT FROM (SELECT w.owner_id", "IS NULL AND NULL = (SELECT w.owner_id"),
        )
    ),
    Mutant(
        "the law of halves does not look at what owners give and get",
        (
            Change(
                f"{STATE_LAWS}:transaction_law",
                'wrong = lambda: right().replace("(own.amount, own.asset_id)", "(other.amount, own.asset_id)")',
            ),
        ),
        ("tests/ledger/test_state_laws.py",),
    ),
    *(
        Mutant(
            f"verify does not look at {what}",
            (
                Change(
                    "wallet_gql.ledger.verify:_CHECKS",
                    f"""wrong = right | {{{check!r}: "SELECT '', '' WHERE $1::int < 0"}}""",
                ),
            ),
            ("tests/ledger/test_verify_reversals.py",),
        )
        for what, check in (("reversals", "reversal"), ("transactions that reverse nothing", "reversing"))
    ),
    *(
        Mutant(
            f"verify does not look at {what}",
            (
                Change(
                    "wallet_gql.ledger.verify:_CHECKS",
                    f"""wrong = right | {{{check!r}: "SELECT '', '' WHERE $1::int < 0"}}""",
                ),
            ),
            ("tests/ledger/test_verify_states.py",),
        )
        for what, check in (
            ("states", "state"),
            ("what closed wallets hold", "closed"),
            ("the keys of states", "key of a state"),
            ("what answers name", "answer"),
            ("debts", "debt"),
            ("the entries of debts", "entry of a debt"),
            ("repayments", "repayment"),
        )
    ),
    Mutant(
        "the policy forgets a field",
        (
            Change(
                "wallet_gql.graphql.policy:RULES",
                'wrong = {step: rule for step, rule in right.items() if step != ("Wallet", "statusNote")}',
            ),
        ),
        ("tests/contract/test_policy.py",),
    ),
    Mutant(
        "rules hold for root fields only",
        (
            Change(
                "wallet_gql.endpoint.scopes:_rule",
                'wrong = lambda type_, name: right(type_, name) if type_ in {"Query", "Mutation"} else FREE',
            ),
        ),
        FIELD_TESTS,
    ),
    Mutant("nodes have no rules", (Change("wallet_gql.graphql.nodes:NODES", "wrong = {}"),), FIELD_TESTS),
    Mutant(
        "ids lead to everybody's",
        (
            Change(
                "wallet_gql.graphql.owners:reaches_account",
                "async def wrong(info, shard, wallet_id):\n    return wallet_id is not None",
            ),
        ),
        OWNER_TESTS,
    ),
    Mutant(
        "what does not exist costs less than another's",
        (
            Change(
                "wallet_gql.graphql.owners:reaches_account",
                "async def wrong(info, shard, wallet_id):\n"
                "    return wallet_id is not None and await right(info, shard, wallet_id)",
            ),
        ),
        OWNER_TESTS,
    ),
    Mutant(
        "where a search ends tells of others",
        (
            Change(
                "wallet_gql.ledger.searches:_SEARCH", """wrong = right.replace("wanted.owner_prefix = ''", "true")"""
            ),
        ),
        OWNER_TESTS,
    ),
    Mutant(
        "owners in inputs are not looked at",
        (
            Change(
                "wallet_gql.endpoint.scopes:_owner_nodes",
                "wrong = lambda name, node: [(name, node)] if name in OWNER_ARGUMENTS else []",
            ),
        ),
        OWNER_TESTS,
    ),
    Mutant(
        "owners in variables are not looked at",
        (
            Change(
                "wallet_gql.endpoint.scopes:_owner_ids",
                "wrong = lambda name, node, variables: right(name, node, {})",
            ),
        ),
        OWNER_TESTS,
    ),
    *(
        Mutant(
            f"{end} keys are taken",
            (
                Change(
                    "wallet_gql.db.api_keys:read_keys",
                    f"""
async def wrong(connection, *, good_only):
    keys = await right(connection, good_only=False)
    return [key for key in keys if not good_only or key.state in {{"active", {end!r}}}]
""",
                ),
            ),
            CREDENTIAL_TESTS,
        )
        for end in ("revoked", "expired")
    ),
    *(
        Mutant(
            f"tokens of any {what} are taken",
            (
                Change(
                    "wallet_gql.operations.tokens:Tokens._verify",
                    f"""
from dataclasses import replace

def wrong(self, token, key):
    said = jwt.decode(token, options={{"verify_signature": False}})
    settings = self.settings.model_copy(update={{"token_{what}": {taken}}})
    return right(replace(self, settings=settings), token, key)
""",
                ),
            ),
            CREDENTIAL_TESTS,
        )
        for what, taken in (("issuer", "None"), ("audience", 'said.get("aud") or "wallet"'))
    ),
    Mutant(
        "tokens may be signed in any way",
        (
            Change(
                "wallet_gql.operations.tokens:_algorithms",
                'wrong = lambda key, allowed: right(key, allowed) | {"none", "HS256"}',
            ),
        ),
        CREDENTIAL_TESTS,
    ),
    Mutant(
        "keys move any amount",
        (
            Change(
                "wallet_gql.domain.access:Caller.check_movement",
                "wrong = lambda self, asset_code, amount: self.check_asset(asset_code)",
            ),
        ),
        ACCESS_TESTS,
    ),
    Mutant(
        "callers have one budget together",
        (
            Change(
                "wallet_gql.operations.rates:Rates.charge",
                """
from dataclasses import replace

async def wrong(self, caller, points):
    return await right(self, replace(caller, budget_id=caller.budget_id and "all"), points)
""",
            ),
        ),
        ("tests/endpoint/test_rates.py",),
    ),
    Mutant(
        "people run documents of their own",
        (
            Change(
                "wallet_gql.endpoint.trusted:Trusted.put_query",
                """
from dataclasses import replace

def wrong(self, parameters, caller):
    right(replace(self, only_for_people=False), parameters, caller)
""",
            ),
        ),
        ("tests/endpoint/test_trusted.py",),
    ),
    Mutant(
        "issuance of a day is not bounded",
        (Change("wallet_gql.ledger.judge:judge_issuance", "wrong = lambda batch, request: None"),),
        ISSUANCE_TESTS,
    ),
    Mutant(
        "issuers are in several hands at a time",
        (
            Change(
                "wallet_gql.ledger.receipts:_LOCK",
                """wrong = right.replace("pg_advisory_xact_lock(lock.id)", "pg_try_advisory_xact_lock(lock.id)")""",
            ),
        ),
        ISSUANCE_TESTS,
    ),
    Mutant(
        "who holds an issuer waits for wallets",
        (
            Change(
                "wallet_gql.ledger.posting:lock_items",
                """
async def wrong(connection, requests, slot, line, busy_receipts, *, wait):
    from wallet_gql.ledger.items import has_issuers

    return await right(connection, requests, slot, line, busy_receipts, wait=wait or has_issuers(requests))
""",
            ),
        ),
        ISSUANCE_TESTS,
    ),
    Mutant(
        "who asked is not noted",
        (
            Change(
                "wallet_gql.graphql.context:Context.asked_by",
                "wrong = property(lambda self: None)",
            ),
        ),
        ASKED_BY_TESTS,
    ),
    Mutant(
        "a request's id names all that it posts",
        (
            Change(
                "wallet_gql.graphql.context:Context.take_id",
                "wrong = lambda self: None if self.own_request_id else UUID(self.request_id)",
            ),
        ),
        ASKED_BY_TESTS,
    ),
    Mutant(
        "what has the id of its request is found by a stored one only",
        (Change("wallet_gql.ledger.searches:_SEARCH", """wrong = right.replace("event.id IS NOT NULL", "false")"""),),
        ASKED_BY_TESTS,
    ),
    Mutant(
        "what the service asked for is said to be by a request",
        (Change("wallet_gql.domain.access:CALLERS", "wrong = tuple(ActorKind)"),),
        ASKED_BY_TESTS,
    ),
    Mutant(
        "everybody sees who asked",
        (
            Change(
                "wallet_gql.graphql.access:read_asked_by",
                """
async def wrong(info, event):
    return (await info.context.ledger.reads.notes.load(event)).asked_by
""",
            ),
        ),
        ASKED_BY_TESTS,
    ),
    Mutant(
        "lots are spent by age instead of their ends",
        (
            Change(
                "wallet_gql.domain.lots:Lot.spend_order", "wrong = property(lambda self: (self.terms.priority, self.n))"
            ),
        ),
        LOT_TESTS,
    ),
    Mutant(
        "priorities are not looked at",
        (Change("wallet_gql.domain.lots:Lot.spend_order", "wrong = Lot.end_order"),),
        LOT_TESTS,
    ),
    Mutant(
        "what has lapsed can be spent",
        (Change("wallet_gql.ledger.append:lapse", "wrong = lambda *account: None"),),
        LOT_TESTS,
    ),
    Mutant(
        "what has lapsed is shown",
        (Change("wallet_gql.ledger.lapsing:LAPSED", 'wrong = "0::bigint"'),),
        ("tests/graphql/test_lots.py",),
    ),
    Mutant(
        "refunds go to the pool",
        (Change("wallet_gql.ledger.choose_lots:give_back", "wrong = lambda *part: ()"),),
        LOT_TESTS,
    ),
    Mutant(
        "refunds go back in the order in which it was taken",
        (
            Change(
                "wallet_gql.ledger.choose_lots:give_back",
                "wrong = lambda uses, *part: right(tuple(reversed(uses)), *part)",
            ),
        ),
        LOT_TESTS,
    ),
    Mutant(
        "holds earmark nothing",
        (Change("wallet_gql.ledger.choose_lots:earmark", "wrong = lambda *account: ()"),),
        LOT_TESTS,
    ),
    Mutant(
        "captures take what ends last",
        (
            Change(
                "wallet_gql.ledger.choose_lots:use_earmarks",
                "wrong = lambda earmarks, amount_minor: right(tuple(reversed(earmarks)), amount_minor)",
            ),
        ),
        LOT_TESTS,
    ),
    Mutant(
        "gifts never end",
        (
            Change(
                "wallet_gql.ledger.choose_lots:as_given",
                """
def wrong(taken):
    return tuple(each._replace(terms=each.terms._replace(expires_at=None)) for each in right(taken))
""",
            ),
        ),
        LOT_TESTS,
    ),
    Mutant(
        "the first lots are always enough",
        (Change("wallet_gql.ledger.lots:_is_enough", "wrong = lambda account, spent: True"),),
        LOT_TESTS,
    ),
    *(
        Mutant(
            f"the law of entries does not look at {what}",
            (Change(ENTRY_LAW, f"wrong = right.replace({condition!r}, {instead!r})"),),
            LOT_LAW_TESTS,
        )
        for what, condition, instead in (
            ("what is in lots", "WHEN e.lots_after <>", "WHEN false AND e.lots_after <>"),
            ("who forgets lots", "WHEN e.lots_seq IS NULL AND", "WHEN false AND"),
            ("what has not expired", "WHEN e.type = 11 AND lots.last_end", "WHEN false AND lots.last_end"),
        )
    ),
    *(
        Mutant(
            f"the law of lots' steps does not look at {what}",
            (Change(f"{LOT_LAWS}:LOT_STEP_LAW", f"wrong = right.replace({condition!r}, {instead!r})"),),
            LOT_LAW_TESTS,
        )
        for what, condition, instead in (
            ("what remains", "WHEN s.remaining <>", "WHEN false AND s.remaining <>"),
            ("what holds have", "WHEN s.held - coalesce(p.held, 0)", "WHEN false AND s.held - coalesce(p.held, 0)"),
        )
    ),
    Mutant(
        "what moved exactly so long ago still counts",
        (
            Change(
                "wallet_gql.domain.limits:Window.last_before",
                "from datetime import timedelta\nwrong = lambda self, at: right(self, at) - timedelta(microseconds=1)",
            ),
        ),
        LIMIT_TESTS,
    ),
    Mutant(
        "the first microsecond of a window does not count",
        (
            Change(
                "wallet_gql.domain.limits:Window.last_before",
                "from datetime import timedelta\nwrong = lambda self, at: right(self, at) + timedelta(microseconds=1)",
            ),
        ),
        LIMIT_TESTS,
    ),
    Mutant(
        "every day has 24 hours",
        (
            Change(
                "wallet_gql.domain.limits:Window._begin",
                """
from datetime import timedelta

def wrong(self, day):
    return right(self, day + timedelta(days=1)) - timedelta(hours=24)
""",
            ),
        ),
        LIMIT_TESTS,
    ),
    Mutant(
        "weeks begin on Sunday",
        (
            Change(
                "wallet_gql.domain.limits:Window._first_day",
                """
from datetime import timedelta

def wrong(self, at):
    first = right(self, at)
    return first - timedelta(days=1) if self.unit is CalendarUnit.WEEK else first
""",
            ),
        ),
        LIMIT_TESTS,
    ),
    Mutant(
        "limits look at the net",
        (
            Change(
                "wallet_gql.domain.limits:used_of",
                """
def wrong(flow, flows, outside):
    used = right(flow, flows, outside)
    other = {LimitFlow.OUT: LimitFlow.IN, LimitFlow.IN: LimitFlow.OUT}.get(flow)
    return used if other is None else used._replace(minor=max(0, used.minor - right(other, flows, outside).minor))
""",
            ),
        ),
        LIMIT_TESTS,
    ),
    Mutant(
        "a limit lets one unit more",
        (
            Change(
                "wallet_gql.domain.limits:Rule.lets",
                "wrong = lambda self, used, amount_minor, number: right(self, used, amount_minor - 1, number)",
            ),
        ),
        LIMIT_TESTS,
    ),
    Mutant(
        "a limit lets one movement more",
        (
            Change(
                "wallet_gql.domain.limits:Rule.lets",
                "wrong = lambda self, used, amount_minor, number: right(self, used, amount_minor, max(0, number - 1))",
            ),
        ),
        LIMIT_TESTS,
    ),
    Mutant(
        "open holds do not count in limits",
        (Change("wallet_gql.ledger.judge_limits:holds_in", "wrong = lambda account, flow: []"),),
        LIMIT_TESTS,
    ),
    Mutant(
        "captures do not count in limits",
        (
            Change(
                "wallet_gql.domain.limits:_KINDS",
                "wrong = {type_: kind for type_, kind in right.items() if type_ is not TransactionType.CAPTURE}",
            ),
            Change("wallet_gql.ledger.limits:TYPES", "wrong = {type_: f'{type_:d}' for type_ in right}"),
        ),
        LIMIT_TESTS,
    ),
    Mutant(
        "a wallet's limit takes the place of nothing",
        (Change("wallet_gql.domain.limits:effective", "wrong = lambda of_all, own: (*of_all, *own)"),),
        LIMIT_TESTS,
    ),
    Mutant(
        "the limits of all wallets are for nobody",
        (Change("wallet_gql.ledger.lookups:LIMITS_OF_ALL", "wrong = 'NULL::uuid'"),),
        LIMIT_TESTS,
    ),
    Mutant(
        "what moved before a limit was set does not count",
        (Change("wallet_gql.ledger.limits:SUMS", "wrong = ', '.join(['0'] * 10)"),),
        LIMIT_TESTS,
    ),
    Mutant(
        "what is remembered of windows is never old",
        (
            Change(
                "wallet_gql.ledger.limits:_hint",
                "wrong = lambda account, window, moment, known: known.before.get(_place(account, window))",
            ),
        ),
        ("tests/model/test_limits.py", "tests/concurrency/test_races_of_limits.py"),
    ),
    Mutant(
        "any limit that is exceeded is told, not the tightest",
        (Change("wallet_gql.domain.limits:Rule.remaining_minor", "wrong = lambda self, used: self.name.step"),),
        LIMIT_TESTS,
    ),
    Mutant(
        "what took the place of a limit is removed with it",
        (
            Change(
                "wallet_gql.ledger.limit_rules:_is_meant",
                "wrong = lambda change, rule: isinstance(change, RuleName) or right(change, rule)",
            ),
        ),
        ("tests/graphql/test_limits.py",),
    ),
    Mutant(
        "what entries say that moved passes the law unseen",
        (Change(f"{LIMIT_LAWS}:entry_law", "wrong = lambda before: before"),),
        LIMIT_LAW_TESTS,
    ),
    Mutant(
        "any list of limits in force passes the law",
        (
            Change(
                f"{LIMIT_LAWS}:LIMIT_RULE_LAW",
                "wrong = right.replace('WHEN r.in_force <> ARRAY(', 'WHEN false AND r.in_force <> ARRAY(')",
            ),
        ),
        LIMIT_LAW_TESTS,
    ),
)
