import re
from pathlib import Path
from typing import Any, Final

import pytest
from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLUnionType,
    build_schema,
    get_named_type,
    is_leaf_type,
    is_specified_scalar_type,
    parse,
    print_ast,
    validate,
    validate_schema,
)

from wallet_gql.endpoint.schema import executable_schema, export_schema

SCHEMA_FILE: Final = Path(__file__).parents[2] / "schema.graphql"
API_FILE: Final = SCHEMA_FILE.with_name("docs") / "api.md"
ENDPOINT: Final = SCHEMA_FILE.with_name("wallet_gql") / "endpoint"

# The contract's core. What is here stays; the schema has more as it grows, but never less.
CORE: Final = """
scalar Amount
scalar UUID
scalar DateTime

interface Node { id: ID! }
interface Error { code: ErrorCode!  message: String!  retryable: Boolean! }
interface Replayable { alreadyProcessed: Boolean! }

type Query {
  node(id: ID!): Node
  nodes(ids: [ID!]!): [Node]!
  wallet(ownerId: String!): Wallet
  wallets(ownerIds: [String!]!): [Wallet]
  balance(ownerId: String!, asset: String! = "GOLD"): Balance
  transactions(
    ownerId: String!, asset: String! = "GOLD", first: Int, after: String, last: Int, before: String, offset: Int
  ): TransactionConnection
  transaction(id: ID!): Transaction
  transactionByKey(ownerId: String!, idempotencyKey: UUID!): Transaction
  outcomeByKey(ownerId: String!, idempotencyKey: UUID!): KeyOutcome
  assets: [Asset!]
}

type Mutation {
  openWallet(input: OpenWalletInput!): OpenWalletResult
  topUp(input: TopUpInput!): TopUpResult
  bonus(input: BonusInput!): BonusResult
  spend(input: SpendInput!): SpendResult
}

input OpenWalletInput { ownerId: String! }
input TopUpInput {
  ownerId: String!  asset: String! = "GOLD"  amount: Amount!  idempotencyKey: UUID!
  description: String  reference: String
}
input BonusInput {
  ownerId: String!  asset: String! = "GOLD"  amount: Amount!  idempotencyKey: UUID!
  description: String  reference: String
}
input SpendInput {
  ownerId: String!  asset: String! = "GOLD"  amount: Amount!  idempotencyKey: UUID!
  description: String  reference: String
}

type OpenWalletPayload { wallet: Wallet!  alreadyOpen: Boolean! }
type TopUpPayload implements Replayable {
  transaction: Transaction!  wallet: Wallet!  balance: Balance!  alreadyProcessed: Boolean!
}
type BonusPayload implements Replayable {
  transaction: Transaction!  wallet: Wallet!  balance: Balance!  alreadyProcessed: Boolean!
}
type SpendPayload implements Replayable {
  transaction: Transaction!  wallet: Wallet!  balance: Balance!  alreadyProcessed: Boolean!
}

union OpenWalletResult = OpenWalletPayload | InvalidOwnerId
union TopUpResult =
  TopUpPayload | WalletNotFound | IdempotencyKeyReused | AssetNotFound | InvalidAmount | BalanceLimitExceeded
union BonusResult =
  BonusPayload | WalletNotFound | IdempotencyKeyReused | AssetNotFound | InvalidAmount | BalanceLimitExceeded
union SpendResult =
  SpendPayload | WalletNotFound | IdempotencyKeyReused | AssetNotFound | InvalidAmount | BalanceLimitExceeded
  | InsufficientBalance

type KeyOutcome { state: KeyOutcomeState!  transaction: Transaction  refusal: Error }
enum KeyOutcomeState { POSTED REFUSED UNKNOWN }

type InvalidOwnerId implements Error { code: ErrorCode!  message: String!  retryable: Boolean! }
type KeptRefusal implements Error & Replayable {
  code: ErrorCode!  message: String!  retryable: Boolean!  alreadyProcessed: Boolean!
}
type WalletNotFound implements Error { code: ErrorCode!  message: String!  retryable: Boolean!  ownerId: String! }
type AssetNotFound implements Error { code: ErrorCode!  message: String!  retryable: Boolean!  assetCode: String! }
type IdempotencyKeyReused implements Error {
  code: ErrorCode!  message: String!  retryable: Boolean!  idempotencyKey: UUID!
}
type InvalidAmount implements Error {
  code: ErrorCode!  message: String!  retryable: Boolean!  reason: InvalidAmountReason!  scale: Int
}
type BalanceLimitExceeded implements Error & Replayable {
  code: ErrorCode!  message: String!  retryable: Boolean!  limit: Amount!  balance: Balance!  alreadyProcessed: Boolean!
}
type InsufficientBalance implements Error & Replayable {
  code: ErrorCode!  message: String!  retryable: Boolean!
  available: Amount!  required: Amount!  balance: Balance!  alreadyProcessed: Boolean!
}

type Asset implements Node { id: ID!  code: String!  name: String!  scale: Int! }
type Wallet implements Node {
  id: ID!  ownerId: String!  openedAt: DateTime!
  balance(asset: String! = "GOLD"): Balance
  balances: [Balance!]
  transactions(
    asset: String! = "GOLD", first: Int, after: String, last: Int, before: String, offset: Int
  ): TransactionConnection
}
type Balance implements Node { id: ID!  ownerId: String!  asset: Asset!  amount: Amount!  cursor: String! }
type Transaction implements Node {
  id: ID!  transactionId: UUID!  type: TransactionType!  direction: Direction!  amount: Amount!  balanceAfter: Amount!
  asset: Asset!  description: String  reference: String  executedAt: DateTime!  idempotencyKey: UUID  entries: [Entry!]
}
type Entry { account: AccountKind!  direction: Direction!  amount: Amount! }
type TransactionConnection {
  edges: [TransactionEdge!]!  nodes: [Transaction!]!  pageInfo: PageInfo!  totalCount: Int
}
type TransactionEdge { cursor: String!  node: Transaction! }
type PageInfo { hasNextPage: Boolean!  hasPreviousPage: Boolean!  startCursor: String  endCursor: String }

enum TransactionType { TOP_UP BONUS SPEND }
enum Direction { CREDIT DEBIT }
enum AccountKind { USER TREASURY }
enum InvalidAmountReason { NOT_POSITIVE TOO_PRECISE TOO_LARGE }
enum ErrorCode {
  WALLET_NOT_FOUND ASSET_NOT_FOUND INVALID_AMOUNT IDEMPOTENCY_KEY_REUSED BALANCE_LIMIT_EXCEEDED INSUFFICIENT_BALANCE
  INVALID_OWNER_ID
}
"""


