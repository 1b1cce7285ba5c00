// Opens a page in headless Chromium, and runs the code from standard input in the page. Prints each console call of the
// code as one line, with values other than strings as JSON. An error in the page ends the script with exit code 1.
//
// Usage: page.mjs CHROMIUM URL < code.js
//
// The script runs until it is killed, because the code may wait for events forever.

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
  // The browser requests an icon automatically, and not every page has one.
  if (message.location().url.endsWith("/favicon.ico")) return;
  if (message.type() === "error") fail(message.text());
  const values = await Promise.all(message.args().map(argument => argument.jsonValue()));
  process.stdout.write(`${values.map(value => (typeof value === "string" ? value : JSON.stringify(value))).join(" ")}\n`);
});
await page.goto(url, { timeout: 0 });
// Do not await the code, because it may never finish.
page.evaluate(`(async () => {${code}\n})()`).catch(fail);
