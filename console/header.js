// The state of the connection, in the header, the tab's title and for screen readers.

import { byId, setText } from "./elements.js";

const TRANSPORTS = { websocket: "WebSocket", sse: "SSE" };

export class Header {
  #status = { state: "connecting", transport: null, attempt: 0 };
  #retryAt = 0;

  status(status) {
    this.#status = status;
    this.#retryAt = performance.now() + (status.retryInMs ?? 0);
    byId("status").dataset.state = status.state;
    this.tick();
  }

  /** Shows that the server refused the connection. */
  refused(text) {
    byId("status").dataset.state = "closed";
    this.#show(text);
    this.#status = { state: "refused" };
  }

  position(position) {
    setText(byId("position"), position ?? "");
  }

  /** Updates the text, with the seconds until the next attempt. */
  tick() {
    const { state, transport, attempt } = this.#status;
    if (state === "connecting") this.#show(attempt > 1 ? "Reconnecting…" : "Connecting…");
    else if (state === "catching-up") this.#show("Catching up…");
    else if (state === "live") this.#show("Live", TRANSPORTS[transport] ?? "");
    else if (state === "waiting") this.#show(this.#countdown());
    else if (state === "closed") this.#show("Closed");
  }

  #countdown() {
    const left = this.#retryAt - performance.now();
    return left < 1000 ? "Offline · retrying" : `Offline · retry in ${Math.round(left / 1000)} s`;
  }

  #show(text, detail = "") {
    setText(byId("status-text"), text);
    setText(byId("status-detail"), detail);
    const title = `${text} – oddswire`;
    if (document.title !== title) document.title = title;
  }
}
