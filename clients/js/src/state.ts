// The latest message of every key of a subscription, kept correct during catch-ups.

import { listen, tellAll, type Listeners } from './events.js';
import type { TopicMessage } from './messages.js';
import { covers, pathOf, split } from './subscription.js';

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

/**
 * Maximum number of changes that wait for the end of a catch-up. With more, the listeners are called earlier, because a
 * slow client may always be in a catch-up.
 */
const MOST_CHANGES = 1000;

export function keep(own: string): Keeper {
    const listeners: Listeners<TopicMessage[]> = new Set();
    const held = new Map<string, TopicMessage>();
    const shown = Object.assign(held, {
        latest: null as TopicMessage | null,
        complete: false,
        on: (_: 'change', listener: (changed: TopicMessage[]) => void) => listen(listeners, listener),
    });
    /** The subscriptions whose snapshots are in progress. */
    let snapshots: string[] = [];
    /**
     * Messages since the snapshots began, by key. Here and below, the key '' stands for the latest message without a
     * key.
     */
    const staged = new Map<string, TopicMessage>();
    const changed = new Map<string, TopicMessage>();

    const tell = (): void => {
        const list = [...changed.values()];
        changed.clear();
        if (list[0]) tellAll(listeners, list);
    };

    const apply = (message: TopicMessage): void => {
        const { key, id, data } = message;
        if (!key) shown.latest = message;
        else if (data === null) {
            if (!held.delete(key)) return;
        } else {
            if (held.get(key)?.id === id) return;
            held.set(key, message);
        }
        changed.set(key ?? '', message);
    };

    const commit = (): void => {
        staged.forEach(apply);
        staged.clear();
        snapshots = [];
    };

    const retain = (isKept: (message: TopicMessage) => unknown): void => {
        for (const message of held.values()) if (!isKept(message)) apply({ ...message, data: null });
        if (shown.latest && !isKept(shown.latest)) shown.latest = null;
    };

    const unstage = (isGone: (message: TopicMessage) => boolean): void => {
        for (const [key, message] of staged) if (isGone(message)) staged.delete(key);
    };

    return {
        shown,
        stage(snapshot) {
            if (covers(snapshot, own) || covers(own, snapshot)) {
                snapshots.push(snapshot);
                unstage(message => covers(snapshot, pathOf(message)));
            }
        },
        take(message, isCatchingUp) {
            if (!covers(own, pathOf(message))) return;
            if (snapshots[0]) return void staged.set(message.key ?? '', message);
            apply(message);
            if (isCatchingUp ? changed.size > MOST_CHANGES : changed.size === 1) queueMicrotask(tell);
        },
        caughtUp(position) {
            const [epoch] = split(position);
            const isReplaced = (path: string) => snapshots.some(snapshot => covers(snapshot, path));
            // Keys from another epoch no longer exist. Otherwise the server would have sent them again.
            const isGone = ({ id }: TopicMessage) => split(id)[0] !== epoch;
            unstage(isGone);
            retain(message => staged.has(message.key ?? '') || !(isGone(message) || isReplaced(pathOf(message))));
            if (isReplaced(own)) shown.complete = true;
            commit();
            tell();
        },
        narrow(isCovered) {
            retain(message => isCovered(pathOf(message)));
            unstage(message => !isCovered(pathOf(message)));
            snapshots = snapshots.filter(isCovered);
            if (!snapshots[0]) commit();
            if (!isCovered(own)) shown.complete = false;
            tell();
        },
    };
}
