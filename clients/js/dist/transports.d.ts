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
export declare function openWebSocket(url: URL, WebSocket: WebSocketClass, ear: Ear): Socket;
/** Reads an event stream until it ends. Throws if `signal` is aborted. */
export declare function readStream(url: URL, token: string | undefined, signal: AbortSignal, ear: Ear): Promise<void>;
/**
 * Parses an event stream piece by piece (HTML standard, section 9.2.6). Pieces are never empty, and the decoder has
 * already removed a byte order mark. `id` is ignored, because messages contain their id. Events with a name are
 * ignored, too: oddswire does not send them.
 */
export declare function eventParser(ear: Pick<Ear, 'hearText' | 'hearRetry'>): (piece: string) => void;
