"""Rows that SQL takes: names of wallets, and what a batch inserts."""

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from wallet_gql.ledger.columns import Bigint, Boolean, Bytes, Json, Smallint, Text, Time, Uuid


class WalletRow(NamedTuple):
    """What names a wallet."""

    shard: Smallint
    kind: Smallint
    owner_id: Text


class TransactionRow(NamedTuple):
    """A transaction, and its key where it is the one that was asked for; without a `fingerprint` it follows another."""

    shard: Smallint
    id: Uuid
    type: Smallint
    wallet_id: Bigint
    executed_at: Time
    idempotency_key: Uuid | None
    description: Text | None
    reference: Text | None
    counterpart_shard: Smallint | None
    counterpart_id: Uuid | None
    fingerprint: Bytes | None


class EntryRow(NamedTuple):
    """A leg of a transaction: the next link of its account's chain."""

    shard: Smallint
    account_id: Bigint
    seq: Bigint
    transaction_id: Uuid
    type: Smallint
    amount: Bigint
    balance_after: Bigint
    may_go_negative: Boolean
    executed_at: Time


class NoteRow(NamedTuple):
    """What only some transactions have."""

    shard: Smallint
    transaction_id: Uuid
    metadata: Json | None
    receipt: Text | None


class ReceiptRow(NamedTuple):
    """A receipt that a top-up credits."""

    shard: Smallint
    receipt: Text
    transaction_shard: Smallint
    transaction_id: Uuid


class RefusedRow(NamedTuple):
    """A key with the refusal that is kept under it; `transaction_id` is of the transaction that there is not."""

    shard: Smallint
    wallet_id: Bigint
    key: Uuid
    fingerprint: Bytes
    outcome: Smallint
    transaction_id: Uuid
    details: Json


OtherRow: TypeAlias = NoteRow | ReceiptRow

OTHERS: Final[Mapping[str, type[OtherRow]]] = {"transaction_note": NoteRow, "receipt": ReceiptRow}
"""The tables that only some batches insert into, in a fixed order."""
