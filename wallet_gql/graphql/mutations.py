"""What can be done."""

import strawberry

from wallet_gql.graphql.batches import BatchMutations
from wallet_gql.graphql.clock import ClockMutations
from wallet_gql.graphql.holds import HoldMutations
from wallet_gql.graphql.limit_changes import LimitMutations
from wallet_gql.graphql.openings import WalletMutations
from wallet_gql.graphql.postings import PostingMutations
from wallet_gql.graphql.reversals import ReversalMutations
from wallet_gql.graphql.states import StateMutations
from wallet_gql.graphql.transfers import TransferMutations


@strawberry.type(description="What can be done. Each field is one unit of work: all of it is done, or none.")
class Mutation(
    WalletMutations,
    PostingMutations,
    TransferMutations,
    HoldMutations,
    ReversalMutations,
    BatchMutations,
    StateMutations,
    LimitMutations,
    ClockMutations,
):
    """What can be done."""
