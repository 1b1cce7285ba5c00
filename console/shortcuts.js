// Keyboard shortcuts for buttons. They are off in text fields, in dialogs, and if the user has switched them off.

import { byId } from "./elements.js";

/** Calls `actions[key]()` when a key is pressed. */
export function listenForShortcuts(actions) {
  document.addEventListener("keydown", event => {
    const isTyping = event.target.matches("input:not([type=checkbox]), select, textarea");
    const isOther = event.ctrlKey || event.metaKey || event.altKey || event.isComposing;
    if (isTyping || isOther || !byId("shortcuts").checked || document.querySelector("dialog[open]")) return;
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : undefined;
    if (action === undefined) return;
    event.preventDefault();
    action();
  });
}

/** Closes a dialog when its close button, or the area outside of it, is clicked. */
export function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", ({ target }) => {
      if (target === dialog || target.closest("[data-close]")) dialog.close();
    });
  }
}
