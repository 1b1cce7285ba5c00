import type { CatchUpMessage, TopicMessage } from './messages.js';
/** 'now', 'snapshot' or a position. */
export type Since = string;
/** The query of a connection. */
export interface Plan {
    /** Empty: all topics. */
    readonly names: readonly string[];
    readonly begin: Since;
}
export interface Subscriptions {
    /** The names, sorted. */
    names(): string[];
    /** The subscriptions that should continue from another position than this one. */
    behind(position: string): string[];
    /** Where the client resumes; null until it has seen a position. */
    reached(): string | null;
    /** Whether there is no subscription to connect for. */
    isEmpty(): boolean;
    /** Whether there are subscriptions, and resuming at the position delivers everything that is missing of each. */
    isQuiet(): unknown;
    include(names: readonly string[], since: Since): void;
    exclude(names: readonly string[]): void;
    /** Whether one subscription includes the path and everything below it. */
    isCovered(path: string): unknown;
    /** The query of the next connection. If the transport has requests, they ask for the remaining subscriptions. */
    plan(hasRequests: boolean): Plan;
    /** The requests that are still to be sent over a connection, after `asked` earlier ones. */
    requests(asked: number): object[];
    /** The server has answered the connection's request of this number; 0 is the acknowledgement. */
    answered(topics: readonly string[], position: string, request: number): void;
    /**
     * The server refuses these names, or the additions of the connection's request of this number. Returns a true value
     * if some subscriptions are dropped and others are left.
     */
    refused(names: readonly string[], request: number | false): unknown;
    /** The server has announced a catch-up, after it answered this number of requests. */
    announced(topics: CatchUpMessage['data']['topics'], answered: number): void;
    /** Whether a message is new for one of its subscriptions. If it is, the client's position moves to it. */
    take(message: TopicMessage): unknown;
    /** All messages up to this position have been delivered or reported as skipped. */
    reach(position: string): void;
}
/**
 * Calls `snapshot` at the first message of a subscription's snapshot: from then on, a cut connection resumes within
 * it.
 */
export declare function subscriptionsOf(topics: readonly string[], since: Since, snapshot: (of: string) => void): Subscriptions;
