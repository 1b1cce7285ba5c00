// Makes elements. Data from outside always becomes text: the console never parses markup.

/** Returns the element with this id. */
export const byId = id => document.getElementById(id);

/** Makes an element with a class and children, which are elements or texts. */
export function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Makes a button. */
export function button(text, onClick) {
  const element = make("button", "", text);
  element.type = "button";
  element.addEventListener("click", onClick);
  return element;
}

/** Sets a text only if it differs, because setting the same text again costs time. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
