// Starts GraphiQL with the first conversation in its tabs. Promises: talks to this host only, and stores no header; a key
// is kept for the tab, and gone with it.
"use strict";

(() => {
  const h = React.createElement;
  const TABS_URL = new URL("tabs.json", document.currentScript.src);
  const MONTH_MS = 30 * 24 * 60 * 60 * 1000;
  const PLAYER = `player-${freshUuid().slice(0, 8)}`;
  // What stands in the tabs for what is new each time that the page is opened.
  const FRESH = new Map([
    ["$FRESH_UUID", freshUuid],
    ["$FRESH_PLAYER", () => PLAYER],
    ["$IN_A_MONTH", () => new Date(Date.now() + MONTH_MS).toISOString()],
  ]);

  const KEY = "wallet-gql:key";

  // Whoever is asked for a key may enter one; a new one, or none, begins anew with it.
  function askForKey() {
    const label = document.getElementById("key");
    const input = label.querySelector("input");
    if (!label.hidden) {
      return;
    }
    label.hidden = false;
    input.value = sessionStorage.getItem(KEY) ?? "";
    input.addEventListener("change", () => {
      sessionStorage.setItem(KEY, input.value.trim());
      location.reload();
    });
  }

  function freshUuid() {
    if (crypto.randomUUID) {
      return crypto.randomUUID();
    }
    // Browsers give randomUUID to https and localhost only; a demo on a plain-http host makes its own (RFC 9562, v4).
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  }

  async function fetcher(request, options) {
    const headers = new Headers({
      "Content-Type": "application/json",
      Accept: "application/graphql-response+json, application/json",
    });
    const key = sessionStorage.getItem(KEY);
    if (key) {
      headers.set("Authorization", `Bearer ${key}`);
    }
    for (const [name, value] of Object.entries(options?.headers ?? {})) {
      headers.set(name, value);
    }
    let response;
    let text;
    try {
      response = await fetch(location.pathname, { method: "POST", headers, body: JSON.stringify(request) });
      text = await response.text();
      if (response.status === 401) {
        askForKey();
      }
    } catch (error) {
      return refusal(
        `No answer from the server (${error.message}). A mutation may or may not have been done: ` +
          "press Play again, the same idempotencyKey makes that safe.",
      );
    }
    try {
      return JSON.parse(text);
    } catch {
      return refusal(`HTTP ${response.status} without JSON: ${text.slice(0, 1000)}`);
    }
  }

  function refusal(message) {
    return { errors: [{ message }] };
  }

  // GraphiQL's history keeps each request's headers in localStorage, whatever shouldPersistHeaders says: they are
  // taken out on the way in. Tabs go to sessionStorage: a reload keeps them with their keys, for it is the same
  // intention still; a page opened anew starts the first conversation with fresh keys.
  const HISTORY = new Set(["graphiql:queries", "graphiql:favorites"]);
  const OF_THIS_PAGE = new Set(
    ["tabState", "query", "variables", "headers", "operationName"].map((name) => `graphiql:${name}`),
  );
  const storeOf = (key) => (OF_THIS_PAGE.has(key) ? sessionStorage : localStorage);
  const ownKeys = () =>
    [...Object.keys(localStorage), ...Object.keys(sessionStorage)].filter((key) => key.startsWith("graphiql:"));
  const withoutHeaders = (json) =>
    JSON.stringify(JSON.parse(json, (key, value) => (key === "headers" ? undefined : value)));
  const storage = {
    getItem: (key) => storeOf(key).getItem(key),
    setItem: (key, value) => storeOf(key).setItem(key, HISTORY.has(key) ? withoutHeaders(value) : value),
    removeItem: (key) => storeOf(key).removeItem(key),
    clear: () => ownKeys().forEach((key) => storeOf(key).removeItem(key)),
    get length() {
      return ownKeys().length;
    },
  };

  function NewKeyButton() {
    const { queryEditor, variableEditor } = GraphiQL.React.useEditorContext({ nonNull: true });
    React.useEffect(() => {
      // So that no line runs out of sight, least of all on a phone.
      for (const editor of [queryEditor, variableEditor]) {
        editor?.setOption("lineWrapping", true);
      }
    }, [queryEditor, variableEditor]);
    const renew = () => {
      const variables = variableEditor?.getValue() ?? "";
      variableEditor?.setValue(
        variables.replace(/("idempotencyKey"\s*:\s*)"[^"]*"/g, (_, name) => `${name}"${freshUuid()}"`),
      );
    };
    const icon = h(
      "svg",
      { className: "graphiql-toolbar-icon", viewBox: "0 0 24 24", fill: "none", stroke: "currentColor" },
      h("circle", { cx: 15.5, cy: 8.5, r: 5, strokeWidth: 1.5 }),
      h("path", { d: "M12 12L3.5 20.5M6 18l3 3M9 15l2 2", strokeWidth: 1.5 }),
    );
    return h(GraphiQL.React.ToolbarButton, { onClick: renew, label: "New idempotencyKey in the variables" }, icon);
  }

  async function start() {
    if (sessionStorage.getItem(KEY)) {
      askForKey();
    }
    const response = await fetch(TABS_URL);
    const tabs = (await response.json()).map(({ query, variables }) => ({
      query: query.join("\n"),
      variables: JSON.stringify(variables, (_, value) => FRESH.get(value)?.() ?? value, 2),
    }));
    if (!storage.getItem("graphiql:tabState")) {
      // GraphiQL shows the first tab's query but not its variables: those it takes from the store alone.
      storage.setItem("graphiql:variables", tabs[0].variables);
    }
    ReactDOM.createRoot(document.getElementById("graphiql")).render(
      h(
        GraphiQL,
        {
          fetcher,
          storage,
          defaultTabs: tabs,
          defaultQuery: "",
          defaultEditorToolsVisibility: true,
          schemaDescription: true,
          shouldPersistHeaders: false,
          toolbar: { additionalComponent: NewKeyButton },
        },
        h(GraphiQL.Logo, null, "Wallet API"),
      ),
    );
  }

  start().catch((error) => {
    document.querySelector("#graphiql > p").textContent = `GraphiQL did not start: ${error.message}`;
    throw error;
  });
})();
