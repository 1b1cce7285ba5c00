// Opens a page in headless Chromium, runs the code from its standard input there, and prints what that logs, a line for
// each call. What is no text is printed as JSON. An error of the page ends this with exit code 1.
//
// Usage: page.mjs CHROMIUM URL < code.js
//
// It goes on until it is ended: what the code listens to does, too.

import { text } from "node:stream/consumers";

import { launch } from "./chromium.mjs";

const [executablePath, url] = process.argv.slice(2);
const code = await text(process.stdin);
const browser = await launch(executablePath);
const page = await browser.newPage();
const fail = error => {
  process.stderr.write(`${error}\n`);
  process.exit(1);
};
page.on("pageerror", fail);
page.on("console", async message => {
  // The browser asks for an icon by itself, and not every page has one.
  if (message.location().url.endsWith("/favicon.ico")) return;
  if (message.type() === "error") fail(message.text());
  const values = await Promise.all(message.args().map(argument => argument.jsonValue()));
  process.stdout.write(`${values.map(value => (typeof value === "string" ? value : JSON.stringify(value))).join(" ")}\n`);
});
await page.goto(url, { timeout: 0 });
// Not awaited: it may never be done.
page.evaluate(`(async () => {${code}\n})()`).catch(fail);
