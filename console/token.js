// The subscriber's token, if the server requires one. It is stored only in this tab.

import { byId, setText } from "./elements.js";

const PLACE = "oddswire-token";

export class TokenEntry {
  #dialog = byId("token");

  /** `onEnter()` connects with the token that was entered. */
  constructor(onEnter) {
    byId("token-form").addEventListener("submit", () => {
      sessionStorage.setItem(PLACE, byId("token-value").value.trim());
      byId("token-value").value = "";
      onEnter();
    });
    byId("token-open").addEventListener("click", () => this.ask("The new token replaces the current one."));
  }

  get token() {
    return sessionStorage.getItem(PLACE) ?? "";
  }

  /** Asks for a token, with the reason. */
  ask(why) {
    byId("token-open").hidden = false;
    setText(byId("token-why"), why);
    if (!this.#dialog.open) this.#dialog.showModal();
    byId("token-value").focus();
  }
}
