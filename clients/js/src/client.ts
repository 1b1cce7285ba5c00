// The client keeps one connection. It replaces the connection before an announced end, reconnects after an unexpected
// one, and delivers each message once.
//
// The client is one function with local variables, not a class: the private members of a class keep their names in the
// built file, which would make the file a tenth larger.

import { listen, tellAll, type Events, type Gap, type Listeners, type Status } from './events.js';
import { openLink, type Link } from './link.js';
import type { BroadcastMessage, ErrorMessage, TopicMessage } from './messages.js';
import { baseOf, TIMEOUTS, type ConnectOptions } from './options.js';
import { keep, type Keeper, type LiveState } from './state.js';
import { check, refuse } from './subscription.js';
import { subscriptionsOf, type Since } from './subscriptions.js';
import type { End, Transport, WebSocketClass } from './transports.js';

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

/**
 * Close codes and HTTP statuses after which the server would refuse another attempt, too (src/close.rs; RFC 6455,
 * section 7.4.1).
 */
const FINAL = /^(4(00|03|403|429)|100[023789])$/;
/** The maximum wait that the client accepts from a server, in milliseconds. */
const MAX_WISH = 300_000;
/** Maximum delay of a timer, in milliseconds: setTimeout fires at once for delays of 2^31 ms or more. */
const MAX_TIMER = 2e9;
/**
 * Minimum pause between two changes of the subscriptions, in milliseconds. The server takes at most 20 messages a
 * second from a client. Over an event stream, each change needs a new connection.
 */
const CHANGE_PAUSE = 400;

/**
 * How long the old connection stays open after its replacement is caught up, in milliseconds. The old connection may
 * still bring a broadcast that was sent before the replacement connected. The delays of the nodes of a deployment
 * differ by less than this time.
 */
const LINGER = 1000;
/**
 * Maximum number of remembered broadcasts that only one of two connections has brought so far. Further broadcasts may
 * reach the listeners twice.
 */
const MOST_BROUGHT = 256;

/** Reasons of the state 'waiting' if no time is set for the next attempt. */
const NO_TOPICS = 'no topics';
const BEHIND = 'iterator is behind';

const enum Timer { Retry, Replace, Stable, Flush, Renew, Upgrade, Linger }

