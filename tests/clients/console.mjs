// Operates a page in headless Chromium, and reports the state of the page.
//
// Usage: console.mjs CHROMIUM
// as in: echo '{"open":{"url":"http://127.0.0.1:8000/"}}' | console.mjs …
//
// Each input line is a JSON object with one operation. The script answers with one output line: a JSON object with the
// `event` "done" and a `value`, or with "failed" and a `detail`.
//
//   open       close the previous page, and open `url` with `width`, `height`, `scheme` and `motion`
//   evaluate   return the value of an expression in the page
//   until      evaluate an expression with each frame, and return its first truthy value
//   press      press a key
//   type       type a text, key by key
//   click      click the element that matches a selector
//   scheme     set the preferred colour scheme: light or dark
//   axe        return the accessibility barriers that axe-core finds, with their elements
//   noise      return errors and warnings in the console (violations of the content security policy among them),
//              exceptions, and requests to other hosts
//
// The script ends when its input ends.

import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";

import { launch } from "./chromium.mjs";

// `require` searches NODE_PATH for packages; `import` does not.
const require = createRequire(import.meta.url);

/**
 * The deadline of each wait, in milliseconds. It is shorter than the deadline of the tests, so that a test gets the
 * failure with the text of the page.
 */
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
  // Playwright's own `waitForFunction` evaluates a string in the page, which the content security policy forbids.
  async until(expression) {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
      const value = await page.evaluate(expression).catch(error => ({ error }));
      if (value && value.error === undefined) return value;
      if (Date.now() > deadline) throw value?.error ?? new Error("timed out waiting for the expression");
      // A navigation ends this wait with an error. The next evaluation is then in the new page.
      await page.evaluate("new Promise(requestAnimationFrame)").catch(() => {});
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
