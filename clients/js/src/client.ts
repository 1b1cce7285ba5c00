// The client: it keeps one connection, replaces it before it ends where that is announced, comes back where it is not,
// and hands every message out once.
//
// One function with its variables, where the rest of the house would have a class: private members do not get shorter in
// the built file, and they would make it larger by a tenth.

import { listen, tellAll, type Events, type Gap, type Listeners, type Status } from './events.js';
import { openLink, type Link } from './link.js';
import type { BroadcastMessage, ErrorMessage, TopicMessage } from './messages.js';
import { baseOf, TIMEOUTS, type ConnectOptions } from './options.js';
import { keep, type Keeper, type LiveState } from './state.js';
import { check, refuse } from './subscription.js';
import { subscriptionsOf, type Since } from './subscriptions.js';
import type { End, Transport, WebSocketClass } from './transports.js';

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

/** Close codes and statuses after which coming back would only be refused again (src/close.rs; RFC 6455, section 7.4.1). */
const FINAL = /^(4(00|03|403|429)|100[023789])$/;
/** A server's wish to be left alone is respected for as long as this, in milliseconds. */
const MAX_WISH = 300_000;
/** A timer for longer is one for nothing. */
const MAX_TIMER = 2e9;
/**
 * Between changes of the subscriptions, in milliseconds: the server takes 20 messages a second, and without requests each is a
 * new connection.
 */
const CHANGE_PAUSE = 400;

/**
 * A connection goes on for so long, in milliseconds, beside the one that is to replace it and is caught up: of a broadcast
 * that the new one came too late for, it may be about to tell. Nodes of a deployment are less apart.
 */
const LINGER = 1000;
/** Broadcasts that one of two connections has brought, and the other has yet to bring: beyond them one may come twice. */
const MOST_BROUGHT = 256;

/** For what it waits, where that is no time. */
const NO_TOPICS = 'no topics';
const BEHIND = 'iterator is behind';

const enum Timer { Retry, Replace, Stable, Flush, Renew, Upgrade, Linger }

