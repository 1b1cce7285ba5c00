// The topics of the server, with the number of subscribers and of received messages.

import { byId, make, setText } from "./elements.js";
import { count, counted } from "./format.js";

export class Topics {
  #list = byId("topics");
  #cards = new Map();
  #subscribed = [];
  #onToggle;

  /** The switch of a topic calls `onToggle(name)`. */
  constructor(onToggle) {
    this.#onToggle = onToggle;
  }

  get names() {
    return [...this.#cards.keys()];
  }

  /** Shows the server's list of topics. */
  list({ connections, topics }) {
    setText(byId("connections"), counted(connections, "connection"));
    const listed = new Set(topics.map(topic => topic.name));
    for (const [name, card] of this.#cards) {
      if (listed.has(name)) continue;
      card.element.remove();
      this.#cards.delete(name);
    }
    for (const topic of topics) {
      let card = this.#cards.get(topic.name);
      if (card === undefined) {
        card = new Card(topic.name, this.#onToggle);
        this.#cards.set(topic.name, card);
        this.#list.append(card.element);
        card.subscribed(this.#subscribed);
      }
      card.list(topic);
    }
  }

  /** Shows which topics are subscribed to, whole or in part. */
  subscribed(names) {
    this.#subscribed = names;
    for (const card of this.#cards.values()) card.subscribed(names);
  }

  /** Shows the number of messages of each topic, and its messages in the last second. */
  count(counts, rates) {
    for (const [name, card] of this.#cards) card.count(counts.get(name) ?? 0, rates.get(name) ?? 0);
  }
}

class Card {
  #switch = make("input", "");
  #fields = new Map();
  #part = make("span", "part");

  constructor(name, onToggle) {
    this.name = name;
    this.#switch.type = "checkbox";
    this.#switch.addEventListener("change", () => onToggle(name));
    const facts = make("dl", "facts");
    for (const field of ["subscribers", "keys", "in history", "received"]) {
      const value = make("dd", "", "0");
      this.#fields.set(field, value);
      facts.append(make("div", "", make("dt", "", field), value));
    }
    this.element = make("li", "", make("label", "", this.#switch, make("b", "", name), this.#part), facts);
  }

  list({ subscribers, keys, history }) {
    this.#set("subscribers", count(subscribers));
    this.#set("keys", count(keys));
    this.#set("in history", count(history));
  }

  subscribed(names) {
    const isWhole = names.includes(this.name);
    const parts = names.filter(name => name.startsWith(`${this.name}/`)).length;
    this.#switch.checked = isWhole || parts > 0;
    setText(this.#part, !isWhole && parts > 0 ? "in part" : "");
  }

  count(received, rate) {
    this.#set("received", rate > 0 ? `${count(received)} (${count(rate)}/s)` : count(received));
  }

  #set(field, text) {
    setText(this.#fields.get(field), text);
  }
}
