"""The mistakes that `run.py` plants: where, what stands there, what is put in its place, and who should notice."""

from typing import Final, NamedTuple

LOCKS: Final = "wallet_gql/ledger/locks.py"
LOOKUPS: Final = "wallet_gql/ledger/lookups.py"
LAWS: Final = "alembic/versions/0003_shapes_and_bounds.py"
ENGINE: Final = "wallet_gql/db/engine.py"
POSTING: Final = "wallet_gql/ledger/posting.py"
READS: Final = "wallet_gql/ledger/reads.py"
OUTCOMES: Final = "wallet_gql/ledger/outcomes.py"
MODEL: Final = "wallet_gql/domain/model.py"
IDS: Final = "wallet_gql/graphql/ids.py"
READ_BATCHES: Final = "wallet_gql/operations/read_batches.py"
GROUP_COMMIT: Final = "wallet_gql/operations/group_commit.py"
ARMOUR: Final = "wallet_gql/ledger/armour.py"
VERIFY: Final = "wallet_gql/ledger/verify.py"
OPENING: Final = "wallet_gql/operations/opening.py"
UNIT_OF_WORK: Final = "wallet_gql/operations/unit_of_work.py"

LEDGER_TESTS: Final = ("tests/ledger",)
OPERATIONS_TESTS: Final = ("tests/operations",)
GROUP_COMMIT_TESTS: Final = ("tests/operations/group_commit",)
RELEASED_TESTS: Final = ("tests/released",)
RACE_TESTS: Final = ("tests/ledger", "tests/concurrency", "tests/operations/group_commit")


class Mutant(NamedTuple):
    """A mistake: its changes (file, old, new), and the tests that are run on it."""

    name: str
    changes: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


# Locks taken by nobody: the statements only read.
_UNLOCKED: Final = (
    (LOCKS, "ORDER BY w.id FOR NO KEY UPDATE) AS locked", "ORDER BY w.id) AS locked"),
    (LOCKS, "ORDER BY w.id FOR NO KEY UPDATE SKIP LOCKED) AS locked", "ORDER BY w.id) AS locked"),
)

# The real locks, taken after what they should have protected was read.
_LOCK_LATE: Final = """    for row in sorted({(a.wallet.shard, a.kind, a.wallet.id) for a in accounts.values()}):
        await connection.fetch("SELECT FROM wallet WHERE (shard, kind, id) = ($1, $2, $3) FOR NO KEY UPDATE", *row)
"""
_HEADS_LINE: Final = "    now = await _read_heads(connection, accounts)\n"
_KEYS_LINE: Final = "    batch = _Batch(now, await _read_keys(connection, found))\n"

_OUTCOMES_LOCK_LINE: Final = (
    "    wallets, busy = (await lock_wallets(connection, names), ()) if wait"
    " else await lock_free_wallets(connection, names)\n"
)
_OUTCOMES_UNLOCKED: Final = """    from wallet_gql.ledger.reads import read_wallets
    found = await read_wallets(connection, [owner for owner, _ in keys])
    wallets, busy = {name: each for name, each in zip(names, found, strict=True) if each}, ()
"""

_POST_LINE: Final = "                    return await post_batch(connection, requests, self.slot, wait=wait)\n"
_ANSWER_EARLY: Final = """                    early = await post_batch(connection, requests, self.slot, wait=wait)
                    for item, outcome in zip(batch, early, strict=True):
                        item.answer(outcome)
                    return early
"""

_WORK_LINE: Final = "        async def work() -> list[Decided]:\n"
_FORGET_KEYS: Final = """            import dataclasses, uuid
            requests[:] = [
                dataclasses.replace(r, idempotency_key=uuid.uuid4(), transaction_id=uuid.uuid4()) for r in requests
            ]
"""

_TREASURY_LEG: Final = """   UNION ALL
  SELECT shard, treasury_account_id, treasury_seq, id, type, -amount, treasury_balance_after, true, executed_at
    FROM posted
"""
_SIGN: Final = "return {} if self is TransactionType.SPEND else {}"

