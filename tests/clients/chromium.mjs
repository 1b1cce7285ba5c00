// Starts headless Chromium with the same options for every test.

import { createRequire } from "node:module";

// `require` searches NODE_PATH for packages; `import` does not.
const { chromium } = createRequire(import.meta.url)("playwright-core");

/** Starts the browser at this path. Waits have no deadline here, since the test that started the script has one. */
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
      // The servers listen on IPv4. By default the browser tries ::1 first, where another program may use the port.
      "--host-resolver-rules=MAP localhost 127.0.0.1",
    ],
  });
}
