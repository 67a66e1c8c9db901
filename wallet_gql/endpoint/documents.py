"""Documents parsed, measured and validated once: clients send the same few texts over and over."""

import asyncio
import time
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from cachetools import LRUCache
from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSchema,
    InlineFragmentNode,
    ListValueNode,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    OperationType,
    Token,
    ValueNode,
    VariableNode,
    parse,
    specified_rules,
    validate,
)

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.endpoint import limits
from wallet_gql.endpoint.executor import StraightExecutor
from wallet_gql.endpoint.limits import Limits, Size
from wallet_gql.endpoint.memory import collect_young
from wallet_gql.endpoint.scopes import Demands, demands
from wallet_gql.endpoint.turns import Turns
from wallet_gql.graphql.paging import PAGE_SIZE_MAX

TOKENS_KEPT_MAX: Final = 16_000
"""Tokens of the documents kept: some hundred of those that clients send. Each is five objects to the collector."""

SHORT_CHARACTERS: Final = 1000
"""A text up to this takes a few milliseconds at worst."""

LONG_SECONDS: Final = 0.005
"""A document that takes longer is followed by a pause."""

TURN_WITHIN_SECONDS: Final = 5
"""A text that has not had its turn by then is refused as overload."""

WAITING_CHARACTERS_MAX: Final = 500_000
"""New texts wait for their turns up to so many characters, a second's work or so; more is refused as overload."""

VALIDATION_ERRORS_MAX: Final = 5
"""Each can quote a value as long as the document."""

