"""What becomes of wallets: freezing, closing, opening again."""

from asyncio import gather
from datetime import datetime
from enum import Enum
from typing import Annotated, Self, cast
from uuid import UUID

import strawberry
from strawberry import UNSET

from wallet_gql.domain import postings as domain
from wallet_gql.domain.errors import Forbidden
from wallet_gql.domain.text import TEXT_LENGTH_MAX
from wallet_gql.domain.wallets import WalletStatus
from wallet_gql.graphql import refusals
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.errors import Replayable
from wallet_gql.graphql.refusals_of_wallets import (
    ReceiverRefused,
    SelfTransfer,
    TransferForbidden,
    WalletClosed,
    WalletFrozen,
    WalletNotEmpty,
)
from wallet_gql.graphql.transactions import Transaction, read_own
from wallet_gql.graphql.wallets import Wallet
from wallet_gql.operations import states

_KEY: str = "A fresh UUID for each new request, the same one for each retry of it: it takes effect once."


@strawberry.enum(description="What a freeze stops.")
class FreezeScope(Enum):
    """What a freeze stops."""

    OUT = strawberry.enum_value("OUT", description="Spends, transfers and new holds; credits still come in.")
    ALL = strawberry.enum_value("ALL", description="Credits and captures, too; holds end, and clawbacks take back.")


@strawberry.enum(description="What becomes of what a closed wallet still has.")
class Remainder(Enum):
    """What becomes of what a closed wallet still has."""

    REFUSE = strawberry.enum_value("REFUSE", description="A wallet that is not empty stays open.")
    FORFEIT = strawberry.enum_value("FORFEIT", description="The platform takes credits, and writes off debts.")
    TRANSFER = strawberry.enum_value("TRANSFER", description="Another owner gets the credits.")


@strawberry.input(description="A wallet to freeze.")
class FreezeWalletInput:
    """A wallet to freeze."""

    owner_id: str = strawberry.field(description="Whose wallet it is.")
    scope: FreezeScope = strawberry.field(default=FreezeScope.OUT, description="What it stops.")
    until: datetime | None = strawberry.field(
        default=UNSET, description="When it ends by itself; if not given, when somebody unfreezes the wallet."
    )
    idempotency_key: UUID = strawberry.field(description=_KEY)
    note: str = strawberry.field(description=f"Why, for people to read, at most {TEXT_LENGTH_MAX} characters.")


@strawberry.input(description="A wallet to unfreeze.")
class UnfreezeWalletInput:
    """A wallet to unfreeze."""

    owner_id: str = strawberry.field(description="Whose wallet it is.")
    idempotency_key: UUID = strawberry.field(description=_KEY)
    note: str | None = strawberry.field(default=UNSET, description="Why, for people to read.")


@strawberry.input(description="A wallet to close.")
class CloseWalletInput:
    """A wallet to close."""

    owner_id: str = strawberry.field(description="Whose wallet it is.")
    remainder: Remainder = strawberry.field(
        default=Remainder.REFUSE, description="What becomes of what it still has, in every asset."
    )
    to_owner_id: str | None = strawberry.field(default=UNSET, description="Who gets it, where it is transferred.")
    void_holds: bool = strawberry.field(default=False, description="Whether holds that are open are voided.")
    idempotency_key: UUID = strawberry.field(description=_KEY)
    note: str = strawberry.field(description=f"Why, for people to read, at most {TEXT_LENGTH_MAX} characters.")


@strawberry.input(description="A wallet to open again.")
class ReopenWalletInput:
    """A wallet to open again."""

    owner_id: str = strawberry.field(description="Whose wallet it is.")
    idempotency_key: UUID = strawberry.field(description=_KEY)
    note: str | None = strawberry.field(default=UNSET, description="Why, for people to read.")


