// The newest message of each key, grouped by fixture. There may be a hundred thousand keys and thousands of changes a
// second: only the rows in sight exist, and of those only what changed is touched, once for each frame of the screen.

import { byId } from "./elements.js";
import { Fixtures } from "./fixtures.js";
import { Row, isFixture } from "./rows.js";

// Rows above and below the screen that exist as well, so that scrolling shows no hole.
const OVERSCAN = 6;
// A hundred thousand keys take a while to sort, and names may change with each message: they are sorted for new names no
// sooner than this after the last time.
const RENAME_MS = 1000;

export class Table {
  /** How many keys there are, how many of them are shown, and of how many fixtures. */
  counts = { keys: 0, shown: 0, fixtures: 0 };
  #grid = byId("grid");
  #body = byId("rows");
  #now;
  #onNarrow;
  #onOpen;
  #messages = new Map();
  #fixtures = new Fixtures();
  #words = [];
  /** What there is to see, in order. */
  #items = [];
  #isArranged = false;
  #arrangedAt = 0;
  /** A fixture stands where its last name belongs. */
  #isRenamed = false;
  /** The rows that exist, by their items. */
  #rows = new Map();
  #changed = new Set();
  /** The item that the tabulator key leads to. */
  #active = null;
  #isMeasured = false;
  #rowHeight = 0;
  /** For how many numbers there is room, and for how many each row has a column. */
  #room = 0;
  #columns = 0;
  /** The most numbers that a row has had: no more columns are needed. */
  #numbers = 1;

