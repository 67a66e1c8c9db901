// What the checks of Node's clients share: the schema, the sample operations, and a fetch that counts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { buildSchema, isAbstractType, Kind, parse } from "graphql";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");

export const schema = buildSchema(read("../../schema.graphql"));
const samples = parse(read("operations.graphql"));
const fragments = samples.definitions.filter((definition) => definition.kind === Kind.FRAGMENT_DEFINITION);
const types = Object.values(schema.getTypeMap()).filter((type) => !type.name.startsWith("__"));

/** A sample operation by its name, with every fragment (a client prints and sends only what it is given). */
export function operation(name) {
  const definition = samples.definitions.find((each) => each.kind === Kind.OPERATION_DEFINITION && each.name.value === name);
  assert(definition, `operations.graphql has no ${name}`);
  const used = new Set();
  const use = (node) =>
    JSON.stringify(node, (_, value) => {
      if (value?.kind === Kind.FRAGMENT_SPREAD && !used.has(value.name.value)) {
        used.add(value.name.value);
        use(fragments.find((fragment) => fragment.name.value === value.name.value));
      }
      return value;
    });
  use(definition);
  return { kind: Kind.DOCUMENT, definitions: [definition, ...fragments.filter((fragment) => used.has(fragment.name.value))] };
}

/** Which types an interface or a union can be, as Apollo's cache wants to be told. */
export const possibleTypes = Object.fromEntries(
  types.filter(isAbstractType).map((type) => [type.name, schema.getPossibleTypes(type).map((each) => each.name)]),
);

/** A fetch that keeps what was sent, and accepts nothing but an answer of the specification's own media type. */
export function countingFetch() {
  const sent = [];
  const counting = async (url, options) => {
    const response = await fetch(url, options);
    assert.match(response.headers.get("content-type"), /^application\/graphql-response\+json/, "the answer's media type");
    sent.push(options.method === "GET" ? new URL(url).searchParams.get("operationName") : JSON.parse(options.body).operationName);
    return response;
  };
  return { fetch: counting, sent };
}

/** Wait until something is so; what a cache tells its watchers it tells in a later turn. */
export async function until(isSo, what) {
  for (const deadline = Date.now() + 20_000; Date.now() < deadline; ) {
    if (isSo()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail(`did not happen: ${what}`);
}

/** A client's warnings are failures: they are how a cache says that it lost something. */
export function failOnWarnings() {
  for (const level of ["warn", "error"]) {
    console[level] = (...words) => {
      process.stderr.write(`the client warns: ${words.join(" ")}\n`);
      process.exitCode = 1;
    };
  }
}

export const newOwner = (prefix) => `${prefix}-${crypto.randomUUID()}`;
export const flow = (ownerId, amount) => ({ input: { ownerId, amount, idempotencyKey: crypto.randomUUID() } });
export { assert };
