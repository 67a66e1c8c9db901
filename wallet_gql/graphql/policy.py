"""Who may ask for what: a rule for every field of the schema, wherever the field is reached.

A rule names scopes, one of which a caller must have; FREE is for whoever reaches the object. What a payload shows of
its own movement is free, and the way from there to anything else is not: a key that may spend sees its transaction and
the balance, not the wallet's history. Whose wallets a caller reaches is another question: see `owners`.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from wallet_gql.domain.access import Caller, Scope
from wallet_gql.domain.errors import Forbidden

Rule: TypeAlias = frozenset[Scope]
"""One of these scopes is needed; none where it is empty."""

FREE: Final[Rule] = frozenset()
_WALLETS: Final[Rule] = frozenset({Scope.WALLET_READ})
_HISTORY: Final[Rule] = frozenset({Scope.HISTORY_READ})

# What staff write for staff, such as why a wallet was frozen.
_STAFF: Final[Rule] = frozenset({Scope.FREEZE, Scope.CLOSE, Scope.AUDIT})

# Whoever sent a request may ask what became of it.
_OUTCOMES: Final[Rule] = frozenset({
    Scope.TOP_UP, Scope.BONUS, Scope.SPEND, Scope.TRANSFER, Scope.HOLD, Scope.CAPTURE, Scope.REFUND, Scope.CLAWBACK,
    Scope.FREEZE, Scope.CLOSE, Scope.LIMIT, Scope.HISTORY_READ,
})  # fmt: skip

# Each item of a batch then has the rule of the mutation that does the same.
_MOVEMENTS: Final[Rule] = frozenset({
    Scope.TOP_UP, Scope.BONUS, Scope.SPEND, Scope.TRANSFER, Scope.HOLD, Scope.CAPTURE, Scope.REFUND, Scope.CLAWBACK,
})  # fmt: skip

SCHEMA: Final[Rule] = frozenset({Scope.SCHEMA})
"""Introspection, where it is not for everybody."""

NODES: Final[Mapping[str, Rule]] = {
    "Asset": FREE, "Wallet": _WALLETS, "Balance": _WALLETS, "Transaction": _HISTORY, "Hold": _HISTORY,
    "Lot": _HISTORY, "Limit": _WALLETS,
}  # fmt: skip
"""What is needed for what a global id names, which is known only when it is read."""

_ERROR: Final = "code message retryable"
_KEPT: Final = f"{_ERROR} alreadyProcessed"
_PAYLOAD: Final = "alreadyProcessed wallet balance"

_TABLE: Final[Mapping[str, Mapping[str, Rule]]] = {
    "Query": {
        "node nodes assets viewer": FREE,
        "searchTransactions": frozenset({Scope.AUDIT}),
        "apiKeys": frozenset({Scope.KEY_READ}),
        "wallet wallets balance limits": _WALLETS,
        "transactions transaction hold holds": _HISTORY,
        "transactionByKey holdByKey outcomeByKey": _OUTCOMES,
    },
    "Mutation": {
        "openWallet": frozenset({Scope.WALLET_OPEN}),
        "topUp": frozenset({Scope.TOP_UP}),
        "bonus": frozenset({Scope.BONUS}),
        "spend": frozenset({Scope.SPEND}),
        "transfer": frozenset({Scope.TRANSFER}),
        "placeHold voidHold adjustHold": frozenset({Scope.HOLD}),
        "captureHold": frozenset({Scope.CAPTURE}),
        "refund": frozenset({Scope.REFUND}),
        "clawback": frozenset({Scope.CLAWBACK}),
        "postBatch": _MOVEMENTS,
        "freezeWallet unfreezeWallet": frozenset({Scope.FREEZE}),
        "closeWallet reopenWallet": frozenset({Scope.CLOSE}),
        "setLimit removeLimit": frozenset({Scope.LIMIT}),
        "advanceTestClock": frozenset({Scope.CLOCK}),
    },
    "Node": {"id": FREE},
    "Asset": {"id code name scale transfers hasLots": FREE},
    "Viewer": {"actor scopes ownerId ownerPrefix testMode now": FREE},
    "Actor": {"kind name": FREE},
    "ApiKey": {
        "keyId name state testMode scopes ownerPrefix maxAmount assets dailyIssuance createdAt expiresAt"
        " lastUsedAt": FREE,
    },
    "Wallet": {
        "id ownerId openedAt status statusSince statusUntil statusActor statusRequestId": FREE,
        "statusNote": _STAFF,
        "balance balances limits": _WALLETS,
        "transactions": _HISTORY,
    },
    "Balance": {"id ownerId asset amount available held lapsed debt cursor": FREE, "holds lots": _HISTORY},
    "Transaction": {
        "id transactionId type direction amount balanceAfter asset description reference executedAt idempotencyKey"
        " transferId metadata counterpartyId entries ownerId actor requestId": FREE,
        "hold refundOf refundable refunds lotUses": _HISTORY,
    },
    "Entry": {"account direction amount": FREE},
    "Hold": {
        "id ownerId asset state amount captured released remaining toOwnerId placedAt heldUntil closedAt idempotencyKey"
        " description reference metadata actor requestId": FREE,
        "captures": _HISTORY,
    },
    "Lot": {
        "id ownerId asset source priority campaign amount remaining held expiresAt grantedAt expired": FREE,
        "origin": _HISTORY,
    },
    "LotUse": {"lot amount expiresAt": FREE},
    "Limit": {
        "id asset appliesTo flow rollingSeconds unit timeZone maxAmount maxCount enforcement setAt setBy": FREE,
    },
    "LimitUse": {"rule used usedCount remaining remainingCount resetsAt": FREE},
    "TransactionConnection": {"edges nodes pageInfo totalCount": FREE},
    "TransactionEdge": {"cursor node": FREE},
    "HoldConnection": {"edges nodes pageInfo": FREE},
    "HoldEdge": {"cursor node": FREE},
    "LotConnection": {"edges nodes pageInfo": FREE},
    "LotEdge": {"cursor node": FREE},
    "PageInfo": {"hasNextPage hasPreviousPage startCursor endCursor": FREE},
    "KeyOutcome": {"state transaction hold refusal": FREE},
    "OpenWalletPayload": {"wallet alreadyOpen": FREE},
    "TopUpPayload": {f"{_PAYLOAD} transaction repaid": FREE},
    "BonusPayload": {f"{_PAYLOAD} transaction repaid": FREE},
    "SpendPayload": {f"{_PAYLOAD} transaction": FREE},
    "TransferPayload": {f"{_PAYLOAD} transaction": FREE},
    "PlaceHoldPayload": {f"{_PAYLOAD} hold": FREE},
    "CaptureHoldPayload": {f"{_PAYLOAD} hold transaction": FREE},
    "VoidHoldPayload": {f"{_PAYLOAD} hold": FREE},
    "AdjustHoldPayload": {f"{_PAYLOAD} hold": FREE},
    "RefundPayload": {f"{_PAYLOAD} transaction lapsed repaid": FREE},
    "ClawbackPayload": {f"{_PAYLOAD} clawback taken indebted forgone": FREE},
    "PostBatchPayload": {"results posted replayed refused": FREE},
    "WalletPayload": {"alreadyProcessed wallet transactions": FREE},
    "SetLimitPayload": {"alreadyProcessed rule": FREE},
    "RemoveLimitPayload": {"alreadyProcessed rule": FREE},
    "AdvanceTestClockPayload": {"now": FREE},
    "Error": {_ERROR: FREE},
    "Replayable": {"alreadyProcessed": FREE},
    "InvalidOwnerId": {_ERROR: FREE},
    "WalletNotFound": {f"{_ERROR} ownerId": FREE},
    "AssetNotFound": {f"{_ERROR} assetCode": FREE},
    "InvalidAmount": {f"{_ERROR} reason scale": FREE},
    "IdempotencyKeyReused": {f"{_ERROR} idempotencyKey": FREE},
    "SelfTransfer": {f"{_ERROR} ownerId": FREE},
    "HoldNotFound": {f"{_ERROR} holdId": FREE},
    "TransactionNotFound": {f"{_ERROR} transactionId": FREE},
    "LimitNotFound": {f"{_ERROR} limitId": FREE},
    "TestClockOff": {_ERROR: FREE},
    "KeptRefusal": {_KEPT: FREE},
    "BalanceLimitExceeded": {f"{_KEPT} limit balance": FREE},
    "InsufficientBalance": {f"{_KEPT} available required balance": FREE},
    "TransferForbidden": {f"{_KEPT} asset policy": FREE},
    "InvalidExpiry": {f"{_KEPT} fault": FREE},
    "LimitExceeded": {
        f"{_KEPT} rule used usedCount remaining remainingCount required resetsAt balance": FREE,
    },
    "ReceiverRefused": {f"{_KEPT} ownerId cause": FREE},
    "ReceiptUsed": {f"{_KEPT} creditedBy": FREE},
    "HoldNotOpen": {f"{_KEPT} hold state": FREE},
    "HoldExceeded": {f"{_KEPT} hold remaining required": FREE},
    "TooMany": {f"{_KEPT} counted most": FREE},
    "NotRefundable": {f"{_KEPT} transaction": FREE},
    "RefundExceedsOriginal": {f"{_KEPT} refundable required": FREE},
    "WalletClosed": {f"{_KEPT} wallet": FREE},
    "WalletFrozen": {f"{_KEPT} wallet status until": FREE},
    "WalletNotEmpty": {f"{_KEPT} wallet openHolds": FREE},
}

RULES: Final[Mapping[tuple[str, str], Rule]] = {
    (type_name, name): rule
    for type_name, fields in _TABLE.items()
    for names, rule in fields.items()
    for name in names.split()
}
"""The rule of each field, by the names of its type and its own."""

OWNER_ARGUMENTS: Final = frozenset({"ownerId", "ownerIds", "fromOwnerId"})
"""Arguments, and fields of inputs, that name an owner whose wallet is read or changed."""

OWNER_FIELDS: Final = {"owner_id": "ownerId", "from_owner_id": "fromOwnerId"}
"""Fields of inputs that do so, by what they are called once they are coerced."""

OTHER_OWNERS: Final = frozenset({"toOwnerId"})
"""Those that name somebody who only gets something."""


def check(caller: Caller, rule: Rule, place: str) -> None:
    """Raise `Forbidden` where a caller has none of the scopes of a rule, which is that of a place in the schema."""
    if rule and rule.isdisjoint(caller.scopes):
        wanted = " or ".join(sorted(rule))
        raise Forbidden(f"{place} is for callers with the scope {wanted}: have the operator give you it.")
