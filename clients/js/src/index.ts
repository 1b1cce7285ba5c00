// oddswire's client for browsers and Node: see the README beside it.

import { start, type Client } from './client.js';
import type { Timeouts } from './link.js';
import { refuse } from './subscription.js';
import type { Since } from './subscriptions.js';
import type { Transport, WebSocketClass } from './transports.js';

export type { Client };
export type { Events, Gap, Status } from './events.js';
export type { Timeouts } from './link.js';
export type * from './messages.js';
export type { LiveState } from './state.js';
export type { Transport, WebSocketClass } from './transports.js';

export interface ConnectOptions {
    /** Topics, or topics narrowed by leading key segments (`odds_updates/8301`). None: all that the server has. */
    topics?: readonly string[] | undefined;
    /** Where to begin: 'snapshot' (the default), 'now', or a position that was kept. */
    since?: Since | undefined;
    /** 0 to 60,000: the newest of each key once in so many milliseconds. */
    conflateMs?: number | undefined;
    /** A JSON Web Token, or a function that gets one: it is asked before each connection, and before the token expires. */
    token?: string | (() => string | Promise<string>) | undefined;
    /** 'auto' (the default): a WebSocket, and an event stream where that does not get through. */
    transport?: 'auto' | Transport | undefined;
    /** Closes the client. */
    signal?: AbortSignal | undefined;
    /** Messages that an async iterator may be behind: 4,096. */
    queue?: number | undefined;
    timeouts?: Partial<Timeouts> | undefined;
    /** Needed in Node before 22 only: `ws`'s, for example. Without one, 'auto' takes the event stream. */
    WebSocket?: WebSocketClass | undefined;
}

const TIMEOUTS: Timeouts = {
    open: 10_000,
    idle: 20_000,
    pong: 10_000,
    stable: 10_000,
    retry: 1000,
    maxRetry: 30_000,
    upgrade: 60_000,
};

/** Connects to the server at this address, such as `https://odds.example.com/` or `/` in a page. */
export function connect(url: string | URL, options: ConnectOptions = {}): Client {
    const { topics = [], since = 'snapshot', conflateMs = 0, token, transport = 'auto', signal, queue = 4096 } = options;
    const WebSocket = options.WebSocket ?? (globalThis.WebSocket as WebSocketClass | undefined);
    if (transport === 'websocket' && !WebSocket) {
        refuse('WebSocket', WebSocket, 'a class');
    }
    const canRenew = typeof token === 'function';
    return start({
        base: baseOf(url),
        topics,
        since,
        conflateMs,
        token: canRenew ? token : () => token,
        canRenew,
        // Without WebSockets there is no choice.
        transport: WebSocket ? transport : 'sse',
        WebSocket,
        queue,
        signal,
        timeouts: { ...TIMEOUTS, ...options.timeouts },
    });
}

function baseOf(url: string | URL): URL {
    const base = new URL(url, globalThis.location?.href);
    base.protocol = base.protocol.replace('ws', 'http');
    if (!base.protocol.startsWith('http')) {
        refuse('url', url, 'http(s) or ws(s)');
    }
    base.pathname = base.pathname.replace(/\/?$/, '/');
    return base;
}
