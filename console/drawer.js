// What the server sent, as it came: the last messages of all topics in one drawer, that of one key in another.

import { byId, make, setText } from "./elements.js";
import { clip, clock, count } from "./format.js";

// What is kept, and how much of each; more than that nobody reads, and the browser need not hold it.
const MAX_MESSAGES = 300;
const MAX_CHARACTERS = 4000;
// A list of that length is drawn a few times a second, not with each frame.
const DRAW_MS = 250;

/** The last messages, in the order that they came. */
export class Raw {
  #dialog = byId("raw");
  #list = byId("raw-list");
  #filter = byId("raw-filter");
  #pause = byId("raw-pause");
  #ring = new Array(MAX_MESSAGES);
  #total = 0;
  #frozen = null;
  #drawnAt = 0;
  #drawn = -1;

  constructor() {
    this.#filter.addEventListener("input", () => (this.#drawn = -1));
    this.#pause.addEventListener("click", () => this.#setPaused(this.#frozen === null));
    this.#dialog.addEventListener("close", () => this.#setPaused(false));
  }

  open() {
    this.#drawn = -1;
    this.#dialog.showModal();
  }

  add(text) {
    this.#ring[this.#total % MAX_MESSAGES] = { text, at: Date.now() };
    this.#total += 1;
  }

  /** Shows what is new, where somebody looks. */
  draw(now) {
    if (!this.#dialog.open || this.#drawn === this.#total) return;
    if (this.#drawn !== -1 && (this.#frozen !== null || now - this.#drawnAt < DRAW_MS)) return;
    [this.#drawn, this.#drawnAt] = [this.#total, now];
    const kept = this.#frozen ?? this.#newestFirst();
    const wanted = this.#filter.value;
    const shown = kept.filter(({ text }) => text.includes(wanted));
    while (this.#list.childElementCount > shown.length) this.#list.lastElementChild.remove();
    for (const [index, { text, at }] of shown.entries()) {
      const item = this.#list.children[index] ?? this.#list.appendChild(make("li", "", make("time"), make("code")));
      setText(item.firstElementChild, clock(at));
      setText(item.lastElementChild, clip(text, MAX_CHARACTERS));
    }
    const kinds = wanted === "" ? "" : `${count(shown.length)} of `;
    setText(byId("raw-counted"), `${kinds}the last ${count(kept.length)} messages, newest first`);
  }

  #newestFirst() {
    const length = Math.min(this.#total, MAX_MESSAGES);
    return Array.from({ length }, (_, back) => this.#ring[(this.#total - 1 - back) % MAX_MESSAGES]);
  }

  #setPaused(isPaused) {
    this.#frozen = isPaused ? this.#newestFirst() : null;
    this.#pause.setAttribute("aria-pressed", String(isPaused));
    setText(this.#pause, isPaused ? "Go on" : "Pause");
    this.#drawn = -1;
  }
}

/** Shows one message, as it is now. */
export function showMessage(message) {
  setText(byId("message-title"), clip(message.key ?? message.topic, 256));
  const facts = { topic: message.topic, type: message.type, position: message.id, timestamp: message.timestamp };
  byId("message-facts").replaceChildren(
    ...Object.entries(facts).map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", clip(value, 200)))),
  );
  setText(byId("message-data"), clip(JSON.stringify(message.data, null, 2), 20_000));
  byId("message").showModal();
}
