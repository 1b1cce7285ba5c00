// Makes elements. Everything from outside becomes text: nothing here, or anywhere in the console, parses markup.

/** The element of the page with that id. */
export const byId = id => document.getElementById(id);

/** An element with a class and children: elements, or texts. */
export function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** A button that does something. */
export function button(text, onClick) {
  const element = make("button", "", text);
  element.type = "button";
  element.addEventListener("click", onClick);
  return element;
}

/** Sets a text where it is another one: what does not change costs nothing. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
