// Shows commands for a terminal that do the same as the current subscription.

import { byId, button, make, setText } from "./elements.js";

/**
 * Returns commands that listen to these topics (to all if the list is empty), and commands that read the state of the
 * subscriptions. `$TOKEN` stands for the token, so that it does not appear in the shell's history.
 */
export function commands(base, topics, subscriptions, needsToken) {
  const query = topics.length > 0 ? `topics=${topics.map(quoted).join(",")}&` : "";
  const url = path => `${base.href.replaceAll("'", "%27")}${path}`;
  const socket = url(`api/ws?${query}since=snapshot`).replace(/^http/, "ws");
  const header = needsToken ? ' -H "Authorization: Bearer $TOKEN"' : "";
  return [
    { name: "websocat", text: `websocat${header} '${socket}'` },
    { name: "curl, as an event stream", text: `curl -N${header} '${url(`api/sse?${query}since=snapshot`)}'` },
    ...subscriptions.map(topic => ({ name: `curl, the state of ${topic}`, text: `curl${header} '${stateUrl(url, topic)}'` })),
  ];
}

function stateUrl(url, topic) {
  const [name, ...key] = topic.split("/");
  return url(`api/topics/${name}/state${key.length > 0 ? `?key=${quoted(key.join("/"))}` : ""}`);
}

/** Encodes a key for a query string that is inside single quotes in a shell command. */
function quoted(text) {
  return encodeURIComponent(text).replaceAll("%2F", "/").replaceAll("'", "%27");
}

/** Shows the commands, each with a button that copies it. */
export function showCommands(base, topics, subscriptions, needsToken) {
  setText(byId("copy-subscription"), `Subscribe to ${topics.length > 0 ? topics.join(", ") : "all topics"}, beginning with the current state.`);
  setText(byId("copy-done"), "");
  byId("copy-commands").replaceChildren(...commands(base, topics, subscriptions, needsToken).map(section));
  byId("copy").showModal();
}

function section({ name, text }) {
  const code = make("pre", "", text);
  code.tabIndex = 0;
  code.ariaLabel = name;
  code.role = "group";
  const copies = button("Copy", () => copy(name, code));
  copies.ariaLabel = `Copy ${name}`;
  return make("section", "command", make("h3", "", name), code, copies);
}

async function copy(name, code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    setText(byId("copy-done"), `Copied: ${name}.`);
  } catch {
    // Without TLS, or without permission, a page cannot write to the clipboard, but it can select text.
    getSelection().selectAllChildren(code);
    setText(byId("copy-done"), "The browser does not let this page copy. The command is selected: copy it with the keyboard.");
  }
}
