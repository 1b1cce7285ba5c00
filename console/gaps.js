// Messages that are lost for this page: said until somebody has seen it, since what is shown may be wrong.

import { byId, button, make, setText } from "./elements.js";
import { clip, clock, counted } from "./format.js";

export class Gaps {
  #list = byId("gaps");
  #notices = new Map();

  /** Takes in what a catch-up lacks. State that is newer than what was skipped is whole, so only a gap is one. */
  add({ topics }) {
    for (const [name, { mode, skipped }] of Object.entries(topics)) {
      if (mode !== "gap") continue;
      const notice = this.#notices.get(name) ?? this.#begin(name);
      notice.lost = skipped === null || notice.lost === null ? null : notice.lost + skipped;
      setText(notice.text, `${clip(name, 80)}: ${lostText(notice.lost)} (${clock(new Date())}).`);
    }
  }

  #begin(name) {
    const notice = { lost: 0, text: make("span", "") };
    const dismiss = button("Dismiss", () => {
      element.remove();
      this.#notices.delete(name);
    });
    dismiss.ariaLabel = `Dismiss the gap of ${name}`;
    const element = make("div", "notice gap", make("p", "", make("b", "", "Gap in "), notice.text), dismiss);
    this.#notices.set(name, notice);
    this.#list.append(element);
    return notice;
  }
}

function lostText(lost) {
  if (lost === null) return "an unknown number of messages is lost";
  return lost === 1 ? "1 message is lost" : `${counted(lost, "message")} are lost`;
}
