import { type Events, type Gap, type Status } from './events.js';
import { Link, type Environment, type Owner } from './link.js';
import type { TopicMessage } from './messages.js';
import { type LiveState } from './state.js';
import { type Since } from './subscriptions.js';
import type { End, Transport } from './transports.js';
export interface ClientSettings extends Environment {
    readonly topics: readonly string[];
    readonly since: Since;
    readonly transport: 'auto' | Transport;
    /** Whether asking for a token again can give another one. */
    readonly canRenew: boolean;
    readonly queue: number;
}
export declare class Client implements AsyncIterable<TopicMessage>, Owner {
    #private;
    /** Called with what is missed, as the event 'gap'. */
    onGap: ((gap: Gap) => void) | null;
    constructor(settings: ClientSettings);
    on<K extends keyof Events>(event: K, listener: (value: Events[K]) => void): () => void;
    get status(): Status;
    /** Where the client would resume; null before the first message or acknowledgement. */
    get position(): string | null;
    /** The current subscriptions, sorted; empty until a client of all topics is told which there are. */
    get topics(): string[];
    /** Adds subscriptions, which begin at `since`; one that is held begins anew there, unless it is 'now'. */
    subscribe(topics: string[], since?: Since): void;
    /** Drops subscriptions, and what the states hold of them. */
    unsubscribe(topics: string[]): void;
    /** The live state of a subscription: it holds what comes from this call on. */
    state(topic: string): LiveState;
    /**
     * The messages, from this call on. When the iterator is `queue` messages behind the whole client stops listening, and
     * resumes once the half of them is taken: the server has kept what it could, and tells the rest as a gap.
     */
    [Symbol.asyncIterator](): AsyncIterableIterator<TopicMessage>;
    /** Ends the client for good. */
    close(): void;
    retry(ms: number): void;
    ended(link: Link, end: End): void;
    text(link: Link, text: string): void;
}
