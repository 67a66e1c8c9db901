// What a normalised cache must not mix up, whichever client keeps it: owners, assets, pages, and what does not exist.
import { parse } from "graphql";
import { assert, flow, newOwner, operation } from "./wallet.mjs";

const PAGE = `{
  totalCount
  edges { cursor node { id amount asset { id code } entries { account direction amount } } }
  pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
}`;
const ROOT = parse(`query Root($ownerId: String!, $asset: String!, $first: Int!, $after: String) {
  transactions(ownerId: $ownerId, asset: $asset, first: $first, after: $after) ${PAGE}
}`);
const NESTED = parse(`query Nested($ownerId: String!, $asset: String!, $first: Int!, $after: String) {
  wallet(ownerId: $ownerId) { id transactions(asset: $asset, first: $first, after: $after) ${PAGE} }
}`);
const BY_OFFSET = parse(`query ByOffset($ownerId: String!, $asset: String!, $first: Int!, $offset: Int!) {
  transactions(ownerId: $ownerId, asset: $asset, first: $first, offset: $offset) ${PAGE}
}`);
const BALANCES = parse(`query Balances($ownerId: String!) {
  balance(ownerId: $ownerId) { id amount ownerId }
  points: balance(ownerId: $ownerId, asset: "POINTS") { id amount ownerId }
  none: balance(ownerId: $ownerId, asset: "NONE") { id amount }
  wallet(ownerId: $ownerId) { id ownerId balances { id amount asset { id code } } }
}`);
const OUTCOME = parse(`query Outcome($ownerId: String!, $key: UUID!) {
  outcomeByKey(ownerId: $ownerId, idempotencyKey: $key) {
    state
    transaction { id amount }
    refusal { code message ... on InsufficientBalance { available required balance { id amount } } }
  }
}`);
const SPEND = parse(`mutation SpendAll($input: SpendInput!) {
  spend(input: $input) {
    ... on SpendPayload { balance { id amount } }
    ... on Error { code message }
    ... on Replayable { alreadyProcessed }
    ... on InsufficientBalance { available required balance { id amount } }
  }
}`);
const OPEN = parse(`mutation Open($input: OpenWalletInput!) {
  openWallet(input: $input) { ... on OpenWalletPayload { wallet { id ownerId } } ... on Error { code message } }
}`);

/**
 * Check a client through its cache. `query` answers from the cache where it can, `fresh` asks the server,
 * `more` asks for a further page and answers the list as it then is, and `count` says how many requests were sent.
 */
