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
    /** The names of all subscriptions, sorted. */
    names(): string[];
    /** The subscriptions that should continue from another position than this one. */
    behind(position: string): string[];
    /** Where the client resumes; null until it has seen a position. */
    reached(): string | null;
    /** Whether there is no subscription to connect for. */
    isEmpty(): boolean;
    /**
     * Whether there are subscriptions, and a resume at the client's position delivers everything that each of them
     * misses.
     */
    isQuiet(): unknown;
    include(names: readonly string[], since: Since): void;
    exclude(names: readonly string[]): void;
    /** Whether one subscription includes the path and everything below it. */
    isCovered(path: string): unknown;
    /**
     * The query of the next connection. If the transport can send requests, later requests ask for the remaining
     * subscriptions.
     */
    plan(hasRequests: boolean): Plan;
    /** The requests that the client still has to send over a connection that has sent `asked` requests. */
    requests(asked: number): object[];
    /** Call this when the server has answered the request with this number; the acknowledgement answers request 0. */
    answered(topics: readonly string[], position: string, request: number): void;
    /**
     * Call this when the server refuses these names, or the new subscriptions of the request with this number. Returns
     * a true value if some subscriptions are dropped and others are left.
     */
    refused(names: readonly string[], request: number | false): unknown;
    /** Call this when the server announces a catch-up. `answered` is the number of the latest answered request. */
    announced(topics: CatchUpMessage['data']['topics'], answered: number): void;
    /**
     * Whether a message is new for a subscription that includes it. If so, the client's position moves to the message.
     */
    take(message: TopicMessage): unknown;
    /** Call this when all messages up to this position are delivered or reported as skipped. */
    reach(position: string): void;
}
/**
 * Calls `snapshot` at the first message of a subscription's snapshot: from then on, a client that loses its connection
 * resumes within the snapshot.
 */
export declare function subscriptionsOf(topics: readonly string[], since: Since, snapshot: (of: string) => void): Subscriptions;
