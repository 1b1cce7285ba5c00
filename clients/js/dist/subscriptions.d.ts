import type { CatchUpMessage, TopicMessage } from './messages.js';
/** 'now', 'snapshot' or a position. */
export type Since = string;
/** What a connection asks for in its query. */
export interface Plan {
    /** Empty: all topics. */
    readonly names: readonly string[];
    readonly begin: Since;
}
export interface Subscriptions {
    /** Sorted. */
    names(): string[];
    /** Those that were to go on from another position than this one. */
    behind(position: string): string[];
    /** Where the client resumes; null until it has seen a position. */
    reached(): string | null;
    /** Whether there is nothing to connect for. */
    isEmpty(): boolean;
    /** Whether resuming at the position brings all that is left of every subscription, and there is one. */
    isQuiet(): unknown;
    include(names: readonly string[], since: Since): void;
    exclude(names: readonly string[]): void;
    /** Whether all of what stands at or below the path belongs to a subscription. */
    isCovered(path: string): unknown;
    /** What the next connection asks for in its query; the rest is asked for by requests, where the transport has them. */
    plan(hasRequests: boolean): Plan;
    /** The requests that a connection has yet to be sent, after `asked` others. */
    requests(asked: number): object[];
    /** The server has answered the connection's request of this number; 0 is the acknowledgement. */
    answered(topics: readonly string[], position: string, request: number): void;
    /**
     * The server refuses these, or what the connection's request of this number asked for beyond what there was. Whether some
     * are given up by that, and others are left.
     */
    refused(names: readonly string[], request: number | false): unknown;
    /** The server has announced a catch-up, having answered so many requests. */
    announced(topics: CatchUpMessage['data']['topics'], answered: number): void;
    /** Whether a message is new to any of its subscriptions; the client has come to it then. */
    take(message: TopicMessage): unknown;
    /** Everything up to this position has been delivered or told as skipped. */
    reach(position: string): void;
}
/** `snapshot` is called when a connection that is cut would resume within the snapshot of this subscription. */
export declare function subscriptionsOf(topics: readonly string[], since: Since, snapshot: (of: string) => void): Subscriptions;
