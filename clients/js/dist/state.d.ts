import type { TopicMessage } from './messages.js';
export interface LiveState extends ReadonlyMap<string, TopicMessage> {
    /** The latest message without a key. A narrowed subscription has no such message. */
    readonly latest: TopicMessage | null;
    /**
     * Whether the state holds every key that the server has. It is false until the first snapshot is complete, and if
     * the subscription began with 'now' or a position.
     */
    readonly complete: boolean;
    /**
     * Calls the listener with the changes: for each changed key its latest message, or a message with `data` null if
     * the key is deleted. The listener is called once for each catch-up, otherwise once for each turn of the event
     * loop. Returns a function that removes the listener.
     */
    on(event: 'change', listener: (changed: TopicMessage[]) => void): () => void;
}
/** Updates a live state. */
export interface Keeper {
    readonly shown: LiveState;
    /**
     * Call this when a snapshot of this subscription begins. When the snapshot is complete, it replaces the
     * subscription's keys in one step.
     */
    stage(snapshot: string): void;
    take(message: TopicMessage, isCatchingUp: boolean): void;
    /** Call this when a catch-up has ended at this position. */
    caughtUp(position: string): void;
    /** Call this when subscriptions were dropped. Only keys that remaining subscriptions cover stay in the state. */
    narrow(isCovered: (path: string) => unknown): void;
}
export declare function keep(own: string): Keeper;