@strawberry.type(description="The wallet is as it was asked to be.")
class WalletPayload(Replayable):
    """The wallet is as it was asked to be."""

    changed: strawberry.Private[domain.Changed]

    @strawberry.field(description="The wallet as it is now.")
    def wallet(self) -> Wallet:
        """Make it when it is asked for."""
        return Wallet.of(self.changed.balance.wallet)

    @strawberry.field(description="What was posted of what it still had, an asset each.")
    async def transactions(self, info: Info) -> list[Transaction] | None:
        """Read what was posted."""
        wallet_id = self.changed.balance.wallet.id
        found = await gather(*(read_own(info, name, wallet_id) for name in self.changed.transactions))
        return [each for each in found if each is not None]

    @classmethod
    def of(cls, changed: domain.Changed) -> Self:
        """Make it from the ledger's outcome."""
        return cls(changed=changed, already_processed=changed.already_processed)


WalletResult = Annotated[
    WalletPayload
    | SelfTransfer
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | TransferForbidden
    | WalletNotEmpty
    | ReceiverRefused,
    strawberry.union("WalletResult", description="Unions grow: keep a `... on Error` branch."),
]

Change = FreezeWalletInput | UnfreezeWalletInput | CloseWalletInput | ReopenWalletInput


def _input(info: Info, change: Change) -> states.StateInput:
    note = None if change.note is UNSET else change.note
    context = info.context
    asked_by, event_id = context.asked_by, context.take_id()
    return states.StateInput(change.owner_id, change.idempotency_key, note, context.deadline, asked_by, event_id)


def _result(outcome: states.StateOutcome) -> WalletResult:
    if isinstance(outcome, domain.Changed):
        return WalletPayload.of(outcome)
    return cast("WalletResult", refusals.of_outcome(outcome))


@strawberry.type
class StateMutations:
    """What becomes of wallets."""

    @strawberry.mutation(
        description="Let nothing leave a wallet, or nothing move at all; what was promised before is kept. Safe to"
        " retry with the same key."
    )
    async def freeze_wallet(
        self, info: Info, input: Annotated[FreezeWalletInput, strawberry.argument(description="What is frozen.")]
    ) -> WalletResult | None:
        """Freeze a wallet."""
        status = WalletStatus[f"FROZEN_{input.scope.name}"]
        until = None if input.until is UNSET else input.until
        return _result(await states.freeze(info.context.ledger, _input(info, input), status, until))

    @strawberry.mutation(description="Let a wallet's credits move again. Safe to retry with the same key.")
    async def unfreeze_wallet(
        self, info: Info, input: Annotated[UnfreezeWalletInput, strawberry.argument(description="What is unfrozen.")]
    ) -> WalletResult | None:
        """Unfreeze a wallet."""
        return _result(await states.unfreeze(info.context.ledger, _input(info, input)))

    @strawberry.mutation(
        description="Close an empty wallet, or say what becomes of what it still has. Safe to retry with the same key."
    )
    async def close_wallet(
        self, info: Info, input: Annotated[CloseWalletInput, strawberry.argument(description="What is closed.")]
    ) -> WalletResult | None:
        """Close a wallet."""
        remainder = domain.Remainder[input.remainder.name]
        if remainder is not domain.Remainder.REFUSE and info.context.caller.is_bounded:
            raise Forbidden("remainder moves all that there is, which your key must not: use REFUSE.", "remainder")
        to_owner_id = None if input.to_owner_id is UNSET else input.to_owner_id
        request = _input(info, input)
        return _result(
            await states.close(info.context.ledger, request, remainder, to_owner_id, voids_holds=input.void_holds)
        )

    @strawberry.mutation(
        description="Open a closed wallet again: it comes back empty, for nothing returns by itself. Safe to retry with"
        " the same key."
    )
    async def reopen_wallet(
        self, info: Info, input: Annotated[ReopenWalletInput, strawberry.argument(description="What is reopened.")]
    ) -> WalletResult | None:
        """Open a wallet again."""
        return _result(await states.reopen(info.context.ledger, _input(info, input)))
