// Takes the screenshots of the console that README.md shows: `make screenshots`.
//
// Usage: screenshots.mjs PROGRAM CHROMIUM
//
// Starts `oddswire demo`, waits until the page shows a full table and a running scrape, and writes console-light.png and
// console-dark.png next to this file.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { launch } from "../../tests/clients/chromium.mjs";

const [program, chromium] = process.argv.slice(2);
const server = spawn(program, ["demo", "--seed", "12", "--listen", "127.0.0.1:0", "--admin-listen", "off",
  "--log-format", "json"], { stdio: ["ignore", "ignore", "pipe"] });

/** Reads the log until the server has named its address. */
async function address() {
  for await (const line of createInterface(server.stderr)) {
    const entry = JSON.parse(line);
    if (entry.msg === "server.listening" || entry.event === "server.listening") return entry.address;
  }
  throw new Error("the demo ended before it listened");
}

try {
  const url = `http://${await address()}/`;
  server.stderr.resume();
  const browser = await launch(chromium);
  for (const colorScheme of ["light", "dark"]) {
    const context = await browser.newContext({ viewport: { width: 1200, height: 640 }, colorScheme });
    const page = await context.newPage();
    await page.goto(url);
    // A screen of rows, and some changes on the way, so that the picture shows movement.
    await page.locator("#rows [role=row]").nth(12).waitFor();
    await page.locator("#progress > *").first().waitFor();
    await page.locator("#rate-now").getByText(/^[1-9]/).waitFor();
    await page.screenshot({ path: fileURLToPath(new URL(`console-${colorScheme}.png`, import.meta.url)) });
    await context.close();
  }
  await browser.close();
} finally {
  server.kill("SIGTERM");
  if (server.exitCode === null) await once(server, "exit");
}
