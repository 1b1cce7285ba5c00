import { type Events, type Gap, type Status } from './events.js';
import type { TopicMessage } from './messages.js';
import { type ConnectOptions } from './options.js';
import { type LiveState } from './state.js';
import { type Since } from './subscriptions.js';
export interface Client extends AsyncIterable<TopicMessage> {
    /** Calls the listener with each event. Returns a function that removes the listener. */
    on<K extends keyof Events>(event: K, listener: (value: Events[K]) => void): () => void;
    /** The client calls this with each gap, like a listener of the event 'gap'. */
    onGap: ((gap: Gap) => void) | null;
    readonly status: Status;
    /** The position where the client would resume; null before the client has a position. */
    readonly position: string | null;
    /**
     * The current subscriptions, sorted. A client of all topics has no subscriptions until the server has named its
     * topics.
     */
    readonly topics: string[];
    /**
     * Adds subscriptions, which begin at `since` (default 'snapshot'). An existing subscription begins again at
     * `since`, unless that is 'now'.
     */
    subscribe(topics: string[], since?: Since): void;
    /** Drops subscriptions, and removes their keys from the states. */
    unsubscribe(topics: string[]): void;
    /** The live state of a subscription. The first call begins to collect messages. */
    state(topic: string): LiveState;
    /** Closes the client, which then never reconnects. */
    close(): void;
    /**
     * Yields the messages that arrive after the first call of `next`. When `queue` messages wait in the iterator, the
     * whole client disconnects. It resumes when half of these messages are taken. The server then sends the missed
     * messages that it still has, and reports the others as a gap.
     */
    [Symbol.asyncIterator](): AsyncGenerator<TopicMessage, void, undefined>;
}
/** Connects to the server at this URL, such as `https://odds.example.com/`, or `/` in a page. */
export declare function connect(url: string | URL, { topics, since, conflateMs, token, transport, signal, queue: most, timeouts: given, WebSocket, }?: ConnectOptions): Client;
