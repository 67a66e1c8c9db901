"""gql on graphql-core 3.2: it introspects the running server, checks the sample operations against that, sends them."""

import asyncio
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from gql import Client, GraphQLRequest  # type: ignore[import-not-found] # in an environment of its own, see run.py
from gql.transport.httpx import HTTPXAsyncTransport  # type: ignore[import-not-found]
from graphql import build_schema, lexicographic_sort_schema, parse, print_schema

HERE = Path(__file__).parent
OPERATIONS = parse((HERE.parent / "operations.graphql").read_text())
SCHEMA = build_schema((HERE.parents[2] / "schema.graphql").read_text())


async def converse(url: str) -> None:
    owner_id = f"gql-{uuid4()}"

    def asking(amount: str) -> dict[str, Any]:
        return {"input": {"ownerId": owner_id, "amount": amount, "idempotencyKey": str(uuid4())}}

    client = Client(
        transport=HTTPXAsyncTransport(url),
        fetch_schema_from_transport=True,
        introspection_args={"specified_by_url": True, "schema_description": True, "input_value_deprecation": True},
    )
    async with client as session:

        async def send(name: str, variables: dict[str, Any]) -> dict[str, Any]:
            request = GraphQLRequest(OPERATIONS, variable_values=variables, operation_name=name)
            answer: dict[str, Any] = await session.execute(request)
            return answer

        introspected = print_schema(lexicographic_sort_schema(session.client.schema))
        # Which inputs have exactly one field gql does not ask.
        written = print_schema(lexicographic_sort_schema(SCHEMA)).replace(" @oneOf {", " {")
        assert introspected == written, "introspection and schema.graphql differ"

        await send("OpenWallet", {"input": {"ownerId": owner_id}})
        bought = (await send("TopUp", asking("100")))["topUp"]
        assert bought["balance"]["amount"] == "100"
        refused = (await send("Spend", asking("101")))["spend"]
        assert (refused["__typename"], refused["available"]) == ("InsufficientBalance", "100")
        assert (await send("Player", {"ownerId": owner_id}))["balance"]["amount"] == "100"
        page = (await send("History", {"ownerId": owner_id, "first": 1}))["wallet"]["transactions"]
        assert page["edges"][0]["node"]["type"] == "TOP_UP"


asyncio.run(converse(sys.argv[1]))
sys.stdout.write("introspection agrees with schema.graphql; 5 operations sent\n")