MUTANTS: Final = (
    Mutant("no lock", _UNLOCKED, RACE_TESTS),
    Mutant(
        "locks in the wrong order",
        ((LOCKS, "ORDER BY w.shard, w.kind, w.id", "ORDER BY w.kind DESC, w.id DESC"),),
        RACE_TESTS,
    ),
    Mutant("head read before the lock", (*_UNLOCKED, (POSTING, _HEADS_LINE, _HEADS_LINE + _LOCK_LATE)), RACE_TESTS),
    Mutant(
        "key looked up outside the lock",
        (
            *_UNLOCKED,
            (POSTING, _HEADS_LINE, "    answered = await _read_keys(connection, found)\n" + _LOCK_LATE + _HEADS_LINE),
            (POSTING, _KEYS_LINE, "    batch = _Batch(now, answered)\n"),
        ),
        RACE_TESTS,
    ),
    Mutant(
        "commit acknowledged early",
        ((GROUP_COMMIT, _POST_LINE, _ANSWER_EARLY),),
        (*OPERATIONS_TESTS, "tests/test_crash.py"),
    ),
    Mutant(
        "batch retried without its keys",
        ((GROUP_COMMIT, _WORK_LINE, _WORK_LINE + _FORGET_KEYS),),
        OPERATIONS_TESTS,
    ),
    Mutant(
        "refusal not kept",
        ((POSTING, "    batch.refused.append(", "    str("),),
        (*LEDGER_TESTS, *OPERATIONS_TESTS),
    ),
    Mutant("treasury leg forgotten", ((POSTING, _TREASURY_LEG, ""),), LEDGER_TESTS),
    Mutant(
        "sign flipped",
        (
            (
                MODEL,
                "return -1 if self is TransactionType.SPEND else 1",
                "return 1 if self is TransactionType.SPEND else -1",
            ),
        ),
        (*LEDGER_TESTS, *OPERATIONS_TESTS),
    ),
    Mutant(
        "balance check off by one",
        ((POSTING, "if balance_minor < 0:", "if balance_minor < -1:"),),
        (*LEDGER_TESTS, *OPERATIONS_TESTS),
    ),
    Mutant(
        "balance check too strict by one",
        ((POSTING, "if balance_minor < 0:", "if balance_minor <= 0:"),),
        (*LEDGER_TESTS, *OPERATIONS_TESTS),
    ),
    Mutant("cursor off by one", ((READS, "wanted.older_than - 1)", "wanted.older_than)"),), LEDGER_TESTS),
    Mutant(
        "outcome given to the wrong caller",
        (
            (
                GROUP_COMMIT,
                "outcomes = await self._post(batch, wait=False)",
                "outcomes = [*await self._post(batch, wait=False)][::-1]",
            ),
        ),
        OPERATIONS_TESTS,
    ),
    Mutant(
        "another request under a key is taken for a replay",
        ((POSTING, "first.outcome is None or first.fingerprint != request.fingerprint", "first.outcome is None"),),
        (*LEDGER_TESTS, *OPERATIONS_TESTS),
    ),
    Mutant(
        "replay moves credits again",
        ((POSTING, "    if first is not None:\n", "    if first is not None and first.outcome is None:\n"),),
        (*LEDGER_TESTS, *OPERATIONS_TESTS),
    ),
    Mutant(
        "a fingerprint says that a new field was left out",
        ((MODEL, "{amount_minor} {texts}", "{amount_minor} {texts}-"),),
        RELEASED_TESTS,
    ),
    Mutant(
        "ids and cursors are written another way, and read so",
        (
            (IDS, "urlsafe_b64encode(text.encode())", "urlsafe_b64encode(text[::-1].encode())"),
            (IDS, '.decode("ascii")\n', '.decode("ascii")[::-1]\n'),
        ),
        RELEASED_TESTS,
    ),
    Mutant(
        "the clock runs backwards",
        (
            (
                POSTING,
                "max(batch.now, user.executed_at or batch.now)",
                "batch.now",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "doubt of a COMMIT forgotten while parked",
        ((GROUP_COMMIT, "if self.is_in_doubt and isinstance(result, BaseException):", "if False:"),),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "doubt of a COMMIT never told to its requests",
        ((UNIT_OF_WORK, "                    on_doubt()\n", ""),),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "batch split on a fault of the server",
        ((GROUP_COMMIT, "len(batch) == 1 or verdict(error) is not Verdict.DATA", "len(batch) == 1"),),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "free wallets wait behind locked ones",
        (
            (
                GROUP_COMMIT,
                "                    self._unpark(wallet)\n        self._is_looking",
                "                    str(wallet)\n        self._is_looking",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "a locked wallet never stands in line",
        ((GROUP_COMMIT, "            self._start(self._stand_in_line())\n", ""),),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "a wallet parked just after others never stands in line",
        (
            (
                GROUP_COMMIT,
                "        if not self._is_standing:\n",
                "        if not (self._is_standing or self._is_looking):\n",
            ),
        ),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "what cannot be in time is let in",
        ((GROUP_COMMIT, "if too_late > 0:", "if too_late > 1000:"),),
        GROUP_COMMIT_TESTS,
    ),
    Mutant(
        "outcome of a key told without the lock",
        ((OUTCOMES, _OUTCOMES_LOCK_LINE, _OUTCOMES_UNLOCKED),),
        ("tests/operations/test_outcomes.py",),
    ),
    Mutant(
        "data error told to the whole batch of reads",
        ((READ_BATCHES, "if len(keys) == 1 or verdict(error) is not Verdict.DATA:", "if True:"),),
        ("tests/operations/test_read_batches.py",),
    ),
    Mutant(
        "the ledger opens without its armour",
        ((OPENING, "            await check_armour(connection)\n", ""),),
        ("tests/ledger/test_armour.py",),
    ),
    Mutant(
        "a disabled law passes for an enabled one",
        ((ARMOUR, "replication roles only' ELSE 'disabled' END", "replication roles only' ELSE 'enabled always' END"),),
        ("tests/ledger/test_armour.py",),
    ),
    Mutant(
        "a false refusal passes",
        ((VERIFY, "until IS NULL OR until < at - interval '1 hour'\n                OR", "until IS NULL OR"),),
        ("tests/ledger/test_verify_refusals.py",),
    ),
    Mutant(
        "the stripe's clock binds its owners",
        (
            (
                POSTING,
                "max(batch.now, user.executed_at or batch.now)",
                "max(batch.now, user.executed_at or batch.now, treasury.executed_at or batch.now)",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "a clock that jumped ahead is followed",
        ((POSTING, "batch.now + HEAD_AHEAD_MAX:", "batch.now + 1000 * HEAD_AHEAD_MAX:"),),
        LEDGER_TESTS,
    ),
    Mutant(
        "the end of a stripe is kept as its owner's refusal",
        (
            (
                POSTING,
                "    if balance_minor > BALANCE_MINOR_MAX:\n",
                "    if max(balance_minor * 90, abs(treasury.balance_minor - amount_minor)) > TREASURY_MINOR_MAX:\n",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant(
        "a look-up that is no fence",
        ((LOOKUPS, "{alias}.{column} BETWEEN {value} AND {value}", "{alias}.{column} = {value}"),),
        LEDGER_TESTS,
    ),
    Mutant(
        "a law's look-up that is no fence",
        (
            (
                LAWS,
                "w.id BETWEEN a.wallet_id AND a.wallet_id\n            ORDER BY w.id LIMIT 1)",
                "w.id = a.wallet_id LIMIT 1)",
            ),
        ),
        LEDGER_TESTS,
    ),
    Mutant("sessions that sort", ((ENGINE, '"enable_sort": "off"', '"enable_sort": "on"'),), LEDGER_TESTS),
    Mutant(
        "a transaction of any shape",
        ((LAWS, "        OR NOT judged.has_shape\n", ""),),
        LEDGER_TESTS,
    ),
)
