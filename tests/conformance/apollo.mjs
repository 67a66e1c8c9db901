// Apollo Client: its normalised cache follows a mutation's payload alone, pages merge, refusals are told apart.
import { ApolloClient, HttpLink, InMemoryCache } from "@apollo/client";
import { relayStylePagination } from "@apollo/client/utilities";
import { assert, countingFetch, failOnWarnings, flow, newOwner, operation, possibleTypes, until } from "./wallet.mjs";

failOnWarnings();
const { fetch, sent } = countingFetch();
const client = new ApolloClient({
  link: new HttpLink({ uri: process.argv[2], fetch }),
  cache: new InMemoryCache({
    possibleTypes,
    typePolicies: { Wallet: { fields: { transactions: relayStylePagination(["asset"]) } } },
  }),
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

client.stop();
console.log(`root balance and wallet.balance followed 3 payloads without a refetch; ${sent.length} requests in all`);
