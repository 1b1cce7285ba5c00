// Messages as the server sent them: one drawer with the last messages of all topics, another with the message of one
// key.

import { byId, make, setText } from "./elements.js";
import { clip, clock, count, counted } from "./format.js";

// Limits in messages and characters: of all kept messages, and of the shown part of each. Large messages are kept
// whole, so that the user can search them, but fewer of them are kept.
const MAX_MESSAGES = 300;
const MAX_KEPT_CHARACTERS = 2_000_000;
const MAX_CHARACTERS = 4000;
// The minimum time between two drawings of the list, because the list is long.
const DRAW_MS = 250;

/** The last messages, in the order of their arrival. */
export class Raw {
  #dialog = byId("raw");
  #list = byId("raw-list");
  #filter = byId("raw-filter");
  #pause = byId("raw-pause");
  #kept = [];
  #keptCharacters = 0;
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
    this.#kept.push({ text, at: Date.now() });
    this.#keptCharacters += text.length;
    this.#total += 1;
    while (this.#isTooMuch()) this.#keptCharacters -= this.#kept.shift().text.length;
  }

  /** Whether the oldest message must be removed. The newest message stays, however large it is. */
  #isTooMuch() {
    const { length } = this.#kept;
    return length > MAX_MESSAGES || (length > 1 && this.#keptCharacters > MAX_KEPT_CHARACTERS);
  }

  /** Shows new messages if the drawer is open. */
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
    setText(byId("raw-counted"), `${kinds}the last ${counted(kept.length, "message")}, newest first`);
  }

  #newestFirst() {
    return [...this.#kept].reverse();
  }

  #setPaused(isPaused) {
    this.#frozen = isPaused ? this.#newestFirst() : null;
    this.#pause.setAttribute("aria-pressed", String(isPaused));
    setText(this.#pause, isPaused ? "Resume" : "Pause");
    this.#drawn = -1;
  }
}

/** Shows one message. Later messages of the same key are not shown. */
export function showMessage(message) {
  setText(byId("message-title"), clip(message.key ?? message.topic, 256));
  const facts = { topic: message.topic, type: message.type, position: message.id, timestamp: message.timestamp };
  byId("message-facts").replaceChildren(
    ...Object.entries(facts).map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", clip(value, 200)))),
  );
  setText(byId("message-data"), clip(JSON.stringify(message.data, null, 2), 20_000));
  byId("message").showModal();
}
