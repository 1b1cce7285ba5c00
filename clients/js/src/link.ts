// One connection: it is opened with a token, watched for silence, and ends once.

import type { ConnectionAck } from './messages.js';
import type { Plan } from './subscriptions.js';
import { openWebSocket, readStream, type End, type Socket, type Transport, type WebSocketClass } from './transports.js';

/** In milliseconds; each has a default. */
export interface Timeouts {
    /** For a connection to be acknowledged, the token function included: 10,000. */
    open: number;
    /**
     * Without a message, after which a WebSocket is asked for a sign of life; an event stream brings one every 15 s by
     * itself. It is looked at in steps of this length, so it can take twice as long: 20,000.
     */
    idle: number;
    /** For that sign to come: 10,000. */
    pong: number;
    /** For which a connection has to be live before waits are short again: 10,000. */
    stable: number;
    /** The wait before a new attempt is drawn between 0 and this, which doubles with each attempt: 1,000. */
    retry: number;
    /** What it doubles up to: 30,000. */
    maxRetry: number;
    /** Over an event stream, until a WebSocket is tried again, and up to twice as long: 60,000. */
    upgrade: number;
}

export interface Settings {
    readonly base: URL;
    readonly conflation: number;
    readonly getToken: () => string | undefined | Promise<string>;
    readonly webSocket: WebSocketClass | undefined;
    readonly limits: Timeouts;
}

/** Whom a link tells. */
export interface Owner {
    hearText(link: Link, text: string): void;
    hearRetry(ms: number): void;
    ended(link: Link, end: End): void;
}

export interface Link {
    readonly via: Transport;
    /** It can only listen. */
    readonly isStream: boolean;
    readonly plan: Plan;
    /** When its token expires, in milliseconds of our clock; NaN where it does not. */
    expires?: number;
    /** The server has acknowledged it. */
    isAcknowledged?: boolean;
    /** No catch-up is under way. */
    isLive?: boolean | undefined;
    /** The number of the newest request that was sent; 0 is the query. */
    asked: number;
    /** The number of the newest request that was answered; -1 until the acknowledgement, which answers the query. */
    answered: number;
    send(message: object): void;
    /** From here on its silence is watched. */
    acknowledge(ack: ConnectionAck): void;
    /** Asks for a sign of life now. */
    probe(): void;
    fail(reason?: unknown): void;
    close(): void;
}

export function openLink(transport: Transport, plan: Plan, settings: Settings, owner: Owner): Link {
    const { open, idle, pong } = settings.limits;
    const isStream = transport === 'sse';
    let socket: Socket | undefined;
    let isOver = false;
    /** Looks since something came. */
    let silent = 0;
    let timer = setTimeout(() => link.fail('no answer'), open);

    // In two steps, though the silence has been too long already: a page that slept wakes up to a timer that is long
    // overdue, and to messages that wait behind it.
    const look = (): void => {
        if (silent > 1) return link.fail('no answer');
        if (silent) link.send({ type: 'ping' });
        timer = setTimeout(look, silent++ ? pong : idle);
    };
    /** Begins to look anew, after so many looks in vain. */
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
            // As the server's clock has it, which may differ from ours.
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
