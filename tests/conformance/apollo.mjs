// Apollo Client: its normalised cache follows a mutation's payload alone, pages merge, refusals are told apart. The cache
// is the one that docs/api.md prints.
import { createHash } from "node:crypto";
import { ApolloClient, HttpLink } from "@apollo/client";
import { PersistedQueryLink } from "@apollo/client/link/persisted-queries";
import { checkCache } from "./caches.mjs";
import { printed } from "./docs.mjs";
import { assert, countingFetch, failOnWarnings, flow, newOwner, operation, possibleTypes, until } from "./wallet.mjs";

failOnWarnings();
const { fetch, sent } = countingFetch();
const { makeCache } = await printed("@apollo/client");
const client = new ApolloClient({
  link: new HttpLink({ uri: process.argv[2], fetch }),
  cache: makeCache(possibleTypes),
});
const ownerId = newOwner("apollo");
const mutate = async (name, variables) => Object.values((await client.mutate({ mutation: operation(name), variables })).data)[0];

assert.equal((await mutate("OpenWallet", { input: { ownerId } })).alreadyOpen, false);

// A screen that shows root balance and wallet.balance.
const screen = client.watchQuery({ query: operation("Player"), variables: { ownerId } });
let shown;
screen.subscribe(({ data }) => (shown = data));
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
await client.mutate({ mutation: operation("TopUp"), variables: flow(ownerId, "5") });
await shows("75");
assert.deepEqual(sent, ["OpenWallet", "Player", "TopUp", "Spend", "Spend", "TopUp", "TopUp"], "no query was sent again");

// Pages: three transactions, two a page, merged into one list in the cache.
const history = client.watchQuery({ query: operation("History"), variables: { ownerId, first: 2 } });
let page;
history.subscribe(({ data }) => (page = data?.wallet?.transactions));
await until(() => page?.edges.length === 2, "the first page");
assert.equal(page.pageInfo.hasNextPage, true);
await history.fetchMore({ variables: { after: page.pageInfo.endCursor } });
await until(() => page.edges.length === 3, "both pages");
assert.deepEqual(page.edges.map(({ node }) => node.balanceAfter), ["75", "70", "100"]);
assert.equal(page.pageInfo.hasNextPage, false);

// An interface read from the cache: possibleTypes, made from the schema, tells which types it can be.
const ids = [shown.wallet.id, shown.balance.id, page.edges[0].node.id, shown.balance.asset.id];
const { data } = await client.query({ query: operation("Things"), variables: { id: shown.balance.id, ids } });
assert.deepEqual(data.nodes, ["Wallet", "Balance", "Transaction", "Asset"].map((__typename, i) => ({ __typename, id: ids[i] })));
assert.equal(data.node.id, shown.balance.id);

const requests = sent.length;

const query = async (document, variables, fetchPolicy = "cache-first") => (await client.query({ query: document, variables, fetchPolicy })).data;
await checkCache({
  query,
  fresh: (document, variables) => query(document, variables, "network-only"),
  more: async (document, variables, after) => {
    const list = client.watchQuery({ query: document, variables });
    const watching = list.subscribe(() => {});
    await list.fetchMore({ variables: { after } });
    watching.unsubscribe();
    return query(document, variables);
  },
  mutate: async (mutation, variables) => (await client.mutate({ mutation, variables })).data,
  count: () => sent.length,
});
client.stop();

// Automatic persisted queries: after one answer the client sends documents again, and no hashes.
for (const useGETForHashedQueries of [false, true]) {
  const hashed = countingFetch();
  const sha256 = (text) => createHash("sha256").update(text).digest("hex");
  const persisting = new ApolloClient({
    link: new PersistedQueryLink({ sha256, useGETForHashedQueries }).concat(new HttpLink({ uri: process.argv[2], fetch: hashed.fetch })),
    cache: makeCache(possibleTypes),
  });
  for (const ownerId of ["demo-alice", "demo-bob"]) {
    const { data } = await persisting.query({ query: operation("Player"), variables: { ownerId } });
    assert.equal(data.wallet.ownerId, ownerId);
  }
  assert.deepEqual(hashed.sent, ["Player", "Player", "Player"]);
  persisting.stop();
}
console.log(`root balance and wallet.balance followed 3 payloads without a refetch; ${requests} requests in all; nothing was mixed up`);
