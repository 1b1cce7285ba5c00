// What a program can ask for.

import type { Timeouts } from './link.js';
import { refuse } from './subscription.js';
import type { Since } from './subscriptions.js';
import type { Transport, WebSocketClass } from './transports.js';

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

export const TIMEOUTS: Timeouts = {
    open: 10_000,
    idle: 20_000,
    pong: 10_000,
    stable: 10_000,
    retry: 1000,
    maxRetry: 30_000,
    upgrade: 60_000,
};

/** The address of a server, as a base for its paths. */
export function baseOf(url: string | URL): URL {
    const base = new URL(url, globalThis.location?.href);
    base.protocol = base.protocol.replace('ws', 'http');
    if (!base.protocol.startsWith('http')) {
        refuse('url', url, 'http(s) or ws(s)');
    }
    base.pathname = base.pathname.replace(/\/?$/, '/');
    return base;
}
