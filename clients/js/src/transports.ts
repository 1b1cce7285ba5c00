// The two ways to a server: a WebSocket, and an event stream that is read with fetch, since an EventSource gives up at
// a 503 and cannot send a token in a header.

export type Transport = 'websocket' | 'sse';

/** What a transport tells. It tells nothing once it was closed, and nothing after `end`. */
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
    /** A WebSocket's close code, or a response's status. */
    code?: number | undefined;
    reason: string;
    /** It was oddswire that refused, and not something in between: its error code. */
    refusal?: string | undefined;
}

export interface Socket {
    /** Absent where the transport only listens. */
    send?(text: string): void;
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
    // What was wrong is told by the close that follows; without a listener Node would throw.
    socket.onerror = () => {};
    socket.onclose = event => ear.end({ code: event.code, reason: event.reason || 'the WebSocket failed' });
    return { send: text => socket.send(text), close: () => socket.close(1000) };
}

export function openStream(url: URL, token: string | undefined, ear: Ear): Socket {
    const abort = new AbortController();
    const headers = { accept: 'text/event-stream', ...(token && { authorization: `Bearer ${token}` }) };
    fetch(url, { headers, cache: 'no-store', signal: abort.signal })
        .then(response => read(response, ear))
        .catch((error: unknown) => ear.end({ reason: String(error) }));
    return { close: () => abort.abort() };
}

async function read(response: Response, ear: Ear): Promise<void> {
    const { status, headers, body } = response;
    if (status !== 200) {
        const after = headers.get('retry-after');
        // Seconds or a date (RFC 9110, section 10.2.3).
        if (after) ear.retry(/^\d+$/.test(after) ? Number(after) * 1000 : Date.parse(after) - Date.now() || 0);
        const refusal = await response.json().then(json => json.error, () => undefined);
        return ear.end({ code: status, reason: refusal?.detail ?? `HTTP status ${status}`, refusal: refusal?.code });
    }
    if (!body || !headers.get('content-type')?.startsWith('text/event-stream')) {
        await body?.cancel();
        return ear.end({ reason: 'what answered is no event stream' });
    }
    const parse = eventParser(ear);
    const decoder = new TextDecoder();
    const reader = body.getReader();
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
        ear.heard();
        parse(decoder.decode(read.value, { stream: true }));
    }
    ear.end({ reason: 'the event stream ended' });
}

/** Longer lines than any that the server writes are not gathered. */
const MAX_LINE = 1 << 26;

/**
 * Reads an event stream piece by piece, as the HTML standard says (section 9.2.6). The decoder has dropped a byte order
 * mark. An `id` is left alone: the messages have their own, and those of a named event, which the server does not send,
 * do not count as messages.
 */
export function eventParser(ear: Pick<Ear, 'text' | 'retry'>): (piece: string) => void {
    let rest = '';
    let endsInReturn = false;
    let data: string[] = [];
    let name = '';
    const field = (line: string) => {
        const colon = line.indexOf(':');
        const end = colon < 0 ? line.length : colon;
        const value = line.slice(line[end + 1] === ' ' ? end + 2 : end + 1);
        const field = line.slice(0, end);
        if (field === 'data') data.push(value);
        if (field === 'event') name = value;
        if (field === 'retry' && /^\d+$/.test(value)) ear.retry(Number(value));
    };
    const dispatch = () => {
        const event = data.join('\n');
        const isMessage = data.length > 0 && (name === '' || name === 'message');
        data = [];
        name = '';
        if (isMessage) ear.text(event);
    };
    return piece => {
        if (piece === '') return;
        // The line feed of a line end that was cut in two.
        rest += endsInReturn && piece[0] === '\n' ? piece.slice(1) : piece;
        endsInReturn = piece.endsWith('\r');
        const lines = rest.split(/\r\n|\r|\n/);
        rest = lines.pop()!;
        if (rest.length > MAX_LINE) throw new Error('a line of the event stream is too long');
        for (const line of lines) line === '' ? dispatch() : field(line);
    };
}
