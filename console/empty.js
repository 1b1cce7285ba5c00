// What stands in place of the table while there is nothing in it: why, and what to do about it.

import { byId, setText } from "./elements.js";

const section = byId("empty");
const command = byId("empty-command");
const action = byId("empty-action");

let act = () => {};
action.addEventListener("click", () => act());

/** Shows a notice in place of the table; the table where there is none. */
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

/** The command that publishes something to see. */
export function publishCommand(base, topic) {
  const message = { topic, key: "8301/1x2/betpawa", data: { home: 1.85, draw: 3.4, away: 4.2 } };
  const url = `${base.href.replaceAll("'", "%27")}api/publish`;
  return [
    `curl '${url}' \\`,
    `  -H "Authorization: Bearer $ODDSWIRE_PUBLISH_TOKEN" -H 'Content-Type: application/json' \\`,
    `  -d '${JSON.stringify(message)}'`,
  ].join("\n");
}