_LISTS: Final = ("ids", "ownerIds")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a valid document, how large it is by the limits, and what executes it."""

    executor: StraightExecutor
    limits: Limits
    size: Size
    """The most that it can be, whatever its variables say, but for the items of a batch."""
    lists: tuple[ArgumentNode, ...]
    """The lists of ids that are given as variables."""
    demands: Demands
    is_mutation: bool
    """Whether it changes anything."""

    def check(self, variables: dict[str, Any]) -> None:
        """Refuse lists of too many ids; raises GraphQLError."""
        for argument in self.lists:
            assert isinstance(argument.value, VariableNode)
            members = variables.get(argument.value.name.value)
            if isinstance(members, list):
                _check_list(argument, len(members))

    def size_with(self, variables: dict[str, Any]) -> Size:
        """Return how large it is with these values of its variables, coerced."""
        executor = self.executor
        fragments = {name: details.definition for name, details in executor.fragments.items()}
        return limits.size(executor.operation, fragments, self.limits, variables)


@dataclass(frozen=True, slots=True)
class Document:
    """A valid document: its size in tokens, and its operations by name."""

    tokens: int
    operations: dict[str | None, Operation]

    def operation(self, name: str | None) -> Operation:
        """Return the operation to run; raises GraphQLError where the name leaves it open."""
        if name is None:
            if len(self.operations) == 1:
                return next(iter(self.operations.values()))
            raise GraphQLError("The document has several operations: name one in operationName.")
        operation = self.operations.get(name)
        if operation is None:
            raise GraphQLError(
                f"The document has no operation named {name[:100]!r}: name one that it has in operationName."
            )
        return operation


class InvalidDocument(Exception):
    """A document that cannot be parsed, goes past a limit or is not valid for the schema."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        """Take what is wrong with it."""
        super().__init__(len(errors))
        self.errors = errors


class Documents:
    """Valid documents by their texts, least recently used out first; what is invalid is not kept."""

    def __init__(
        self, schema: GraphQLSchema, limits: Limits, *, introspection: bool | None, hides_schema: bool = False
    ) -> None:
        """Take the schema to validate against, and what a document may ask for.

        Introspection is for everybody, for nobody, or, with None, for callers with its scope.
        """
        self._schema = schema
        self._limits = limits
        self._hide_suggestions = hides_schema or introspection is False
        self._is_schema_free = introspection is True
        self._rules = (*specified_rules, NoSchemaIntrospectionCustomRule) if introspection is False else specified_rules
        self._kept: LRUCache[str, Document] = LRUCache(
            max(TOKENS_KEPT_MAX, limits.tokens), getsizeof=attrgetter("tokens")
        )
        self._registered: dict[str, Document] = {}
        self._short_turns = Turns(WAITING_CHARACTERS_MAX, TURN_WITHIN_SECONDS)
        self._long_turns = Turns(WAITING_CHARACTERS_MAX, TURN_WITHIN_SECONDS)
        self._under_way: dict[str, asyncio.Task[Document]] = {}

    def register(self, text: str) -> None:
        """Prepare a text and keep it for good; raises `InvalidDocument`."""
        if text not in self._registered:
            self._registered[text] = self.prepare(text)

    def known(self, text: str) -> Document | None:
        """Return the document of a text that needs no preparing; None for any other."""
        return self._registered.get(text) or self._kept.get(text)

    def may_mutate(self, text: str) -> bool:
        """Say whether a text has a mutation, without parsing it: a text that is not kept may only look like it."""
        document = self.known(text)
        if document is None:
            return "mutation" in text
        return any(operation.is_mutation for operation in document.operations.values())

    async def find(self, text: str) -> Document:
        """Return the document of a text; raises InvalidDocument, or Overloaded where too many new ones wait.

        Texts that are not kept take turns, short ones and long ones apart; one that took long leaves the loop to the
        others for as long as it held it. So whoever sends many of them delays the others by one at a time. Who asks for
        a text that is under way waits for it: a new client's first requests come all at once.
        """
        document = self.known(text)
        if document is not None:
            return document
        if len(text) > self._limits.characters:
            return self.prepare(text)  # which refuses it at a glance
        # One caller that goes away must not take the document from the others.
        return await asyncio.shield(self._preparation(text))

    def _preparation(self, text: str) -> asyncio.Task[Document]:
        task = self._under_way.get(text)
        if task is None:
            task = self._under_way[text] = asyncio.create_task(self._prepare_in_turn(text))
            # Callers that all went away leave nobody to retrieve what is wrong with it.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def _prepare_in_turn(self, text: str) -> Document:
        turns = self._short_turns if len(text) <= SHORT_CHARACTERS else self._long_turns
        try:
            async with turns.turn(len(text)):
                started = time.perf_counter()
                try:
                    document = self._kept[text] = self.prepare(text)
                finally:
                    seconds = time.perf_counter() - started
                    await asyncio.sleep(seconds if seconds > LONG_SECONDS else 0)
                return document
        finally:
            del self._under_way[text]

    def prepare(self, text: str) -> Document:
        """Parse, measure and validate a text; raises InvalidDocument."""
        try:
            return self._validated(text)
        except GraphQLError as error:
            raise InvalidDocument([error.with_traceback(None)]) from None
        except RecursionError:
            raise InvalidDocument([GraphQLError("The document is nested too deeply: split it.")]) from None
        finally:
            # Visitors and their context hold each other, and the tree.
            collect_young()

    def _validated(self, text: str) -> Document:
        if len(text) > self._limits.characters:
            raise GraphQLError(
                f"The document has {len(text)} characters, but at most {self._limits.characters} are allowed:"
                " send values as variables."
            )
        node = parse(text, max_tokens=self._limits.tokens)
        tokens = _unchain(node)
        sizes = limits.check(node, self._limits)
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
            errors = [GraphQLError("The document has no operation: add a query or a mutation.")]
        if errors:
            raise InvalidDocument(errors)
        fragments = {each.name.value: each for each in node.definitions if isinstance(each, FragmentDefinitionNode)}
        operations_by_name = {
            name: Operation(
                StraightExecutor.of(self._schema, node, operation, text),
                self._limits,
                sizes[name],
                _lists(operation, node),
                demands(self._schema, operation, fragments, is_schema_free=self._is_schema_free),
                is_mutation=operation.operation is OperationType.MUTATION,
            )
            for name, operation in operations.items()
        }
        return Document(tokens, operations_by_name)


def _lists(operation: OperationDefinitionNode, document: DocumentNode) -> tuple[ArgumentNode, ...]:
    """Return the arguments that take a list of ids from a variable; raises GraphQLError for a literal of too many."""
    fragments = {each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)}
    defaults = {each.variable.name.value: each.default_value for each in operation.variable_definitions or ()}
    found = []
    # Lists of ids are arguments of root fields only.
    selections = list(operation.selection_set.selections)
    for selection in selections:
        if isinstance(selection, FragmentSpreadNode):
            selections += fragments[selection.name.value].selection_set.selections
        elif isinstance(selection, InlineFragmentNode):
            selections += selection.selection_set.selections
        elif isinstance(selection, FieldNode):
            for argument in selection.arguments or ():
                if argument.name.value not in _LISTS:
                    continue
                value: ValueNode | None = argument.value
                if isinstance(value, VariableNode):
                    found.append(argument)
                    value = defaults.get(value.name.value)
                if isinstance(value, ListValueNode):
                    _check_list(argument, len(value.values))
    return tuple(found)


def _check_list(argument: ArgumentNode, count: int) -> None:
    if count > PAGE_SIZE_MAX:
        fault = BadUserInput(argument.name.value, f"has {count} members", f"send at most {PAGE_SIZE_MAX}")
        raise GraphQLError(str(fault), argument, original_error=fault)


def _unchain(node: DocumentNode) -> int:
    """Take a document's tokens out of their chain and count them.

    Each knows the one before it and the next, which only a full garbage collection would free.
    """
    token: Token | None = node.loc.start_token if node.loc else None
    count = 0
    while token is not None:
        count += 1
        following, token.prev, token.next = token.next, None, None
        token = following
    return count


def _blame_the_document(error: GraphQLError) -> GraphQLError:
    """Return an error of a literal as the client's own.

    Python converts no integer of more than 4,300 digits, and graphql-core takes its ValueError for ours.
    """
    if isinstance(error.original_error, ValueError):
        return GraphQLError("An integer has too many digits: send at most 10.", error.nodes)
    return error
