import type { ConnectionAck } from './messages.js';
import type { Plan } from './subscriptions.js';
import { type End, type Transport, type WebSocketClass } from './transports.js';
/** Times in milliseconds, each with a default. */
export interface Timeouts {
    /** Until a connection must be acknowledged, including the token function: 10,000. */
    open: number;
    /**
     * Silence after which the client sends a ping over a WebSocket. The check runs in steps of this length, so it can
     * take twice as long. An event stream sends a comment every 15 s anyway. 20,000.
     */
    idle: number;
    /** Until the answer to the ping must come: 10,000. */
    pong: number;
    /** How long a connection must be live before waits are short again: 10,000. */
    stable: number;
    /** The wait before an attempt is random between 0 and this limit, which doubles with each attempt: 1,000. */
    retry: number;
    /** Maximum of that limit: 30,000. */
    maxRetry: number;
    /** How long an event stream is used before a WebSocket is tried again; up to twice as long at random: 60,000. */
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
    /** An event stream, which cannot send. */
    readonly isStream: boolean;
    readonly plan: Plan;
    /** When its token expires, in milliseconds of the local clock; NaN if it does not. */
    expires?: number;
    /** The server has acknowledged it. */
    isAcknowledged?: boolean;
    /** No catch-up is in progress. */
    isLive?: boolean | undefined;
    /** The number of the latest request that was sent; 0 is the query. */
    asked: number;
    /** The number of the latest answered request; -1 until the acknowledgement, which answers the query. */
    answered: number;
    send(message: object): void;
    /** Starts the check for silence. */
    acknowledge(ack: ConnectionAck): void;
    /** Sends a ping now. */
    probe(): void;
    fail(reason?: unknown): void;
    close(): void;
}
export declare function openLink(transport: Transport, plan: Plan, settings: Settings, owner: Owner): Link;
