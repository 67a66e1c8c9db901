// graphql-eslint on schema.graphql and on the sample operations. Every rule of the plugin is chosen, or left out for a
// reason; a rule that a later version adds is neither, and then this file refuses to load.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import plugin from "@graphql-eslint/eslint-plugin";
import { buildSchema } from "graphql";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const SCHEMA_FILE = path("../../schema.graphql");
const OPERATIONS_FILE = path("operations.graphql");
const schema = buildSchema(readFileSync(SCHEMA_FILE, "utf8"));
const errors = schema.getPossibleTypes(schema.getType("Error")).map((type) => type.name);

// What can only be told of both: validity as graphql-js defines it.
const OF_BOTH = {
  "known-argument-names": [],
  "known-directives": [],
  "known-type-names": [],
  "provided-required-arguments": [],
  "unique-argument-names": [],
  "unique-directive-names-per-location": [],
};

const OF_THE_SCHEMA = {
  ...OF_BOTH,
  "lone-schema-definition": [],
  "possible-type-extension": [],
  "unique-directive-names": [],
  "unique-enum-value-names": [],
  "unique-field-definition-names": [],
  "unique-operation-types": [],
  "unique-type-names": [],

  "description-style": [],
  "no-hashtag-description": [],
  "no-unreachable-types": [],
  "require-description": [
    { types: true, rootField: true, FieldDefinition: true, InputValueDefinition: true, EnumValueDefinition: true, DirectiveDefinition: true },
  ],
  "naming-convention": [
    {
      types: "PascalCase",
      FieldDefinition: "camelCase",
      InputValueDefinition: "camelCase",
      Argument: "camelCase",
      DirectiveDefinition: "camelCase",
      EnumValueDefinition: "UPPER_CASE",
      "FieldDefinition[parent.name.value=Query]": { forbiddenPrefixes: ["query", "get"], forbiddenSuffixes: ["Query"] },
      "FieldDefinition[parent.name.value=Mutation]": { forbiddenPrefixes: ["mutation"], forbiddenSuffixes: ["Mutation"] },
      EnumTypeDefinition: { forbiddenPrefixes: ["Enum"], forbiddenSuffixes: ["Enum"] },
      InterfaceTypeDefinition: { forbiddenPrefixes: ["Interface"], forbiddenSuffixes: ["Interface"] },
      UnionTypeDefinition: { forbiddenPrefixes: ["Union"], forbiddenSuffixes: ["Union"] },
    },
  ],

  "input-name": [{ checkInputType: true, caseSensitiveInputType: false }],
  "no-scalar-result-type-on-mutation": [],
  "require-nullable-result-in-root": [],
  "require-deprecation-reason": [],
  "require-nullable-fields-with-oneof": [],

  // Forward only: holds are read from the newest on.
  "relay-arguments": [{ includeBoth: false }],
  "relay-connection-types": [],
  // Off for lists: entries, assets and a connection's `nodes` are short or bounded, and plain lists on purpose.
  "relay-edge-types": [{ withEdgeSuffix: true, shouldImplementNode: true, listTypeCanWrapOnlyEdgeType: false }],
  "relay-page-info": [],
  "strict-id-in-types": [
    // Without an id: a payload, an outcome and an error are answers, an edge, a page, a leg and a use of a lot or a limit are places in something that has one. Whoever
    // asks is known by kind and name, and a key by what it is called in itself.
    { exceptions: { types: [...errors, "Actor", "ApiKey", "Entry", "KeyOutcome", "LimitUse", "LotUse", "PageInfo", "Viewer"], suffixes: ["Payload", "Connection", "Edge"] } },
  ],
};

const OF_OPERATIONS = {
  ...OF_BOTH,
  "executable-definitions": [],
  "fields-on-correct-type": [],
  "fragments-on-composite-type": [],
  "known-fragment-names": [],
  "lone-anonymous-operation": [],
  "no-fragment-cycles": [],
  "no-undefined-variables": [],
  "no-unused-fragments": [],
  "no-unused-variables": [],
  "one-field-subscriptions": [],
  "overlapping-fields-can-be-merged": [],
  "possible-fragment-spread": [],
  "scalar-leafs": [],
  "unique-input-field-names": [],
  "unique-variable-names": [],
  "value-literals-of-correct-type": [],
  "variables-are-input-types": [],
  "variables-in-allowed-position": [],

  "naming-convention": [
    {
      VariableDefinition: "camelCase",
      OperationDefinition: { style: "PascalCase", forbiddenPrefixes: ["Query", "Mutation", "Get"], forbiddenSuffixes: ["Query", "Mutation"] },
      FragmentDefinition: { style: "PascalCase", forbiddenPrefixes: ["Fragment"], forbiddenSuffixes: ["Fragment"] },
    },
  ],
  "no-anonymous-operations": [],
  "no-deprecated": [],
  "no-duplicate-fields": [],
  "no-one-place-fragments": [],
  "require-selections": [],
  "selection-set-depth": [{ maxDepth: 7 }],
  "unique-fragment-name": [],
  "unique-operation-name": [],
};

const LEFT_OUT = {
  alphabetize: "fields stand in the order in which they are explained: id, then what matters most",
  "lone-executable-definition": "the sample operations are read together, in one file",
  "match-document-filename": "for the same reason",
  "no-root-type": "it forbids mutations or subscriptions; we have mutations",
  "no-typename-prefix": "Transaction.transactionId is the ledger's own id beside the global `id`; both names are the contract's",
  "no-unused-fields": "it reports what the samples do not select; an API has other clients",
  "require-deprecation-date": "it wants an argument that @deprecated does not have; tests/contract finds the date in the reason",
  "require-field-of-type-query-in-mutation-result": "payloads carry what changed, with ids: caches need no `query` field",
  "require-import-fragment": "it wants #import comments, which nothing here reads",
  "require-type-pattern-with-oneof": "it wants `ok` and `error` fields; our results are unions",
};

const chosen = new Set([...Object.keys(OF_THE_SCHEMA), ...Object.keys(OF_OPERATIONS), ...Object.keys(LEFT_OUT)]);
const undecided = Object.keys(plugin.rules).filter((rule) => !chosen.has(rule));
if (undecided.length) throw new Error(`choose, or leave out for a reason: ${undecided.join(", ")}`);

const lint = (file, rules) => ({
  files: [`**/${file.split("/").at(-1)}`],
  plugins: { "@graphql-eslint": plugin },
  languageOptions: {
    parser: plugin.parser,
    parserOptions: { graphQLConfig: { schema: SCHEMA_FILE, documents: OPERATIONS_FILE } },
  },
  rules: Object.fromEntries(
    Object.entries(rules).map(([rule, options]) => [`@graphql-eslint/${rule}`, ["error", ...options]]),
  ),
});

export default [lint(SCHEMA_FILE, OF_THE_SCHEMA), lint(OPERATIONS_FILE, OF_OPERATIONS)];
