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
export declare function openWebSocket(url: URL, WebSocket: WebSocketClass, ear: Ear): Socket;
/** Reads an event stream until it ends, or is aborted, which throws. */
export declare function readStream(url: URL, token: string | undefined, signal: AbortSignal, ear: Ear): Promise<void>;
/**
 * Reads an event stream piece by piece, of which none is empty, as the HTML standard says (section 9.2.6). The decoder has dropped a byte order
 * mark. `id` is left alone, since the messages have their own; events with a name, which oddswire does not send, are no
 * messages.
 */
export declare function eventParser(ear: Pick<Ear, 'hearText' | 'hearRetry'>): (piece: string) => void;
