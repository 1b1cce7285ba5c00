// Keys that do what buttons do. They are silent where somebody types, in dialogs, and where they are switched off.

import { byId } from "./elements.js";

/** Calls `actions[key]()`. */
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

/** Lets the buttons of dialogs, and clicks beside them, close them. */
export function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", ({ target }) => {
      if (target === dialog || target.closest("[data-close]")) dialog.close();
    });
  }
}
