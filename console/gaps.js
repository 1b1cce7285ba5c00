// Notices of lost messages. They stay until the user dismisses them, because the shown data may be wrong.

import { byId, button, make, setText } from "./elements.js";
import { clip, clock, counted } from "./format.js";

export class Gaps {
  #list = byId("gaps");
  #notices = new Map();

  /**
   * Adds the losses of a catch-up. Only the mode `gap` loses data: with the other modes the state is still complete.
   */
  add({ topics, broadcastsSkipped }) {
    for (const [name, { mode, skipped }] of Object.entries(topics)) {
      if (mode === "gap") this.#lose(clip(name, 80), "message", skipped);
    }
    // This name cannot be the name of a topic, because a topic has no spaces.
    if (broadcastsSkipped > 0) this.#lose("the broadcasts", "broadcast", broadcastsSkipped);
  }

  #lose(name, noun, count) {
    const notice = this.#notices.get(name) ?? this.#begin(name);
    notice.lost = count === null || notice.lost === null ? null : notice.lost + count;
    setText(notice.text, `${name}: ${lostText(notice.lost, noun)} (${clock(new Date())}).`);
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

function lostText(lost, noun) {
  if (lost === null) return `an unknown number of ${noun}s is lost`;
  return `${counted(lost, noun)} ${lost === 1 ? "is" : "are"} lost`;
}
