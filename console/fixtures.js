// Groups keys by fixture, in order. The first segment of a key is the fixture's id, the others are details.

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

/** An event (such as a match) with its keys. */
export class Fixture {
  #entries = new Map();
  #isSorted = true;
  /**
   * The key whose messages give the fixture's name. Only one key is used, because other keys may spell the name
   * differently.
   */
  #namedBy = null;

  constructor(id) {
    this.id = id;
    this.name = "";
    this.text = "";
  }

  get size() {
    return this.#entries.size;
  }

  /**
   * Whether the page can subscribe to this fixture alone. The server splits a list of topics at commas, and trims each
   * name.
   */
  get isNarrowable() {
    return !this.id.includes(",") && this.id === this.id.trim();
  }

  add(entry, data) {
    this.#entries.set(entry.key, entry);
    this.#isSorted = false;
    this.rename(entry.key, data);
  }

  /** Takes the name from a message of a key. Returns whether the name has changed. */
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

  /** Returns the entries, in order, whose key or fixture's name contains all words. */
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

/** The fixtures of all keys in a map of messages. */
export class Fixtures {
  #entries = new Map();
  #fixtures = new Map();

  get keys() {
    return this.#entries.size;
  }

  has(key) {
    return this.#entries.has(key);
  }

  /** Handles a new message of a known key. Returns whether the name of its fixture has changed. */
  change(key, message) {
    return this.#entries.get(key).fixture.rename(key, message.data);
  }

  /** Takes over the keys of these messages: adds new keys, and removes keys that no longer exist. */
  follow(messages) {
    for (const key of this.#entries.keys()) if (!messages.has(key)) this.#delete(key);
    for (const [key, message] of messages) if (!this.#entries.has(key)) this.#add(key, message);
  }

  /** Returns the fixtures with matching entries, in order, each followed by its matching entries. */
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