/** Connects to the server at this URL, such as `https://odds.example.com/`, or `/` in a page. */
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
    // Without a WebSocket class, the client can only use an event stream.
    const choice = WebSocket ? transport : 'sse';
    /** Whether the client can get a new token. */
    const canRenew = typeof token === 'function';
    const getToken = canRenew ? token : () => token;
    const timeouts = { ...TIMEOUTS, ...given };
    const settings = { base: baseOf(url), conflation: conflateMs, getToken, webSocket: WebSocket, limits: timeouts };
    const states = new Map<string, Keeper>();
    const subscriptions = subscriptionsOf(topics, since, snapshot => states.forEach(state => state.stage(snapshot)));
    const listeners: { [event: string]: Listeners<any> } = {};
    const listenersOf = (event: string): Listeners<any> => (listeners[event] ??= new Set());
    /** For each iterator, the messages that the iterator has not yielded yet. */
    const queues = new Set<TopicMessage[]>();
    /** Functions that wake the waiting iterators. */
    let readers: (() => void)[] = [];
    let status!: Status;
    /** Why the client closed by itself. Iterators throw an error with this text. */
    let failure: string | undefined;

    let link: Link | null = null;
    /** The connection that will replace `link` once it is caught up. */
    let early: Link | null = null;
    /** Broadcasts that only one of two connections has brought so far, with that connection. */
    const brought = new Map<string, Link>();
    /** The transport of the replacement that the client wants to open, or null. */
    let wanted: Transport | null = null;
    /**
     * Subscriptions that get a snapshot only because other subscriptions need one. The server does not know what these
     * subscriptions miss.
     */
    let lost: string[] = [];

    let attempt = 0;
    /** Minimum wait before an attempt, from the server's latest `retry:` or `Retry-After`. */
    let wish = 0;
    /** The time of the next attempt. */
    let retryAt = 0;
    /**
     * `refused` counts WebSocket attempts in a row without an acknowledgement. After `patience` of them, the client
     * uses an event stream.
     */
    let refused = 0;
    let patience = 1;
    let flushedAt = 0;
    /** Removes the client's listeners on the page and on the program's `signal`. */
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
        // While neither transport connects, the client alternates between the two.
        link = open(choice === 'sse' || refused >= patience ? 'sse' : 'websocket');
        show();
    };

    /** Closes the current connections and stops all timers. */
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

    /** Full jitter: clients that lost their connections at the same time reconnect at different times. */
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

    /**
     * Called when the network is back, or the page is visible again. Timers may be late, and connections may be dead.
     */
    const wake = (): void => {
        link?.probe();
        // Shorten the wait, but never extend it. If the wait should have ended while timers were stopped, connect now.
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

    /**
     * Opens the replacement of the current connection. Does nothing during a catch-up: the client calls this again
     * after the catch-up.
     */
    const replace = (): void => {
        if (!wanted || timers[Timer.Replace] || early || !link!.isLive || !subscriptions.isQuiet()) return;
        brought.clear();
        early = open(wanted);
    };

    const notReplaced = (): void => {
        early = null;
        // If the replacement has the transport of the current connection (because of a drain or a token), try again.
        // Otherwise an upgrade to a WebSocket failed.
        if (wanted === link!.via) return void (timers[Timer.Replace] || replaceIn(backoff(), wanted));
        wanted = null;
        upgradeLater();
    };

    const dropEarly = (): void => {
        early?.close();
        early = null;
    };

    /** Closes the old connection and continues with the replacement. */
    const takeOver = (): void => {
        const next = early!;
        early = null;
        hangUp();
        link = next;
        if (link.isAcknowledged) begun();
        show();
    };

    /** Schedules another attempt with a WebSocket while an event stream is used. */
    const upgradeLater = (): void => {
        if (link!.isStream && choice === 'auto') after(timeouts.upgrade * (1 + Math.random()), Timer.Upgrade, () => propose('websocket'));
    };

    // Messages

    const hearText = (which: Link, text: string): void => {
        try {
            const message = JSON.parse(text);
            emit('raw', text);
            // A listener may have closed the client or the replacement in `emit`, so compare `which` again.
            if (message.topic) take(message);
            else if (which === early ? takeEarly(message) : which === link) obey(which, message, text);
        } catch (error) {
            // The message is invalid, and oddswire never sends invalid messages. Exceptions of listeners do not reach
            // this point.
            which.fail(error);
        }
    };

    /**
     * Delivers a broadcast once, even if two connections bring it. A broadcast has no position. Its text identifies it,
     * because the text has a timestamp.
     */
    const tellOnce = (which: Link, text: string, message: BroadcastMessage): void => {
        if ((brought.get(text) ?? which) !== which) return void brought.delete(text);
        if (early && brought.size < MOST_BROUGHT) brought.set(text, which);
        emit('broadcast', message);
    };

    /**
     * Handles messages of the replacement while the old connection is still open. If the replacement replays all
     * messages, the messages of both connections are merged by position: the first copy of each message counts.
     * Otherwise the replacement takes over at once. Returns a true value if `obey` must then handle the message.
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
                // Ignore the `retry:` of this event: it is for an EventSource, which reconnects only after the server
                // has closed the connection.
                wish = 0;
                // Reconnect at a random time, early enough to be caught up before the old connection closes.
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

    /**
     * Drops the refused subscriptions, and removes their keys from the states. The error `too_many_subscriptions` also
     * counts as the answer to a request.
     */
    const giveUp = ({ code, topics = [] }: ErrorMessage['data'], by: Link): unknown => {
        const goesOn = subscriptions.refused(topics, code === 'too_many_subscriptions' && ++by.answered);
        narrow();
        return goesOn;
    };

    const narrow = (): void => {
        states.forEach(state => state.narrow(subscriptions.isCovered));
    };

    const acknowledged = (message: any): void => {
        // The client opened this event stream only to find out why WebSockets fail. The server accepts the stream, so
        // something else blocks WebSockets.
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

    /** Resets the counters and starts the timers of an acknowledged connection. */
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

    /** Delivers a message of a topic. */
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

    /** Sends added and dropped subscriptions to the server. */
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

    /**
     * Schedules a replacement with a new token before the current token expires. Repeats this until a replacement takes
     * over.
     */
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
    // Only browsers have this `addEventListener`. It uses the `signal` of the AbortController.
    globalThis.addEventListener?.('online', wake, closing);
    globalThis.addEventListener?.('visibilitychange', () => document.hidden || wake(), closing);
    connect();
    signal?.addEventListener('abort', client.close, closing);
    if (signal?.aborted) client.close();
    return client;
}
