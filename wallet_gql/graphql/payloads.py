"""What every movement is answered with: its transaction, and the wallet and the balance as they are now."""

from typing import Self, TypeVar

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.graphql import refusals
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.errors import Replayable
from wallet_gql.graphql.scalars import Amount, amount
from wallet_gql.graphql.transactions import Transaction, read_own
from wallet_gql.graphql.wallets import Wallet


@strawberry.type(description="The posting is in the books.")
class Payload(Replayable):
    """The posting is in the books."""

    posted: strawberry.Private[domain.Posted]

    @strawberry.field(description="What was posted; on replay, what was posted first.")
    def transaction(self) -> Transaction:
        """Make it when it is asked for."""
        return Transaction(view=self.posted.transaction)

    @strawberry.field(description="The wallet as it is now.")
    def wallet(self) -> Wallet:
        """Make it when it is asked for."""
        return Wallet.of(self.posted.balance.wallet)

    @strawberry.field(description="The balance as it is now.")
    def balance(self) -> Balance:
        """Make it when it is asked for."""
        return Balance(balance=self.posted.balance)

    async def read_repaid(self, info: Info) -> Amount:
        """Read how much of it repaid what the owner owed: right after it, if any."""
        view = self.posted.transaction
        repayment = await read_own(
            info, domain.TransactionName(view.shard, domain.repayment_id(view.id)), view.wallet_id
        )
        return amount(0 if repayment is None else abs(repayment.view.amount_minor), view.asset)

    @classmethod
    def of(cls, posted: domain.Posted) -> Self:
        """Make it from the ledger's outcome."""
        return cls(posted=posted, already_processed=posted.already_processed)


PayloadType = TypeVar("PayloadType", bound=Payload)


def result(
    payload: type[PayloadType], outcome: domain.Posted | refusals.OutcomeOfRefusal
) -> PayloadType | refusals.Kept | refusals.NotKept:
    """Make the member of a result's union. Which refusals a union has is compared with the docs by a test."""
    return payload.of(outcome) if isinstance(outcome, domain.Posted) else refusals.of_outcome(outcome)