export async function checkCache({ query, fresh, more, mutate, count }) {
  const [a, b, nobody] = ["a", "b", "nobody"].map(newOwner);
  const amounts = (page) => page.edges.map(({ node }) => node.amount);
  const key = crypto.randomUUID();
  for (const [ownerId, times] of [[a, 1], [b, 10]]) {
    await mutate(operation("OpenWallet"), { input: { ownerId } });
    for (let n = 1; n <= 5; n++) await mutate(operation("TopUp"), flow(ownerId, `${n * times}`));
    for (const amount of [7, 8, 9]) {
      const points = flow(ownerId, `${amount * times}`);
      await mutate(operation("TopUp"), { input: { ...points.input, asset: "POINTS" } });
    }
  }

  for (const [document, pageOf] of [[ROOT, (data) => data.transactions], [NESTED, (data) => data.wallet?.transactions]]) {
    const list = async (ownerId, asset, get = query) => pageOf(await get(document, { ownerId, asset, first: 2 }));
    const page = await list(a, "GOLD");
    assert.deepEqual(amounts(page), ["5", "4"]);
    assert.deepEqual(amounts(await list(b, "GOLD")), ["50", "40"]);
    assert.deepEqual(amounts(await list(a, "POINTS")), ["9.00", "8.00"]);
    assert.equal((await list(nobody, "GOLD")) ?? null, null, "who does not exist has no history, not an empty one");
    assert.equal((await list(a, "NONE")) ?? null, null);

    // One owner's further page belongs to that owner and asset alone.
    const both = pageOf(await more(document, { ownerId: a, asset: "GOLD", first: 2 }, page.pageInfo.endCursor));
    assert.deepEqual(amounts(both), ["5", "4", "3", "2"]);
    const before = count();
    assert.deepEqual(amounts(await list(a, "GOLD")), ["5", "4", "3", "2"]);
    assert.deepEqual(amounts(await list(b, "GOLD")), ["50", "40"]);
    assert.deepEqual(amounts(await list(a, "POINTS")), ["9.00", "8.00"]);
    assert.equal((await list(nobody, "GOLD")) ?? null, null);
    assert.equal((await list(a, "NONE")) ?? null, null);
    assert.equal(count(), before, "all of it was in the cache");
    assert.equal((await list(a, "GOLD")).totalCount, 5);
  }

  // Pages by offset stand alone, beside the list.
  const byOffset = async (ownerId, offset) =>
    amounts((await query(BY_OFFSET, { ownerId, asset: "GOLD", first: 2, offset })).transactions);
  for (let round = 0; round < 2; round++) {
    assert.deepEqual(await byOffset(a, 0), ["5", "4"]);
    assert.deepEqual(await byOffset(a, 2), ["3", "2"]);
    assert.deepEqual(await byOffset(b, 2), ["30", "20"]);
  }
  const { transactions } = await query(ROOT, { ownerId: a, asset: "GOLD", first: 2 });
  assert.deepEqual(amounts(transactions), ["5", "4", "3", "2"]);

  // Balances, of two owners in two assets; null stays null.
  const balances = async (ownerId, get = query) => {
    const { balance, points, none, wallet } = await get(BALANCES, { ownerId });
    assert.equal(none, null);
    assert.equal(balance?.ownerId, wallet?.ownerId);
    return [balance?.amount, points?.amount, wallet?.balances.map(({ amount }) => amount)];
  };
  assert.deepEqual(await balances(a), ["15", "24.00", ["15", "0", "24.00"]]);
  assert.deepEqual(await balances(b), ["150", "240.00", ["150", "0", "240.00"]]);
  assert.deepEqual(await balances(nobody), [undefined, undefined, undefined]);
  const refused = (await mutate(SPEND, { input: { ownerId: a, amount: "16", idempotencyKey: key } })).spend;
  assert.deepEqual([refused.code, refused.available, refused.required, refused.alreadyProcessed], ["INSUFFICIENT_BALANCE", "15", "16", false]);
  await mutate(SPEND, flow(a, "15"));
  assert.deepEqual(await balances(a), ["0", "24.00", ["0", "0", "24.00"]]);
  assert.deepEqual(await balances(b), ["150", "240.00", ["150", "0", "240.00"]]);

  // What changes by itself is asked past the cache, as the docs say.
  const posting = flow(b, "1");
  const outcome = async (ownerId, of) => (await fresh(OUTCOME, { ownerId, key: of })).outcomeByKey;
  const { idempotencyKey } = posting.input;
  assert.equal((await outcome(b, idempotencyKey)).state, "UNKNOWN");
  assert.equal(await outcome(nobody, idempotencyKey), null);
  await mutate(operation("TopUp"), posting);
  const posted = await outcome(b, idempotencyKey);
  assert.deepEqual([posted.state, posted.transaction.amount, posted.refusal], ["POSTED", "1", null]);
  const told = await outcome(a, key);
  assert.deepEqual([told.state, told.transaction, told.refusal.code, told.refusal.required], ["REFUSED", null, "INSUFFICIENT_BALANCE", "16"]);
  assert.deepEqual(await balances(b), ["151", "240.00", ["151", "0", "240.00"]]);
  const again = await fresh(ROOT, { ownerId: b, asset: "GOLD", first: 2 });
  assert.deepEqual(amounts(again.transactions).slice(0, 2), ["1", "50"]);

  // A wallet that is opened is there when it is asked for again.
  const { openWallet } = await mutate(OPEN, { input: { ownerId: nobody } });
  assert.equal(openWallet.wallet.ownerId, nobody);
  const unusable = await mutate(OPEN, { input: { ownerId: `${nobody}\u200b` } });
  assert.equal(unusable.openWallet.code, "INVALID_OWNER_ID");
  assert.deepEqual(await balances(nobody, fresh), ["0", "0.00", ["0", "0", "0.00"]]);
  const empty = await fresh(ROOT, { ownerId: nobody, asset: "GOLD", first: 2 });
  assert.deepEqual([empty.transactions.totalCount, empty.transactions.edges], [0, []]);
}
