// What the server says: the connection, the messages with their counts, and the list of topics.

import { connect } from "./oddswire.js";

// How often the list of topics is asked for, while somebody looks and the server is there.
const POLL_MS = 3000;
const PATIENCE_MS = 5000;

/** A request that the server refused. */
export class Refused extends Error {
  constructor(status, { code = "", detail = "" } = {}) {
    super(detail || `the server answers ${status}`);
    Object.assign(this, { status, code });
  }

  /** Whether asking again gives the same answer. */
  get isFinal() {
    return this.status === 400 || this.status === 401 || this.status === 403;
  }
}

export class Feed {
  /** Messages since the page was opened, by topic. */
  counts = new Map();
  total = 0;
  /** Those of them that came as they were published: a catch-up says nothing of how much is going on. */
  live = 0;
  #base;
  #hears;
  #client = null;
  #token = "";
  #skew = 0;
  #isLive = false;
  /** Which call of `open` counts: the last one. */
  #turn = 0;

  /**
   * `base` is where the server is. `hears` is told: `status(status)`, `subscribed(names)`, `changed(name, messages)`,
   * `catchUp(message)`, `caughtUp(message)`, `gap(gap)`, `broadcast(message)`, `farewell()`, `error(message)`, `raw(text)`,
   * `topics(body)`, `refused(error)`.
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

  /** The newest message of each key of a subscription, and its newest one without a key. */
  state(name) {
    return this.#client.state(name);
  }

  /** The server's time, as far as it is known. */
  now() {
    return Date.now() - this.#skew;
  }

  /** Connects anew: to these topics, or to all where there are none. */
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
      // What the address asks for cannot be a topic.
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
   * Asks for the list of topics; whether whoever asks is welcome. A server that is away, or takes nobody just now, is left
   * to the client, which comes back.
   */
  async poll() {
    const turn = this.#turn;
    try {
      const headers = this.#token === "" ? {} : { Authorization: `Bearer ${this.#token}` };
      const signal = AbortSignal.timeout(PATIENCE_MS);
      const response = await fetch(new URL("api/topics", this.#base), { headers, signal, cache: "no-store" });
      const body = await response.json();
      // What was asked with a token that is not the present one any more says nothing of this one.
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
