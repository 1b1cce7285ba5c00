// The two ways to a server: a WebSocket, and an event stream that is read with fetch, since an EventSource gives up at
// a 503 and cannot send a token in a header.

export type Transport = 'websocket' | 'sse';

/** What a transport tells. It may tell more after it was closed: whoever closes it stops listening. */
export interface Ear {
    text(text: string): void;
    /** Something came, if only a sign of life. */
    heard(): void;
    /** The server wishes that the next connection waits this long. */
    retry(ms: number): void;
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
    socket.onmessage = event => {
        ear.heard();
        ear.text(event.data);
    };
    // What was wrong is told by the close that follows; without a listener the package `ws` would throw.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => ear.end({ code, reason: reason || 'WebSocket failed' });
    return { send: text => socket.send(text), close: () => socket.close(1000) };
}

export function openStream(url: URL, token: string | undefined, ear: Ear): Socket {
    const abort = new AbortController();
    const headers: HeadersInit = token ? { authorization: `Bearer ${token}` } : {};
    fetch(url, { headers, signal: abort.signal })
        .then(response => read(response, ear))
        .catch((error: unknown) => ear.end({ reason: String(error) }));
    return { send: () => {}, close: () => abort.abort() };
}

async function read(response: Response, ear: Ear): Promise<void> {
    const { status, headers, body } = response;
    if (status !== 200 || !headers.get('content-type')?.startsWith('text/event-stream')) {
        // Seconds; the other form that RFC 9110 has, a date, is not what a server under load says.
        ear.retry(Number(headers.get('retry-after')) * 1000 || 0);
        const { error } = await response.json().catch(() => ({}));
        return ear.end({ code: error && status, reason: error?.detail ?? `HTTP ${status}` });
    }
    const parse = eventParser(ear);
    const decoder = new TextDecoder();
    const reader = body!.getReader();
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
        ear.heard();
        parse(decoder.decode(read.value, { stream: true }));
    }
    ear.end({ reason: 'stream ended' });
}

/** Longer lines, in UTF-16 units, than any that a server writes are not gathered. */
const MAX_LINE = 1 << 24;

/**
 * Reads an event stream piece by piece, as the HTML standard says (section 9.2.6). The decoder has dropped a byte order
 * mark. `id` is left alone, since the messages have their own; events with a name, which oddswire does not send, are no
 * messages.
 */
export function eventParser(ear: Pick<Ear, 'text' | 'retry'>): (piece: string) => void {
    let rest = '';
    let endsInReturn = false;
    let data: string[] = [];
    let name = '';
    return piece => {
        // The line feed of a line end that was cut in two.
        rest += endsInReturn && piece[0] === '\n' ? piece.slice(1) : piece;
        if (piece) endsInReturn = piece.endsWith('\r');
        const lines = rest.split(/\r\n?|\n/);
        rest = lines.pop()!;
        if (rest.length > MAX_LINE) throw new Error('line too long');
        for (const line of lines) {
            const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line)!;
            if (field === 'data') data.push(value!);
            if (field === 'event') name = value!;
            if (field === 'retry' && /^\d+$/.test(value!)) ear.retry(Number(value));
            if (line) continue;
            if (data[0] !== undefined && (!name || name === 'message')) ear.text(data.join('\n'));
            data = [];
            name = '';
        }
    };
}
