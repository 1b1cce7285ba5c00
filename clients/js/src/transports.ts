// The two transports: a WebSocket, and an event stream. The event stream is read with fetch, because an EventSource
// gives up after a 503 and cannot send a token in a header.

import type { ErrorMessage } from './messages.js';

export type Transport = 'websocket' | 'sse';

/**
 * The receiver of a transport's events. It may still get events after the transport was closed, and must ignore these
 * events.
 */
export interface Ear {
    /** Receives a message. An empty text only shows that the connection is alive. */
    hearText(text: string): void;
    /** The server asks the client to wait this long before the next connection. */
    hearRetry(ms: number): void;
    end(end: End): void;
}

/** How a connection ended. */
export interface End {
    /** A WebSocket's close code, or the HTTP status if oddswire itself refused (not a proxy). */
    code?: number | undefined;
    reason?: string | undefined;
    /** The error object in oddswire's answer, if oddswire refused the connection. */
    refusal?: ErrorMessage['data'] | undefined;
}

export interface Socket {
    /** Sends a text; does nothing on an event stream. */
    send(text: string): void;
    /** Closes the connection; a WebSocket gets this close code. */
    close(code: number): void;
}

/** The part of the class WebSocket that is used. The classes of browsers, Node 22 and the package `ws` have it. */
export type WebSocketClass = new (url: string) => {
    onmessage: ((event: any) => void) | null;
    onclose: ((event: any) => void) | null;
    onerror: ((event: any) => void) | null;
    send(text: string): void;
    close(code: number): void;
};

export function openWebSocket(url: URL, WebSocket: WebSocketClass, ear: Ear): Socket {
    // Use ws or wss, because some browsers do not accept http or https here.
    const socket = new WebSocket(url.href.replace('http', 'ws'));
    socket.onmessage = ({ data }) => ear.hearText(data);
    // The close event after an error event has the reason. Without this listener, the package `ws` would throw.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => ear.end({ code, reason: reason || 'ended' });
    return socket;
}

/** Reads an event stream until it ends. Throws if `signal` is aborted. */
export async function readStream(url: URL, token: string | undefined, signal: AbortSignal, ear: Ear): Promise<void> {
    const response = await fetch(url, { headers: token ? { authorization: `Bearer ${token}` } : {}, signal });
    if (!response.ok) {
        const { status } = response;
        // Only seconds are read. RFC 9110 also allows a date, but oddswire does not send one.
        ear.hearRetry(+response.headers.get('retry-after')! * 1000 || 0);
        const { error } = await response.json().catch(() => ({}));
        return ear.end({ code: error?.code && status, reason: error?.detail ?? 'HTTP ' + status, refusal: error });
    }
    // A response that is not an event stream has no events. So the connection ends, or times out, without an
    // acknowledgement.
    const parse = eventParser(ear);
    const write = (piece: string): void => {
        ear.hearText('');
        parse(piece);
    };
    await response.body!.pipeThrough(new TextDecoderStream()).pipeTo(new WritableStream({ write }));
    ear.end({ reason: 'ended' });
}

/** Maximum length of a line in UTF-16 units. The server never writes longer lines. */
const MAX_LINE = 1 << 24;

/**
 * Parses an event stream piece by piece (HTML standard, section 9.2.6). Pieces are never empty, and the decoder has
 * already removed a byte order mark. `id` is ignored, because messages contain their id. Events with a name are
 * ignored, too: oddswire does not send them.
 */
export function eventParser(ear: Pick<Ear, 'hearText' | 'hearRetry'>): (piece: string) => void {
    let rest = '';
    let endsInReturn = false;
    let data: string[] = [];
    let name = '';
    return piece => {
        // Skip the line feed of a line end (CR LF) that was split between two pieces.
        const lines = (endsInReturn && piece[0] === '\n' ? piece.slice(1) : piece).split(/\r\n?|\n/);
        endsInReturn = piece.endsWith('\r');
        // Split only the new piece, because a long line comes in many pieces.
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
