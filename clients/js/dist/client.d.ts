import { type Events, type Gap, type Status } from './events.js';
import type { TopicMessage } from './messages.js';
import { type ConnectOptions } from './options.js';
import { type LiveState } from './state.js';
import { type Since } from './subscriptions.js';
export interface Client extends AsyncIterable<TopicMessage> {
    /** Calls the listener with each event; returns what takes it away. */
    on<K extends keyof Events>(event: K, listener: (value: Events[K]) => void): () => void;
    /** Called with what is missed, as the event 'gap' is. */
    onGap: ((gap: Gap) => void) | null;
    readonly status: Status;
    /** Where the client would resume; null before there is such a place. */
    readonly position: string | null;
    /** The current subscriptions, sorted; empty until a client of all topics is told which there are. */
    readonly topics: string[];
    /** Adds subscriptions, which begin at `since` ('snapshot'); one that is held begins anew there, unless it is 'now'. */
    subscribe(topics: string[], since?: Since): void;
    /** Drops subscriptions, and what the states hold of them. */
    unsubscribe(topics: string[]): void;
    /** The live state of a subscription: it holds what comes from the first call on. */
    state(topic: string): LiveState;
    /** Ends the client for good. */
    close(): void;
    /**
     * The messages, from the first call of `next` on. When the iterator is `queue` messages behind the whole client stops
     * listening, and resumes once the half of them is taken: the server keeps what it can, and tells the rest as a gap.
     */
    [Symbol.asyncIterator](): AsyncGenerator<TopicMessage, void, undefined>;
}
/** Connects to the server at this address, such as `https://odds.example.com/` or `/` in a page. */
export declare function connect(url: string | URL, { topics, since, conflateMs, token, transport, signal, queue: most, timeouts: given, WebSocket, }?: ConnectOptions): Client;
