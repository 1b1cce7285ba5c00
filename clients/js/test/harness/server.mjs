// The real server, in its own process.
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const PROGRAM = process.env.ODDSWIRE_BIN ?? fileURLToPath(new URL('../../../../target/debug/oddswire', import.meta.url));
const TOKEN = 'a-token-of-the-tests';
/** The key that signs subscribers' tokens. */
const SECRET = 'a-secret-of-at-least-32-bytes-4711';
const READY_WITHIN = 20_000;

/** Makes a directory. The directory is removed at the end of the test. */
export function directory(t) {
    const path = mkdtempSync(join(tmpdir(), 'oddswire-js-'));
    t.after(() => rmSync(path, { recursive: true, force: true }));
    return path;
}

/**
 * Starts a server with these settings (`{'history-messages': 10}`) on a free port. The server is stopped at the end of
 * the test.
 */
export async function serve(t, settings = {}) {
    const server = new Server(settings);
    t.after(() => server.kill());
    await server.start();
    return server;
}

class Server {
    #settings;
    #process;
    /** The published messages by offset: `{ topic, key, data }`. */
    published = new Map();

    constructor(settings) {
        this.#settings = settings;
    }

    async start() {
        const env = { PATH: process.env.PATH, ODDSWIRE_PUBLISH_TOKEN: TOKEN };
        const all = { listen: '127.0.0.1:0', 'admin-listen': '127.0.0.1:0', 'log-format': 'json', ...this.#settings };
        const args = Object.entries(all).map(([name, value]) => `--${name}=${value}`);
        this.#process = spawn(PROGRAM, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
        this.ended = once(this.#process, 'exit');
        for await (const line of createInterface(this.#process.stderr)) {
            // The error of an invalid setting is not JSON.
            if (!line.startsWith('{')) throw new Error(line);
            const logged = JSON.parse(line);
            if (logged.event !== 'server.listening') continue;
            this.port = Number(logged.address.split(':').at(-1));
            this.#process.stderr.resume();
            return this.#ready();
        }
        throw new Error('the server did not start');
    }

    /** Waits until the server takes messages. A server with a broker listens before it has connected to the broker. */
    async #ready() {
        const signal = AbortSignal.timeout(READY_WITHIN);
        for (let ready = false; !ready;) {
            const answer = await fetch(new URL('readyz', this.url), { signal });
            await answer.text();
            ready = answer.ok;
        }
    }

    get url() {
        return `http://127.0.0.1:${this.port}/`;
    }

    async kill(signal = 'SIGKILL') {
        if (this.#process.exitCode === null && this.#process.signalCode === null) this.#process.kill(signal);
        await this.ended;
    }

    /** Starts a drain. */
    drain() {
        this.#process.kill('SIGTERM');
    }

    async restart(signal) {
        await this.kill(signal);
        await this.start();
    }

    async #post(path, body) {
        const headers = { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' };
        const response = await fetch(new URL(path, this.url), { method: 'POST', headers, body: JSON.stringify(body) });
        const answer = await response.json();
        if (!response.ok) throw new Error(JSON.stringify(answer));
        return answer;
    }

    /**
     * Publishes messages, and stores their offsets. The offsets are counted back from the last one, so there must be no
     * other publisher and no unchanged message.
     */
    async publish(...messages) {
        const { position } = await this.#post('api/publish', messages);
        const last = Number(position.split('-')[1]);
        messages.forEach((message, at) => this.published.set(last - messages.length + 1 + at, message));
        return position;
    }

    /** Publishes the state of a key. */
    odds(key, data) {
        return this.publish({ topic: 'odds_updates', key, data });
    }

    broadcast(message) {
        return this.#post('api/broadcast', message);
    }

    /** The server's state of a topic, by key. */
    async state(topic, key) {
        const url = new URL(`api/topics/${topic}/state`, this.url);
        if (key) url.searchParams.set('key', key);
        const { items } = await (await fetch(url)).json();
        return Object.fromEntries(items.map(item => [item.key, item.data]));
    }

    /** The number of connected clients. */
    async connections() {
        return (await (await fetch(new URL('api/topics', this.url))).json()).connections;
    }
}

/** The settings of a server that requires tokens. */
export const ASKS_FOR_TOKENS = { 'subscriber-jwt-secret': SECRET };

/** A token that expires after this number of seconds. */
export function token(seconds, topics = ['*']) {
    const part = value => Buffer.from(JSON.stringify(value)).toString('base64url');
    const exp = Math.floor(Date.now() / 1000) + seconds;
    // Make each token unique.
    const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp, topics, jti: String(Math.random()) })}`;
    return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}