/** Connects to the server at this address, such as `https://odds.example.com/` or `/` in a page. */
export function connect(url: string | URL, {
    topics = [],
    since = 'snapshot',
    conflateMs = 0,
    token,
    transport = 'auto',
    signal,
    queue: most = 4096,
    timeouts: given,
    WebSocket = globalThis.WebSocket as WebSocketClass | undefined,
}: ConnectOptions = {}): Client {
    if (transport === 'websocket' && !WebSocket) {
        refuse('WebSocket', WebSocket, 'a class');
    }
    // Without WebSockets there is no choice.
    const choice = WebSocket ? transport : 'sse';
    /** Whether asking for a token again can give another one. */
    const canRenew = typeof token === 'function';
    const getToken = canRenew ? token : () => token;
    const timeouts = { ...TIMEOUTS, ...given };
    const settings = { base: baseOf(url), conflation: conflateMs, getToken, webSocket: WebSocket, limits: timeouts };
    const states = new Map<string, Keeper>();
    const subscriptions = subscriptionsOf(topics, since, snapshot => states.forEach(state => state.stage(snapshot)));
    const listeners: { [event: string]: Listeners<any> } = {};
    const listenersOf = (event: string): Listeners<any> => (listeners[event] ??= new Set());
    /** What each iterator has yet to hand out. */
    const queues = new Set<TopicMessage[]>();
    /** Iterators that wait. */
    let readers: (() => void)[] = [];
    let status!: Status;
    /** Why the client was closed, where nobody asked for it: iterators throw it. */
    let failure: string | undefined;

    let link: Link | null = null;
    /** The connection that is to replace `link`, once it is caught up. */
    let early: Link | null = null;
    /** Broadcasts that came over one of two connections, and over which. */
    const brought = new Map<string, Link>();
    /** The transport that a replacement is wanted with. */
    let wanted: Transport | null = null;
    /** Others needed an image, so these get it, too, and the server does not know what they miss by it. */
    let lost: string[] = [];

    let attempt = 0;
    /** No wait before an attempt is shorter than the server has wished for last. */
    let wish = 0;
    /** When the next attempt is due. */
    let retryAt = 0;
    /** Connections by WebSocket in a row that were not acknowledged, and how many are tried before an event stream. */
    let refused = 0;
    let patience = 1;
    let flushedAt = 0;
    /** Takes away what listens to the page, and to the program's signal. */
    const closing = new AbortController();
    let timers: (ReturnType<typeof setTimeout> | undefined)[] = [];

    const after = (ms: number, timer: Timer, then: (_: undefined) => void): void => {
        clearTimeout(timers[timer]);
        timers[timer] = setTimeout(() => then(timers[timer] = undefined), ms);
    };

    const emit = <K extends keyof Events>(event: K, value: Events[K]): void => {
        tellAll(listenersOf(event), value);
    };

    const tell = (state: Status['state'], more?: object): void => {
        status = { state, transport: link && link.via, attempt, ...more };
        emit('status', status);
    };

    const show = (): void => {
        if (link!.isLive) after(timeouts.stable, Timer.Stable, () => {
            attempt = 0;
        });
        tell(link!.isLive ? 'live' : link!.isAcknowledged ? 'catching-up' : 'connecting');
    };

    // Connections

    const open = (transport: Transport): Link =>
        openLink(transport, subscriptions.plan(transport === 'websocket'), settings, { hearText, hearRetry, ended });

    const connect = (): void => {
        if (subscriptions.isEmpty()) return tell('waiting', { reason: NO_TOPICS });
        // While nothing gets through, the two take turns.
        link = open(choice === 'sse' || refused >= patience ? 'sse' : 'websocket');
        show();
    };

    /** Stops all that belongs to the present connections. */
    const hangUp = (): void => {
        timers.forEach(clearTimeout);
        timers = [];
        link?.close();
        dropEarly();
        link = wanted = null;
    };

    const retryIn = (ms: number, end?: End): void => {
        retryAt = Date.now() + ms;
        after(ms, Timer.Retry, connect);
        tell('waiting', { ...end, retryInMs: ms });
    };

    /** Full jitter: those who were cut together come back apart. */
    const wait = (most: number): number => Math.max(Math.random() * most, wish);
    const backoff = (): number => wait(Math.min(timeouts.maxRetry, timeouts.retry * 2 ** attempt++));

    const hearRetry = (ms: number): void => {
        wish = Math.min(ms, MAX_WISH);
    };

    const ended = (which: Link, end: End): void => {
        if (which === early) return notReplaced();
        if (!which.isAcknowledged) refused = which.isStream ? 0 : refused + 1;
        const { refusal, code } = end;
        if (refusal && giveUp(refusal, which)) {
            emit('error', { type: 'error', timestamp: new Date().toJSON(), data: refusal });
        } else if (FINAL.test(code as never) || (code! % 4000 === 401 && !canRenew)) return finish(end, `${end.reason} (${code})`);
        if (early) return takeOver();
        // A listener may have closed the client.
        if (!link) return;
        hangUp();
        retryIn(backoff(), end);
    };

    const finish = (end: End, error?: string): void => {
        if (status.state === 'closed') return;
        hangUp();
        closing.abort();
        failure = error;
        tell('closed', end);
        read();
    };

    /** The network is back, or the page is looked at again: timers may have slept, and connections died meanwhile. */
    const wake = (): void => {
        link?.probe();
        // A wait only gets shorter; where its end is past, the timer that slept goes off now.
        if (timers[Timer.Retry]) retryIn(Math.min(retryAt - Date.now(), wait(timeouts.retry)), status);
    };

    // Replacing a connection before it ends

    const replaceIn = (ms: number, transport: Transport): void => {
        wanted = transport;
        after(ms, Timer.Replace, replace);
    };

    const propose = (transport: Transport): void => {
        if (!wanted) replaceIn(0, transport);
    };

    /** Opens the connection that is to replace the present one. Not in a catch-up: it is called again after it. */
    const replace = (): void => {
        if (!wanted || timers[Timer.Replace] || early || !link!.isLive || !subscriptions.isQuiet()) return;
        brought.clear();
        early = open(wanted);
    };

    const notReplaced = (): void => {
        early = null;
        // A drain may have been announced meanwhile: it is no business of the upgrade that failed.
        if (wanted === link!.via) return void (timers[Timer.Replace] || replaceIn(backoff(), wanted));
        wanted = null;
        upgradeLater();
    };

    const dropEarly = (): void => {
        early?.close();
        early = null;
    };

    /** The replacement goes on alone. */
    const takeOver = (): void => {
        const next = early!;
        early = null;
        hangUp();
        link = next;
        if (link.isAcknowledged) begun();
        show();
    };

    /** Over an event stream a WebSocket is tried again later. */
    const upgradeLater = (): void => {
        if (link!.isStream && choice === 'auto') after(timeouts.upgrade * (1 + Math.random()), Timer.Upgrade, () => propose('websocket'));
    };

    // Messages

    const hearText = (which: Link, text: string): void => {
        try {
            const message = JSON.parse(text);
            emit('raw', text);
            // Now the connection may be over: a listener has closed the client, or made a replacement needless.
            if (message.topic) take(message);
            else if (which === early ? takeEarly(message) : which === link) obey(which, message, text);
        } catch (error) {
            // What no oddswire sends. What listeners throw does not come here.
            which.fail(error);
        }
    };

    /** Broadcasts have no position: over two connections they are known by their text, which has a timestamp. */
    const tellOnce = (which: Link, text: string, message: BroadcastMessage): void => {
        if ((brought.get(text) ?? which) !== which) return void brought.delete(text);
        if (early && brought.size < MOST_BROUGHT) brought.set(text, which);
        emit('broadcast', message);
    };

    /**
     * Handles what comes over the replacement while the old connection goes on. Where it brings every message since it was
     * asked for, the two are merged by position: whichever brings a message first counts. Otherwise it takes over at once.
     * Returns whether the rest is as with any connection.
     */
    const takeEarly = (message: any): unknown => {
        const next = early!;
        switch (message.type) {
            case 'connection_ack':
                next.isLive = !message.data.topics[0];
                return next.acknowledge(message);
            case 'reconnect':
                return next.fail();
            case 'catch_up':
                if (Object.values<any>(message.data.topics).every(({ mode }) => mode === 'replayed')) return;
                takeOver();
                break;
            case 'caught_up':
                next.isLive = true;
                return after(LINGER, Timer.Linger, () => {
                    if (next === early) takeOver();
                });
            case 'error':
                takeOver();
        }
        // A listener may have closed the client.
        return link;
    };

    const obey = (current: Link, message: any, text: string): void => {
        const { type, data } = message;
        switch (type) {
            case 'connection_ack':
                return acknowledged(message);
            case 'subscription_update':
                subscriptions.answered(data.topics, data.position, ++current.answered);
                return replace();
            case 'catch_up':
                return catchUp(message);
            case 'caught_up':
                subscriptions.reach(data.position);
                states.forEach(state => state.caughtUp(data.position));
                if (current === link && !current.isLive) {
                    current.isLive = true;
                    show();
                    emit('caughtup', message);
                }
                return replace();
            case 'reconnect':
                // The wish that comes with it is for an EventSource, which comes back once it is cut.
                wish = 0;
                // Not all at once, and early enough to be caught up in time.
                return replaceIn(Math.random() * data.after_ms / 2, current.via);
            case 'error':
                giveUp(data, current);
                emit('error', message);
                return replace();
            case 'pong':
                return;
        }
        tellOnce(current, text, message);
    };

    /** Drops what the server refuses, and what the states hold of it. Where it takes all of a request for too much that is its answer. */
    const giveUp = ({ code, topics = [] }: ErrorMessage['data'], by: Link): unknown => {
        const goesOn = subscriptions.refused(topics, code === 'too_many_subscriptions' && ++by.answered);
        narrow();
        return goesOn;
    };

    const narrow = (): void => {
        states.forEach(state => state.narrow(subscriptions.isCovered));
    };

    const acknowledged = (message: any): void => {
        // The stream was asked why WebSockets are refused, and it is not.
        if (choice === 'websocket' && link!.isStream) return link!.fail('no WebSocket');
        const { begin } = link!.plan;
        const { topics, position } = message.data;
        lost = begin === 'snapshot' ? subscriptions.behind(position) : [];
        subscriptions.answered(topics, position, 0);
        link!.acknowledge(message);
        link!.isLive = begin === 'now' || !topics[0];
        begun();
        show();
        flush();
    };

    /** Sets what a connection that is acknowledged has to wait for. */
    const begun = (): void => {
        if (!link!.isStream) {
            refused = wish = 0;
            patience = 3;
        }
        upgradeLater();
        renewLater();
    };

    const catchUp = (message: any): void => {
        const { topics, broadcasts_skipped = 0 } = message.data;
        dropEarly();
        for (const name of lost) if (topics[name]) topics[name].skipped = null;
        lost = [];
        subscriptions.announced(topics, link!.answered);
        if (link!.isLive) {
            link!.isLive = false;
            show();
        }
        emit('catchup', message);
        const missed = Object.entries<any>(topics).filter(([, { mode, skipped }]) => mode === 'gap' || skipped !== 0);
        if (missed[0] || broadcasts_skipped) emit('gap', { topics: Object.fromEntries(missed), broadcastsSkipped: broadcasts_skipped });
    };

    /** Hands out a message of a topic. */
    const take = (message: TopicMessage): void => {
        if (!link || !subscriptions.take(message)) return;
        states.forEach(state => state.take(message, !link!.isLive));
        emit('message', message);
        queues.forEach(queue => queue.push(message));
        read();
        if (!link || !isBehind(most)) return;
        hangUp();
        tell('waiting', { reason: BEHIND });
    };

    // Iterators

    const read = (): void => {
        for (const resolve of readers) resolve();
        readers = [];
    };

    const isBehind = (most: number): boolean => [...queues].some(queue => queue.length >= most);

    const resume = (): void => {
        if (status.reason === BEHIND && !isBehind(most / 2)) retryIn(wait(timeouts.retry));
    };

    // Requests

    const change = (): void => {
        dropEarly();
        if (!timers[Timer.Flush]) after(flushedAt + CHANGE_PAUSE - Date.now(), Timer.Flush, flush);
    };

    /** Tells the server of subscriptions that were added or dropped. */
    const flush = (): void => {
        if (status.reason === NO_TOPICS) connect();
        const current = link!;
        if (!current?.isStream && !current?.isAcknowledged) return;
        const requests = subscriptions.requests(current.asked);
        if (!requests[0]) return replace();
        flushedAt = Date.now();
        if (current.isStream) {
            hangUp();
            return connect();
        }
        current.asked += requests.length;
        requests.forEach(current.send);
    };

    // Tokens

    /** Before the token expires a connection with a new one is made, and again later if there was none. */
    const renewLater = (): void => {
        const left = link!.expires! - Date.now();
        if (canRenew && left > 1000) after(Math.min(left * 0.8, MAX_TIMER), Timer.Renew, () => {
            renewLater();
            propose(link!.via);
        });
    };

    const client: Client = {
        onGap: null,
        get status() {
            return status;
        },
        get position() {
            return subscriptions.reached();
        },
        get topics() {
            return subscriptions.names();
        },
        on(event, listener) {
            return listen(listenersOf(event), listener);
        },
        subscribe(topics, since = 'snapshot') {
            subscriptions.include(topics, since);
            change();
        },
        unsubscribe(topics) {
            subscriptions.exclude(topics);
            narrow();
            change();
        },
        state(topic) {
            const state = states.get(topic) ?? keep(check(topic));
            states.set(topic, state);
            return state.shown;
        },
        close: () => finish({ code: 1000, reason: 'closed' }),
        async *[Symbol.asyncIterator]() {
            const queue: TopicMessage[] = [];
            queues.add(queue);
            try {
                for (;;) {
                    while (queue[0]) {
                        yield queue.shift()!;
                        resume();
                    }
                    if (status.state === 'closed') break;
                    await new Promise<void>(resolve => readers.push(resolve));
                }
                if (failure) throw new Error(failure);
            } finally {
                queues.delete(queue);
                resume();
            }
        },
    };
    client.on('gap', gap => client.onGap?.(gap));
    // In a browser. What is asked of the last argument is its `signal`.
    globalThis.addEventListener?.('online', wake, closing);
    globalThis.addEventListener?.('visibilitychange', () => document.hidden || wake(), closing);
    connect();
    signal?.addEventListener('abort', client.close, closing);
    if (signal?.aborted) client.close();
    return client;
}
