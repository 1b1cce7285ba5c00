// The client: it keeps one connection, replaces it before it ends where that is announced, comes back where it is not,
// and hands every message out once.

import { call, Listeners, type Events, type Gap, type Status } from './events.js';
import { Link, type Environment, type Owner } from './link.js';
import type { CatchUpMessage, CaughtUpMessage, ConnectionAck, TopicMessage } from './messages.js';
import { Queue } from './queue.js';
import { State, type LiveState } from './state.js';
import { parse, type Subscription } from './subscription.js';
import { Subscriptions, type Since } from './subscriptions.js';
import { expiry } from './token.js';
import type { End, Transport } from './transports.js';

/** Close codes and statuses after which coming back would only be refused again (src/close.rs; RFC 6455, section 7.4.1). */
const FINAL = [1000, 1002, 1003, 1007, 1008, 1009, 4403, 4429];
/** A server's wish to be left alone is respected for as long as this. */
const MAX_WISH = 300_000;
/** Between requests to change the subscriptions, in milliseconds: the server takes 20 messages a second. */
const REQUEST_PAUSE = 200;
/** Where changing them means a new connection. */
const RECONNECT_PAUSE = 1000;

type Timer = ReturnType<typeof setTimeout>;
type TimerName = 'retry' | 'replace' | 'stable' | 'flush' | 'renew' | 'upgrade';

export interface ClientSettings extends Environment {
    readonly topics: readonly string[];
    readonly since: Since;
    readonly transport: 'auto' | Transport;
    /** Whether asking for a token again can give another one. */
    readonly canRenew: boolean;
    readonly queue: number;
}

export class Client implements AsyncIterable<TopicMessage>, Owner {
    /** Called with what is missed, as the event 'gap'. */
    onGap: ((gap: Gap) => void) | null = null;
    #status: Status = { state: 'connecting', transport: null, attempt: 0 };
    #settings: ClientSettings;
    #subscriptions: Subscriptions;
    #states = new Map<string, State>();
    #listeners = new Listeners();
    #queues = new Set<Queue>();
    /** Snapshots that are announced, and of which nothing has come yet. */
    #announced: Subscription[] = [];

    #link: Link | null = null;
    /** The connection that is to replace `link`, once it is caught up. */
    #early: Link | null = null;
    /** The transport that a replacement is wanted with. */
    #wanted: Transport | null = null;
    /** Broadcasts that came over `link` and over `early`, to tell which came over both. */
    #heard: { old: string[]; early: [string, Events['broadcast']][] } = { old: [], early: [] };

    #attempt = 0;
    /** The wait that the server has wished for. */
    #wish = 0;
    #notBefore = 0;
    #retryAt = 0;
    /** Connections by WebSocket in a row that were not acknowledged. */
    #refused = 0;
    #hasWorked = false;
    #isPaused = false;
    #flushedAt = 0;
    /** The server's clock less ours. */
    #skew = 0;
    #timers: { [name in TimerName]?: Timer | undefined } = {};

    constructor(settings: ClientSettings) {
        this.#settings = settings;
        this.#subscriptions = new Subscriptions(settings.topics, settings.since);
        for (const [target, event] of wakes()) target.addEventListener(event, this.#wake);
        this.#connect();
    }

    on<K extends keyof Events>(event: K, listener: (value: Events[K]) => void): () => void {
        return this.#listeners.on(event, listener);
    }

    get status(): Status {
        return this.#status;
    }

    /** Where the client would resume; null before the first message or acknowledgement. */
    get position(): string | null {
        return this.#subscriptions.position;
    }

    /** The current subscriptions, sorted; empty until a client of all topics is told which there are. */
    get topics(): string[] {
        return this.#subscriptions.names;
    }

    /** Adds subscriptions, which begin at `since`; one that is held begins anew there, unless it is 'now'. */
    subscribe(topics: string[], since: Since = 'snapshot'): void {
        this.#subscriptions.add(topics, since);
        this.#change();
    }

    /** Drops subscriptions, and what the states hold of them. */
    unsubscribe(topics: string[]): void {
        if (this.#subscriptions.remove(topics).length === 0) return;
        for (const state of this.#states.values()) state.keep(what => this.#subscriptions.covers(what));
        this.#change();
    }

    /** The live state of a subscription: it holds what comes from this call on. */
    state(topic: string): LiveState {
        const state = this.#states.get(topic) ?? new State(parse(topic));
        this.#states.set(topic, state);
        return state;
    }

    /**
     * The messages, from this call on. When the iterator is `queue` messages behind the whole client stops listening, and
     * resumes once the half of them is taken: the server has kept what it could, and tells the rest as a gap.
     */
    [Symbol.asyncIterator](): AsyncIterableIterator<TopicMessage> {
        const queue = new Queue(() => this.#resume(), queue => {
            this.#queues.delete(queue);
            this.#resume();
        });
        if (this.#status.state === 'closed') queue.end();
        this.#queues.add(queue);
        return queue;
    }

    /** Ends the client for good. */
    close(): void {
        this.#finish({ code: 1000, reason: 'closed by the client' });
    }

    // Connections

    #connect(): void {
        if (this.#subscriptions.isEmpty) return this.#tell('waiting', { reason: 'there are no topics' });
        const transport = this.#choose();
        this.#link = this.#open(transport);
        this.#tell('connecting');
    }

    #open(transport: Transport): Link {
        return new Link(transport, this.#subscriptions.plan(transport === 'websocket'), this.#settings, this);
    }

    /** An event stream where WebSockets do not get through; the two take turns while nothing does. */
    #choose(): Transport {
        const { transport, WebSocket } = this.#settings;
        if (transport !== 'auto') return transport;
        return WebSocket && this.#refused < (this.#hasWorked ? 3 : 1) ? 'websocket' : 'sse';
    }

    #let(name: TimerName, ms: number, then: () => void): void {
        clearTimeout(this.#timers[name]);
        this.#timers[name] = setTimeout(() => {
            this.#timers[name] = undefined;
            then();
        }, Math.min(ms, 2 ** 31 - 1));
    }

