// The options of `connect`, with their defaults.

import type { Timeouts } from './link.js';
import { refuse } from './subscription.js';
import type { Since } from './subscriptions.js';
import type { Transport, WebSocketClass } from './transports.js';

export interface ConnectOptions {
    /**
     * Topics, or topics narrowed by leading key segments (`odds_updates/8301`). Without any: all topics of the
     * server.
     */
    topics?: readonly string[] | undefined;
    /** Where to begin: 'snapshot' (the default), 'now', or a stored position. */
    since?: Since | undefined;
    /** 0 to 60,000: send only the latest message of each key, once in each window of this many milliseconds. */
    conflateMs?: number | undefined;
    /**
     * A JSON Web Token, or a function that gets one. It is called before each connection and before the token
     * expires.
     */
    token?: string | (() => string | Promise<string>) | undefined;
    /** 'auto' (the default): a WebSocket, or an event stream if the WebSocket cannot connect. */
    transport?: 'auto' | Transport | undefined;
    /** Closes the client when it is aborted. */
    signal?: AbortSignal | undefined;
    /** How many messages an async iterator may be behind; 4,096 by default. */
    queue?: number | undefined;
    timeouts?: Partial<Timeouts> | undefined;
    /** Needed only in Node before 22, for example the class of `ws`. Without a class, 'auto' uses the event stream. */
    WebSocket?: WebSocketClass | undefined;
}

export const TIMEOUTS: Timeouts = {
    open: 10_000,
    idle: 20_000,
    pong: 10_000,
    stable: 10_000,
    retry: 1000,
    maxRetry: 30_000,
    upgrade: 60_000,
};

/** The server's URL, as a base for its paths. */
export function baseOf(url: string | URL): URL {
    const base = new URL(url, globalThis.location?.href);
    base.protocol = base.protocol.replace('ws', 'http');
    if (!base.protocol.startsWith('http')) {
        refuse('url', url, 'http(s) or ws(s)');
    }
    base.pathname = base.pathname.replace(/\/?$/, '/');
    return base;
}
