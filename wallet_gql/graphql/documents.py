"""Documents parsed, measured and validated once: clients send the same few texts over and over."""

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

from wallet_gql.graphql import limits
from wallet_gql.graphql.limits import Limits

DOCUMENTS_CACHED_MAX: Final = 256
"""Documents kept; one at the limit of tokens is about a megabyte."""

VALIDATION_ERRORS_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a valid document; `cost` is in fields, see `limits`."""

    node: OperationDefinitionNode
    cost: int

    @property
    def is_mutation(self) -> bool:
        """Whether it changes anything."""
        return self.node.operation is OperationType.MUTATION


@dataclass(frozen=True, slots=True)
class Document:
    """A valid document and its operations by name."""

    node: DocumentNode
    operations: dict[str | None, Operation]

    def operation(self, name: str | None) -> Operation:
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
    """A document that cannot be parsed, goes past a limit or is not valid for the schema."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        """Take what is wrong with it."""
        super().__init__(len(errors))
        self.errors = errors


class Documents:
    """Valid documents by their texts, least recently used out first; what is invalid is not kept."""

    def __init__(self, schema: GraphQLSchema, limits: Limits, *, introspection: bool) -> None:
        """Take the schema to validate against, and what a document may ask for."""
        self._schema = schema
        self._limits = limits
        self._hide_suggestions = not introspection
        self._rules = specified_rules if introspection else (*specified_rules, NoSchemaIntrospectionCustomRule)
        self.prepare = lru_cache(maxsize=DOCUMENTS_CACHED_MAX)(self._prepare)

    def _prepare(self, text: str) -> Document:
        try:
            return self._validated(text)
        except GraphQLError as error:
            raise InvalidDocument([error]) from None
        except RecursionError:
            raise InvalidDocument([GraphQLError("The document is nested too deeply.")]) from None

    def _validated(self, text: str) -> Document:
        if len(text) > self._limits.characters:
            raise GraphQLError(
                f"The document has {len(text)} characters, at most {self._limits.characters} are allowed:"
                " send values as variables."
            )
        node = parse(text, max_tokens=self._limits.tokens)
        costs = limits.check(node, self._limits)
        errors = validate(
            self._schema,
            node,
            self._rules,
            max_errors=VALIDATION_ERRORS_MAX,
            hide_suggestions=self._hide_suggestions,
            allow_empty_selection_sets=False,
        )
        errors = [_blame_the_document(error) for error in errors]
        operations = {
            definition.name.value if definition.name else None: definition
            for definition in node.definitions
            if isinstance(definition, OperationDefinitionNode)
        }
        if not errors and not operations:
            errors = [GraphQLError("The document has no operation.")]
        if errors:
            raise InvalidDocument(errors)
        return Document(node, {name: Operation(operation, costs[name]) for name, operation in operations.items()})


def _blame_the_document(error: GraphQLError) -> GraphQLError:
    """Return an error of a literal as the client's own.

    Python converts no integer of more than 4,300 digits, and graphql-core takes its ValueError for ours.
    """
    if isinstance(error.original_error, ValueError):
        return GraphQLError("An integer has too many digits: send at most 10.", error.nodes)
    return error
