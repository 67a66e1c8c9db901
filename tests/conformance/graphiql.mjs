// GraphiQL in headless Chromium, used as a newcomer would; ends non-zero with a sentence on the first fault.
//
//   node graphiql.mjs ENDPOINT-URL CHROMIUM SCREENSHOT-FOLDER
//
// Needs a server with the demo players. Balances are compared with what tab 1 says, so others may have moved credits.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [endpoint, executablePath, screenshots] = process.argv.slice(2);
mkdirSync(screenshots, { recursive: true });
const origin = new URL(endpoint).origin;
const TOKEN = "secret-token-9f1c";
const TABS = "Balance,OpenWallet,TopUp,Bonus,Spend,Refused,Transfer,Hold,History,Refund,Expiring,Limits";
const SPEND_TOLD = "the id of a SPEND, from the History tab";
const UUID4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

const faults = [];
let step = "start";
const check = (truth, message) => {
  if (!truth) throw new Error(message);
};

const browser = await chromium.launch({
  executablePath,
  args: [
    // The network is closed: no name resolves, and no proxy is asked.
    `--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE ${new URL(endpoint).hostname}`,
    "--no-proxy-server",
    // The sandbox refuses root, and containers refuse the sandbox; the page is our own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
  ],
});
const newContext = () => browser.newContext({ viewport: { width: 1440, height: 900 } });

async function open(context, prepare) {
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  page.on("console", (m) => {
    if (["error", "warning", "assert"].includes(m.type())) faults.push(`[${step}] console ${m.type()}: ${m.text()}`);
  });
  page.on("pageerror", (e) => faults.push(`[${step}] uncaught: ${e.message}`));
  page.on("request", (r) => {
    if (!r.url().startsWith("data:") && new URL(r.url()).origin !== origin) faults.push(`[${step}] request to another host: ${r.url()}`);
  });
  page.on("requestfailed", (r) => faults.push(`[${step}] request failed: ${r.url()} ${r.failure()?.errorText}`));
  page.on("response", (r) => {
    if (r.status() >= 400) faults.push(`[${step}] HTTP ${r.status()}: ${r.url()}`);
  });
  await page.exposeFunction("reportViolation", (text) => faults.push(`[${step}] CSP violation: ${text}`));
  await page.addInitScript(() =>
    document.addEventListener("securitypolicyviolation", (e) =>
      window.reportViolation(`${e.violatedDirective} blocked ${e.blockedURI} ${e.sample} (${e.sourceFile}:${e.lineNumber})`)));
  if (prepare) await page.addInitScript(prepare);
  const introspected = page.waitForResponse((r) => r.request().method() === "POST");
  const policy = (await page.goto(endpoint)).headers()["content-security-policy"];
  check(policy?.includes("default-src 'none'") && !policy.includes("unsafe"), `Content-Security-Policy is ${policy}`);
  await introspected;
  await page.waitForSelector(".graphiql-execute-button");
  await page.waitForTimeout(800); // editors load lazily
  return page;
}

const text = (page, editor) => page.evaluate((s) => document.querySelector(`${s} .CodeMirror`).CodeMirror.getValue(), editor);
const QUERY = ".graphiql-query-editor";
const VARIABLES = ".graphiql-editor-tool .graphiql-editor:nth-of-type(1)";
const HEADERS = ".graphiql-editor-tool .graphiql-editor:nth-of-type(2)";
const RESPONSE = ".result-window";
let shots = 0;
const shot = (page, name) => page.screenshot({ path: join(screenshots, `${name}.png`) }).then(() => shots++);
const titles = (page) => page.locator(".graphiql-tab-button").allInnerTexts();
const key = async (page) => JSON.parse(await text(page, VARIABLES)).input.idempotencyKey;

async function choose(page, title) {
  await page.locator(".graphiql-tab-button", { hasText: title }).click();
  await page.waitForTimeout(900); // past the editors' debounce and the writes to storage
}

async function paste(page, told, value) {
  await page.evaluate(([editor, from, to]) => {
    const { CodeMirror } = document.querySelector(`${editor} .CodeMirror`);
    CodeMirror.setValue(CodeMirror.getValue().replace(from, to));
  }, [VARIABLES, told, value]);
  await page.waitForTimeout(900);
}

