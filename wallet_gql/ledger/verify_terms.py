"""What several checks of `verify` say in SQL: the numbers of kinds and types, and what they look up of a shard.

`$1` is the shard; the aliases are those of the checks: `t` a transaction, `o` its other half, `k` its key.
"""

from collections.abc import Mapping
from typing import Final

from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.judge import HEAD_AHEAD_MAX
from wallet_gql.ledger.lookups import one_row

USER: Final = f"{WalletKind.USER:d}"
BONUS: Final = f"{TransactionType.BONUS:d}"
SENT: Final = f"{TransactionType.TRANSFER_OUT:d}"
RECEIVED: Final = f"{TransactionType.TRANSFER_IN:d}"
CAPTURE: Final = f"{TransactionType.CAPTURE:d}"
REFUND: Final = f"{TransactionType.REFUND:d}"
CLAWBACK: Final = f"{TransactionType.CLAWBACK:d}"
EXPIRY: Final = f"{TransactionType.EXPIRY:d}"
CHANGED: Final = f"{OutcomeCode.CHANGED:d}"
NAMING: Final = f"{OutcomeCode.NOTHING:d}, {OutcomeCode.CHANGED:d}"
"""The outcomes whose answers name what was posted."""

# Do not take the SELECT away: without it the function is called for each row, at more than the rest of a check costs.
LATEST: Final = f"(SELECT wallet_now() + interval '{HEAD_AHEAD_MAX.total_seconds():.0f} s')"
"""The latest that a row may be dated: clocks differ, by so much."""

# The other half of a transfer is in any shard: it is looked up, or each shard's proof would read all of them.
OTHER_HALF: Final = one_row("transaction", "o", by="id", shard="t.counterpart_shard", id="t.counterpart_id")
RECEIVER: Final = one_row("wallet", "receiver", by="id", shard="o.shard", id="o.wallet_id")

ANY_LIMIT: Final = "(SELECT EXISTS (SELECT FROM limit_rule))"
"""Whether anything was ever limited, which is asked once in a check."""

NOTES: Final = """
                SELECT n.transaction_id, n.receipt, (
                       SELECT string_agg(length(key) || ':' || key || length(value) || ':' || value, ''
                                         ORDER BY key COLLATE "C")
                         FROM jsonb_each_text(n.metadata)) AS pairs
                  FROM transaction_note n WHERE n.shard = $1"""
"""The notes of a shard, with their metadata as fingerprints have it."""

OWNERS_LEGS: Final = f"""
                SELECT e.transaction_id, a.wallet_id, a.asset_id, s.code, e.amount
                  FROM entry e
                  JOIN account a ON a.shard = $1 AND a.id = e.account_id AND a.wallet_kind = {USER}
                  JOIN asset s ON s.id = a.asset_id
                 WHERE e.shard = $1"""
"""What a shard's transactions move of owners: one leg each at most."""


def doubled(table: str, row: str, *key: str) -> str:
    """Return the check that no row is there more than once, which its key should not allow; `row` names one.

    `key` is in the order of the index, which gives the rows in it.
    """
    columns = ", ".join(key)
    return f"""
        SELECT format('{row}', {columns}), format('is there %s times', count(*))
          FROM {table}
         WHERE shard = $1
         GROUP BY {columns}
        HAVING count(*) > 1
         ORDER BY {columns}"""


def first_fault(faults: Mapping[str, str]) -> str:
    """Return an expression: the fault of a row, of the first condition that is met; each fault by its condition."""
    return f"""CASE {" ".join(f"WHEN {condition} THEN {fault}" for condition, fault in faults.items())} END"""


def any_fault(faults: Mapping[str, str]) -> str:
    """Return a condition: that a row has one of the faults."""
    return " OR ".join(f"({condition})" for condition in faults)
