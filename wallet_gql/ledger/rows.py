"""Rows that SQL takes: names of wallets, and what a batch inserts."""

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from wallet_gql.ledger.columns import (
    Bigint,
    Bigints,
    Boolean,
    Bytes,
    Day,
    Integer,
    Integers,
    Json,
    Line,
    Numerics,
    Smallint,
    Text,
    Time,
    Uuid,
    Uuids,
)


class WalletRow(NamedTuple):
    """What names a wallet."""

    shard: Smallint
    kind: Smallint
    owner_id: Line


class TransactionRow(NamedTuple):
    """A transaction, and its key where it is the one that was asked for; without a `fingerprint` it follows another.

    Without a time it is of the batch's: a driver takes long to write one.
    """

    shard: Smallint
    id: Uuid
    type: Smallint
    wallet_id: Bigint
    executed_at: Time | None
    idempotency_key: Uuid | None
    description: Text | None
    reference: Text | None
    counterpart_shard: Smallint | None
    counterpart_id: Uuid | None
    fingerprint: Bytes | None


class EntryRow(NamedTuple):
    """A leg of the batch's `n`th transaction, from 1 on: the next link of its account's chain."""

    n: Integer
    account_id: Bigint
    seq: Bigint
    amount: Bigint
    balance_after: Bigint
    may_go_negative: Boolean


class OwnersEntryRow(NamedTuple):
    """An entry of an account that has or had holds, lots or limits. It need not be of a transaction."""

    shard: Smallint
    account_id: Bigint
    seq: Bigint
    transaction_id: Uuid
    type: Smallint
    amount: Bigint
    balance_after: Bigint
    may_go_negative: Boolean
    executed_at: Time
    held_after: Bigint | None
    held_seq: Bigint | None
    position: Bigint | None
    next_due_at: Time | None
    lots_after: Bigint | None
    lots_seq: Bigint | None
    live_lots: Integers | None
    flows: Numerics | None


class HoldRow(NamedTuple):
    """A hold that is placed."""

    shard: Smallint
    id: Uuid
    account_id: Bigint
    seq: Bigint
    wallet_id: Bigint
    receiver_shard: Smallint | None
    receiver_wallet_id: Bigint | None
    idempotency_key: Uuid
    description: Text | None
    reference: Text | None
    sources: Smallint | None


class HoldStepRow(NamedTuple):
    """A step of a hold: the next link of its chain, with the entry that it belongs to."""

    shard: Smallint
    hold_id: Uuid
    step: Integer
    kind: Smallint
    event_id: Uuid
    account_id: Bigint
    seq: Bigint
    amount: Bigint
    captured: Bigint
    released: Bigint
    change: Bigint
    capture_count: Smallint
    held_until: Time
    at: Time
    open_holds: Uuids
    lots: Integers | None
    earmarks: Bigints | None


class LotRow(NamedTuple):
    """A lot that is granted."""

    shard: Smallint
    account_id: Bigint
    n: Integer
    seq: Bigint
    source: Smallint
    priority: Smallint
    campaign: Text | None
    expires_at: Time | None
    granted_at: Time
    origin_id: Uuid | None


class LotStepRow(NamedTuple):
    """A step of a lot: the next link of its chain, with the entry that it belongs to."""

    shard: Smallint
    account_id: Bigint
    lot: Integer
    step: Integer
    seq: Bigint
    place: Smallint
    change: Bigint
    granted: Bigint
    remaining: Bigint
    held: Bigint


class ReversalRow(NamedTuple):
    """A step of what reverses a transaction."""

    shard: Smallint
    original_id: Uuid
    step: Integer
    transaction_id: Uuid
    amount: Bigint
    reversed_after: Bigint


class WalletStateRow(NamedTuple):
    """What becomes of a wallet: the next link of its chain."""

    shard: Smallint
    wallet_id: Bigint
    step: Integer
    status: Smallint
    since: Time
    until: Time | None
    note: Text | None
    debt_wallet_id: Bigint | None
    event_id: Uuid
    at: Time


class NoteRow(NamedTuple):
    """What only some transactions, and events of holds and of wallets, have: texts, a receipt, who asked for them.

    `at`, which says when that was decided, is the batch's clock.
    """

    shard: Smallint
    transaction_id: Uuid
    metadata: Json | None
    receipt: Text | None
    actor_kind: Smallint | None
    actor_name: Text | None
    request_id: Line | None


class ReceiptRow(NamedTuple):
    """A receipt that a top-up credits."""

    shard: Smallint
    receipt: Text
    transaction_shard: Smallint
    transaction_id: Uuid


class IssuanceRow(NamedTuple):
    """A step of what an issuer issues of an asset in a day."""

    shard: Smallint
    actor_name: Text
    asset_id: Smallint
    day: Day
    step: Integer
    transaction_shard: Smallint
    transaction_id: Uuid
    amount: Bigint
    issued_after: Bigint


class LimitRuleRow(NamedTuple):
    """A version of a limit, and which hold after it."""

    asset_id: Smallint
    shard: Smallint
    wallet_id: Bigint
    step: Integer
    id: Uuid
    flow: Smallint
    rolling_seconds: Integer | None
    calendar_unit: Smallint | None
    time_zone: Text | None
    max_amount: Bigint | None
    max_count: Integer | None
    enforcement: Smallint
    in_force: Integers
    set_at: Time
    actor_kind: Smallint | None
    actor_name: Text | None
    request_id: Text | None


class KeptRow(NamedTuple):
    """A key that is not answered with a transaction, and what it is answered with: a refusal, a hold, a state.

    `transaction_id` is what the request was given, whether or not a transaction came of it.
    """

    shard: Smallint
    wallet_id: Bigint
    key: Uuid
    fingerprint: Bytes
    outcome: Smallint
    transaction_id: Uuid
    created_at: Time
    details: Json


OtherRow: TypeAlias = (
    KeptRow
    | OwnersEntryRow
    | ReversalRow
    | NoteRow
    | ReceiptRow
    | IssuanceRow
    | HoldRow
    | HoldStepRow
    | LotRow
    | LotStepRow
    | WalletStateRow
)

OTHERS: Final[Mapping[str, type[OtherRow]]] = {
    "idempotency_key": KeptRow,
    "entry": OwnersEntryRow,
    "reversal": ReversalRow,
    "transaction_note": NoteRow,
    "receipt": ReceiptRow,
    "issuance": IssuanceRow,
    "hold": HoldRow,
    "hold_step": HoldStepRow,
    "lot": LotRow,
    "lot_step": LotStepRow,
    "wallet_state": WalletStateRow,
}
"""The tables that only some batches insert into, in a fixed order."""
