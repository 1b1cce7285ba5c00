import type { CatchUpMessage, TopicMessage } from './messages.js';
import { type Subscription } from './subscription.js';
/** 'now', 'snapshot' or a position. */
export type Since = string;
/** What a connection asks for in its query. */
export interface Plan {
    /** Empty: all topics. */
    readonly topics: readonly string[];
    readonly since: Since;
    /** Subscriptions that may miss messages by it without being told by the server. */
    readonly lost: readonly string[];
}
interface Held extends Subscription {
    /** Where it has yet to begin; null once resuming at the client's position brings all that is left of it. */
    since: Since | null;
    /** What stands up to this offset was delivered or told as skipped; Infinity until the server says where it begins. */
    cursor: number;
    /** Which request of the connection asks for it: 0 is its query, Infinity none yet. */
    asked: number;
    /** The server has announced its catch-up. */
    told: boolean;
    /** Its messages come, whatever else is asked for it. */
    settled: boolean;
}
export declare function split(position: string): [epoch: string, offset: number];
export declare class Subscriptions {
    #private;
    /** Where the client resumes; null until it has seen a position. */
    position: string | null;
    constructor(topics: readonly string[], since: Since);
    get names(): string[];
    /** Whether there is nothing to connect for. */
    get isEmpty(): boolean;
    /** Whether resuming at the position brings all that is left of every subscription. */
    get isSettled(): boolean;
    add(names: readonly string[], since: Since): void;
    remove(names: readonly string[]): Subscription[];
    /** Whether the subscription, or this message, belongs to what is held. */
    covers(what: {
        topic: string;
        key?: string | undefined;
    }): boolean;
    /** What the next connection asks for in its query; the rest is asked for by requests, where the transport has them. */
    plan(hasRequests: boolean): Plan;
    /** What has to be requested of a connection: names to drop, and to add, by where they begin. */
    requests(): {
        dropped: string[];
        added: Map<Since, Held[]>;
    };
    /** The server has acknowledged a connection. */
    acknowledged(topics: readonly string[], position: string, since: Since): void;
    /** The server has answered the connection's request of this number. */
    answered(position: string, request: number): void;
    /** The server refuses these, or what the connection's request of this number asked for. */
    refused(names: readonly string[] | undefined, request: number): void;
    /** The server has announced a catch-up; returns the subscriptions whose state it is to replace. */
    announced(topics: CatchUpMessage['data']['topics'], answered: number): Subscription[];
    /** Whether a message is new to any of its subscriptions; the client has come to it then. */
    take(message: TopicMessage): boolean;
    /** Everything up to this position has been delivered or told as skipped. */
    reach(position: string): void;
}
export {};
