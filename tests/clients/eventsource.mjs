// Opens pages in headless Chromium, each with an EventSource or a WebSocket, and prints their events.
//
// Usage: eventsource.mjs CHROMIUM
// as in: echo '{"page":"http://127.0.0.1:8000/healthz","url":"http://127.0.0.1:8000/api/sse"}' | eventsource.mjs …
//
// Each input line closes the previous page, opens `page`, and connects it to `url`: with a WebSocket if the scheme is
// ws, else with an EventSource. Each output line is a JSON object. Its `event` is one of:
//
//   page                 the page is open; all further events belong to it
//   open, error, close   the event of that name in the page, with the `ready_state`
//   message              a message with its `data`, and the `last_event_id` of an EventSource
//   response             a response to the EventSource: its `status`, and the `last_event_id` in the request
//   refused              a failed handshake of the WebSocket, with the browser's `detail`
//
// The script ends when its input ends. No wait here has a deadline, since the test that started the script has one.

import { createInterface } from "node:readline";

import { launch } from "./chromium.mjs";

const browser = await launch(process.argv[2]);

let context;
for await (const line of createInterface({ input: process.stdin })) {
  await context?.close();
  context = await browser.newContext();
  const { page, url } = JSON.parse(line);
  await open(page, url);
}
await browser.close();

function print(event, details) {
  process.stdout.write(`${JSON.stringify({ event, ...details })}\n`);
}

async function open(pageUrl, url) {
  const page = await context.newPage();
  await page.goto(pageUrl, { timeout: 0 });
  print("page");
  await watch(await context.newCDPSession(page), url);
  await page.exposeFunction("print", print);
  await page.evaluate(url => {
    const source = url.startsWith("ws:") ? new WebSocket(url) : new EventSource(url);
    for (const event of ["open", "error", "close"]) {
      source.addEventListener(event, () => window.print(event, { ready_state: source.readyState }));
    }
    source.addEventListener("message", ({ data, lastEventId }) => {
      window.print("message", { data, last_event_id: lastEventId });
    });
  }, url);
}

// Read the browser's network events, because a page cannot see the reason of a refusal or the headers of its requests.
// The parts of one request come in several events, in any order.
async function watch(network, url) {
  const requests = new Map();
  const learn = (id, part) => {
    const request = { ...requests.get(id), ...part };
    requests.set(id, request);
    if (request.url !== url || !request.headers || !request.status) return;
    requests.delete(id);
    const sent = Object.entries(request.headers).find(([name]) => name.toLowerCase() === "last-event-id");
    print("response", { status: request.status, last_event_id: sent?.[1] ?? null });
  };
  network.on("Network.requestWillBeSent", ({ requestId, request }) => learn(requestId, { url: request.url }));
  network.on("Network.requestWillBeSentExtraInfo", ({ requestId, headers }) => learn(requestId, { headers }));
  network.on("Network.responseReceivedExtraInfo", ({ requestId, statusCode }) => learn(requestId, { status: statusCode }));
  network.on("Network.webSocketFrameError", ({ errorMessage }) => print("refused", { detail: errorMessage }));
  await network.send("Network.enable");
}
