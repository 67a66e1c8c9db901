"""The schema, made once, and its printed form: the contract."""

from functools import cache
from typing import Final

import strawberry
from graphql import GraphQLOneOfDirective, GraphQLSchema
from graphql.utilities.print_schema import print_directive, print_schema_definition
from strawberry.schema.config import StrawberryConfig

from wallet_gql.endpoint.resolvers import tune
from wallet_gql.graphql import refusals
from wallet_gql.graphql.assets import Asset
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.mutations import Mutation
from wallet_gql.graphql.queries import Query
from wallet_gql.graphql.scalars import SCALARS
from wallet_gql.graphql.transactions import Transaction
from wallet_gql.graphql.wallets import Wallet

DESCRIPTION: Final = (
    "Wallets of virtual credits over a double-entry ledger. Every posting has an idempotency key: sent again with the"
    " same key, it is posted once. What the business refuses is a member of the result's union and implements `Error`;"
    " anything else that stops a request is a top-level error with a code in `extensions.code`."
)


@cache
def strawberry_schema() -> strawberry.Schema:
    """Build the schema from the code."""
    schema = strawberry.Schema(
        query=Query,
        mutation=Mutation,
        types=[Asset, Wallet, Balance, Transaction, refusals.KeptRefusal],
        config=StrawberryConfig(scalar_map=SCALARS),
    )
    # Strawberry takes no description of the schema; introspection reads this one.
    schema._schema.description = DESCRIPTION
    return schema


@cache
def executable_schema() -> GraphQLSchema:
    """Return graphql-core's schema with straight resolvers: documents are validated against it and executed on it.

    Strawberry keeps it under a private name; its own views take it from there too (docs/decisions/0004). To do without:
    build it from `export_schema`'s text, and set resolvers by type and field name.
    """
    schema = strawberry_schema()._schema
    assert isinstance(schema, GraphQLSchema)
    tune(schema)
    return schema


def export_schema() -> str:
    """Print the schema as it is committed in `schema.graphql`."""
    # Strawberry prints no schema definition, and @oneOf without its description; graphql-core's functions are in a
    # module of their own, not among its exports.
    described = print_directive(GraphQLOneOfDirective)
    types = strawberry_schema().as_str().replace("directive @oneOf on INPUT_OBJECT", described)
    return f"{print_schema_definition(executable_schema())}\n\n{types}\n"
