// Relay's own runtime on the compiled operations: a payload updates the store, @refetchable pages through `node`.
import {
  commitMutation,
  createOperationDescriptor,
  Environment,
  fetchQuery,
  getRequest,
  getSingularSelector,
  Network,
  RecordSource,
  Store,
  type GraphQLResponse,
  type MutationParameters,
  type GraphQLTaggedNode,
} from "relay-runtime";
import Player_wallet, { type Player_wallet$data } from "../.work/relay/Player_wallet.graphql";
import PlayerHistoryQuery, { type PlayerHistoryQuery as HistoryQuery } from "../.work/relay/PlayerHistoryQuery.graphql";
import PlayerNodesQuery, { type PlayerNodesQuery as NodesQuery } from "../.work/relay/PlayerNodesQuery.graphql";
import PlayerOpenWalletMutation, { type PlayerOpenWalletMutation as OpenWallet } from "../.work/relay/PlayerOpenWalletMutation.graphql";
import PlayerQuery, { type PlayerQuery as Player, type PlayerQuery$data } from "../.work/relay/PlayerQuery.graphql";
import PlayerTopUpMutation, { type PlayerTopUpMutation as TopUp } from "../.work/relay/PlayerTopUpMutation.graphql";

const url = process.argv[2]!;
const sent: string[] = [];
const environment = new Environment({
  network: Network.create(async ({ name, text }, variables) => {
    sent.push(name);
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/graphql-response+json" },
      body: JSON.stringify({ query: text, variables }),
    });
    return (await response.json()) as GraphQLResponse;
  }),
  store: new Store(new RecordSource()),
});

function equal(actual: unknown, expected: unknown): void {
  if (JSON.stringify(actual) !== JSON.stringify(expected)) {
    throw new Error(`${JSON.stringify(actual)} is not ${JSON.stringify(expected)}`);
  }
}

function mutate<T extends MutationParameters>(mutation: GraphQLTaggedNode, variables: T["variables"]): Promise<T["response"]> {
  return new Promise((resolve, reject) =>
    commitMutation<T>(environment, {
      mutation,
      variables,
      onError: reject,
      onCompleted: (response, errors) => (errors ? reject(new Error(errors[0]?.message)) : resolve(response)),
    }),
  );
}

const ownerId = `relay-${crypto.randomUUID()}`;
const topUp = (amount: string) =>
  mutate<TopUp>(PlayerTopUpMutation, { input: { ownerId, amount, idempotencyKey: crypto.randomUUID() } });

equal((await topUp("1")).topUp?.code, "WALLET_NOT_FOUND");
await mutate<OpenWallet>(PlayerOpenWalletMutation, { input: { ownerId } });
for (const amount of ["100", "20", "3"]) equal((await topUp(amount)).topUp?.__typename, "TopUpPayload");

// A screen that shows root balance, wallet.balance and the newest two transactions.
const operation = createOperationDescriptor(getRequest(PlayerQuery), { ownerId });
environment.retain(operation);
await fetchQuery<Player>(environment, PlayerQuery, { ownerId }).toPromise();
const screen = () => environment.lookup(operation.fragment).data as unknown as PlayerQuery$data;
const history = () => {
  const selector = getSingularSelector(Player_wallet, screen().wallet);
  return (environment.lookup(selector!).data as unknown as Player_wallet$data).transactions!;
};
equal([screen().balance?.amount, screen().wallet?.balance?.amount], ["123", "123"]);
const sentBefore = sent.length;
await topUp("4");
equal([screen().balance?.amount, screen().wallet?.balance?.amount], ["127", "127"]);
equal(sent.slice(sentBefore), ["PlayerTopUpMutation"]);

// The next page is asked of `node`, and joins the list in the store; what was posted meanwhile does not shift it.
equal(history().edges.map(({ node }) => node.balanceAfter), ["123", "120"]);
equal(history().pageInfo.hasNextPage, true);
const next = { id: screen().wallet!.id, count: 2, cursor: history().pageInfo.endCursor };
await fetchQuery<HistoryQuery>(environment, PlayerHistoryQuery, next).toPromise();
equal(history().edges.map(({ node }) => node.balanceAfter), ["123", "120", "100"]);
equal(history().pageInfo.hasNextPage, false);

const ids = [screen().wallet!.id, screen().balance!.id];
const things = await fetchQuery<NodesQuery>(environment, PlayerNodesQuery, { id: ids[1]!, ids }).toPromise();
equal(things?.node, { __typename: "Balance", amount: "127" });
equal(things?.nodes.map((node) => node?.id), ids);
console.log("6 operations compiled; a payload updated the store, and a page was refetched through node");
