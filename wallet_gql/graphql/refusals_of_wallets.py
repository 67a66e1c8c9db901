"""Refusals that are about a wallet's state, or what an owner may give and take."""

from datetime import datetime
from enum import Enum
from typing import Self

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain import refusals as kept
from wallet_gql.domain import wallets as domain_wallets
from wallet_gql.graphql.assets import Asset, TransferPolicy
from wallet_gql.graphql.errors import Error, ErrorCode, Replayable, kept_fields
from wallet_gql.graphql.wallets import Wallet, WalletStatus


@strawberry.type
class _OfWallet(Error, Replayable):
    """A refusal by what has become of the owner's wallet."""

    kept_wallet: strawberry.Private[domain_wallets.Wallet]

    @strawberry.field(description="The wallet as it is now.")
    def wallet(self) -> Wallet:
        """Make it when it is asked for."""
        return Wallet.of(self.kept_wallet)


@strawberry.type(description="The owner's wallet is closed: reopen it first. Kept under the key.")
class WalletClosed(_OfWallet):
    """The owner's wallet is closed."""

    @classmethod
    def of(cls, refusal: domain.Refused) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(refusal.facts.code),
            kept_wallet=refusal.balance.wallet,
            already_processed=refusal.already_processed,
        )


@strawberry.type(description="The owner's wallet is frozen. Kept under the key: a late retry is refused too.")
class WalletFrozen(_OfWallet):
    """The owner's wallet is frozen."""

    status: WalletStatus = strawberry.field(description="How it was frozen when the request was refused.")
    until: datetime | None = strawberry.field(description="When that was to end by itself; null where it was not.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.WalletFrozen) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            kept_wallet=refusal.balance.wallet,
            status=WalletStatus[facts.status.name],
            until=domain.from_unix_us(facts.until_us) if facts.until_us else None,
            already_processed=refusal.already_processed,
        )


@strawberry.type(
    description="The owner's wallet has credits, open holds or debts: say what becomes of them. Kept under the key."
)
class WalletNotEmpty(_OfWallet):
    """The owner's wallet is not empty."""

    open_holds: int = strawberry.field(description="How many holds were open, in all assets.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.WalletNotEmpty) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            kept_wallet=refusal.balance.wallet,
            open_holds=facts.open_holds,
            already_processed=refusal.already_processed,
        )


@strawberry.enum(description="Why a receiver takes nothing. Causes are added as the service grows.")
class ReceiverCause(Enum):
    """Why a receiver takes nothing."""

    FULL = strawberry.enum_value("FULL", description="The receiver would hold more than a wallet may.")
    FROZEN = strawberry.enum_value("FROZEN", description="The receiver's wallet is frozen.")
    CLOSED = strawberry.enum_value("CLOSED", description="The receiver's wallet is closed.")
    TOO_MANY_LOTS = strawberry.enum_value(
        "TOO_MANY_LOTS", description="The receiver would have more lots than an account may."
    )
    LIMIT = strawberry.enum_value("LIMIT", description="More would come in than one of the receiver's limits lets.")


@strawberry.type(
    description="The receiver takes nothing; what it holds is not told. Told only after the sender's own refusals. Kept"
    " under the key."
)
class ReceiverRefused(Error, Replayable):
    """The receiver takes nothing."""

    owner_id: str = strawberry.field(description="The receiver.")
    cause: ReceiverCause = strawberry.field(description="Why.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.ReceiverRefused) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            owner_id=facts.owner_id,
            cause=ReceiverCause[facts.cause.name],
            already_processed=refusal.already_processed,
        )


@strawberry.type(description="Sender and receiver are the same owner.")
class SelfTransfer(Error):
    """Sender and receiver are the same owner."""

    owner_id: str = strawberry.field(description="The owner.")

    @classmethod
    def of(cls, refusal: domain.ReceiverIsSender) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.SELF_TRANSFER,
            message="Sender and receiver are the same owner: name another receiver",
            retryable=False,
            owner_id=refusal.owner_id,
        )


@strawberry.type(description="Owners may not transfer this asset. Kept under the key.")
class TransferForbidden(Error, Replayable):
    """Owners may not transfer this asset."""

    asset: Asset = strawberry.field(description="The asset.")
    policy: TransferPolicy = strawberry.field(description="Its policy when the transfer was refused.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.TransferForbidden) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            asset=Asset.of(facts.asset),
            policy=TransferPolicy[facts.policy.name],
            already_processed=refusal.already_processed,
        )
