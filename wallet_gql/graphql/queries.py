"""What can be asked. A reader gets null for what does not exist."""

import strawberry

from wallet_gql.graphql.access import AccessQueries
from wallet_gql.graphql.assets import AssetQueries
from wallet_gql.graphql.balances import BalanceQueries
from wallet_gql.graphql.holds import HoldQueries
from wallet_gql.graphql.limits import LimitQueries
from wallet_gql.graphql.nodes import NodeQueries
from wallet_gql.graphql.outcomes import OutcomeQueries
from wallet_gql.graphql.searches import SearchQueries
from wallet_gql.graphql.transactions import TransactionQueries
from wallet_gql.graphql.wallets import WalletQueries


@strawberry.type(description="What can be asked.")
class Query(
    NodeQueries,
    WalletQueries,
    BalanceQueries,
    TransactionQueries,
    HoldQueries,
    OutcomeQueries,
    AssetQueries,
    LimitQueries,
    AccessQueries,
    SearchQueries,
):
    """What can be asked."""