async function play(page) {
  const answered = page.waitForResponse((r) => r.request().method() === "POST" && r.url() === endpoint);
  await page.locator(".graphiql-execute-button").click();
  const response = await answered;
  const answer = await response.json();
  check(!answer.errors, `${step}: the answer has errors: ${JSON.stringify(answer.errors)}`);
  await page.waitForTimeout(300);
  check((await text(page, RESPONSE)).includes('"data"'), `${step}: the response pane shows no answer`);
  return { data: answer.data, request: response.request() };
}

async function conversation() {
  const context = await newContext();
  step = "first opening";
  const page = await open(context);
  await shot(page, "01-opened");
  check((await page.title()) !== "", "the page has no title");
  check((await titles(page)).join() === TABS, `tabs are ${await titles(page)}`);

  step = "tab Balance";
  const first = await play(page);
  await shot(page, "02-balance");
  const accept = (await first.request.allHeaders()).accept;
  check(accept === "application/graphql-response+json, application/json", `Accept is ${accept}`);
  let balance = BigInt(first.data.balance.amount);

  step = "tab OpenWallet";
  await choose(page, "OpenWallet");
  const opened = [await play(page), await play(page)].map(({ data }) => data.openWallet);
  await shot(page, "02-open-wallet");
  check(opened[1].alreadyOpen === true && opened[0].wallet.id === opened[1].wallet.id, `opened: ${JSON.stringify(opened)}`);

  step = "tab TopUp";
  await choose(page, "TopUp");
  const topUpKey = await key(page);
  check(UUID4.test(topUpKey), `the key is no UUID v4: ${topUpKey}`);
  const toppedUp = (await play(page)).data.topUp;
  await shot(page, "03-top-up");
  check(toppedUp.__typename === "TopUpPayload" && toppedUp.alreadyProcessed === false, `top-up: ${JSON.stringify(toppedUp)}`);
  balance += 100n;
  check(BigInt(toppedUp.balance.amount) === balance, `balance after the top-up is ${toppedUp.balance.amount}, not ${balance}`);
  const replayed = (await play(page)).data.topUp;
  check(replayed.alreadyProcessed === true && BigInt(replayed.balance.amount) === balance
    && replayed.transaction.id === toppedUp.transaction.id, `second press: ${JSON.stringify(replayed)}`);

  step = "new key";
  await page.locator('button[aria-label="New idempotencyKey in the variables"]').click();
  await page.waitForTimeout(900);
  check(UUID4.test(await key(page)) && (await key(page)) !== topUpKey, `the button made no new key: ${await key(page)}`);
  await shot(page, "04-new-key");
  const again = (await play(page)).data.topUp;
  balance += 100n;
  check(again.alreadyProcessed === false && BigInt(again.balance.amount) === balance, `after a new key: ${JSON.stringify(again)}`);
  const keyAtReload = await key(page);

  step = "tab Bonus";
  await choose(page, "Bonus");
  const given = (await play(page)).data.bonus;
  balance += 25n;
  check(given.__typename === "BonusPayload" && BigInt(given.balance.amount) === balance, `bonus: ${JSON.stringify(given)}`);

  step = "tab Spend";
  await choose(page, "Spend");
  const spent = (await play(page)).data.spend;
  balance -= 30n;
  await shot(page, "05-spend");
  check(spent.__typename === "SpendPayload" && BigInt(spent.balance.amount) === balance, `spend: ${JSON.stringify(spent)}`);

  step = "tab Refused";
  await choose(page, "Refused");
  for (const again of [false, true]) {
    const refused = (await play(page)).data.spend;
    check(refused.__typename === "InsufficientBalance" && BigInt(refused.available) === balance && refused.code
      && refused.alreadyProcessed === again, `refused spend: ${JSON.stringify(refused)}`);
  }
  await shot(page, "06-refused");

  step = "tab Transfer";
  await choose(page, "Transfer");
  const transferred = (await play(page)).data.transfer;
  balance -= 15n;
  check(transferred.__typename === "TransferPayload" && BigInt(transferred.balance.amount) === balance
    && transferred.transaction.counterpartyId === "demo-bob", `transfer: ${JSON.stringify(transferred)}`);

  step = "tab Hold";
  await choose(page, "Hold");
  const placed = (await play(page)).data.placeHold;
  check(placed.__typename === "PlaceHoldPayload" && BigInt(placed.balance.amount) === balance
    && BigInt(placed.balance.available) + BigInt(placed.balance.held) === balance && placed.hold.remaining === "30",
    `hold: ${JSON.stringify(placed)}`);

  step = "tab History";
  await choose(page, "History");
  const history = (await play(page)).data.transactions;
  await shot(page, "07-history");
  check(history.nodes.length >= 4 && history.nodes[0].type === "TRANSFER_OUT" && history.nodes[1].type === "SPEND",
    `history: ${JSON.stringify(history)}`);

  step = "tab Refund";
  await choose(page, "Refund");
  await paste(page, SPEND_TOLD, history.nodes[1].id);
  const refunded = (await play(page)).data.refund;
  balance += 10n;
  await shot(page, "07-refund");
  check(refunded.__typename === "RefundPayload" && BigInt(refunded.balance.amount) === balance
    && refunded.transaction.refundOf.refundable === "20", `refund: ${JSON.stringify(refunded)}`);

  step = "tab Expiring";
  await choose(page, "Expiring");
  const asked = JSON.parse(await text(page, VARIABLES));
  check(UUID4.test(asked.bonus.idempotencyKey) && UUID4.test(asked.spend.idempotencyKey)
    && asked.bonus.idempotencyKey !== asked.spend.idempotencyKey, `keys: ${JSON.stringify(asked)}`);
  const { bonus, spend } = (await play(page)).data;
  await shot(page, "07-expiring");
  const granted = bonus.balance.lots.nodes.find(({ expiresAt }) => Date.parse(expiresAt) === Date.parse(asked.bonus.expiresAt));
  check(granted?.remaining === "40.00" && Date.parse(granted.expiresAt) > Date.now(), `expiring bonus: ${JSON.stringify(bonus)}`);
  check(spend.__typename === "SpendPayload" && spend.transaction.lotUses.length > 0, `spend of lots: ${JSON.stringify(spend)}`);

  step = "tab Limits";
  await choose(page, "Limits");
  const { wallet, topUp, limit, within, beyond } = JSON.parse(await text(page, VARIABLES));
  check([topUp, limit, within, beyond].every(({ ownerId }) => ownerId === wallet.ownerId) && /^player-[0-9a-f]{8}$/.test(wallet.ownerId)
    && new Set([topUp, limit, within, beyond].map(({ idempotencyKey }) => idempotencyKey)).size === 4, "the tab has no player of its own");
  const limited = [(await play(page)).data, (await play(page)).data];
  await shot(page, "07-limits");
  for (const [n, { setLimit, within, beyond }] of limited.entries()) {
    check(setLimit.__typename === "SetLimitPayload" && within.__typename === "SpendPayload" && within.wallet.limits[0].remaining === "20",
      `within the limit: ${JSON.stringify({ setLimit, within })}`);
    check(beyond.__typename === "LimitExceeded" && beyond.used === "30" && Date.parse(beyond.resetsAt) > Date.now()
      && beyond.alreadyProcessed === (n === 1), `beyond the limit: ${JSON.stringify(beyond)}`);
  }

  step = "headers";
  await choose(page, "Balance");
  await page.locator('button[data-name="headers"]').click();
  await page.locator(`${HEADERS} .CodeMirror`).click();
  await page.keyboard.insertText(`{"Authorization": "Bearer ${TOKEN}"}`);
  await page.waitForTimeout(900);
  const sent = await play(page);
  check((await sent.request.allHeaders()).authorization === `Bearer ${TOKEN}`, "the header from the headers editor was not sent");
  await shot(page, "08-headers");
  check(await text(page, HEADERS), "the headers editor lost its text");

  step = "documentation";
  await page.locator('button[aria-label="Show Documentation Explorer"]').click();
  await page.locator(".graphiql-doc-explorer-content >> text=Query").first().click();
  await page.locator(".graphiql-doc-explorer-content >> text=balance").first().waitFor();
  await shot(page, "09-docs");
  await page.locator(".graphiql-doc-explorer-content a", { hasText: "balance" }).first().click();
  await shot(page, "10-docs-field");
  await page.locator('button[aria-label="Hide Documentation Explorer"]').click();

  step = "history pane";
  await page.locator('button[aria-label="Show History"]').click();
  await page.locator(".graphiql-history-item").first().hover();
  await page.locator('.graphiql-history-item button[aria-label="Add favorite"]').first().click();
  await shot(page, "11-history-pane");
  await page.locator('button[aria-label="Hide History"]').click();

  step = "settings";
  await page.locator('button[aria-label="Open settings dialog"]').click();
  await page.locator(".graphiql-dialog-title", { hasText: "Settings" }).waitFor();
  await page.waitForTimeout(300);
  await shot(page, "12-settings");
  check((await page.locator(".graphiql-dialog >> text=Persist headers").count()) === 0, "settings offer to keep headers");
  await page.locator(".graphiql-dialog button", { hasText: "Dark" }).click();
  await page.keyboard.press("Escape");
  await page.locator('button[aria-label="Open short keys dialog"]').click();
  await page.waitForTimeout(300);
  await shot(page, "13-short-keys-dark");
  await page.keyboard.press("Escape");
  await page.locator('button[aria-label="Open settings dialog"]').click();
  await page.locator(".graphiql-dialog button", { hasText: "Light" }).click();
  await page.keyboard.press("Escape");

  step = "completion and a mistake marked";
  await page.locator(".graphiql-tab-add").click();
  await page.locator(`${QUERY} .CodeMirror`).click();
  await page.keyboard.type("{ wrong bal", { delay: 40 });
  await page.locator(".CodeMirror-hints").first().waitFor();
  await page.waitForTimeout(900);
  await shot(page, "14-completion");
  await page.keyboard.press("Escape");
  await page.locator(`${QUERY} .CodeMirror-lint-mark-error`).first().waitFor();
  await page.locator(`${QUERY} .CodeMirror-lint-mark-error`).first().hover();
  await page.waitForTimeout(900);
  await shot(page, "15-mistake");
  await page.locator('button[aria-label="Close Tab"]').last().click();
  await choose(page, "Balance");
  await page.locator(`${QUERY} .CodeMirror .cm-property`).first().hover();
  await page.waitForTimeout(1000);
  await shot(page, "16-hover");
  await page.mouse.move(5, 450);

  const stored = () => page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
  step = "storage";
  check((await stored()).includes("graphiql:queries"), "the history was not stored (the check below would prove nothing)");
  check(!(await stored()).includes(TOKEN), "a header's value is in the browser's storage");
  step = "reload";
  await page.reload();
  await page.waitForSelector(".graphiql-execute-button");
  await page.waitForTimeout(1500);
  await shot(page, "17-reloaded");
  check(!(await stored()).includes(TOKEN), "a header's value is in the browser's storage after a reload");
  check((await titles(page)).join() === TABS, `tabs after a reload: ${await titles(page)}`);
  await page.locator('button[data-name="headers"]').click();
  check((await text(page, HEADERS)).trim() === "", "headers came back after a reload");
  await page.locator('button[data-name="variables"]').click();
  await choose(page, "TopUp");
  check((await key(page)) === keyAtReload, "a reload changed the key of a top-up that may be half done");

  step = "opened anew";
  const second = await open(context);
  await choose(second, "TopUp");
  check(UUID4.test(await key(second)) && (await key(second)) !== topUpKey && (await key(second)) !== keyAtReload,
    "a page opened anew has the old key");
  check((await play(second)).data.topUp.alreadyProcessed === false, "the key of a page opened anew is used already");

  step = "clear storage";
  await second.waitForTimeout(900); // GraphiQL writes its tabs half a second after an answer
  await second.locator('button[aria-label="Open settings dialog"]').click();
  await second.locator(".graphiql-dialog button", { hasText: "Clear data" }).click();
  const left = await second.evaluate(() => [...Object.keys(localStorage), ...Object.keys(sessionStorage)].filter((k) => k.startsWith("graphiql:")));
  check(left.length === 0, `"Clear data" left ${left}`);
  await context.close();
}

