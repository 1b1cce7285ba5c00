// The console: puts the parts together, and draws once for each frame of the screen, however much there is to hear.

import { showCommands } from "./commands.js";
import { Raw, showMessage } from "./drawer.js";
import { byId, make, setText } from "./elements.js";
import { publishCommand, showEmpty } from "./empty.js";
import { Feed, Refused } from "./feed.js";
import { clip, count, counted } from "./format.js";
import { Gaps } from "./gaps.js";
import { Header } from "./header.js";
import { Progress } from "./progress.js";
import { Rate } from "./rate.js";
import { closeDialogs, listenForShortcuts } from "./shortcuts.js";
import { Table } from "./table.js";
import { Timeline } from "./timeline.js";
import { TokenEntry } from "./token.js";
import { Topics } from "./topics.js";

// Where the server is: beside this page, whatever prefix a proxy puts before it.
const base = new URL("./", location.href);
base.search = base.hash = "";

/** What is subscribed to, as the address says it; nothing is everything. */
let asked = new URL(location.href).searchParams.getAll("topics").flatMap(list => list.split(",")).filter(Boolean);
/** The subscription whose keys the table shows. */
let shown = "";
let isLive = false;
/** Why there is no connection, and none is tried: what the server refused, or what the client says. */
let refusal = null;
let closed = null;
/** While paused: how many messages had come by then. */
let pausedAt = null;
let isFrameDue = false;
let ticked = { at: performance.now(), live: 0, counts: new Map() };

const feed = new Feed(base, {
  status: onStatus,
  subscribed: onSubscribed,
  changed: onChanged,
  catchUp: message => heard(() => timeline.catchUp(message, feed.total)),
  caughtUp: message => heard(() => timeline.caughtUp(message, feed.total)),
  gap: gap => gaps.add(gap),
  broadcast: message => heard(() => timeline.broadcast(message)),
  farewell: () => heard(() => timeline.farewell()),
  error: onError,
  raw: text => heard(() => raw.add(text)),
  topics: body => topics.list(body),
  refused: onRefused,
});
const header = new Header();
const timeline = new Timeline(announce, () => feed.position);
const table = new Table({ now: () => feed.now(), onOpen: showMessage, onNarrow: narrow, onResize: () => needFrame() });
const topics = new Topics(toggle);
const progress = new Progress();
const rate = new Rate();
const gaps = new Gaps();
const raw = new Raw();
const token = new TokenEntry(start);

/** Connects anew, to what is asked for. */
function start() {
  [shown, refusal, closed, isLive] = ["", null, null, false];
  setPaused(false);
  table.show(new Map());
  const list = asked.map(name => encodeURIComponent(name).replaceAll("%2F", "/")).join(",");
  history.replaceState(null, "", base.pathname + (list === "" ? "" : `?topics=${list}`));
  feed.open(asked, token.token);
  needFrame();
}

/** Tells those who do not see it. */
function announce(text) {
  setText(byId("announcer"), text);
}

function heard(change) {
  change();
  needFrame();
}

function needFrame() {
  if (isFrameDue) return;
  isFrameDue = true;
  requestAnimationFrame(draw);
}

function draw() {
  isFrameDue = false;
  header.position(feed.position);
  timeline.draw();
  if (shown === "") choose();
  if (pausedAt === null) progress.show(newest(), feed.now());
  table.draw();
  raw.draw(performance.now());
  showCounts();
  const empty = whyEmpty();
  showEmpty(empty);
  byId("closed").hidden = closed === null || empty !== null;
  setText(byId("closed-why"), closed ?? "");
}

function showCounts() {
  const { keys, shown: matching, fixtures } = table.counts;
  const all = matching === keys ? counted(keys, "key") : `${count(matching)} of ${counted(keys, "key")}`;
  const since = pausedAt === null ? "" : ` · paused, ${counted(feed.total - pausedAt, "message")} since`;
  setText(byId("counted"), `${all} · ${counted(fixtures, "event")}${since}`);
}

function tick() {
  const now = performance.now();
  const seconds = (now - ticked.at) / 1000;
  const perSecond = (after, before) => Math.round((after - before) / seconds);
  rate.add(perSecond(feed.live, ticked.live));
  const rates = new Map([...feed.counts].map(([name, sum]) => [name, perSecond(sum, ticked.counts.get(name) ?? 0)]));
  topics.count(feed.counts, rates);
  ticked = { at: now, live: feed.live, counts: new Map(feed.counts) };
  header.tick();
  table.tick();
  offer();
  needFrame();
}

/** The newest message without a key of each subscription that has one. */
function newest() {
  const latest = feed.subscriptions.map(name => [name, feed.state(name).latest]);
  return new Map(latest.filter(([, message]) => message !== null));
}

/** Shows the first subscription that has keys. */
function choose() {
  const withKeys = feed.subscriptions.filter(name => feed.state(name).size > 0);
  if (withKeys.length > 0) show(withKeys[0]);
}

function show(name) {
  shown = name;
  offer();
  const state = feed.state(name);
  table.show(pausedAt === null ? state : new Map(state));
  needFrame();
}

/** Offers the choice between the subscriptions that have keys, where there is one. */
function offer() {
  const names = feed.subscriptions.filter(name => name === shown || feed.state(name).size > 0);
  const select = byId("topic");
  byId("topic-choice").hidden = names.length < 2;
  if (names.join() !== Array.from(select.options, option => option.value).join()) {
    select.replaceChildren(...names.map(name => Object.assign(make("option", "", clip(name, 60)), { value: name })));
  }
  select.value = shown;
}

