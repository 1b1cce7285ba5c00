// Finds the numbers in a message's data, each with a name. A row of the table shows these numbers. The data may be any
// JSON.

// Limits of the search, higher than what any row can show. Values that are nested deeper or come later are ignored.
const MAX_CELLS = 24;
const MAX_DEPTH = 5;
const MAX_VALUES = 400;

// In a list like [{"name": "Over", "price": 1.9, "point": 49}] each element is one number: its price. The cell shows
// the name, and the line (`point`) that the price is for.
const NAMES = ["name", "label", "outcome", "selection", "runner"];
const LINES = ["point", "line", "handicap"];
const PRICES = ["price", "odds", "value"];

// Fields whose numbers are ids, times or versions. They are not shown.
const NO_MEASURE = /(^|_)id$|Id$|_at$|^timestamp$|^version$/;
const NUMBER = /^[+-]?\d{1,12}(\.\d{1,8})?$/;

/** Returns the numbers of the data, in order: `{name, line, value, text}`. */
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

/** Iterates over the values of a list or an object, with the path to each. */
function* steps(value, path) {
  if (Array.isArray(value)) {
    for (const [index, child] of value.entries()) yield [nameOf(child) === "" ? [...path, index + 1] : [nameOf(child)], child];
  } else {
    for (const field in value) if (!NO_MEASURE.test(field)) yield [[...path, field], value[field]];
  }
}

/** If the value is an object with a name and a price, returns them as one named number. Otherwise returns null. */
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

/** Adds a second decimal if there is only one, so that 1.9 and 1.91 show the same number of digits. */
function priceOf(value) {
  const text = textOf(value);
  return /\.\d$/.test(text) ? `${text}0` : text;
}

/**
 * Formats a price like `priceOf`, and also gives whole prices two decimals, except American odds, which begin at 100.
 */
function oddsOf(value) {
  const text = priceOf(value);
  return /^[1-9]\d?$/.test(text) ? `${text}.00` : text;
}

/** Returns the name of the event that the data is about, or an empty text. */
export function eventName(data) {
  if (data === null || typeof data !== "object") return "";
  const [home, away, name] = ["home_team", "away_team", "event_name"].map(field =>
    typeof data[field] === "string" ? data[field].slice(0, 80) : "",
  );
  return home && away ? `${home} – ${away}` : name;
}
