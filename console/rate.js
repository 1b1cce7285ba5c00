// The messages per second of the last minute, as a line.

import { byId, setText } from "./elements.js";
import { count } from "./format.js";

const SECONDS = 60;
const HEIGHT = 20;

export class Rate {
  #seconds = new Array(SECONDS + 1).fill(0);

  /** Adds the number of messages of the last second. */
  add(messages) {
    this.#seconds.shift();
    this.#seconds.push(messages);
    const peak = Math.max(...this.#seconds);
    const y = number => (HEIGHT - 1 - (number / Math.max(peak, 1)) * (HEIGHT - 2)).toFixed(1);
    const line = this.#seconds.map((number, at) => `${at},${y(number)}`).join(" ");
    byId("rate-line").setAttribute("points", line);
    byId("rate-area").setAttribute("points", `0,${HEIGHT} ${line} ${SECONDS},${HEIGHT}`);
    setText(byId("rate-now"), count(messages));
    setText(byId("rate-peak"), peak > 0 ? `peak ${count(peak)}` : "");
  }
}
