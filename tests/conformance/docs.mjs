// The code that docs/api.md prints for a cache, as it stands there: what is printed is what is run.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

const LIBRARIES = ["@apollo/client", "@urql/exchange-graphcache"];

/** What the one block of a library exports; every block in the docs belongs to a library whose check runs it. */
export async function printed(library) {
  const page = readFileSync(new URL("../../docs/api.md", import.meta.url), "utf8");
  const blocks = [...page.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code);
  const uses = (code, name) => code.includes(`from "${name}"`);
  for (const code of blocks) assert(LIBRARIES.some((name) => uses(code, name)), `no check runs this:\n${code}`);
  const [code, ...more] = blocks.filter((each) => uses(each, library));
  assert(code && more.length === 0, `docs/api.md prints ${more.length + (code ? 1 : 0)} blocks for ${library}, not one`);
  const file = new URL(`.work/printed-${LIBRARIES.indexOf(library)}.mjs`, import.meta.url);
  mkdirSync(new URL(".", file), { recursive: true });
  writeFileSync(file, code);
  return import(file);
}
