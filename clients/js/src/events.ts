// What a client tells, and to whom.

import type { BroadcastMessage, CatchUpMessage, CatchUpMode, CaughtUpMessage, ErrorMessage, TopicMessage } from './messages.js';
import type { Transport } from './transports.js';

export interface Status {
    /** 'waiting': for the next attempt, for topics, or for an iterator. 'closed': it does not come back. */
    readonly state: 'connecting' | 'catching-up' | 'live' | 'waiting' | 'closed';
    readonly transport: Transport | null;
    /** Attempts since the last connection that was stable. */
    readonly attempt: number;
    readonly retryInMs?: number | undefined;
    /** Why the last connection ended: a WebSocket's close code, or an HTTP status. */
    readonly code?: number | undefined;
    readonly reason?: string | undefined;
}

/** Messages that this client will not get. */
export interface Gap {
    /** By subscription: what came in their place, and how many they are; null where that is unknowable. */
    readonly topics: Readonly<Record<string, { mode: CatchUpMode; skipped: number | null }>>;
    /** Broadcasts that the client was too slow for. Those sent while it was not connected are not counted. */
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
    /** The text of everything that comes, over every connection: while one replaces another that may be twice. */
    raw: string;
}

export type Listeners<T> = Set<(value: T) => void>;

/** Adds a listener; returns what takes it away. */
export function listen<T>(listeners: Listeners<T>, listener: (value: T) => void): () => void {
    listeners.add(listener);
    return () => listeners.delete(listener);
}

/** What a listener throws is the program's to see and no business of the connection or of other listeners. */
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
