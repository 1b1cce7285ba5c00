// One connection. The client opens it with a token, and checks it for silence. It ends exactly once.

import type { ConnectionAck } from './messages.js';
import type { Plan } from './subscriptions.js';
import { openWebSocket, readStream, type End, type Socket, type Transport, type WebSocketClass } from './transports.js';

/** Times in milliseconds, each with a default. */
export interface Timeouts {
    /** Maximum time until the server acknowledges a connection, including the token function. Default: 10,000. */
    open: number;
    /**
     * Silence after which the client sends a ping over a WebSocket. The check runs in steps of this length, so the ping
     * can come after twice this time. Over an event stream, the server sends a comment every 15 s anyway. Default:
     * 20,000.
     */
    idle: number;
    /** Maximum time from the ping to its answer. Default: 10,000. */
    pong: number;
    /** How long a connection must be live before the waits between attempts are short again. Default: 10,000. */
    stable: number;
    /**
     * The wait before an attempt is random between 0 and a limit. The first limit is this time; it doubles with each
     * attempt. Default: 1,000.
     */
    retry: number;
    /** Maximum of the limit for the wait before an attempt. Default: 30,000. */
    maxRetry: number;
    /**
     * How long the client uses an event stream before it tries a WebSocket again. The time is random, between this
     * value and twice this value. Default: 60,000.
     */
    upgrade: number;
}

export interface Settings {
    readonly base: URL;
    readonly conflation: number;
    readonly getToken: () => string | undefined | Promise<string>;
    readonly webSocket: WebSocketClass | undefined;
    readonly limits: Timeouts;
}

/** The receiver of a link's events. */
export interface Owner {
    hearText(link: Link, text: string): void;
    hearRetry(ms: number): void;
    ended(link: Link, end: End): void;
}

export interface Link {
    readonly via: Transport;
    /** Whether this is an event stream, over which the client cannot send. */
    readonly isStream: boolean;
    readonly plan: Plan;
    /** When the connection's token expires, in milliseconds of the local clock; NaN if the token does not expire. */
    expires?: number;
    /** Whether the server has acknowledged the connection. */
    isAcknowledged?: boolean;
    /** Whether the connection is acknowledged and no catch-up is in progress. */
    isLive?: boolean | undefined;
    /** The number of the latest request that the client sent; 0 is the query of the connection. */
    asked: number;
    /** The number of the latest answered request; -1 until the acknowledgement, which answers the query. */
    answered: number;
    send(message: object): void;
    /** Handles the acknowledgement, and starts the check for silence. */
    acknowledge(ack: ConnectionAck): void;
    /** Sends a ping now. */
    probe(): void;
    fail(reason?: unknown): void;
    close(): void;
}

export function openLink(transport: Transport, plan: Plan, settings: Settings, owner: Owner): Link {
    const { open, idle, pong } = settings.limits;
    const isStream = transport === 'sse';
    let socket: Socket | undefined;
    let isOver = false;
    /** Number of checks since the last message. */
    let silent = 0;
    let timer = setTimeout(() => link.fail('no answer'), open);

    // Send a ping first, even if the silence is already too long. After a computer was asleep, the timer is overdue,
    // and messages may still wait to be handled.
    const look = (): void => {
        if (silent > 1) return link.fail('no answer');
        if (silent) link.send({ type: 'ping' });
        timer = setTimeout(look, silent++ ? pong : idle);
    };
    /** Restarts the check, with this number of checks already done. */
    const watch = (after: number): void => {
        clearTimeout(timer);
        silent = after;
        look();
    };
    const end = (end: End): void => {
        if (isOver) return;
        link.close();
        owner.ended(link, end);
    };
    const link: Link = {
        via: transport,
        isStream,
        plan,
        asked: 0,
        answered: -1,
        send: message => socket!.send(JSON.stringify(message)),
        acknowledge({ timestamp, data }) {
            // Use the difference of two server times, because the local clock may differ.
            link.expires = Date.now() + Date.parse(data.expires_at!) - Date.parse(timestamp);
            link.isAcknowledged = true;
            link.answered = 0;
            watch(0);
        },
        probe() {
            if (link.isAcknowledged && !isStream) watch(1);
        },
        fail: reason => end({ reason: `${reason}` }),
        close() {
            isOver = true;
            clearTimeout(timer);
            socket?.close(1000);
        },
    };
    const start = async (): Promise<void> => {
        const token = await settings.getToken();
        if (isOver) return;
        const url = address(link, settings, token);
        const ear = {
            hearText: (text: string) => {
                silent = 0;
                if (text && !isOver) owner.hearText(link, text);
            },
            hearRetry: (ms: number) => isOver || owner.hearRetry(ms),
            end,
        };
        if (isStream) {
            const abort = new AbortController();
            socket = { send: () => {}, close: () => abort.abort() };
            await readStream(url, token, abort.signal, ear);
        } else socket = openWebSocket(url, settings.webSocket!, ear);
    };
    start().catch(link.fail);
    return link;
}

function address({ isStream, plan }: Link, { base, conflation }: Settings, token: string | undefined): URL {
    const url = new URL(isStream ? 'api/sse' : 'api/ws', base);
    const query: any = { topics: plan.names.join(), since: plan.begin, conflate_ms: conflation };
    if (token && !isStream) query.token = token;
    url.search = new URLSearchParams(query) as never;
    return url;
}
