// From a message's data, which may be any JSON, to what a row shows: its numbers, each with a name.

// More than any row has room for. What lies deeper, or behind so many other values, is not looked at.
const MAX_CELLS = 24;
const MAX_DEPTH = 5;
const MAX_VALUES = 400;

// In a list like [{"name": "Over", "price": 1.9, "point": 49}] an element is one number: its price. It goes by the name,
// and by the line that the price is for.
const NAMES = ["name", "label", "outcome", "selection", "runner"];
const LINES = ["point", "line", "handicap"];
const PRICES = ["price", "odds", "value"];

// Numbers that identify or date something measure nothing.
const NO_MEASURE = /(^|_)id$|Id$|_at$|^timestamp$|^version$/;
const NUMBER = /^[+-]?\d{1,12}(\.\d{1,8})?$/;

/** The numbers of the data, in its order: `{name, line, value, text}`. */
export function cells(data) {
  const search = { found: [], left: MAX_VALUES };
  collect(data, [], 0, search);
  return search.found;
}

function collect(value, path, depth, search) {
  const number = numberOf(value);
  if (number !== null) {
    search.found.push({ name: path.join(" ") || "value", line: "", value: number, text: priceOf(value) });
  } else if (value !== null && typeof value === "object" && depth < MAX_DEPTH) {
    for (const [step, child] of steps(value, path)) {
      if (search.found.length >= MAX_CELLS || search.left-- <= 0) return;
      const outcome = outcomeOf(child);
      if (outcome === null) collect(child, step, depth + 1, search);
      else search.found.push(outcome);
    }
  }
}

/** What is inside of a list or an object, with the path to it. */
function* steps(value, path) {
  if (Array.isArray(value)) {
    for (const [index, child] of value.entries()) yield [nameOf(child) === "" ? [...path, index + 1] : [nameOf(child)], child];
  } else {
    for (const field in value) if (!NO_MEASURE.test(field)) yield [[...path, field], value[field]];
  }
}

/** Something with a name and a price, as one number. */
function outcomeOf(value) {
  const name = nameOf(value);
  if (name === "") return null;
  const price = PRICES.find(field => numberOf(value[field]) !== null);
  if (price === undefined) return null;
  const line = LINES.find(field => numberOf(value[field]) !== null);
  return {
    name,
    line: line === undefined ? "" : textOf(value[line]),
    value: numberOf(value[price]),
    text: oddsOf(value[price]),
  };
}

function nameOf(value) {
  if (value === null || typeof value !== "object") return "";
  const field = NAMES.find(field => typeof value[field] === "string");
  return field === undefined ? "" : value[field].slice(0, 60);
}

function numberOf(value) {
  if (typeof value === "number") return value;
  return typeof value === "string" && NUMBER.test(value) ? Number(value) : null;
}

function textOf(value) {
  return typeof value === "string" ? value : String(Number(value.toPrecision(12)));
}

/** With two decimals, where there is one: 1.9 beside 1.91 reads as 1.90. */
function priceOf(value) {
  const text = textOf(value);
  return /\.\d$/.test(text) ? `${text}0` : text;
}

/** A price is never a count, so a whole one has two decimals as well; but for American odds, which begin at 100. */
function oddsOf(value) {
  const text = priceOf(value);
  return /^[1-9]\d?$/.test(text) ? `${text}.00` : text;
}

/** What people call the event that the data is about, where it says so; else an empty text. */
export function eventName(data) {
  if (data === null || typeof data !== "object") return "";
  const [home, away, name] = ["home_team", "away_team", "event_name"].map(field =>
    typeof data[field] === "string" ? data[field].slice(0, 80) : "",
  );
  return home && away ? `${home} – ${away}` : name;
}
