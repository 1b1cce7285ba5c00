import type { ConnectionAck } from './messages.js';
import type { Plan } from './subscriptions.js';
import { type End, type Transport, type WebSocketClass } from './transports.js';
/** In milliseconds; each has a default. */
export interface Timeouts {
    /** For a connection to be acknowledged, the token function included: 10,000. */
    open: number;
    /**
     * Without a message, after which a WebSocket is asked for a sign of life; an event stream brings one every 15 s by
     * itself. It is looked at in steps of this length, so it can take twice as long: 20,000.
     */
    idle: number;
    /** For that sign to come: 10,000. */
    pong: number;
    /** For which a connection has to be live before waits are short again: 10,000. */
    stable: number;
    /** The wait before a new attempt is drawn between 0 and this, which doubles with each attempt: 1,000. */
    retry: number;
    /** What it doubles up to: 30,000. */
    maxRetry: number;
    /** Over an event stream, until a WebSocket is tried again, and up to twice as long: 60,000. */
    upgrade: number;
}
export interface Settings {
    readonly base: URL;
    readonly conflation: number;
    readonly getToken: () => string | undefined | Promise<string>;
    readonly webSocket: WebSocketClass | undefined;
    readonly limits: Timeouts;
}
/** Whom a link tells. */
export interface Owner {
    hearText(link: Link, text: string): void;
    hearRetry(ms: number): void;
    ended(link: Link, end: End): void;
}
export interface Link {
    readonly via: Transport;
    /** It can only listen. */
    readonly isStream: boolean;
    readonly plan: Plan;
    /** When its token expires, in milliseconds of our clock; NaN where it does not. */
    expires?: number;
    /** The server has acknowledged it. */
    isAcknowledged?: boolean;
    /** No catch-up is under way. */
    isLive?: boolean | undefined;
    /** The number of the newest request that was sent; 0 is the query. */
    asked: number;
    /** The number of the newest request that was answered; -1 until the acknowledgement, which answers the query. */
    answered: number;
    send(message: object): void;
    /** From here on its silence is watched. */
    acknowledge(ack: ConnectionAck): void;
    /** Asks for a sign of life now. */
    probe(): void;
    fail(reason?: unknown): void;
    close(): void;
}
export declare function openLink(transport: Transport, plan: Plan, settings: Settings, owner: Owner): Link;