    /** Stops what belongs to the present connections. */
    #hangUp(): void {
        for (const timer of Object.values(this.#timers)) clearTimeout(timer);
        this.#timers = {};
        this.#link?.close();
        this.#early?.close();
        this.#link = this.#early = this.#wanted = null;
        this.#announced = [];
    }

    /** How long to wait before the next attempt: full jitter, so that those who were cut together come back apart. */
    #backoff(): number {
        const { retry, maxRetry } = this.#settings.timeouts;
        const wait = Math.max(Math.random() * Math.min(maxRetry, retry * 2 ** this.#attempt++), this.#wish);
        this.#notBefore = Date.now() + this.#wish;
        this.#wish = 0;
        return wait;
    }

    #retryIn(ms: number, end?: End): void {
        this.#retryAt = Date.now() + ms;
        this.#let('retry', ms, () => this.#connect());
        this.#tell('waiting', { retryInMs: Math.round(ms), code: end?.code, reason: end?.reason });
    }

    retry(ms: number): void {
        this.#wish = Math.min(Math.max(ms, 0), MAX_WISH);
    }

    ended(link: Link, end: End): void {
        if (link === this.#early) return this.#notReplaced(link);
        if (!link.isAcknowledged) this.#refused = link.hasRequests ? this.#refused + 1 : 0;
        if (this.#isFinal(end)) return this.#finish(end, new Error(`${end.reason} (${end.code})`));
        if (this.#early) return this.#takeOver();
        this.#hangUp();
        this.#retryIn(this.#backoff(), end);
    }

    #isFinal({ code = 0, refusal }: End): boolean {
        const isUnauthorized = code === 4401 || (code === 401 && refusal);
        return FINAL.includes(code) || !!(refusal && (code === 400 || code === 403))
            || !!(isUnauthorized && !this.#settings.canRenew);
    }

    #finish(end: End, error?: Error): void {
        if (this.#status.state === 'closed') return;
        this.#hangUp();
        for (const [target, event] of wakes()) target.removeEventListener(event, this.#wake);
        this.#tell('closed', end);
        for (const queue of this.#queues) queue.end(error);
    }

    #tell(state: Status['state'], more: Partial<Status> = {}): void {
        const transport = this.#link?.transport ?? null;
        this.#status = { state, transport, attempt: this.#attempt, ...more };
        this.#listeners.emit('status', this.#status);
    }

    /** The network is back, or the page is looked at again: timers may have slept, and connections died meanwhile. */
    #wake = (): void => {
        if (globalThis.document?.hidden) return;
        this.#link?.probe();
        const wait = Math.max(Math.random() * this.#settings.timeouts.retry, this.#notBefore - Date.now());
        if (this.#timers.retry && Date.now() + wait < this.#retryAt) this.#retryIn(wait);
    };

    // Replacing a connection before it ends

    #replaceIn(ms: number, transport: Transport): void {
        this.#wanted = transport;
        this.#let('replace', ms, () => this.#replace());
    }

    /** Opens the connection that is to replace the present one. Not in a catch-up: it is called again after it. */
    #replace(): void {
        if (!this.#wanted || this.#timers.replace || this.#early || !this.#link?.isLive) return;
        if (!this.#subscriptions.isSettled) return;
        this.#heard = { old: [], early: [] };
        this.#early = this.#open(this.#wanted);
    }

    #notReplaced(link: Link): void {
        this.#early = null;
        if (link.transport === this.#link!.transport) return this.#replaceIn(this.#backoff(), link.transport);
        this.#wanted = null;
        this.#upgradeLater();
    }

    #dropEarly(): void {
        this.#early?.close();
        this.#early = null;
    }

    /** The replacement goes on alone. */
    #takeOver(): void {
        const [old, early] = [this.#link!, this.#early!];
        this.#early = null;
        this.#hangUp();
        this.#link = early;
        early.isLive = old.isLive && early.isAcknowledged;
        if (early.isAcknowledged) this.#begun(early);
        this.#tell(early.isLive ? 'live' : early.isAcknowledged ? 'catching-up' : 'connecting');
        for (const [text, message] of this.#heard.early) {
            const at = this.#heard.old.indexOf(text);
            if (at < 0) this.#listeners.emit('broadcast', message);
            else this.#heard.old.splice(at, 1);
        }
        this.#heard = { old: [], early: [] };
    }

    /** Over an event stream a WebSocket is tried again later. */
    #upgradeLater(): void {
        const { transport, WebSocket, timeouts } = this.#settings;
        if (this.#link!.hasRequests || transport !== 'auto' || !WebSocket) return;
        this.#let('upgrade', timeouts.upgrade * (1 + Math.random()), () => {
            if (!this.#wanted) this.#replaceIn(0, 'websocket');
        });
    }

    // Messages

    text(link: Link, text: string): void {
        let message;
        try {
            message = JSON.parse(text);
        } catch {
            return link.fail('what came is no JSON');
        }
        if (link === this.#early && this.#isEarly(link, message, text)) return;
        this.#listeners.emit('raw', text);
        this.#obey(this.#link!, message);
    }

    /**
     * Handles what comes over the replacement while the old connection goes on. Where it brings every message since it was
     * asked for, the two are merged by position: whichever brings a message first counts. Otherwise it takes over at once.
     */
    #isEarly(link: Link, message: any, text: string): boolean {
        switch (message.type) {
            case 'connection_ack':
                link.acknowledge();
                return true;
            case 'catch_up': {
                const entries: { mode: string }[] = Object.values(message.data.topics);
                if (entries.every(({ mode }) => mode === 'replayed')) return true;
                break;
            }
            case 'caught_up':
                break;
            case 'reconnect':
                link.fail('the server shuts down');
                return true;
            case 'error':
            case 'pong':
                return true;
            default:
                if ('topic' in message) this.#take(message, text);
                else this.#heard.early.push([JSON.stringify([message.type, message.data]), message]);
                return true;
        }
        this.#takeOver();
        return false;
    }

    #obey(link: Link, message: any): void {
        switch (message.type) {
            case 'connection_ack':
                return this.#acknowledged(link, message);
            case 'subscription_update':
                this.#subscriptions.answered(message.data.position, ++link.answered);
                return this.#replace();
            case 'catch_up':
                return this.#catchUp(link, message);
            case 'caught_up':
                return this.#caughtUp(link, message);
            case 'reconnect':
                // Not all at once, and early enough to be caught up in time.
                return this.#replaceIn(Math.random() * message.data.after_ms / 2, link.transport);
            case 'error':
                return this.#error(link, message);
            case 'pong':
            case 'auth_ack':
                return;
        }
        if ('topic' in message) return this.#take(message);
        if (this.#early) this.#heard.old.push(JSON.stringify([message.type, message.data]));
        this.#listeners.emit('broadcast', message);
    }

    #acknowledged(link: Link, { timestamp, data }: ConnectionAck): void {
        const { since, lost } = link.plan;
        link.acknowledge();
        if (lost.length > 0 && data.position !== this.position) {
            this.#gap(Object.fromEntries(lost.map(name => [name, { mode: 'snapshot', skipped: null }])), 0);
        }
        this.#subscriptions.acknowledged(data.topics, data.position, since);
        this.#skew = Date.parse(timestamp) - Date.now();
        link.isLive = since === 'now' || data.topics.length === 0;
        this.#begun(link);
        this.#tell(link.isLive ? 'live' : 'catching-up');
        this.#flush();
    }

    /** Sets what a connection that is acknowledged has to wait for. */
    #begun(link: Link): void {
        if (link.hasRequests) {
            this.#refused = this.#wish = 0;
            this.#hasWorked = true;
        }
        if (link.isLive) this.#stable();
        this.#upgradeLater();
        this.#renewLater(link);
    }

    #stable(): void {
        this.#let('stable', this.#settings.timeouts.stable, () => {
            this.#attempt = 0;
        });
    }

    #catchUp(link: Link, message: CatchUpMessage): void {
        const { topics, broadcasts_skipped = 0 } = message.data;
        this.#dropEarly();
        link.isLive = false;
        this.#announced.push(...this.#subscriptions.announced(topics, link.answered));
        if (this.#status.state !== 'catching-up') this.#tell('catching-up');
        this.#listeners.emit('catchup', message);
        this.#gap(Object.fromEntries(Object.entries(topics).filter(([, { mode, skipped }]) => mode === 'gap' || skipped !== 0)),
            broadcasts_skipped);
    }

    #gap(topics: Gap['topics'], broadcastsSkipped: number): void {
        if (Object.keys(topics).length === 0 && broadcastsSkipped === 0) return;
        const gap = { topics, broadcastsSkipped };
        if (this.onGap) call(this.onGap, gap);
        this.#listeners.emit('gap', gap);
    }

    #caughtUp(link: Link, message: CaughtUpMessage): void {
        const { position } = message.data;
        const wasLive = link.isLive;
        link.isLive = true;
        this.#stage();
        this.#subscriptions.reach(position);
        for (const state of this.#states.values()) state.caughtUp(position);
        if (!wasLive) {
            this.#stable();
            this.#tell('live');
            this.#listeners.emit('caughtup', message);
        }
        this.#replace();
    }

    /** `text` is given where it was not told yet. */
    #take(message: TopicMessage, text?: string): void {
        if (!this.#subscriptions.take(message)) return;
        if (text) this.#listeners.emit('raw', text);
        this.#stage();
        for (const state of this.#states.values()) state.take(message, !this.#link!.isLive);
        this.#listeners.emit('message', message);
        for (const queue of this.#queues) queue.push(message);
        if ([...this.#queues].some(queue => queue.length >= this.#settings.queue)) this.#pause();
    }

    /** The position is now in the announced images, so a connection that is cut resumes in them. */
    #stage(): void {
        for (const snapshot of this.#announced.splice(0)) {
            for (const state of this.#states.values()) state.stage(snapshot);
        }
    }

    #error(link: Link, message: Events['error']): void {
        const { code, topics } = message.data;
        if (code === 'too_many_subscriptions') this.#subscriptions.refused(undefined, ++link.answered);
        if (topics) this.#subscriptions.refused(topics, NaN);
        this.#listeners.emit('error', message);
    }

    // Iterators that are behind

    #pause(): void {
        this.#hangUp();
        this.#isPaused = true;
        this.#tell('waiting', { reason: 'an iterator is behind' });
    }

    #resume(): void {
        if (!this.#isPaused || [...this.#queues].some(queue => queue.length > this.#settings.queue / 2)) return;
        this.#isPaused = false;
        this.#retryIn(Math.random() * this.#settings.timeouts.retry);
    }

    // Requests

    #change(): void {
        this.#dropEarly();
        if (this.#timers.flush) return;
        const pause = this.#link?.hasRequests ? REQUEST_PAUSE : RECONNECT_PAUSE;
        this.#let('flush', Math.max(0, this.#flushedAt + pause - Date.now()), () => this.#flush());
    }

    /** Tells the server of subscriptions that were added or dropped. */
    #flush(): void {
        const link = this.#link;
        if (!link) return this.#timers.retry || this.#isPaused ? undefined : this.#connect();
        if (link.hasRequests && !link.isAcknowledged) return;
        const { dropped, added } = this.#subscriptions.requests();
        if (dropped.length === 0 && added.size === 0) return;
        this.#flushedAt = Date.now();
        if (!link.hasRequests) {
            this.#hangUp();
            this.#wish = 0;
            return this.#connect();
        }
        if (dropped.length > 0) {
            link.asked += 1;
            link.send({ type: 'unsubscribe', topics: dropped });
        }
        for (const [since, group] of added) {
            link.asked += 1;
            for (const held of group) held.asked = link.asked;
            link.send({ type: 'subscribe', topics: group.map(({ name }) => name), since });
        }
    }

    // Tokens

    /** A new token is shown before the old one expires, and again later if there was none. */
    #renewLater(link: Link): void {
        const expires = this.#settings.canRenew && expiry(link.token);
        const left = Number(expires) - Date.now() - this.#skew;
        if (left > 1000) this.#let('renew', left * 0.8, () => this.#renew(link));
    }

    #renew(link: Link): void {
        this.#renewLater(link);
        if (!link.hasRequests) return this.#wanted ? undefined : this.#replaceIn(0, link.transport);
        // Where this fails, the connection ends with 4401, and the next one's status says why.
        Promise.resolve(this.#settings.token()).then(token => {
            if (link !== this.#link || !token || token === link.token) return;
            link.token = token;
            link.send({ type: 'auth', token });
            this.#renewLater(link);
        }, () => {});
    }
}

/** What tells a page that time may have passed without it. */
function wakes(): [EventTarget, string][] {
    const { document } = globalThis;
    return document ? [[globalThis as never, 'online'], [document, 'visibilitychange']] : [];
}
