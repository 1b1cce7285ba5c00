// The token of a subscriber, where the server asks for one. It is kept in this tab, and nowhere else.

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
    byId("token-open").addEventListener("click", () => this.ask("Another token takes the place of the present one."));
  }

  get token() {
    return sessionStorage.getItem(PLACE) ?? "";
  }

  /** Asks for a token, and says why. */
  ask(why) {
    byId("token-open").hidden = false;
    setText(byId("token-why"), why);
    if (!this.#dialog.open) this.#dialog.showModal();
    byId("token-value").focus();
  }
}
