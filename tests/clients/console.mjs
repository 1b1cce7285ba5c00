// Does in headless Chromium what somebody does with a page, and says what the page is like.
//
// Usage: console.mjs CHROMIUM
// as in: echo '{"open":{"url":"http://127.0.0.1:8000/"}}' | console.mjs …
//
// Each line of the input is a JSON object with one operation, and has one line of the output as its answer: a JSON object
// with the `event` "done" and a `value`, or "failed" and a `detail`.
//
//   open       a page in place of the one before: `url`, and how it is looked at: `width`, `height`, `scheme`, `motion`
//   evaluate   the value of an expression in the page
//   until      the first value of an expression that holds, looked at with each frame
//   press      a key
//   type       a text, key by key
//   click      what a selector finds
//   scheme     the colours that the system prefers from now on: light or dark
//   axe        the barriers that axe-core finds, each with what it is about
//   noise      what a page must not do: errors and warnings in its console, exceptions, requests to others, and what its
//              policy forbids
//
// It ends with its input.

import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";

import { launch } from "./chromium.mjs";

// Only `require` finds a package through NODE_PATH.
const require = createRequire(import.meta.url);

/** Whoever waits for this waits longer, so that it is told what the page was like. */
const PATIENCE = 40_000;

const browser = await launch(process.argv[2]);

let context;
let page;
let noise;

const operations = {
  async open({ url, width = 1440, height = 900, scheme = "light", motion = "no-preference" }) {
    await context?.close();
    context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: motion });
    page = await context.newPage();
    noise = { console: [], exceptions: [], foreign: [] };
    page.on("console", message => {
      if (["error", "warning"].includes(message.type())) noise.console.push(message.text());
    });
    page.on("pageerror", error => noise.exceptions.push(String(error)));
    const { host } = new URL(url);
    const note = asked => new URL(asked.url()).host === host || noise.foreign.push(asked.url());
    page.on("request", note);
    page.on("websocket", note);
    await page.goto(url, { timeout: PATIENCE });
  },
  evaluate: expression => page.evaluate(expression),
  // The driver's own way of waiting makes code of text in the page, which its policy forbids.
  async until(expression) {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
      const value = await page.evaluate(expression).catch(error => ({ error }));
      if (value && value.error === undefined) return value;
      if (Date.now() > deadline) throw value?.error ?? new Error("it never held");
      await page.evaluate("new Promise(requestAnimationFrame)");
    }
  },
  press: key => page.keyboard.press(key),
  type: text => page.keyboard.type(text),
  click: selector => page.click(selector, { timeout: PATIENCE }),
  scheme: colorScheme => page.emulateMedia({ colorScheme }),
  async axe() {
    await page.evaluate(await readFile(require.resolve("axe-core/axe.min.js"), "utf8"));
    const { violations } = await page.evaluate("axe.run()");
    return violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => ({ id, html, failureSummary })));
  },
  noise: () => noise,
};

for await (const line of createInterface({ input: process.stdin })) {
  const [[name, argument]] = Object.entries(JSON.parse(line));
  try {
    print("done", { value: (await operations[name](argument)) ?? null });
  } catch (error) {
    const seen = await page?.evaluate("document.body.innerText").catch(String);
    print("failed", { detail: `${name} ${JSON.stringify(argument)}: ${error.message}\nThe page:\n${seen}` });
  }
}
await browser.close();

function print(event, details) {
  process.stdout.write(`${JSON.stringify({ event, ...details })}\n`);
}
