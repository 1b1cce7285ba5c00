import type { Timeouts } from './link.js';
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
export declare const TIMEOUTS: Timeouts;
/** The server's URL, as a base for its paths. */
export declare function baseOf(url: string | URL): URL;
