// The two ways to a server: a WebSocket, and an event stream that is read with fetch, since an EventSource gives up at
// a 503 and cannot send a token in a header.

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
    reason: string;
}

export interface Socket {
    /** Does nothing where the transport only listens. */
    send(text: string): void;
    close(): void;
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
    const socket = new WebSocket(url.href);
    socket.onmessage = ({ data }) => ear.hearText(data);
    // What was wrong is told by the close that follows; without a listener the package `ws` would throw.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => ear.end({ code, reason: reason || 'ended' });
    return { send: text => socket.send(text), close: () => socket.close(1000) };
}

/** Reads an event stream until it ends, or is aborted, which throws. */
export async function readStream(url: URL, token: string | undefined, signal: AbortSignal, ear: Ear): Promise<void> {
    const response = await fetch(url, { headers: token ? { authorization: `Bearer ${token}` } : {}, signal });
    const { status } = response;
    if (status !== 200) {
        // Seconds; the other form that RFC 9110 has, a date, is not what a server under load says.
        ear.hearRetry(+response.headers.get('retry-after')! * 1000 || 0);
        const { error } = await response.json().catch(() => ({}));
        return ear.end({ code: error && status, reason: error?.detail ?? `HTTP ${status}` });
    }
    // Something else than an event stream has no events: it ends, or is given up, without an acknowledgement.
    const parse = eventParser(ear);
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
        const { done, value } = await reader.read();
        if (done) return ear.end({ reason: 'ended' });
        ear.hearText('');
        parse(value);
    }
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
        rest += endsInReturn && piece[0] === '\n' ? piece.slice(1) : piece;
        endsInReturn = piece.endsWith('\r');
        const lines = rest.split(/\r\n?|\n/);
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