async function withoutSecureContext() {
  step = "a plain-http host (no crypto.randomUUID)";
  const context = await newContext();
  const page = await open(context, () => { delete Crypto.prototype.randomUUID; });
  check(await page.evaluate(() => crypto.randomUUID === undefined), "randomUUID is still there");
  await choose(page, "TopUp");
  check(UUID4.test(await key(page)), `the key is no UUID v4: ${await key(page)}`);
  await context.close();
}

async function narrow() {
  step = "a small window";
  const context = await browser.newContext({ viewport: { width: 700, height: 500 }, deviceScaleFactor: 1.25 });
  const page = await open(context);
  await choose(page, "TopUp");
  await play(page);
  await shot(page, "18-small");
  await page.locator('button[aria-label="Open settings dialog"]').click();
  await page.waitForTimeout(300);
  await page.keyboard.press("Escape");
  await context.close();
}

// What a finger reaches: inside the window, of a finger's size, and not under anything else.
const isInReach = (page, selector) => page.evaluate((s) => {
  const element = document.querySelector(s);
  const { left, top, width, height } = element.getBoundingClientRect();
  const hit = document.elementFromPoint(left + width / 2, top + height / 2);
  return left >= 0 && left + width <= innerWidth && width >= 36 && height >= 36 && (element === hit || element.contains(hit));
}, selector);

