// An application in strict TypeScript on the client preset's typed documents; the compiler checks every line of it.
import type { TypedDocumentNode } from "@graphql-typed-document-node/core";
import { print } from "graphql";
import { useFragment } from "../.work/codegen/fragment-masking";
import * as api from "../.work/codegen/graphql";

const url = process.argv[2]!;

async function send<Data, Variables>(document: TypedDocumentNode<Data, Variables>, variables: Variables): Promise<Data> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/graphql-response+json" },
    body: JSON.stringify({ query: print(document), variables }),
  });
  const { data, errors } = (await response.json()) as { data?: Data; errors?: { message: string }[] };
  if (!data || errors) throw new Error(errors?.[0]?.message ?? `HTTP ${response.status}`);
  return data;
}

function equal(actual: string | undefined, expected: string): void {
  if (actual !== expected) throw new Error(`${actual} is not ${expected}`);
}

/** Every member of the union is told apart by its name; a member added later falls through to `... on Error`. */
function told(result: api.SpendMutation["spend"]): string {
  if (!result) return "a fault: the top-level errors say which";
  switch (result.__typename) {
    case "SpendPayload":
      return `spent ${useFragment(api.TransactionPartsFragmentDoc, result.transaction).amount}`;
    case "InsufficientBalance":
      return `${result.available} of ${result.required}`;
    default:
      return `${result.code}: ${result.message}`;
  }
}

const ownerId = `codegen-${crypto.randomUUID()}`;
const input = (amount: string): api.SpendInput => ({ ownerId, amount, idempotencyKey: crypto.randomUUID() });

await send(api.OpenWalletDocument, { input: { ownerId } });
await send(api.TopUpDocument, { input: input("100") });
equal(told((await send(api.SpendDocument, { input: input("30") })).spend), "spent 30");
equal(told((await send(api.SpendDocument, { input: input("71") })).spend), "70 of 71");
equal(told((await send(api.SpendDocument, { input: input("0") })).spend).split(":")[0], "INVALID_AMOUNT");
const { balance } = await send(api.PlayerDocument, { ownerId });
equal(useFragment(api.BalancePartsFragmentDoc, balance)?.amount, "70");
const { wallet } = await send(api.HistoryDocument, { ownerId, first: 1 });
const edge = wallet?.transactions?.edges[0];
const newest: { type: api.TransactionType; executedAt: string } = useFragment(api.TransactionPartsFragmentDoc, edge!.node);
equal(newest.type, "SPEND");

// The compiler refuses what the schema refuses: each line below must be an error, or tsc fails.
export function wrong(): void {
  // @ts-expect-error an amount is a string, for a JSON number loses digits
  void send(api.TopUpDocument, { input: { ...input("1"), amount: 1 } });
  // @ts-expect-error a key is required
  void send(api.TopUpDocument, { input: { ownerId, amount: "1" } });
  // @ts-expect-error a balance can be null
  void useFragment(api.BalancePartsFragmentDoc, balance).amount;
  // @ts-expect-error no such type of transaction
  void (newest.type === "GIFT");
}
console.log("typed documents: 6 sent, 4 mistakes refused by the compiler");
