// The latest message of every key of a subscription, kept right through catch-ups.

import { call } from './events.js';
import type { TopicMessage } from './messages.js';
import { covers, type Subscription } from './subscription.js';

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

/** More changes than this are told before a catch-up is over: a client that is slow for good is always in one. */
const MOST_CHANGES = 1000;

export class State extends Map<string, TopicMessage> implements LiveState {
    latest: TopicMessage | null = null;
    complete = false;
    #of: Subscription;
    /** What a snapshot brings: it takes the place of the rest at once, when it is whole. */
    #staged: { keys: Map<string, TopicMessage>; latest: TopicMessage | null; complete: boolean } | null = null;
    /** By key; '' is the newest message without one. */
    #changed = new Map<string, TopicMessage>();
    #listeners = new Set<(changed: TopicMessage[]) => void>();

    constructor(of: Subscription) {
        super();
        this.#of = of;
    }

    on(_: 'change', listener: (changed: TopicMessage[]) => void): () => void {
        this.#listeners.add(listener);
        return () => this.#listeners.delete(listener);
    }

    /** A snapshot of this subscription comes: it replaces what is held of it, once it is whole. */
    stage(snapshot: Subscription): void {
        if (!covers(snapshot, this.#of) && !covers(this.#of, snapshot)) return;
        this.#staged ??= { keys: new Map(this), latest: this.latest, complete: this.complete };
        for (const message of this.#staged.keys.values()) {
            if (covers(snapshot, message)) this.#staged.keys.delete(message.key!);
        }
        if (covers(snapshot, this.#of)) this.#staged = { keys: this.#staged.keys, latest: null, complete: true };
    }

    take(message: TopicMessage, isCatchingUp: boolean): void {
        if (!covers(this.#of, message)) return;
        const { key } = message;
        if (this.#staged) {
            if (key === undefined) this.#staged.latest = message;
            else if (message.data === null) this.#staged.keys.delete(key);
            else this.#staged.keys.set(key, message);
            return;
        }
        if (key === undefined) this.latest = message;
        else if (message.data === null) this.delete(key);
        else this.set(key, message);
        this.#change(message);
        if (isCatchingUp ? this.#changed.size > MOST_CHANGES : this.#changed.size === 1) queueMicrotask(() => this.tell());
    }

    /** A catch-up has ended at this position: what is of another epoch is gone, or the server would have sent it again. */
    caughtUp(position: string): void {
        const staged = this.#staged;
        this.#staged = null;
        if (staged) this.#replace(staged);
        const epoch = position.slice(0, position.indexOf('-') + 1);
        const isStale = (message: TopicMessage) => !message.id.startsWith(epoch);
        this.drop(isStale);
        if (this.latest && isStale(this.latest)) this.latest = null;
        this.tell();
    }

    #replace(staged: { keys: Map<string, TopicMessage>; latest: TopicMessage | null; complete: boolean }): void {
        this.drop(message => !staged.keys.has(message.key!));
        for (const [key, message] of staged.keys) {
            if (this.get(key)?.id !== message.id) this.#change(message);
        }
        // Not key by key: the order of a map is that of first insertion, and here it is that of the positions.
        this.clear();
        for (const [key, message] of staged.keys) this.set(key, message);
        if (staged.latest && staged.latest.id !== this.latest?.id) this.#change(staged.latest);
        this.latest = staged.latest;
        this.complete = staged.complete;
    }

    /** Removes keys, and notes each as gone. */
    drop(isGone: (message: TopicMessage) => boolean): void {
        for (const [key, message] of this) {
            if (!isGone(message)) continue;
            this.delete(key);
            this.#change({ ...message, data: null });
        }
    }

    /** What is held is cut down to what the remaining subscriptions cover. */
    keep(isHeld: (what: { topic: string; key?: string | undefined }) => boolean): void {
        this.drop(message => !isHeld(message));
        for (const [key, message] of this.#staged?.keys ?? []) if (!isHeld(message)) this.#staged!.keys.delete(key);
        if (!isHeld(this.#of)) {
            this.latest = null;
            this.complete = false;
            if (this.#staged) Object.assign(this.#staged, { latest: null, complete: false });
        }
        this.tell();
    }

    #change(message: TopicMessage): void {
        this.#changed.set(message.key ?? '', message);
    }

    tell(): void {
        if (this.#changed.size === 0) return;
        const changed = [...this.#changed.values()];
        this.#changed.clear();
        for (const listener of this.#listeners) call(listener, changed);
    }
}