def own_types(schema: GraphQLSchema) -> dict[str, GraphQLNamedType]:
    """Return a schema's types by name, without those that every schema has."""
    return {
        name: type_
        for name, type_ in schema.type_map.items()
        if not name.startswith("__") and not is_specified_scalar_type(type_)
    }


# The schema as a client sees it: made from its text.
SCHEMA: Final = build_schema(export_schema())
TYPES: Final = own_types(SCHEMA)
CORE_TYPES: Final = own_types(build_schema(CORE))
OF_ITEMS: Final = "PostBatchItemResult"
UNIONS: Final = [type_ for type_ in TYPES.values() if isinstance(type_, GraphQLUnionType) and type_.name != OF_ITEMS]
"""The results of mutations."""
OF_ONE: Final = [union for union in UNIONS if union.name != "PostBatchResult"]


def default(of: GraphQLArgument | GraphQLInputField) -> str | None:
    """Return the default as it is written in the schema."""
    return print_ast(of.ast_node.default_value) if of.ast_node and of.ast_node.default_value else None


def shape(type_: GraphQLNamedType) -> dict[str, Any]:
    """Return what a client relies on: each part of a type, and exactly what it is."""
    match type_:
        case GraphQLObjectType() | GraphQLInterfaceType():
            parts: dict[str, Any] = {f"implements {interface}": True for interface in type_.interfaces}
            for name, field in type_.fields.items():
                parts[name] = str(field.type)
                for argument, of in field.args.items():
                    parts[f"{name}({argument})"] = str(of.type), default(of)
            return parts
        case GraphQLInputObjectType():
            return {name: (str(field.type), default(field)) for name, field in type_.fields.items()}
        case GraphQLUnionType():
            return {str(member): True for member in type_.types}
        case GraphQLEnumType():
            return dict.fromkeys(type_.values, True)
        case GraphQLScalarType():
            return {}
    raise AssertionError(type_)


def described(type_: GraphQLNamedType) -> dict[str, str | None]:
    """Return the description of a type and of each of its parts."""
    texts = {type_.name: type_.description}
    match type_:
        case GraphQLObjectType() | GraphQLInterfaceType():
            for name, field in type_.fields.items():
                texts[f"{type_}.{name}"] = field.description
                for argument, of in field.args.items():
                    texts[f"{type_}.{name}({argument})"] = of.description
        case GraphQLInputObjectType():
            texts |= {f"{type_}.{name}": field.description for name, field in type_.fields.items()}
        case GraphQLEnumType():
            texts |= {f"{type_}.{name}": value.description for name, value in type_.values.items()}
    return texts


