// What the keys are about, in order: the first segment of a key names a fixture, the others what is said about it.

import { eventName } from "./cells.js";

const byName = new Intl.Collator("en", { numeric: true });

/** One key of a fixture. */
export class Entry {
  constructor(key, fixture) {
    this.key = key;
    this.fixture = fixture;
    const segments = key.split("/");
    this.last = segments.length > 1 ? segments.at(-1) : key;
    this.between = segments.slice(1, -1).join(" / ");
    this.text = key.toLowerCase();
  }
}

/** What several keys are about. */
export class Fixture {
  #entries = new Map();
  #isSorted = true;
  /** The key whose messages name it. Others may spell the name differently: it would change with each of them. */
  #namedBy = null;

  constructor(id) {
    this.id = id;
    this.name = "";
    this.text = "";
  }

  get size() {
    return this.#entries.size;
  }

  /** Whether it can be subscribed to: a list of topics is separated by commas, and its names are trimmed. */
  get isNarrowable() {
    return !this.id.includes(",") && this.id === this.id.trim();
  }

  add(entry, data) {
    this.#entries.set(entry.key, entry);
    this.#isSorted = false;
    this.rename(entry.key, data);
  }

  /** Takes the name that a message of a key gives it; whether it has another one than before. */
  rename(key, data) {
    if (this.#namedBy !== null && this.#namedBy !== key) return false;
    const name = eventName(data);
    if (name === "") return false;
    this.#namedBy = key;
    if (name === this.name) return false;
    [this.name, this.text] = [name, name.toLowerCase()];
    return true;
  }

  delete(key) {
    if (this.#namedBy === key) this.#namedBy = null;
    return this.#entries.delete(key);
  }

  /** The entries, in order, whose key or fixture has each of the words. */
  matching(words) {
    if (!this.#isSorted) {
      const inOrder = [...this.#entries].sort(([one], [other]) => (one < other ? -1 : 1));
      this.#entries = new Map(inOrder);
      this.#isSorted = true;
    }
    const rest = words.filter(word => !this.text.includes(word));
    return [...this.#entries.values()].filter(entry => rest.every(word => entry.text.includes(word)));
  }
}

/** All of them, as a map of messages has them. */
export class Fixtures {
  #entries = new Map();
  #fixtures = new Map();

  get keys() {
    return this.#entries.size;
  }

  has(key) {
    return this.#entries.has(key);
  }

  /** Takes in that the message of a key is another one; whether its fixture has another name now. */
  change(key, message) {
    return this.#entries.get(key).fixture.rename(key, message.data);
  }

  /** Follows the map: takes in the keys that are new, and lets go of those that are gone. */
  follow(messages) {
    for (const key of this.#entries.keys()) if (!messages.has(key)) this.#delete(key);
    for (const [key, message] of messages) if (!this.#entries.has(key)) this.#add(key, message);
  }

  /** The fixtures that have something to show, each with its entries behind it. */
  arranged(words) {
    const inOrder = [...this.#fixtures.values()];
    inOrder.sort((one, other) => byName.compare(one.name || one.id, other.name || other.id));
    return inOrder.flatMap(fixture => {
      const entries = fixture.matching(words);
      return entries.length > 0 ? [fixture, ...entries] : [];
    });
  }

  #add(key, message) {
    const [id] = key.split("/", 1);
    let fixture = this.#fixtures.get(id);
    if (fixture === undefined) this.#fixtures.set(id, (fixture = new Fixture(id)));
    const entry = new Entry(key, fixture);
    fixture.add(entry, message.data);
    this.#entries.set(key, entry);
  }

  #delete(key) {
    const { fixture } = this.#entries.get(key);
    fixture.delete(key);
    if (fixture.size === 0) this.#fixtures.delete(fixture.id);
    this.#entries.delete(key);
  }
}
