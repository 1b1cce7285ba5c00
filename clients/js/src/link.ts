// One connection: it is opened with a token, checked for silence, and ends exactly once.

import type { ConnectionAck } from './messages.js';
import type { Plan } from './subscriptions.js';
import { openWebSocket, readStream, type End, type Socket, type Transport, type WebSocketClass } from './transports.js';

/** Times in milliseconds, each with a default. */
export interface Timeouts {
    /** Until a connection must be acknowledged, including the token function: 10,000. */
    open: number;
    /**
     * Silence after which the client sends a ping over a WebSocket. The check runs in steps of this length, so it can
     * take twice as long. An event stream sends a comment every 15 s anyway. 20,000.
     */
    idle: number;
    /** Until the answer to the ping must come: 10,000. */
    pong: number;
    /** How long a connection must be live before waits are short again: 10,000. */
    stable: number;
    /** The wait before an attempt is random between 0 and this limit, which doubles with each attempt: 1,000. */
    retry: number;
    /** Maximum of that limit: 30,000. */
    maxRetry: number;
    /** How long an event stream is used before a WebSocket is tried again; up to twice as long at random: 60,000. */
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
    /** An event stream, which cannot send. */
    readonly isStream: boolean;
    readonly plan: Plan;
    /** When its token expires, in milliseconds of the local clock; NaN if it does not. */
    expires?: number;
    /** The server has acknowledged it. */
    isAcknowledged?: boolean;
    /** No catch-up is in progress. */
    isLive?: boolean | undefined;
    /** The number of the latest request that was sent; 0 is the query. */
    asked: number;
    /** The number of the latest answered request; -1 until the acknowledgement, which answers the query. */
    answered: number;
    send(message: object): void;
    /** Starts the check for silence. */
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

    // Send a ping first, even if the silence is already too long: after a sleep, a page's timer is overdue, and
    // messages may still wait behind it.
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
