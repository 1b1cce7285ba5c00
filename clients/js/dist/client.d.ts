import { type Events, type Gap, type Status } from './events.js';
import type { TopicMessage } from './messages.js';
import { type ConnectOptions } from './options.js';
import { type LiveState } from './state.js';
import { type Since } from './subscriptions.js';
export interface Client extends AsyncIterable<TopicMessage> {
    /** Calls the listener with each event. Returns a function that removes the listener. */
    on<K extends keyof Events>(event: K, listener: (value: Events[K]) => void): () => void;
    /** Called with each gap, like listeners of the event 'gap'. */
    onGap: ((gap: Gap) => void) | null;
    readonly status: Status;
    /** The position where the client would resume; null before there is one. */
    readonly position: string | null;
    /** The current subscriptions, sorted. A client of all topics has none until the server has named them. */
    readonly topics: string[];
    /**
     * Adds subscriptions, which begin at `since` (default 'snapshot'). An existing subscription begins again there,
     * unless `since` is 'now'.
     */
    subscribe(topics: string[], since?: Since): void;
    /** Drops subscriptions, and removes their keys from the states. */
    unsubscribe(topics: string[]): void;
    /** The live state of a subscription. It contains the messages since the first call. */
    state(topic: string): LiveState;
    /** Ends the client for good. */
    close(): void;
    /**
     * The messages since the first call of `next`. When the iterator is `queue` messages behind, the whole client stops
     * listening. It resumes when half of them are taken: the server then sends what it still has, and reports the rest
     * as a gap.
     */
    [Symbol.asyncIterator](): AsyncGenerator<TopicMessage, void, undefined>;
}
/** Connects to the server at this URL, such as `https://odds.example.com/`, or `/` in a page. */
export declare function connect(url: string | URL, { topics, since, conflateMs, token, transport, signal, queue: most, timeouts: given, WebSocket, }?: ConnectOptions): Client;
