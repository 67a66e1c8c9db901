// urql with graphcache as docs/api.md prints it: the same as Apollo's check. urql's Accept lists text/event-stream too.
import { Client, fetchExchange } from "@urql/core";
import { persistedExchange } from "@urql/exchange-persisted";
import { introspectionFromSchema } from "graphql";
import { checkCache } from "./caches.mjs";
import { printed } from "./docs.mjs";
import { assert, countingFetch, failOnWarnings, flow, newOwner, operation, schema, until } from "./wallet.mjs";

failOnWarnings();
const { fetch, sent } = countingFetch();
const { makeCache } = await printed("@urql/exchange-graphcache");
const introspection = introspectionFromSchema(schema);
const client = new Client({
  url: process.argv[2],
  fetch: (url, options) => {
    assert.match(options.headers.accept, /text\/event-stream/);
    return fetch(url, options);
  },
  exchanges: [makeCache(introspection), fetchExchange],
});
const ownerId = newOwner("urql");
const mutate = async (name, variables) => {
  const { data, error } = await client.mutation(operation(name), variables);
  assert.ifError(error);
  return Object.values(data)[0];
};

assert.equal((await mutate("OpenWallet", { input: { ownerId } })).alreadyOpen, false);

// A screen that shows root balance and wallet.balance.
let shown;
client.query(operation("Player"), { ownerId }).subscribe(({ data }) => (shown = data));
const shows = (amount) => until(() => shown?.balance?.amount === amount && shown.wallet.balance.amount === amount, `both show ${amount}`);
await shows("0");

assert.equal((await mutate("TopUp", flow(ownerId, "100"))).__typename, "TopUpPayload");
await shows("100");
assert.equal((await mutate("Spend", flow(ownerId, "30"))).__typename, "SpendPayload");
await shows("70");
const refused = await mutate("Spend", flow(ownerId, "71"));
assert.deepEqual(
  [refused.__typename, refused.code, refused.available, refused.required, refused.balance.amount],
  ["InsufficientBalance", "INSUFFICIENT_BALANCE", "70", "71", "70"],
);
const unknown = await mutate("TopUp", flow(newOwner("nobody"), "1"));
assert.deepEqual([unknown.__typename, unknown.code], ["WalletNotFound", "WALLET_NOT_FOUND"]);
await mutate("TopUp", flow(ownerId, "5"));
await shows("75");
assert.deepEqual(sent, ["OpenWallet", "Player", "TopUp", "Spend", "Spend", "TopUp", "TopUp"], "no query was sent again");

// Pages: three transactions, two a page, merged into one list in the cache.
let page;
const turn = (after) => client.query(operation("History"), { ownerId, first: 2, after }).subscribe(({ data }) => (page = data?.wallet?.transactions ?? page));
turn(null);
await until(() => page?.edges.length === 2, "the first page");
assert.equal(page.pageInfo.hasNextPage, true);
turn(page.pageInfo.endCursor);
await until(() => page.edges.length === 3, "both pages");
assert.deepEqual(page.edges.map(({ node }) => node.balanceAfter), ["75", "70", "100"]);
assert.equal(page.pageInfo.hasNextPage, false);

const ids = [shown.wallet.id, shown.balance.id, page.edges[0].node.id, shown.balance.asset.id];
const { data, error } = await client.query(operation("Things"), { id: shown.balance.id, ids });
assert.ifError(error);
assert.deepEqual(data.nodes.map(({ __typename, id }) => [__typename, id]), ["Wallet", "Balance", "Transaction", "Asset"].map((name, i) => [name, ids[i]]));
assert.equal(data.node.id, shown.balance.id);

const requests = sent.length;

const answered = async (asked) => {
  const { data, error } = await asked;
  assert.ifError(error);
  return data;
};
const query = (document, variables, requestPolicy) => answered(client.query(document, variables, { requestPolicy }));
await checkCache({
  query,
  fresh: (document, variables) => query(document, variables, "network-only"),
  more: (document, variables, after) => query(document, { ...variables, after }),
  mutate: (document, variables) => answered(client.mutation(document, variables)),
  count: () => sent.length,
});

// Automatic persisted queries: after one answer the client sends documents again, and no hashes.
for (const preferGetForPersistedQueries of [false, true]) {
  const hashed = countingFetch();
  const persisting = new Client({
    url: process.argv[2],
    fetch: hashed.fetch,
    exchanges: [persistedExchange({ preferGetForPersistedQueries }), fetchExchange],
  });
  for (const ownerId of ["demo-alice", "demo-bob"]) {
    const data = await answered(persisting.query(operation("Player"), { ownerId }));
    assert.equal(data.wallet.ownerId, ownerId);
  }
  assert.deepEqual(hashed.sent, ["Player", "Player", "Player"]);
}
console.log(`root balance and wallet.balance followed 3 payloads without a refetch; ${requests} requests in all; nothing was mixed up`);
