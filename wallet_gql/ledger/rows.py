"""The rows that a batch inserts: what was posted, and what was refused for good."""

from typing import NamedTuple

from wallet_gql.ledger.columns import Bigint, Bytes, Json, Smallint, Text, Time, Uuid


class PostedRow(NamedTuple):
    """A transaction with its two legs and its key; `amount` is the owner's, the treasury's is its opposite."""

    shard: Smallint
    id: Uuid
    type: Smallint
    wallet_id: Bigint
    key: Uuid
    fingerprint: Bytes
    description: Text | None
    reference: Text | None
    amount: Bigint
    executed_at: Time
    account_id: Bigint
    seq: Bigint
    balance_after: Bigint
    treasury_account_id: Bigint
    treasury_seq: Bigint
    treasury_balance_after: Bigint


class RefusedRow(NamedTuple):
    """A key with the refusal that is kept under it; `transaction_id` is of the transaction that there is not."""

    shard: Smallint
    wallet_id: Bigint
    key: Uuid
    fingerprint: Bytes
    outcome: Smallint
    transaction_id: Uuid
    details: Json
