"""Opening wallets."""

from typing import Annotated

import strawberry

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.text import OWNER_ID_LENGTH_MAX
from wallet_gql.graphql import refusals
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.wallets import Wallet
from wallet_gql.operations import wallets


@strawberry.input(description="Whose wallet to open.")
class OpenWalletInput:
    """Whose wallet to open."""

    owner_id: str = strawberry.field(
        description=f"The caller's own id of the player: 1 to {OWNER_ID_LENGTH_MAX} characters, case matters."
    )


@strawberry.type(description="The owner's wallet is open.")
class OpenWalletPayload:
    """The owner's wallet is open."""

    wallet: Wallet = strawberry.field(description="The wallet.")
    already_open: bool = strawberry.field(description="Whether it was open before.")


OpenWalletResult = Annotated[
    OpenWalletPayload | refusals.InvalidOwnerId,
    strawberry.union("OpenWalletResult", description="Unions grow: keep a `... on Error` branch."),
]


@strawberry.type
class WalletMutations:
    """What can be done with wallets."""

    @strawberry.mutation(description="Open an owner's wallet; opening it again returns the existing one.")
    async def open_wallet(
        self, info: Info, input: Annotated[OpenWalletInput, strawberry.argument(description="Whose wallet to open.")]
    ) -> OpenWalletResult | None:
        """Open a wallet."""
        try:
            opened = await wallets.open_wallet(info.context.ledger, input.owner_id, info.context.deadline)
        except BadUserInput as fault:
            return refusals.InvalidOwnerId.of(fault)
        return OpenWalletPayload(wallet=Wallet.of(opened.wallet), already_open=opened.already_open)
