// Starts headless Chromium, as every test has it.

import { createRequire } from "node:module";

// Only `require` finds a package through NODE_PATH.
const { chromium } = createRequire(import.meta.url)("playwright-core");

/** A browser of that program. No wait has a deadline here: whoever started the script has one. */
export function launch(executablePath) {
  return chromium.launch({
    executablePath,
    timeout: 0,
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      // The servers listen on IPv4; left to itself the browser asks ::1 first, where the port may be somebody else's.
      "--host-resolver-rules=MAP localhost 127.0.0.1",
    ],
  });
}
