// The two ways to a server: a WebSocket, and an event stream that is read with fetch, since an EventSource gives up at
// a 503 and cannot send a token in a header.

import type { ErrorMessage } from './messages.js';

export type Transport = 'websocket' | 'sse';

/** What a transport tells. It may tell more after it was closed: whoever closes it stops listening. */
export interface Ear {
    /** An empty text is no more than a sign of life. */
    hearText(text: string): void;
    /** The server wishes that the next connection waits this long. */
    hearRetry(ms: number): void;
    end(end: End): void;
}

/** How a connection ended. */
export interface End {
    /** A WebSocket's close code, or the status with which oddswire, and nothing in between, refused. */
    code?: number | undefined;
    reason?: string | undefined;
    /** What oddswire says of a refusal. */
    refusal?: ErrorMessage['data'] | undefined;
}

export interface Socket {
    /** Does nothing where the transport only listens. */
    send(text: string): void;
    /** A WebSocket is closed with this code. */
    close(code: number): void;
}

/** What is needed of the class WebSocket: the browser's own, that of Node 22, or that of the package `ws`. */
export type WebSocketClass = new (url: string) => {
    onmessage: ((event: any) => void) | null;
    onclose: ((event: any) => void) | null;
    onerror: ((event: any) => void) | null;
    send(text: string): void;
    close(code: number): void;
};

export function openWebSocket(url: URL, WebSocket: WebSocketClass, ear: Ear): Socket {
    // Not every browser takes the scheme of the page here.
    const socket = new WebSocket(url.href.replace('http', 'ws'));
    socket.onmessage = ({ data }) => ear.hearText(data);
    // What was wrong is told by the close that follows; without a listener the package `ws` would throw.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => ear.end({ code, reason: reason || 'ended' });
    return socket;
}

/** Reads an event stream until it ends, or is aborted, which throws. */
export async function readStream(url: URL, token: string | undefined, signal: AbortSignal, ear: Ear): Promise<void> {
    const response = await fetch(url, { headers: token ? { authorization: `Bearer ${token}` } : {}, signal });
    if (!response.ok) {
        const { status } = response;
        // Seconds; the other form that RFC 9110 has, a date, is not what a server under load says.
        ear.hearRetry(+response.headers.get('retry-after')! * 1000 || 0);
        const { error } = await response.json().catch(() => ({}));
        return ear.end({ code: error?.code && status, reason: error?.detail ?? 'HTTP ' + status, refusal: error });
    }
    // Something else than an event stream has no events: it ends, or is given up, without an acknowledgement.
    const parse = eventParser(ear);
    const write = (piece: string): void => {
        ear.hearText('');
        parse(piece);
    };
    await response.body!.pipeThrough(new TextDecoderStream()).pipeTo(new WritableStream({ write }));
    ear.end({ reason: 'ended' });
}

/** Longer lines, in UTF-16 units, than any that a server writes are not gathered. */
const MAX_LINE = 1 << 24;

/**
 * Reads an event stream piece by piece, of which none is empty, as the HTML standard says (section 9.2.6). The decoder has dropped a byte order
 * mark. `id` is left alone, since the messages have their own; events with a name, which oddswire does not send, are no
 * messages.
 */
export function eventParser(ear: Pick<Ear, 'hearText' | 'hearRetry'>): (piece: string) => void {
    let rest = '';
    let endsInReturn = false;
    let data: string[] = [];
    let name = '';
    return piece => {
        // The line feed of a line end that was cut in two.
        const lines = (endsInReturn && piece[0] === '\n' ? piece.slice(1) : piece).split(/\r\n?|\n/);
        endsInReturn = piece.endsWith('\r');
        // Only what is new is looked through: a long line comes in many pieces.
        lines[0] = rest + lines[0];
        rest = lines.pop()!;
        if (rest.length > MAX_LINE) throw new Error('long line');
        for (const line of lines) {
            const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line)!;
            if (field === 'data') data.push(value!);
            if (field === 'event') name = value!;
            if (field === 'retry' && /^\d+$/.test(value!)) ear.hearRetry(+value!);
            if (line) continue;
            if (data.length && (!name || name === 'message')) ear.hearText(data.join('\n'));
            data = [];
            name = '';
        }
    };
}
