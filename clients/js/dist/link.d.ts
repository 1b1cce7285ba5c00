import type { ConnectionAck } from './messages.js';
import type { Plan } from './subscriptions.js';
import { type End, type Transport, type WebSocketClass } from './transports.js';
/** Times in milliseconds, each with a default. */
export interface Timeouts {
    /** Maximum time until the server acknowledges a connection, including the token function. Default: 10,000. */
    open: number;
    /**
     * Silence after which the client sends a ping over a WebSocket. The check runs in steps of this length, so the ping
     * can come after twice this time. Over an event stream, the server sends a comment every 15 s anyway. Default:
     * 20,000.
     */
    idle: number;
    /** Maximum time from the ping to its answer. Default: 10,000. */
    pong: number;
    /** How long a connection must be live before the waits between attempts are short again. Default: 10,000. */
    stable: number;
    /**
     * The wait before an attempt is random between 0 and a limit. The first limit is this time; it doubles with each
     * attempt. Default: 1,000.
     */
    retry: number;
    /** Maximum of the limit for the wait before an attempt. Default: 30,000. */
    maxRetry: number;
    /**
     * How long the client uses an event stream before it tries a WebSocket again. The time is random, between this
     * value and twice this value. Default: 60,000.
     */
    upgrade: number;
}
export interface Settings {
    readonly base: URL;
    readonly conflation: number;
    readonly getToken: () => string | undefined | Promise<string>;
    readonly webSocket: WebSocketClass | undefined;
    readonly limits: Timeouts;
}
/** The receiver of a link's events. */
export interface Owner {
    hearText(link: Link, text: string): void;
    hearRetry(ms: number): void;
    ended(link: Link, end: End): void;
}
export interface Link {
    readonly via: Transport;
    /** Whether this is an event stream, over which the client cannot send. */
    readonly isStream: boolean;
    readonly plan: Plan;
    /** When the connection's token expires, in milliseconds of the local clock; NaN if the token does not expire. */
    expires?: number;
    /** Whether the server has acknowledged the connection. */
    isAcknowledged?: boolean;
    /** Whether the connection is acknowledged and no catch-up is in progress. */
    isLive?: boolean | undefined;
    /** The number of the latest request that the client sent; 0 is the query of the connection. */
    asked: number;
    /** The number of the latest answered request; -1 until the acknowledgement, which answers the query. */
    answered: number;
    send(message: object): void;
    /** Handles the acknowledgement, and starts the check for silence. */
    acknowledge(ack: ConnectionAck): void;
    /** Sends a ping now. */
    probe(): void;
    fail(reason?: unknown): void;
    close(): void;
}
export declare function openLink(transport: Transport, plan: Plan, settings: Settings, owner: Owner): Link;
