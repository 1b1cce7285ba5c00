import type { Timeouts } from './link.js';
import type { Since } from './subscriptions.js';
import type { Transport, WebSocketClass } from './transports.js';
export interface ConnectOptions {
    /** Topics, or topics narrowed by leading key segments (`odds_updates/8301`). If empty: all topics of the server. */
    topics?: readonly string[] | undefined;
    /** Where to begin: 'snapshot' (the default), 'now', or a stored position. */
    since?: Since | undefined;
    /**
     * 0 to 60,000: the server sends only the latest message of each key, once in each window of this many milliseconds.
     */
    conflateMs?: number | undefined;
    /**
     * A JSON Web Token, or a function that returns one. The client calls the function before each connection and before
     * the token expires.
     */
    token?: string | (() => string | Promise<string>) | undefined;
    /** 'auto' (the default): a WebSocket, or an event stream if the WebSocket cannot connect. */
    transport?: 'auto' | Transport | undefined;
    /** The client closes when this signal is aborted. */
    signal?: AbortSignal | undefined;
    /** Maximum number of messages that wait in an async iterator; 4,096 by default. */
    queue?: number | undefined;
    timeouts?: Partial<Timeouts> | undefined;
    /**
     * The WebSocket class. Only Node before version 22 needs it, for example from `ws`. Without a class, 'auto' uses
     * the event stream.
     */
    WebSocket?: WebSocketClass | undefined;
}
export declare const TIMEOUTS: Timeouts;
/** Checks the server's URL, and returns it as a base for the server's paths. */
export declare function baseOf(url: string | URL): URL;
