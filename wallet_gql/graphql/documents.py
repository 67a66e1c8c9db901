"""Documents parsed and validated once: clients send the same few texts over and over."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    OperationType,
    parse,
    specified_rules,
    validate,
)

DOCUMENTS_CACHED_MAX: Final = 512
TOKENS_MAX: Final = 2000


@dataclass(frozen=True, slots=True)
class Document:
    """A valid document and its operations by name."""

    node: DocumentNode
    operations: dict[str | None, OperationDefinitionNode]

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """Return the operation to run; raises GraphQLError where the name leaves it open."""
        if name is None:
            if len(self.operations) == 1:
                return next(iter(self.operations.values()))
            raise GraphQLError("The document has several operations: name one in operationName.")
        operation = self.operations.get(name)
        if operation is None:
            raise GraphQLError(f"The document has no operation named {name[:100]!r}.")
        return operation


class InvalidDocument(Exception):
    """A document that cannot be parsed or is not valid for the schema."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        """Take what is wrong with it."""
        super().__init__(len(errors))
        self.errors = errors


class Documents:
    """Valid documents by their texts, least recently used out first; what is invalid is not kept."""

    def __init__(self, schema: GraphQLSchema, *, introspection: bool) -> None:
        """Take the schema to validate against."""
        self._schema = schema
        self._rules = specified_rules if introspection else (*specified_rules, NoSchemaIntrospectionCustomRule)
        self.prepare = lru_cache(maxsize=DOCUMENTS_CACHED_MAX)(self._prepare)

    def _prepare(self, text: str) -> Document:
        try:
            node = parse(text, max_tokens=TOKENS_MAX)
            errors = validate(self._schema, node, self._rules, max_errors=20)
        except GraphQLError as error:
            raise InvalidDocument([error]) from None
        except RecursionError:
            raise InvalidDocument([GraphQLError("The document is nested too deeply.")]) from None
        operations = {
            definition.name.value if definition.name else None: definition
            for definition in node.definitions
            if isinstance(definition, OperationDefinitionNode)
        }
        if not errors and not operations:
            errors = [GraphQLError("The document has no operation.")]
        if errors:
            raise InvalidDocument(errors)
        return Document(node, operations)


def is_mutation(operation: OperationDefinitionNode) -> bool:
    """Say whether an operation changes anything."""
    return operation.operation is OperationType.MUTATION
