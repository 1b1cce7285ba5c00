// The notice that replaces an empty table: the reason, and what to do.

import { byId, setText } from "./elements.js";

const section = byId("empty");
const command = byId("empty-command");
const action = byId("empty-action");

let act = () => {};
action.addEventListener("click", () => act());

/** Shows a notice instead of the table, or the table if the notice is null. */
export function showEmpty(notice) {
  section.hidden = notice === null;
  byId("grid").hidden = notice !== null;
  if (notice === null) return;
  setText(byId("empty-title"), notice.title);
  setText(byId("empty-text"), notice.text);
  command.hidden = notice.command === undefined;
  setText(command, notice.command ?? "");
  action.hidden = notice.action === undefined;
  setText(action, notice.action ?? "");
  act = notice.act ?? act;
}

/** Returns a command that publishes an example message. */
export function publishCommand(base, topic) {
  const message = { topic, key: "8301/1x2/betpawa", data: { home: 1.85, draw: 3.4, away: 4.2 } };
  const url = `${base.href.replaceAll("'", "%27")}api/publish`;
  return [
    `curl '${url}' \\`,
    `  -H "Authorization: Bearer $ODDSWIRE_PUBLISH_TOKEN" -H 'Content-Type: application/json' \\`,
    `  -d '${JSON.stringify(message)}'`,
  ].join("\n");
}
