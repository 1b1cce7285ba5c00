// One connection: it is opened with a token, watched for silence, and ends once.

import type { Plan } from './subscriptions.js';
import { openStream, openWebSocket, type Ear, type End, type Socket, type Transport, type WebSocketClass } from './transports.js';

/** Milliseconds; each has a default. */
export interface Timeouts {
    /** For a connection to be acknowledged, the token function included: 10,000. */
    open: number;
    /** Of silence, after which a WebSocket is asked for a sign of life: 25,000. The server sends an event stream one every 15 s. */
    idle: number;
    /** For that sign to come: 10,000. */
    pong: number;
    /** For which a connection has to be live before the next wait begins from the shortest again: 10,000. */
    stable: number;
    /** The longest first wait before a new attempt; it doubles with each, up to `maxRetry`. The wait itself is drawn between 0 and it: 1,000. */
    retry: number;
    /** 30,000. */
    maxRetry: number;
    /** Over an event stream, until a WebSocket is tried again, and up to twice as long: 60,000. */
    upgrade: number;
}

export interface Environment {
    readonly base: URL;
    readonly conflateMs: number | undefined;
    readonly token: () => string | undefined | Promise<string>;
    readonly WebSocket: WebSocketClass | undefined;
    readonly timeouts: Timeouts;
}

/** Whom a link tells. */
export interface Owner {
    text(link: Link, text: string): void;
    retry(ms: number): void;
    ended(link: Link, end: End): void;
}

export class Link implements Ear {
    /** The server has acknowledged it. */
    isAcknowledged = false;
    /** No catch-up is under way. */
    isLive = false;
    /** How many requests were sent that are answered, and how many of them were. */
    asked = 0;
    answered = 0;
    token: string | undefined;
    #socket: Socket | undefined;
    #isOver = false;
    #timer: ReturnType<typeof setTimeout> | undefined;
    #heardAt = 0;
    #isProbing = false;

    constructor(readonly transport: Transport, readonly plan: Plan, readonly env: Environment, readonly owner: Owner) {
        const { open } = env.timeouts;
        this.#timer = setTimeout(() => this.fail(`no connection within ${open} ms`), open);
        this.#open().catch((error: unknown) => this.fail(String(error)));
    }

    get hasRequests(): boolean {
        return this.transport === 'websocket';
    }

    async #open(): Promise<void> {
        this.token = await this.env.token();
        if (this.#isOver) return;
        const { base, conflateMs, WebSocket } = this.env;
        const url = new URL(this.hasRequests ? 'api/ws' : 'api/sse', base);
        const query = url.searchParams;
        if (this.plan.topics.length > 0) query.set('topics', this.plan.topics.join());
        query.set('since', this.plan.since);
        if (conflateMs) query.set('conflate_ms', String(conflateMs));
        if (!this.hasRequests) {
            this.#socket = openStream(url, this.token, this);
            return;
        }
        if (this.token) query.set('token', this.token);
        url.protocol = url.protocol.replace('http', 'ws');
        this.#socket = openWebSocket(url, WebSocket!, this);
    }

    /** From here on its silence is watched. */
    acknowledge(): void {
        this.isAcknowledged = true;
        this.#watch();
    }

    send(message: object): void {
        this.#socket?.send?.(JSON.stringify(message));
    }

    text(text: string): void {
        if (!this.#isOver) this.owner.text(this, text);
    }

    heard(): void {
        this.#heardAt = performance.now();
        if (!this.#isProbing) return;
        this.#isProbing = false;
        this.#watch();
    }

    retry(ms: number): void {
        if (!this.#isOver) this.owner.retry(ms);
    }

    #watch(): void {
        const left = this.#heardAt + this.env.timeouts.idle - performance.now();
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => left > 0 ? this.#watch() : this.#probe(), Math.max(left, 0));
    }

    /** Asks whether the peer is still there, where that can be asked. */
    probe(): void {
        if (this.hasRequests && this.isAcknowledged && !this.#isProbing) this.#probe();
    }

    /**
     * In two steps, though the silence has been too long already: a page that slept wakes up to a timer that is long
     * overdue, and to messages that wait behind it.
     */
    #probe(): void {
        this.#isProbing = true;
        this.send({ type: 'ping' });
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.fail('nothing comes any more'), this.env.timeouts.pong);
    }

    fail(reason: string): void {
        this.end({ reason });
    }

    end(end: End): void {
        if (this.#isOver) return;
        this.close();
        this.owner.ended(this, end);
    }

    close(): void {
        this.#isOver = true;
        clearTimeout(this.#timer);
        this.#socket?.close();
    }
}
