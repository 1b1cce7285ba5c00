// One row of the table: a fixture, or a key with its numbers, their changes, and their age.

import { cells } from "./cells.js";
import { button, make, setText } from "./elements.js";
import { Fixture } from "./fixtures.js";
import { age, clip, counted } from "./format.js";

// A price is marked as fresh up to the first age, and as old from the second one on.
const FRESH_MS = 10_000;
const OLD_MS = 5 * 60_000;

export class Row {
  /** The item in this row, and its index. */
  item = null;
  index = -1;
  #key = role(make("div", "key"), "rowheader");
  #values = role(make("div", "values"), "gridcell");
  #age = role(make("div", "age"), "gridcell");
  #name = make("span", "name");
  #detail = make("span", "detail");
  #size = make("span", "size");
  #narrow;
  #cells;
  #more = make("span", "more");
  #shown = [];
  #timestamp = NaN;
  /** The shown name of the fixture. */
  #title = "";

  /** Makes a row with this number of columns for numbers. Its button calls `onNarrow(id)`. */
  constructor(columns, onNarrow) {
    this.element = role(make("div", "row", this.#key, this.#values, this.#age), "row");
    this.#key.append(this.#detail, this.#name);
    this.#narrow = button("Only this", () => onNarrow(this.item.id));
    this.#cells = Array.from({ length: columns }, () => new Cell());
  }

  /** Shows an item at an index. Returns whether the row showed another item before. */
  show(index, item, height) {
    if (index !== this.index) {
      this.index = index;
      // aria-rowindex counts from 1, and the first row is the head of the table.
      this.element.setAttribute("aria-rowindex", String(index + 2));
      this.element.style.transform = `translateY(${index * height}px)`;
    }
    if (item === this.item) return false;
    this.item = item;
    return true;
  }

  showFixture(isNew) {
    if (isNew || this.#title !== this.item.name) this.#becomeFixture();
    setText(this.#size, counted(this.item.size, "key"));
  }

  #becomeFixture() {
    const { name, id, isNarrowable } = this.item;
    this.#title = name;
    this.element.className = "row fixture";
    setText(this.#name, name || id);
    setText(this.#detail, "");
    this.#values.replaceChildren(...(name ? [make("span", "id", id)] : []), this.#size);
    this.#age.dataset.kind = "";
    this.#narrow.ariaLabel = `Only this: ${clip(name || id, 80)}`;
    this.#age.replaceChildren(...(isNarrowable ? [this.#narrow] : []));
    this.#timestamp = NaN;
  }

  /**
   * Shows a message. If the row showed the same key before, each number shows its change. Returns the number of numbers
   * in the message.
   */
  showMessage(message, isNew, now) {
    const found = cells(message.data);
    if (isNew) this.#becomeEntry();
    const before = isNew ? [] : this.#shown;
    // If there are too many numbers, the last column shows how many more there are.
    const fits = found.length <= this.#cells.length ? found.length : Math.max(1, this.#cells.length - 1);
    for (const [at, cell] of this.#cells.entries()) cell.show(at < fits ? found[at] : undefined, before[at]);
    setText(this.#more, fits < found.length ? `+${found.length - fits} more` : found.length === 0 ? brief(message.data) : "");
    this.#shown = found;
    this.#timestamp = Date.parse(message.timestamp);
    this.showAge(now);
    return found.length;
  }

  #becomeEntry() {
    this.element.className = "row";
    setText(this.#detail, this.item.between && `${this.item.between} / `);
    setText(this.#name, this.item.last);
    this.#values.replaceChildren(...this.#cells.map(cell => cell.element), this.#more);
    setText(this.#age, "");
  }

  showAge(now) {
    if (Number.isNaN(this.#timestamp)) return;
    const old = now - this.#timestamp;
    setText(this.#age, age(old));
    const kind = old < FRESH_MS ? "fresh" : old < OLD_MS ? "" : "old";
    if (this.#age.dataset.kind !== kind) this.#age.dataset.kind = kind;
  }

  set isFocusable(is) {
    this.element.tabIndex = is ? 0 : -1;
    this.#narrow.tabIndex = is ? 0 : -1;
  }
}

/** A number with its name. */
class Cell {
  element = make("span", "cell");
  #name = make("span", "what");
  #line = make("span", "line");
  #value = make("b", "");
  #move = make("span", "move");
  #isOdd = false;

  constructor() {
    this.#move.ariaHidden = "true";
    this.element.append(this.#name, this.#line, this.#move, this.#value);
  }

  show(cell, before) {
    this.element.hidden = cell === undefined;
    if (cell === undefined) return;
    if (this.#name.textContent !== cell.name) this.#name.textContent = this.#name.title = cell.name;
    setText(this.#value, cell.text);
    setText(this.#line, cell.line);
    if (before === undefined || before.name !== cell.name) this.#moved("", "");
    // Prices for different lines cannot be compared.
    else if (before.line !== cell.line) this.#moved("other", "◆");
    else if (cell.value > before.value) this.#moved("up", "▲");
    else if (cell.value < before.value) this.#moved("down", "▼");
  }

  /** Alternates between two animation names, which restarts the animation without waiting for the layout. */
  #moved(direction, arrow) {
    this.#isOdd = !this.#isOdd;
    this.element.className = direction === "" ? "cell" : `cell ${direction} ${this.#isOdd ? "odd" : "even"}`;
    setText(this.#move, arrow);
  }
}

/** Returns data without numbers as a short text. */
function brief(data) {
  return clip(typeof data === "string" ? data : JSON.stringify(data) ?? "", 160);
}

function role(element, name) {
  element.setAttribute("role", name);
  return element;
}

/** Whether the item is a fixture, and not one of its keys. */
export const isFixture = item => item instanceof Fixture;