function onStatus(status) {
  isLive = status.state === "live";
  header.status(status);
  timeline.status(status);
  closed = status.state === "closed" ? `The connection is closed: ${clip(status.reason ?? "", 200)} (${status.code}).` : null;
  needFrame();
}

function onSubscribed(names) {
  topics.subscribed(names);
  showNarrowed(names);
  needFrame();
}

function showNarrowed(names) {
  const parts = names.filter(name => name.includes("/"));
  byId("narrowed").hidden = parts.length === 0;
  setText(byId("narrowed-to"), parts.map(name => clip(name, 120)).join(", "));
  byId("grid").classList.toggle("narrowed", parts.length > 0);
}

function onChanged(name, messages) {
  if (name === shown && pausedAt === null) {
    for (const { key } of messages) if (key !== undefined) table.change(key);
  }
  needFrame();
}

/** Over a WebSocket the server refuses topics in a message; where none is left, that is a refusal like any other. */
function onError(message) {
  if (feed.subscriptions.length === 0) onRefused(new Refused(400, message.data));
  else heard(() => timeline.error(message));
}

function onRefused(error) {
  timeline.refused(error);
  needFrame();
  if (!error.isFinal) return;
  feed.close();
  [refusal, shown, isLive] = [error, "", false];
  table.show(new Map());
  const needsToken = error.status === 401;
  header.refused(needsToken ? "A token is needed" : "Refused");
  if (needsToken) token.ask(whyToken());
}

/** Why a token is asked for, to somebody who may not know that there are any. */
function whyToken() {
  if (token.token === "") return "This server lets those listen who have a token: whoever runs it gives them out.";
  if (refusal.code === "token_expired") return "The token has expired. A new one is needed.";
  return `The server does not take the token: ${refusal.message}.`;
}

function setPaused(isPaused) {
  if (isPaused === (pausedAt !== null)) return;
  pausedAt = isPaused ? feed.total : null;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  setText(byId("pause"), isPaused ? "Go on" : "Pause");
  if (shown !== "") show(shown);
}

/** Subscribes to a topic that it does not listen to, or lets go of one that it does. */
function toggle(name) {
  const others = feed.subscriptions.filter(other => other !== name && !other.startsWith(`${name}/`));
  const isOn = others.length < feed.subscriptions.length;
  const wanted = isOn ? others : [...others, name];
  if (wanted.length === 0) {
    // To ask for nothing is to ask for everything.
    topics.subscribed(feed.subscriptions);
    announce("One topic has to stay.");
    return;
  }
  const isAll = topics.names.every(name => wanted.includes(name));
  asked = isAll ? [] : wanted;
  start();
}

/** Subscribes to one fixture of the topic in place of all. */
function narrow(id) {
  const [topic] = shown.split("/", 1);
  const narrowed = `${topic}/${id}`;
  asked = [...feed.subscriptions.filter(name => name.split("/", 1)[0] !== topic), narrowed];
  start();
  // What was pressed is gone with its row: the way back takes its place.
  showNarrowed([narrowed]);
  byId("widen").focus();
}

function refusedTopics(why) {
  return { title: "These topics cannot be shown", text: why, action: "Show everything", act: () => ((asked = []), start()) };
}

function whyEmpty() {
  if (table.counts.shown > 0) return null;
  if (refusal?.status === 401) {
    return { title: "A token is needed", text: whyToken(), action: "Enter a token", act: () => token.ask(whyToken()) };
  }
  if (refusal?.status === 400) return refusedTopics(refusal.message);
  if (refusal !== null) {
    return { title: "The server refuses", text: refusal.message, action: "Try again", act: start };
  }
  // The same would only be refused again.
  if (closed !== null && asked.length > 0 && closed.includes("(400)")) return refusedTopics(closed);
  if (closed !== null) return { title: "Not connected", text: closed, action: "Connect again", act: start };
  if (table.counts.keys > 0) {
    return { title: "Nothing matches", text: "No key or event has all of these words.", action: "Clear the filter", act: clearFilter };
  }
  if (!isLive) return { title: "Connecting", text: `To ${base.host}. It goes on by itself as soon as the server answers.` };
  const [topic = "odds_updates"] = topics.names.filter(name => name === "odds_updates").concat(topics.names);
  return {
    title: "No message with a key yet",
    text: "Keys appear here as soon as somebody publishes one. To try it:",
    command: publishCommand(base, topic),
  };
}

function clearFilter() {
  byId("filter").value = "";
  table.filter("");
  byId("filter").focus();
  needFrame();
}

byId("pause").addEventListener("click", () => setPaused(pausedAt === null));
byId("raw-open").addEventListener("click", () => heard(() => raw.open()));
byId("copy-open").addEventListener("click", () => showCommands(base, asked, feed.subscriptions, token.token !== ""));
byId("widen").addEventListener("click", () => ((asked = []), byId("filter").focus(), start()));
byId("again").addEventListener("click", start);
byId("filter").addEventListener("input", ({ target }) => heard(() => table.filter(target.value)));
byId("topic").addEventListener("change", ({ target }) => show(target.value));
addEventListener("scroll", needFrame, { passive: true });
addEventListener("resize", needFrame, { passive: true });
listenForShortcuts({
  "/": () => byId("filter").focus(),
  p: () => byId("pause").click(),
  r: () => byId("raw-open").click(),
  c: () => byId("copy-open").click(),
});
closeDialogs();
// On a small screen the table comes first.
if (matchMedia("(max-width: 900px)").matches) for (const panel of document.querySelectorAll("details")) panel.open = false;
setInterval(tick, 1000);
start();
