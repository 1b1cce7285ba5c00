// Opens pages in headless Chromium, in each of them an EventSource or a WebSocket, and prints what they get.
//
// Usage: eventsource.mjs CHROMIUM
// as in: echo '{"page":"http://127.0.0.1:8000/healthz","url":"http://127.0.0.1:8000/api/sse"}' | eventsource.mjs …
//
// Each line of the input opens a page, in place of the one before it, and in it the URL: as a WebSocket where its scheme
// is ws, else as an EventSource. Each line of the output is a JSON object whose `event` says what it is:
//
//   page                 what follows is of the page that was asked for
//   open, error, close   what the page was told, with the `ready_state` that it then saw
//   message              with its `data`, and the `last_event_id` of an EventSource
//   response             to the EventSource: the `status`, and the `last_event_id` that the browser had sent
//   refused              the handshake of the WebSocket failed, with the browser's `detail`
//
// It ends with its input. No wait has a deadline here: whoever started this has one, and then ends the input or this.

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

// The network's own account: a page learns neither why it is refused nor what the browser sends for it. What belongs to
// one request comes in several parts, in no certain order.
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
