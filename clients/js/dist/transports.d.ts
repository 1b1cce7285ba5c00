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
export declare function openWebSocket(url: URL, WebSocket: WebSocketClass, ear: Ear): Socket;
export declare function openStream(url: URL, token: string | undefined, ear: Ear): Socket;
/**
 * Reads an event stream piece by piece, as the HTML standard says (section 9.2.6). The decoder has dropped a byte order
 * mark. An `id` is left alone: the messages have their own, and those of a named event, which the server does not send,
 * do not count as messages.
 */
export declare function eventParser(ear: Pick<Ear, 'text' | 'retry'>): (piece: string) => void;
