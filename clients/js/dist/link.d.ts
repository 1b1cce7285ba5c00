import type { Plan } from './subscriptions.js';
import { type Ear, type End, type Transport, type WebSocketClass } from './transports.js';
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
export declare class Link implements Ear {
    #private;
    readonly transport: Transport;
    readonly plan: Plan;
    readonly env: Environment;
    readonly owner: Owner;
    /** The server has acknowledged it. */
    isAcknowledged: boolean;
    /** No catch-up is under way. */
    isLive: boolean;
    /** How many requests were sent that are answered, and how many of them were. */
    asked: number;
    answered: number;
    token: string | undefined;
    constructor(transport: Transport, plan: Plan, env: Environment, owner: Owner);
    get hasRequests(): boolean;
    /** From here on its silence is watched. */
    acknowledge(): void;
    send(message: object): void;
    text(text: string): void;
    heard(): void;
    retry(ms: number): void;
    /** Asks whether the peer is still there, where that can be asked. */
    probe(): void;
    fail(reason: string): void;
    end(end: End): void;
    close(): void;
}
