// GraphQL over HTTP: every audit of graphql-http, whether its rule is a MUST, a SHOULD or a MAY.
import { serverAudits } from "graphql-http";

const AUDITS = 61;
const results = [];
for (const audit of serverAudits({ url: process.argv[2] })) {
  const result = await audit.fn();
  results.push(result);
  if (result.status !== "ok") console.error(`${result.status}: ${audit.id} ${audit.name}: ${result.reason}`);
}
const passed = results.filter((result) => result.status === "ok").length;
console.log(`${passed} of ${results.length} audits passed`);
if (results.length !== AUDITS) console.error(`graphql-http has ${results.length} audits, ${AUDITS} were expected`);
process.exit(passed === AUDITS && results.length === AUDITS ? 0 : 1);
