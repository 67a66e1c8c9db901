"""The schema, made once, and its printed form: the contract."""

from functools import cache

import strawberry
from graphql import GraphQLSchema
from strawberry.schema.config import StrawberryConfig

from wallet_gql.graphql import types
from wallet_gql.graphql.mutations import Mutation
from wallet_gql.graphql.queries import Query
from wallet_gql.graphql.resolvers import tune
from wallet_gql.graphql.scalars import SCALARS


@cache
def strawberry_schema() -> strawberry.Schema:
    """Build the schema from the code."""
    return strawberry.Schema(
        query=Query,
        mutation=Mutation,
        types=[types.Asset, types.Wallet, types.Balance, types.Transaction],
        config=StrawberryConfig(scalar_map=SCALARS),
    )


@cache
def executable_schema() -> GraphQLSchema:
    """Return graphql-core's schema with straight resolvers: documents are validated against it and executed on it.

    Strawberry keeps it under a private name; its own views take it from there too (docs/decisions/0004).
    """
    schema = strawberry_schema()._schema
    assert isinstance(schema, GraphQLSchema)
    tune(schema)
    return schema


def export_schema() -> str:
    """Print the schema as it is committed in `schema.graphql`."""
    return strawberry_schema().as_str() + "\n"