def test_schema_file_is_the_codes_schema() -> None:
    assert SCHEMA_FILE.read_text() == export_schema(), "run `wallet-gql export-schema schema.graphql`"


def test_schema_file_is_a_schema() -> None:
    assert validate_schema(build_schema(SCHEMA_FILE.read_text())) == []
    assert validate_schema(executable_schema()) == []


@pytest.mark.parametrize("name", CORE_TYPES)
def test_core_is_there_exactly(name: str) -> None:
    expected, actual = shape(CORE_TYPES[name]), shape(TYPES[name])

    assert type(TYPES[name]) is type(CORE_TYPES[name])
    assert {part: of for part, of in actual.items() if part in expected} == expected


@pytest.mark.parametrize("name", CORE_TYPES)
def test_nothing_that_was_added_to_an_input_is_required(name: str) -> None:
    # It would break every client there is.
    core = shape(CORE_TYPES[name])
    added = {
        part: of
        for part, of in shape(TYPES[name]).items()
        # A field that is new itself may ask for what it likes.
        if part not in core and isinstance(of, tuple) and ("(" not in part or part.partition("(")[0] in core)
    }

    assert {part: of for part, of in added.items() if of[0].endswith("!") and of[1] is None} == {}


@pytest.mark.parametrize("type_", TYPES.values(), ids=TYPES)
def test_everything_is_described(type_: GraphQLNamedType) -> None:
    for name, text in described(type_).items():
        assert text, name
        assert text[0].isupper(), name
        assert text[-1] == ".", name
        assert text.strip() == text, name


def test_default_asset_is_gold_everywhere() -> None:
    defaults = {
        f"{name}.{part}": of
        for name, type_ in TYPES.items()
        for part, of in shape(type_).items()
        if part.endswith("(asset)") or (part == "asset" and isinstance(type_, GraphQLInputObjectType))
    }

    assert len(defaults) == 13
    assert set(defaults.values()) == {("String!", '"GOLD"')}


def test_refusals_are_errors_and_payloads_are_not() -> None:
    error = SCHEMA.type_map["Error"]
    assert isinstance(error, GraphQLInterfaceType)
    implementing = {type_.name for type_ in SCHEMA.get_implementations(error).objects}
    for union in UNIONS:
        members = {member.name for member in union.types}
        assert {name for name in members if name.endswith("Payload")} == {f"{union.name.removesuffix('Result')}Payload"}
        assert {name for name in members if not name.endswith("Payload")} <= implementing


def test_an_item_of_a_batch_ends_as_its_own_mutation_does() -> None:
    mutation, item, union = SCHEMA.mutation_type, SCHEMA.type_map["PostBatchItemInput"], SCHEMA.type_map[OF_ITEMS]
    assert mutation is not None
    assert isinstance(item, GraphQLInputObjectType)
    assert isinstance(union, GraphQLUnionType)
    own: set[str] = set()
    for name, field in item.fields.items():
        assert str(mutation.fields[name].args["input"].type) == f"{field.type}!"
        result = mutation.fields[name].type
        assert isinstance(result, GraphQLUnionType)
        own |= {member.name for member in result.types}
    assert {member.name for member in union.types} == own
    # Every movement is one: what is left opens, changes or limits wallets, or moves the clock.
    assert {name for name in mutation.fields if name not in item.fields} == {
        "openWallet", "postBatch", "freezeWallet", "unfreezeWallet", "closeWallet", "reopenWallet", "setLimit",
        "removeLimit", "advanceTestClock",
    }  # fmt: skip
    members = " ".join(f"... on {member} {selection(member)}" for member in union.types)
    query = f"""mutation($i: PostBatchInput!) {{ postBatch(input: $i) {{ ... on PostBatchPayload {{
      results {{ __typename {members} ... on Error {{ code message retryable }} }}
    }} }} }}"""
    assert validate(executable_schema(), parse(query)) == []


@pytest.mark.parametrize("union", OF_ONE, ids=str)
def test_every_result_can_be_asked_for_its_error(union: GraphQLUnionType) -> None:
    # Clients are told to keep this branch: a union without an error would refuse their documents.
    assert any(implements(member, "Error") for member in union.types)
    for field in fields_of(union):
        input_type = f"{field[0].upper()}{field[1:]}Input!"
        query = f"mutation($i: {input_type}) {{ {field}(input: $i) {{ ... on Error {{ code message }} }} }}"
        assert validate(executable_schema(), parse(query)) == []


