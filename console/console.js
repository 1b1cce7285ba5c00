// The console: connects the parts, and draws at most once for each frame of the screen, however many messages arrive.

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

// A timer that was late fires again after less than a second. The page does not update the rates after less time than
// this, because one message would count as several a second.
const LEAST_SECONDS = 0.75;
// The server's base URL: that of this page, with any prefix that a proxy adds.
const base = new URL("./", location.href);
base.search = base.hash = "";

/** The subscriptions in the page's address. An empty list means all topics. */
let asked = new URL(location.href).searchParams.getAll("topics").flatMap(list => list.split(",")).filter(Boolean);
/** The subscription whose keys the table shows. */
let shown = "";
let isLive = false;
/** Why there is no connection and no further attempt. `refusal` is the server's reason, `closed` the client's. */
let refusal = null;
let closed = null;
/** While paused, the number of messages at the time of the pause; otherwise null. */
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

/** Opens a new connection to the requested topics. */
function start() {
  [shown, refusal, closed, isLive] = ["", null, null, false];
  setPaused(false);
  table.show(new Map());
  const list = asked.map(name => encodeURIComponent(name).replaceAll("%2F", "/")).join(",");
  history.replaceState(null, "", base.pathname + (list === "" ? "" : `?topics=${list}`));
  feed.open(asked, token.token);
  needFrame();
}

/** Announces a text to screen readers. */
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
  if (seconds >= LEAST_SECONDS) countRates(now, seconds);
  header.tick();
  table.tick();
  offer();
  needFrame();
}

function countRates(now, seconds) {
  const perSecond = (after, before) => Math.round((after - before) / seconds);
  rate.add(perSecond(feed.live, ticked.live));
  const rates = new Map([...feed.counts].map(([name, sum]) => [name, perSecond(sum, ticked.counts.get(name) ?? 0)]));
  topics.count(feed.counts, rates);
  ticked = { at: now, live: feed.live, counts: new Map(feed.counts) };
}

/** Returns the latest message without a key of each subscription that has one. */
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

/** Shows the choice between the subscriptions that have keys, if there are several. */
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

/**
 * Handles refused topics, which the server reports in a message. If no topic is left, the server has refused the
 * connection.
 */
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
  header.refused(needsToken ? "Token required" : "Refused");
  if (needsToken) token.ask(whyToken());
}

/** Returns why a token is needed, for a user who may not know about tokens. */
function whyToken() {
  if (token.token === "") return "This server requires a token. Ask its operator for one.";
  if (refusal.code === "token_expired") return "The token has expired. Enter a new one.";
  return `The server refuses the token: ${refusal.message}.`;
}

function setPaused(isPaused) {
  if (isPaused === (pausedAt !== null)) return;
  pausedAt = isPaused ? feed.total : null;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  setText(byId("pause"), isPaused ? "Resume" : "Pause");
  if (shown !== "") show(shown);
}

/** Subscribes to a topic, or unsubscribes from it. */
function toggle(name) {
  const others = feed.subscriptions.filter(other => other !== name && !other.startsWith(`${name}/`));
  const isOn = others.length < feed.subscriptions.length;
  const wanted = isOn ? others : [...others, name];
  if (wanted.length === 0) {
    // An empty list would mean all topics.
    topics.subscribed(feed.subscriptions);
    announce("At least one topic must stay selected.");
    return;
  }
  const isAll = topics.names.every(name => wanted.includes(name));
  asked = isAll ? [] : wanted;
  start();
}

/** Subscribes to one fixture instead of the whole topic. */
function narrow(id) {
  const [topic] = shown.split("/", 1);
  const narrowed = `${topic}/${id}`;
  asked = [...feed.subscriptions.filter(name => name.split("/", 1)[0] !== topic), narrowed];
  start();
  // The pressed button is gone with its row, so move the focus to the button that undoes this.
  showNarrowed([narrowed]);
  byId("widen").focus();
}

function refusedTopics(why) {
  return { title: "These topics cannot be shown", text: why, action: "Show everything", act: () => ((asked = []), start()) };
}

function whyEmpty() {
  if (table.counts.shown > 0) return null;
  if (refusal?.status === 401) {
    return { title: "Token required", text: whyToken(), action: "Enter a token", act: () => token.ask(whyToken()) };
  }
  if (refusal?.status === 400) return refusedTopics(refusal.message);
  if (refusal !== null) {
    return { title: "The server refused the connection", text: refusal.message, action: "Try again", act: start };
  }
  // The server would refuse the same topics again, so offer all topics.
  if (closed !== null && asked.length > 0 && closed.includes("(400)")) return refusedTopics(closed);
  if (closed !== null) return { title: "Not connected", text: closed, action: "Reconnect", act: start };
  if (table.counts.keys > 0) {
    return { title: "Nothing matches", text: "No key or event contains all of these words.", action: "Clear the filter", act: clearFilter };
  }
  if (!isLive) return { title: "Connecting", text: `To ${base.host}. The page continues by itself when the server answers.` };
  const [topic = "odds_updates"] = topics.names.filter(name => name === "odds_updates").concat(topics.names);
  return {
    title: "No message with a key yet",
    text: "Keys appear here when they are published. To publish one:",
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
// On a small screen, close the panels, so that the table is at the top.
if (matchMedia("(max-width: 900px)").matches) for (const panel of document.querySelectorAll("details")) panel.open = false;
setInterval(tick, 1000);
start();
