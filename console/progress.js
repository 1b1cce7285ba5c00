// The latest message without a key of each topic. The progress of a scrape is a bar, other data is shown as JSON.

import { byId, make, setText } from "./elements.js";
import { age, clip, counted, duration } from "./format.js";

// A run without a message for this long may be dead.
const SILENT_MS = 60_000;
const ENDS = { completed: "Completed", failed: "Failed" };

export class Progress {
  #list = byId("progress");
  #cards = new Map();

  /** Shows these messages, by the names of their subscriptions. */
  show(latest, now) {
    for (const [name, card] of this.#cards) {
      if (latest.has(name)) continue;
      card.element.remove();
      this.#cards.delete(name);
    }
    for (const [name, message] of latest) {
      if (!this.#cards.has(name)) this.#cards.set(name, new Card(name));
      const card = this.#cards.get(name);
      if (card.element.parentNode === null) this.#list.append(card.element);
      card.show(message, now);
    }
  }
}

class Card {
  #message = null;
  #when = make("span", "when");
  #phase = make("b", "phase");
  #steps = make("span", "steps");
  #bar = make("progress", "");
  #detail = make("p", "detail");
  #data = make("pre", "");

  constructor(name) {
    const title = make("h2", "", name);
    this.#bar.ariaLabel = `Progress of ${name}`;
    this.#data.tabIndex = 0;
    this.#data.ariaLabel = `Latest message of ${name}`;
    this.element = make(
      "article",
      "card",
      make("header", "", title, this.#when),
      make("p", "what", this.#phase, this.#steps),
      this.#bar,
      this.#detail,
      this.#data,
    );
  }

  show(message, now) {
    const silent = now - Date.parse(message.timestamp);
    setText(this.#when, age(silent));
    const run = runOf(message.data);
    const isOver = run !== null && run.end !== undefined;
    this.element.classList.toggle("silent", run !== null && !isOver && silent >= SILENT_MS);
    if (message === this.#message) return;
    this.#message = message;
    this.element.dataset.end = isOver ? run.phase : "";
    this.#bar.hidden = this.#phase.hidden = this.#steps.hidden = run === null;
    this.#data.hidden = run !== null;
    if (run === null) this.#showData(message);
    else this.#showRun(run);
  }

  #showData({ type, data }) {
    setText(this.#detail, clip(type, 80));
    setText(this.#data, clip(JSON.stringify(data, null, 1) ?? "", 1200));
  }

  #showRun({ phase, end, platform, current, total, facts }) {
    const name = end === undefined ? clip(phase, 60) : ENDS[phase];
    setText(this.#phase, platform ? `${name} · ${clip(platform, 60)}` : name);
    setText(this.#steps, total === null ? "" : `${current} of ${total}`);
    if (total === null && end === undefined) this.#bar.removeAttribute("value");
    else if (total === null) this.#bar.value = this.#bar.max = 1;
    else [this.#bar.max, this.#bar.value] = [total, Math.min(current, total)];
    setText(this.#detail, facts.join(" · "));
  }
}

/**
 * Returns the progress of a run, or null if the data has no phase. Most phases have `current` and `total`. The end of a
 * platform is not the end of the run.
 */
function runOf(data) {
  if (data === null || typeof data !== "object" || typeof data.phase !== "string") return null;
  const platform = typeof data.platform === "string" ? data.platform : "";
  const isKnown = Number.isFinite(data.current) && Number.isFinite(data.total) && data.total > 0;
  const took = data.duration_ms ?? data.elapsed_ms;
  return {
    phase: data.phase,
    end: platform === "" && Object.hasOwn(ENDS, data.phase) ? ENDS[data.phase] : undefined,
    platform,
    current: isKnown ? data.current : 0,
    total: isKnown ? data.total : null,
    facts: [
      typeof data.error === "string" ? clip(data.error, 300) : "",
      typeof data.message === "string" ? clip(data.message, 300) : "",
      Number.isFinite(data.events_count) ? counted(data.events_count, "event") : "",
      Number.isFinite(took) ? duration(took) : "",
    ].filter(Boolean),
  };
}
