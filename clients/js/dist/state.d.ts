import type { TopicMessage } from './messages.js';
export interface LiveState extends ReadonlyMap<string, TopicMessage> {
    /** The newest message without a key; a narrowed subscription has none. */
    readonly latest: TopicMessage | null;
    /**
     * Whether it holds every key that the server has. It does not where the subscription began with 'now' or a position,
     * and until the first snapshot is there.
     */
    readonly complete: boolean;
    /**
     * Calls the listener with what changed, each key once: its newest message, or one whose `data` is null where the key
     * is gone. One call a catch-up, and one a turn of the event loop in between. Returns what takes the listener away.
     */
    on(event: 'change', listener: (changed: TopicMessage[]) => void): () => void;
}
/** What keeps a live state. */
export interface Keeper {
    readonly shown: LiveState;
    /** A snapshot of this subscription comes: it replaces what is held of it at once, when it is whole. */
    stage(snapshot: string): void;
    take(message: TopicMessage, isCatchingUp: boolean): void;
    /** A catch-up has ended at this position. */
    caughtUp(position: string): void;
    /** Subscriptions were dropped: nothing stays but what others cover. */
    narrow(isCovered: (path: string) => unknown): void;
}
export declare function keep(own: string): Keeper;