  /** `now()` is the server's time, `onOpen(message)` shows one, `onNarrow(id)` subscribes to one fixture only. */
  constructor({ now, onOpen, onNarrow, onResize }) {
    this.#now = now;
    this.#onOpen = onOpen;
    this.#onNarrow = onNarrow;
    new ResizeObserver(() => {
      this.#isMeasured = false;
      onResize();
    }).observe(this.#grid);
    this.#grid.addEventListener("keydown", event => this.#onKey(event));
    this.#body.addEventListener("click", event => this.#open(event.target));
    this.#body.addEventListener("focusin", event => (this.#active = this.#rowOf(event.target)?.item ?? null));
  }

  /** Shows these messages, a map by their keys. */
  show(messages) {
    this.#messages = messages;
    this.#fixtures = new Fixtures();
    this.#numbers = 1;
    this.#isArranged = false;
  }

  /** The message of a key is another one. */
  change(key) {
    const isKnown = this.#fixtures.has(key);
    if (isKnown !== this.#messages.has(key)) this.#isArranged = false;
    else if (isKnown) this.#changed.add(key);
  }

  /** A message may correct the name of its fixture, which then belongs elsewhere. Once for each frame: only the last counts. */
  #rename() {
    for (const key of this.#changed) {
      const message = this.#messages.get(key);
      if (message !== undefined && this.#fixtures.has(key) && this.#fixtures.change(key, message)) this.#isRenamed = true;
    }
    if (this.#isRenamed && performance.now() - this.#arrangedAt >= RENAME_MS) this.#isArranged = false;
  }

  /** Shows only what has each word, in its key or the name of its fixture. */
  filter(text) {
    this.#words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.#isArranged = false;
  }

  /** Brings the rows in sight up to date. To be called once for each frame at most. */
  draw() {
    this.#measure();
    this.#rename();
    if (!this.#isArranged) this.#arrange();
    const [first, last] = this.#inSight();
    const spare = this.#takeOut(first, last);
    const now = this.#now();
    let previous = null;
    for (let index = first; index < last; index++) {
      const item = this.#items[index];
      const row = this.#rows.get(item) ?? spare.pop() ?? new Row(this.#columns, this.#onNarrow);
      this.#rows.set(item, row);
      this.#bring(row, index, item, now);
      this.#place(row.element, previous);
      previous = row.element;
    }
    // In a catch-up the messages are ahead of what was told of them: keys may be gone.
    if (!this.#isArranged) return this.draw();
    this.#changed.clear();
    this.#keepOneFocusable();
  }

  /** Brings the ages in sight up to date. */
  tick() {
    const now = this.#now();
    for (const row of this.#rows.values()) row.showAge(now);
  }

  /** Rows stand in the order that they are read in. One that stays in sight is not moved, so that it keeps the focus. */
  #place(element, previous) {
    if (element.parentNode !== null && element.previousSibling === previous) return;
    if (previous === null) this.#body.prepend(element);
    else previous.after(element);
  }

  #bring(row, index, item, now) {
    const isNew = row.show(index, item, this.#rowHeight);
    if (isFixture(item)) {
      row.showFixture(isNew);
    } else if (isNew || this.#changed.has(item.key)) {
      const message = this.#messages.get(item.key);
      if (message === undefined) this.#isArranged = false;
      else this.#numbers = Math.max(this.#numbers, row.showMessage(message, isNew, now));
    }
  }

  #arrange() {
    [this.#isArranged, this.#isRenamed, this.#arrangedAt] = [true, false, performance.now()];
    this.#fixtures.follow(this.#messages);
    this.#items = this.#fixtures.arranged(this.#words);
    const fixtures = this.#items.filter(isFixture).length;
    this.counts = { keys: this.#fixtures.keys, shown: this.#items.length - fixtures, fixtures };
    this.#grid.setAttribute("aria-rowcount", String(this.#items.length + 1));
    this.#body.style.height = `${this.#items.length * this.#rowHeight}px`;
  }

  /** The first item in sight, and the one behind the last. */
  #inSight() {
    const above = -this.#body.getBoundingClientRect().top;
    const bounded = index => Math.min(Math.max(index, 0), this.#items.length);
    return [
      bounded(Math.floor(above / this.#rowHeight) - OVERSCAN),
      bounded(Math.ceil((above + innerHeight) / this.#rowHeight) + OVERSCAN),
    ];
  }

  /** Takes out the rows whose items are no longer in sight. */
  #takeOut(first, last) {
    const inSight = new Set(this.#items.slice(first, last));
    const spare = [];
    for (const [item, row] of this.#rows) {
      if (inSight.has(item)) continue;
      this.#rows.delete(item);
      row.element.remove();
      spare.push(row);
    }
    return spare;
  }

  /** Another size of the screen has rows of another height and another number of columns. */
  #measure() {
    if (!this.#isMeasured) this.#measureRoom();
    const columns = Math.min(this.#room, this.#numbers);
    if (columns === this.#columns) return;
    this.#columns = columns;
    this.#grid.style.setProperty("--columns", String(columns));
    this.#renew();
  }

  #measureRoom() {
    const style = getComputedStyle(this.#grid);
    const pixels = name => Number.parseInt(style.getPropertyValue(name), 10);
    this.#isMeasured = true;
    this.#room = Math.max(1, Math.floor((this.#grid.clientWidth - pixels("--beside")) / pixels("--cell-width")));
    if (this.#rowHeight === pixels("--row-height")) return;
    this.#rowHeight = pixels("--row-height");
    this.#renew();
  }

  /** Makes all rows anew. */
  #renew() {
    this.#rows.clear();
    this.#body.replaceChildren();
    this.#isArranged = false;
  }

  #keepOneFocusable() {
    const active = this.#rows.get(this.#active) ?? this.#rows.get(this.#items[0]) ?? this.#rows.values().next().value;
    for (const row of this.#rows.values()) row.isFocusable = row === active;
  }

  #onKey(event) {
    const row = this.#rowOf(event.target);
    if (row === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(innerHeight / this.#rowHeight) - 4);
    const target = {
      ArrowDown: row.index + 1,
      ArrowUp: row.index - 1,
      PageDown: row.index + page,
      PageUp: row.index - page,
      Home: 0,
      End: this.#items.length - 1,
    }[event.key];
    if (target !== undefined) {
      event.preventDefault();
      this.#goTo(Math.min(Math.max(target, 0), this.#items.length - 1));
    } else if (event.key === "Enter" && event.target === row.element) {
      // Else the key would go on to the button that the message opens with, and close it.
      event.preventDefault();
      this.#open(row.element);
    }
  }

  #goTo(index) {
    const item = this.#items[index];
    if (!this.#rows.has(item)) {
      scrollBy(0, this.#body.getBoundingClientRect().top + index * this.#rowHeight - innerHeight / 2);
      this.draw();
    }
    const { element } = this.#rows.get(item);
    element.focus({ preventScroll: true });
    element.scrollIntoView({ block: "nearest" });
  }

  #open(target) {
    const message = this.#messages.get(this.#rowOf(target)?.item.key);
    if (message !== undefined) this.#onOpen(message);
  }

  #rowOf(target) {
    const element = target.closest(".row");
    for (const row of this.#rows.values()) if (row.element === element) return row;
    return undefined;
  }
}
