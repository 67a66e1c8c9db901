"""graphql-core's executor with two short ways, for what is most of an answer.

A leaf that is an attribute of its source, and neither null where it must not be nor faulty, is read at once: on the
long way it would get a path, a resolve info and three calls. And what a selection set of one field holds is collected
once a document instead of once a request, where no directive could make it differ. Everything else goes the long way,
errors among it. The two methods are graphql-core's own, not its public interface (docs/decisions/0004).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from graphql import GraphQLEnumType, GraphQLError, GraphQLNonNull, GraphQLObjectType, GraphQLScalarType, GraphQLSchema
from graphql.execution import Executor
from graphql.execution.collect_fields import CollectedFields, FieldDetails
from graphql.pyutils import AwaitableOrValue, Path, Undefined

Leaf = Callable[[Any], Any]
"""Reads a leaf from its source, coerced for the answer; Undefined where the long way must be gone."""

LEAVES: Final = "leaves"
"""Where an object type's leaves are kept, by field name, among graphql-core's extensions of it."""


def find_leaves(schema: GraphQLSchema, attributes: Mapping[tuple[str, str], Leaf]) -> None:
    """Give each object type its leaves; `attributes` reads those fields that are attributes, by type and field name."""
    for graphql_type in schema.type_map.values():
        if isinstance(graphql_type, GraphQLObjectType):
            leaves: dict[str, Leaf] = {"__typename": _constant(graphql_type.name)}
            for name, field in graphql_type.fields.items():
                read = attributes.get((graphql_type.name, name))
                may_be_null = not isinstance(field.type, GraphQLNonNull)
                leaf_type = field.type if may_be_null else field.type.of_type
                if read is not None and isinstance(leaf_type, GraphQLScalarType | GraphQLEnumType):
                    leaves[name] = _coerced(read, leaf_type, null=None if may_be_null else Undefined)
            graphql_type.extensions[LEAVES] = leaves


def _constant(value: str) -> Leaf:
    return lambda _source: value


def _coerced(read: Leaf, leaf_type: GraphQLScalarType | GraphQLEnumType, null: object) -> Leaf:
    coerce = leaf_type.coerce_output_value

    def leaf(source: Any) -> Any:
        value = read(source)
        if value is None:
            return null
        try:
            coerced = coerce(value)
        except (GraphQLError, TypeError, ValueError):
            return Undefined
        return Undefined if coerced is None else coerced

    return leaf


class StraightExecutor(Executor[Any]):
    """Executes an operation; `collected` is what its document keeps, None where selections depend on the request."""

    collected: dict[tuple[str, int], CollectedFields] | None = None

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: dict[str, list[FieldDetails]],
        position_context: Any,
    ) -> AwaitableOrValue[dict[str, Any]]:
        """Execute a selection set; its answer is in the order of the document."""
        leaves: dict[str, Leaf] = parent_type.extensions.get(LEAVES, {})
        results: dict[str, Any] = {}
        others: dict[str, list[FieldDetails]] = {}
        for name, details in grouped_field_set.items():
            leaf = leaves.get(details[0].node.name.value)
            value = results[name] = Undefined if leaf is None else leaf(source_value)
            if value is Undefined:
                others[name] = details
        if not others:
            return results
        executed = super().execute_fields(parent_type, source_value, path, others, position_context)
        if isinstance(executed, dict):
            results.update(executed)
            return results

        async def merge() -> dict[str, Any]:
            results.update(await executed)
            return results

        return merge()

    def collect_subfields(
        self, return_type: GraphQLObjectType, field_details_list: list[FieldDetails]
    ) -> CollectedFields:
        """Return what a field selects of a type."""
        if self.collected is None or len(field_details_list) > 1:
            return super().collect_subfields(return_type, field_details_list)
        # The document keeps its nodes, so their ids are nobody else's.
        key = return_type.name, id(field_details_list[0].node)
        found = self.collected.get(key)
        if found is None:
            found = self.collected[key] = super().collect_subfields(return_type, field_details_list)
        return found
