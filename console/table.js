// The latest message of each key, grouped by fixture. There may be a hundred thousand keys and thousands of changes a
// second. So only visible rows exist, and only changed rows are updated, once for each frame of the screen.

import { byId } from "./elements.js";
import { Fixtures } from "./fixtures.js";
import { Row, isFixture } from "./rows.js";

// The number of additional rows above and below the screen, so that scrolling shows no empty area.
const OVERSCAN = 6;
// Sorting a hundred thousand keys takes time, and names may change with each message. So after a sorting, new names
// change the order only when this time has passed.
const RENAME_MS = 1000;

export class Table {
  /** The number of keys, of shown keys, and of their fixtures. */
  counts = { keys: 0, shown: 0, fixtures: 0 };
  #grid = byId("grid");
  #body = byId("rows");
  #now;
  #onNarrow;
  #onOpen;
  #messages = new Map();
  #fixtures = new Fixtures();
  #words = [];
  /** The fixtures and entries that match the filter, in order. */
  #items = [];
  #isArranged = false;
  #arrangedAt = 0;
  /** Whether a fixture has a new name but is not sorted by it yet. */
  #isRenamed = false;
  /** The existing rows, by item. */
  #rows = new Map();
  #changed = new Set();
  /** The item that the Tab key focuses. */
  #active = null;
  #isMeasured = false;
  #rowHeight = 0;
  /** The number of columns that fit, and the number of columns that each row has. */
  #room = 0;
  #columns = 0;
  /** The maximum number of numbers in a row so far. No more columns are needed. */
  #numbers = 1;

  /**
   * `now()` returns the server's time, `onOpen(message)` shows a message, `onNarrow(id)` subscribes to one fixture
   * only.
   */
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

  /** Shows these messages, a map from each key to its message. */
  show(messages) {
    this.#messages = messages;
    this.#fixtures = new Fixtures();
    this.#numbers = 1;
    this.#isArranged = false;
  }

  /** Notes that the message of a key has changed. */
  change(key) {
    const isKnown = this.#fixtures.has(key);
    if (isKnown !== this.#messages.has(key)) this.#isArranged = false;
    else if (isKnown) this.#changed.add(key);
  }

  /**
   * Takes new names from changed messages, which may change the order. Runs once for each frame, with the latest
   * messages.
   */
  #rename() {
    for (const key of this.#changed) {
      const message = this.#messages.get(key);
      if (message !== undefined && this.#fixtures.has(key) && this.#fixtures.change(key, message)) this.#isRenamed = true;
    }
    if (this.#isRenamed && performance.now() - this.#arrangedAt >= RENAME_MS) this.#isArranged = false;
  }

  /** Shows only keys that contain all words, in the key or the name of the fixture. */
  filter(text) {
    this.#words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.#isArranged = false;
  }

  /** Updates the visible rows. Call it at most once for each frame. */
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
    // During a catch-up the messages may be newer than the reported changes, so shown keys may no longer exist. In that
    // case, draw again.
    if (!this.#isArranged) return this.draw();
    this.#changed.clear();
    this.#keepOneFocusable();
  }

  /** Updates the visible ages. */
  tick() {
    const now = this.#now();
    for (const row of this.#rows.values()) row.showAge(now);
  }

  /** Keeps the rows in reading order. A row that stays visible is not moved, so that it keeps the focus. */
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

  /** Returns the index of the first visible item, and the index after the last one. */
  #inSight() {
    const above = -this.#body.getBoundingClientRect().top;
    const bounded = index => Math.min(Math.max(index, 0), this.#items.length);
    return [
      bounded(Math.floor(above / this.#rowHeight) - OVERSCAN),
      bounded(Math.ceil((above + innerHeight) / this.#rowHeight) + OVERSCAN),
    ];
  }

  /** Removes the rows whose items are no longer visible, and returns them for reuse. */
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

  /** Adapts the height of the rows and the number of columns to the size of the screen. */
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

  /** Removes all rows, so that the next drawing makes new rows. */
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
      // Without this, the pressed key would also press the close button of the opened message.
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
