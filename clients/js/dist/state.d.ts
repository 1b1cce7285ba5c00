import type { TopicMessage } from './messages.js';
import { type Subscription } from './subscription.js';
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
export declare class State extends Map<string, TopicMessage> implements LiveState {
    #private;
    latest: TopicMessage | null;
    complete: boolean;
    constructor(of: Subscription);
    on(_: 'change', listener: (changed: TopicMessage[]) => void): () => void;
    /** A snapshot of this subscription comes: it replaces what is held of it, once it is whole. */
    stage(snapshot: Subscription): void;
    take(message: TopicMessage, isCatchingUp: boolean): void;
    /** A catch-up has ended at this position: what is of another epoch is gone, or the server would have sent it again. */
    caughtUp(position: string): void;
    /** Removes keys, and notes each as gone. */
    drop(isGone: (message: TopicMessage) => boolean): void;
    /** What is held is cut down to what the remaining subscriptions cover. */
    keep(isHeld: (what: {
        topic: string;
        key?: string | undefined;
    }) => boolean): void;
    tell(): void;
}
