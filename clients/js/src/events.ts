// The events of a client, and its listeners.

import type { BroadcastMessage, CatchUpMessage, CatchUpMode, CaughtUpMessage, ErrorMessage, TopicMessage } from './messages.js';
import type { Transport } from './transports.js';

export interface Status {
    /**
     * 'waiting': the client waits for the next attempt, for topics, or for an iterator. 'closed': the client does not
     * reconnect.
     */
    readonly state: 'connecting' | 'catching-up' | 'live' | 'waiting' | 'closed';
    readonly transport: Transport | null;
    /** Attempts since the last stable connection. */
    readonly attempt: number;
    readonly retryInMs?: number | undefined;
    /** Why the last connection ended: a WebSocket's close code, or an HTTP status. */
    readonly code?: number | undefined;
    readonly reason?: string | undefined;
}

/** Messages that this client will not get. */
export interface Gap {
    /** For each subscription: the mode of the catch-up, and the number of missed messages; null if that is unknown. */
    readonly topics: Readonly<Record<string, { mode: CatchUpMode; skipped: number | null }>>;
    /**
     * Number of broadcasts that the client missed because it was too slow. Broadcasts sent while the client was not
     * connected are not included.
     */
    readonly broadcastsSkipped: number;
}

export interface Events {
    status: Status;
    message: TopicMessage;
    catchup: CatchUpMessage;
    caughtup: CaughtUpMessage;
    gap: Gap;
    broadcast: BroadcastMessage;
    error: ErrorMessage;
    /**
     * The text of each received message, over every connection. While one connection replaces another, texts may come
     * twice.
     */
    raw: string;
}

export type Listeners<T> = Set<(value: T) => void>;

/** Adds a listener. Returns a function that removes the listener. */
export function listen<T>(listeners: Listeners<T>, listener: (value: T) => void): () => void {
    listeners.add(listener);
    return () => listeners.delete(listener);
}

/** Calls all listeners. Reports an exception of a listener as uncaught, so that the exception affects nothing else. */
export function tellAll<T>(listeners: Iterable<(value: T) => void>, value: T): void {
    for (const listener of listeners) {
        try {
            listener(value);
        } catch (error) {
            queueMicrotask(() => {
                throw error;
            });
        }
    }
}