async function phone(colorScheme) {
  step = `a phone, ${colorScheme}`;
  const context = await browser.newContext({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, colorScheme });
  const page = await open(context);
  await shot(page, `19-phone-${colorScheme}`);
  let spend;
  for (const tab of TABS.split(",")) {
    step = `a phone, ${colorScheme}, tab ${tab}`;
    await choose(page, tab);
    check(await isInReach(page, ".graphiql-execute-button"), "the play button is out of reach");
    check(await isInReach(page, ".graphiql-toolbar button:last-child"), "the key button is out of reach");
    if (tab === "Refund") await paste(page, SPEND_TOLD, spend.id);
    const { data } = await play(page);
    spend = data.transactions?.nodes.find(({ type }) => type === "SPEND") ?? spend;
    for (const pane of [QUERY, RESPONSE]) {
      // Readable: most of the window's width, some lines, no small print.
      const box = await page.locator(`${pane} .CodeMirror`).boundingBox();
      const size = await page.locator(`${pane} .CodeMirror-line`).first().evaluate((line) => parseFloat(getComputedStyle(line).fontSize));
      check(box.x >= 0 && box.x + box.width <= 390 && box.width >= 320 && box.height >= 150 && box.y + 150 <= 844 && size >= 14,
        `${pane} is ${JSON.stringify(box)} in ${size} pixels' type`);
      const cut = await page.evaluate((s) => { const { clientWidth, scrollWidth } = document.querySelector(`${s} .CodeMirror-scroll`); return scrollWidth - clientWidth; }, pane);
      check(cut <= 0, `${pane} hides ${cut} pixels of its longest line`);
    }
    await shot(page, `20-phone-${colorScheme}-${tab}`);
  }
  check(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "the page scrolls sideways");
  step = `a phone, ${colorScheme}, documentation`;
  await page.locator('button[aria-label="Show Documentation Explorer"]').click();
  const docs = await page.locator(".graphiql-plugin").boundingBox();
  check(docs.x >= 0 && docs.width >= 320 && docs.x + docs.width <= 390, `the documentation is ${JSON.stringify(docs)}`);
  await shot(page, `21-phone-${colorScheme}-docs`);
  await page.locator('button[aria-label="Hide Documentation Explorer"]').click();
  check(await isInReach(page, ".graphiql-execute-button"), "the play button is out of reach after the documentation");
  await context.close();
}

let failed;
try {
  await conversation();
  await withoutSecureContext();
  await narrow();
  await phone("light");
  await phone("dark");
} catch (error) {
  failed = `[${step}] ${error.message}`;
}
await browser.close();
for (const fault of faults) console.error(`FAULT ${fault}`);
if (failed) console.error(`FAILED ${failed}`);
if (failed || faults.length) process.exit(1);
console.log(`first conversation held, ${shots} screenshots in ${screenshots}`);
