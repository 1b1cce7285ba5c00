// The data from the server: the connection, the messages with their counts, and the list of topics.

import { connect } from "./oddswire.js";

// The interval between requests for the list of topics, while the page is visible and the connection is live.
const POLL_MS = 3000;
const PATIENCE_MS = 5000;

/** A request that the server refused. */
export class Refused extends Error {
  constructor(status, { code = "", detail = "" } = {}) {
    super(detail || `the server answered ${status}`);
    Object.assign(this, { status, code });
  }

  /** Whether a retry would get the same answer. */
  get isFinal() {
    return this.status === 400 || this.status === 401 || this.status === 403;
  }
}

export class Feed {
  /** The number of messages since the page was opened, by topic. */
  counts = new Map();
  total = 0;
  /**
   * The number of live messages. Messages of catch-ups are not counted, because they say nothing about the current
   * rate.
   */
  live = 0;
  #base;
  #hears;
  #client = null;
  #token = "";
  #skew = 0;
  #isLive = false;
  /** The number of the latest call of `open`. Results of earlier calls are ignored. */
  #turn = 0;

  /**
   * `base` is the server's URL. These functions of `hears` are called: `status(status)`, `subscribed(names)`,
   * `changed(name, messages)`, `catchUp(message)`, `caughtUp(message)`, `gap(gap)`, `broadcast(message)`, `farewell()`,
   * `error(message)`, `raw(text)`, `topics(body)`, `refused(error)`.
   */
  constructor(base, hears) {
    this.#base = base;
    this.#hears = hears;
    setInterval(() => this.#isLive && !document.hidden && this.poll(), POLL_MS);
    document.addEventListener("visibilitychange", () => this.#isLive && !document.hidden && this.poll());
  }

  get position() {
    return this.#client?.position ?? null;
  }

  /** The names of the subscriptions. */
  get subscriptions() {
    return this.#client?.topics ?? [];
  }

  /** Returns the latest message of each key of a subscription, and the latest message without a key. */
  state(name) {
    return this.#client.state(name);
  }

  /** Returns the server's time as estimated here, in Unix milliseconds. */
  now() {
    return Date.now() - this.#skew;
  }

  /** Opens a new connection to these topics, or to all if the list is empty. */
  async open(topics, token) {
    this.close();
    const turn = ++this.#turn;
    this.#token = token;
    const isWelcome = await this.poll();
    if (!isWelcome || turn !== this.#turn) return;
    let client;
    try {
      client = connect(this.#base, {
        since: "snapshot",
        ...(topics.length > 0 && { topics }),
        ...(token !== "" && { token }),
      });
    } catch (error) {
      // The page's address has an invalid topic.
      this.#hears.refused(new Refused(400, { code: "bad_request", detail: error.message }));
      return;
    }
    this.#client = client;
    this.#listen(client);
  }

  close() {
    const client = this.#client;
    [this.#client, this.#isLive] = [null, false];
    client?.close();
  }

  #listen(client) {
    const hears = this.#hears;
    const followed = new Set();
    const follow = () => {
      for (const name of client.topics) {
        if (followed.has(name)) continue;
        followed.add(name);
        client.state(name).on("change", changed => hears.changed(name, changed));
      }
      hears.subscribed(client.topics);
    };
    client.on("status", status => {
      if (client !== this.#client) return;
      this.#isLive = status.state === "live";
      if (this.#isLive || status.state === "catching-up") follow();
      if (this.#isLive || (status.state === "waiting" && status.attempt > 1)) this.poll();
      hears.status(status);
    });
    client.on("message", message => {
      this.total += 1;
      if (this.#isLive) this.live += 1;
      this.counts.set(message.topic, (this.counts.get(message.topic) ?? 0) + 1);
    });
    client.on("catchup", message => hears.catchUp(message));
    client.on("caughtup", message => {
      this.#skew = Date.now() - Date.parse(message.timestamp);
      hears.caughtUp(message);
    });
    client.on("gap", gap => hears.gap(gap));
    client.on("broadcast", message => hears.broadcast(message));
    client.on("error", message => hears.error(message));
    client.on("raw", text => {
      hears.raw(text);
      if (text.startsWith('{"type":"reconnect"')) hears.farewell();
    });
  }

  /**
   * Requests the list of topics. Returns false if a retry would get the same refusal. If the server is unreachable or
   * busy, returns true, because the client retries.
   */
  async poll() {
    const turn = this.#turn;
    try {
      const headers = this.#token === "" ? {} : { Authorization: `Bearer ${this.#token}` };
      const signal = AbortSignal.timeout(PATIENCE_MS);
      const response = await fetch(new URL("api/topics", this.#base), { headers, signal, cache: "no-store" });
      const body = await response.json();
      // Ignore the answer if `open` was called meanwhile: it may belong to another token.
      if (turn !== this.#turn) return false;
      if (!response.ok) throw new Refused(response.status, body.error);
      this.#hears.topics(body);
      return true;
    } catch (error) {
      if (turn !== this.#turn) return false;
      if (!(error instanceof Refused)) return true;
      this.#hears.refused(error);
      return !error.isFinal;
    }
  }
}
