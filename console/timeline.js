// The history of the connection, newest first: when it was lost and resumed, and what each catch-up delivered or
// lacked.

import { byId, make, setText } from "./elements.js";
import { clip, clock, count, counted, duration } from "./format.js";

const MAX_ENTRIES = 60;

export class Timeline {
  #list = byId("timeline");
  #entries = [];
  #isDrawn = true;
  #told = null;
  #last = "";

  /** `announce(text)` informs screen readers. `position()` returns the client's position. */
  constructor(announce, position) {
    this.announce = announce;
    this.position = position;
  }

  status({ state, transport, attempt, retryInMs, code, reason }) {
    if (state === "waiting" || state === "closed") this.#told = null;
    const why = [code, reason].filter(part => part !== undefined && part !== "").join(" ");
    if (state === "waiting") {
      const again = retryInMs === undefined ? "" : ` Retry in ${duration(retryInMs)}.`;
      this.#add("lost", `Not connected${why && `: ${why}`}.${again}`, `attempt ${attempt}`);
      if (this.#last !== "waiting") this.announce("The connection is lost.");
    } else if (state === "closed") {
      this.#add("lost", `Closed${why && `: ${why}`}.`);
      this.announce("The connection is closed.");
    } else if (state === "live" && this.#last !== "live") {
      this.#isLive(transport);
    } else if (state === "connecting" && this.position() !== null) {
      this.#add("note", "Resuming", `after ${this.position()}`);
    }
    this.#last = state;
  }

  /** Adds the entry for a live connection, but during a catch-up, leaves this to `caughtUp`. */
  #isLive(transport) {
    if (this.#told !== null) {
      this.#told.transport = transport;
      return;
    }
    this.#add("live", `Live over ${transport === "sse" ? "SSE" : "WebSocket"}`);
    this.announce("The connection is live.");
  }

  /** Handles the beginning or continuation of a catch-up. `received` is the number of messages received so far. */
  catchUp({ data }, received) {
    this.#told ??= { received, transport: undefined };
    for (const [name, { mode, skipped }] of Object.entries(data.topics)) {
      this.#add(mode === "gap" ? "gap" : "note", `${clip(name, 80)}: ${SAYS[mode] ?? mode}`, skippedText(skipped));
    }
    const lost = data.broadcasts_skipped ?? 0;
    if (lost > 0) this.#add("gap", "Broadcasts: a gap, messages are lost", skippedText(lost));
  }

  caughtUp({ data }, received) {
    const came = received - (this.#told?.received ?? received);
    this.#add("note", `Caught up with ${counted(came, "message")}`, data.position);
    const transport = this.#told?.transport;
    this.#told = null;
    if (transport !== undefined) this.#isLive(transport);
  }

  error({ data }) {
    this.#add("gap", `Error: ${clip(data.detail, 300)}`, data.code);
  }

  broadcast({ type, data }) {
    this.#add("note", `Broadcast: ${clip(type, 80)}`, clip(JSON.stringify(data) ?? "", 200));
  }

  farewell() {
    this.#add("note", "The server shuts down: another connection takes over");
  }

  refused(error) {
    this.#add("lost", `Refused: ${clip(error.message, 300)}`, `${error.status} ${error.code}`);
  }

  #add(kind, text, detail = "") {
    const newest = this.#entries[0];
    if (newest?.text === text && newest.detail === detail) return;
    this.#entries.unshift({ kind, text, detail, at: new Date() });
    this.#entries.length = Math.min(this.#entries.length, MAX_ENTRIES);
    this.#isDrawn = false;
  }

  /** Shows new entries. Call it at most once for each frame. */
  draw() {
    if (this.#isDrawn) return;
    this.#isDrawn = true;
    setText(byId("timeline-newest"), this.#entries[0].text);
    this.#list.replaceChildren(
      ...this.#entries.map(({ kind, text, detail, at }) => {
        const when = make("time", "", clock(at));
        when.dateTime = at.toISOString();
        return make("li", kind, when, make("p", "", text, ...(detail ? [make("small", "", detail)] : [])));
      }),
    );
  }
}

const SAYS = {
  replayed: "every message is replayed",
  conflated: "the latest message of each changed key",
  snapshot: "the whole state",
  gap: "a gap, messages are lost",
};

function skippedText(skipped) {
  if (skipped === 0) return "";
  return skipped === null ? "an unknown number skipped" : `${count(skipped)} skipped`;
}