def test_already_processed_is_on_its_interface_or_nowhere() -> None:
    with_field = {
        name
        for name, type_ in TYPES.items()
        if isinstance(type_, GraphQLObjectType) and "alreadyProcessed" in type_.fields
    }
    implementing = {name for name, type_ in TYPES.items() if implements(type_, "Replayable")}

    assert with_field == implementing
    assert {f"{verb}Payload" for verb in ("TopUp", "Bonus", "Spend")} < implementing


def implements(type_: GraphQLNamedType, interface: str) -> bool:
    return isinstance(type_, GraphQLObjectType) and interface in {each.name for each in type_.interfaces}


def fields_of(union: GraphQLUnionType) -> list[str]:
    mutation = SCHEMA.mutation_type
    assert mutation is not None
    names = [name for name, field in mutation.fields.items() if field.type is union]
    assert names
    return names


def test_the_schema_itself_is_described() -> None:
    for schema in (SCHEMA, executable_schema(), build_schema(SCHEMA_FILE.read_text())):
        assert schema.description
        assert schema.description[0].isupper()
        assert schema.description[-1] == "."


def selection(type_: GraphQLNamedType, depth: int = 2) -> str:
    """Select every field that needs no argument, so many levels down."""
    assert isinstance(type_, GraphQLObjectType | GraphQLInterfaceType)
    fields = ["__typename"]
    for name, field in type_.fields.items():
        below = get_named_type(field.type)
        if is_leaf_type(below):
            fields.append(name)
        elif depth:
            fields.append(f"{name} {selection(below, depth - 1)}")
    return f"{{ {' '.join(fields)} }}"


@pytest.mark.parametrize("union", OF_ONE, ids=str)
def test_every_field_of_every_member_can_be_selected_without_an_alias(union: GraphQLUnionType) -> None:
    field = fields_of(union)[0]
    members = " ".join(f"... on {member} {selection(member)}" for member in union.types)
    query = f"mutation($i: {field[0].upper()}{field[1:]}Input!) {{ {field}(input: $i) {{ __typename {members} }} }}"

    # GraphQL's rule of the same response shape: a field that two members share has one type.
    assert validate(executable_schema(), parse(query)) == []


def test_every_field_of_every_node_can_be_selected_without_an_alias() -> None:
    node = SCHEMA.type_map["Node"]
    assert isinstance(node, GraphQLInterfaceType)
    members = SCHEMA.get_implementations(node).objects
    spreads = " ".join(f"... on {member} {selection(member)}" for member in members)

    assert {member.name for member in members} == {"Asset", "Wallet", "Balance", "Transaction", "Hold", "Lot", "Limit"}
    assert validate(executable_schema(), parse(f'{{ node(id: "x") {{ id {spreads} }} }}')) == []


def test_mutations_are_nullable() -> None:
    # A fault in one field must not erase the committed answer of another.
    mutation = SCHEMA.mutation_type
    assert mutation is not None
    assert {name: str(field.type) for name, field in mutation.fields.items() if str(field.type).endswith("!")} == {}


def test_refusals_stand_in_one_table_of_the_docs() -> None:
    """The order is played by `test_order_of_refusals`; here, that none is missing and what it says of keys is true."""
    rows = re.findall(r"^\| `(\w+)`[^|]*\|[^|]*\| (\S+) \|$", API_FILE.read_text(), re.MULTILINE)
    schema = executable_schema()
    named = {name: kept == "yes" for name, kept in rows if name in schema.type_map}
    error, replayable = schema.type_map["Error"], schema.type_map["Replayable"]
    refusals = {
        each.name: replayable in each.interfaces
        for each in schema.type_map.values()
        if isinstance(each, GraphQLObjectType) and error in each.interfaces and each.name != "KeptRefusal"
    }
    assert named == refusals


def test_faults_stand_in_one_table_of_the_docs() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (no|perhaps) \| [^|]+ \|$", API_FILE.read_text(), re.MULTILINE)
    made = set(re.findall(r'"([A-Z_]{6,})"', "".join(map(Path.read_text, ENDPOINT.glob("*.py")))))
    assert dict(rows).keys() == made
    assert [code for code, posted in rows if posted == "perhaps"] == ["OUTCOME_UNKNOWN", "INTERNAL"]
