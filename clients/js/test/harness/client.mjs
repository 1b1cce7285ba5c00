// The built client, with the data that tests check.
import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { connect } from '../../dist/oddswire.js';

/** Timeouts for tests. Each test shortens those that it checks. */
const TIMEOUTS = { open: 2000, retry: 50, maxRetry: 400 };
/** The maximum duration of a wait in a test, in milliseconds. */
const PATIENCE = 20_000;

export function follow(t, url, { timeouts, ...options } = {}) {
    const follower = new Follower(connect(url, { WebSocket, timeouts: { ...TIMEOUTS, ...timeouts }, ...options }));
    t.after(() => follower.client.close());
    return follower;
}

/** Collects the events of a client, and checks the order of its messages. */
export class Follower {
    messages = [];
    statuses = [];
    gaps = [];
    catchUps = [];
    broadcasts = [];
    errors = [];
    /** The subscriptions that the server confirmed last. */
    acknowledged = [];
    #waiting = new Set();
    /** The offset of the latest message. During a catch-up it may go back. */
    #newest = -1;

    constructor(client) {
        this.client = client;
        const note = (event, list, first = () => {}) => client.on(event, value => {
            first(value);
            list.push(value);
            for (const check of this.#waiting) check();
        });
        note('message', this.messages, message => this.#inOrder(message));
        note('status', this.statuses);
        note('catchup', this.catchUps, () => {
            this.#newest = -1;
        });
        note('caughtup', []);
        note('gap', this.gaps);
        note('broadcast', this.broadcasts);
        note('error', this.errors);
        note('raw', [], text => {
            const { type, topics } = JSON.parse(text) ?? {};
            if (type === 'connection_ack' || type === 'subscription_update') this.acknowledged = topics;
        });
    }

    #inOrder({ id }) {
        const offset = offsetOf(id);
        assert(offset > this.#newest, `${id} came after offset ${this.#newest}`);
        this.#newest = offset;
    }

    /** Waits until the condition is true. Checks the condition at each event of the client. */
    until(what, holds) {
        return new Promise((resolve, reject) => {
            const check = () => {
                if (!holds(this)) return;
                this.#waiting.delete(check);
                clearTimeout(late);
                resolve();
            };
            const late = setTimeout(() => {
                this.#waiting.delete(check);
                reject(new Error(`not in time: ${what}; ${JSON.stringify(this.client.status)} at ${this.client.position}`));
            }, PATIENCE);
            this.#waiting.add(check);
            check();
        });
    }

    live() {
        return this.until('live', ({ client }) => client.status.state === 'live');
    }

    /** Waits until the client is live and at this position. */
    at(position) {
        return this.until(position, ({ client }) => client.status.state === 'live' && client.position === position);
    }

    /** The data of the messages, in order. */
    get data() {
        return this.messages.map(({ data }) => data);
    }

    get modes() {
        return this.catchUps.map(({ data }) => Object.fromEntries(Object.entries(data.topics).map(([name, { mode }]) => [name, mode])));
    }
}

export function offsetOf(position) {
    return Number(position.split('-')[1]);
}

/** A state's data, by key. */
export function dataOf(state) {
    return Object.fromEntries([...state].map(([key, { data }]) => [key, data]));
}

/** Checks that all published messages came, once and in order. */
export function assertExactlyOnce(follower, server, topics = ['odds_updates', 'scrape_progress']) {
    const offsets = follower.messages.map(({ id }) => offsetOf(id));
    const expected = [...server.published].filter(([, { topic }]) => topics.includes(topic)).map(([offset]) => offset);
    assert.deepEqual(offsets, expected);
    assert.deepEqual(follower.gaps, []);
}

/** Calls `ask`, which queries the server, until it returns a true value. */
export async function eventually(what, ask) {
    const late = AbortSignal.timeout(PATIENCE);
    while (!await ask()) if (late.aborted) throw new Error(`not in time: ${what}`);
}
