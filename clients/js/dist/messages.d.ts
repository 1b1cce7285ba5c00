/** Everything that a client gets. */
export type ServerMessage = ConnectionAck | SubscriptionUpdate | TopicMessage | CatchUpMessage | CaughtUpMessage | BroadcastMessage | ErrorMessage | Pong | AuthAck | ReconnectMessage;
export type ConnectionAck = {
    type: "connection_ack";
    topics: Subscriptions;
    timestamp: Timestamp;
    data: {
        topics: Subscriptions;
        /** The connection's name in the server's log. */
        connection: string;
        position: Position;
        /** The conflation window; 0 is none. */
        conflate_ms: number;
        /** When the token expires, and with it the connection; absent where none was asked for. */
        expires_at?: Timestamp;
    };
};
export type SubscriptionUpdate = {
    type: "subscription_update";
    topics: Subscriptions;
    timestamp: Timestamp;
    data: {
        topics: Subscriptions;
        position: Position;
    };
};
export type TopicMessage = {
    type: PublishedType;
    topic: TopicName;
    id: Position;
    key?: Key;
    timestamp: Timestamp;
    data: Data;
};
export type CatchUpMessage = {
    type: "catch_up";
    timestamp: Timestamp;
    data: {
        /** For each subscription, as the acknowledgement names it. */
        topics: Record<string, CatchUpEntry>;
        /** Broadcasts that the client was too slow for; absent where there are none. */
        broadcasts_skipped?: number;
    };
};
export type CatchUpEntry = {
    mode: CatchUpMode;
    /** Messages published since the client's position that it does not get; null where that is unknowable. */
    skipped: number | null;
};
/**
 * `replayed`: every message. `conflated`: the newest of each key that changed, and every keyless message.
 * `snapshot`: the whole state, in place of what the client holds. `gap`: whatever is kept; messages are lost.
 */
export type CatchUpMode = "replayed" | "conflated" | "snapshot" | "gap";
export type CaughtUpMessage = {
    type: "caught_up";
    timestamp: Timestamp;
    data: {
        position: Position;
    };
};
export type BroadcastMessage = {
    type: PublishedType;
    timestamp: Timestamp;
    data: Data;
};
export type ErrorMessage = {
    type: "error";
    timestamp: Timestamp;
    data: {
        code: ErrorCode;
        /** For people. */
        detail: string;
        /** The subscriptions that are meant. */
        topics?: readonly Subscription[];
    };
};
export type ErrorCode = "bad_request" | "forbidden" | "token_expired" | "too_many_subscriptions" | "unauthorized" | "unknown_topic";
export type Pong = {
    type: "pong";
    timestamp: Timestamp;
    data: Record<string, never>;
};
export type AuthAck = {
    type: "auth_ack";
    timestamp: Timestamp;
    data: {
        expires_at: Timestamp;
    };
};
export type ReconnectMessage = {
    type: "reconnect";
    timestamp: Timestamp;
    data: {
        /** Milliseconds until the server closes this connection with 1001. */
        after_ms: number;
    };
};
/** Everything that a client may send. Members that are not named here are ignored. */
export type ClientMessage = ClientPing | ClientSubscribe | ClientUnsubscribe | ClientAuth;
export type ClientPing = {
    type: "ping";
};
export type ClientSubscribe = {
    type: "subscribe";
    topics: readonly Subscription[];
    since?: Since;
};
export type ClientUnsubscribe = {
    type: "unsubscribe";
    topics: readonly Subscription[];
};
export type ClientAuth = {
    type: "auth";
    /** A JSON Web Token. */
    token: string;
};
/** The query of both channels. Parameters that are not named here are ignored. */
export type SubscriberQuery = {
    /**
     * Subscriptions, comma separated. Absent or empty: all topics, or all that the token allows. Those that are not
     * configured are named in an `error` behind `connection_ack`.
     */
    topics?: string;
    since?: Since;
    /** Nothing is fed; every window of this length the newest of each key is sent. */
    conflate_ms?: number;
    /** A JSON Web Token, where the server asks for one. */
    token?: string;
};
/** Where to begin. */
export type Since = "now" | "snapshot" | Position;
/** What the publisher sent, byte for byte. `null` with a `key` says that the key is gone. */
export type Data = unknown;
/** Any text but the types that the server gives its own messages. */
export type PublishedType = string;
/** A place in the deployment's one sequence, `<epoch>-<offset>`. Opaque to clients: keep it, and resume with it. */
export type Position = string;
/** RFC 3339, UTC, with milliseconds. */
export type Timestamp = string;
export type TopicName = string;
/** The path of what the message is the full state of; at most 256 bytes. */
export type Key = string;
/** A topic, or a topic narrowed by leading segments of the key. */
export type Subscription = string;
/** All current subscriptions, sorted. */
export type Subscriptions = readonly Subscription[];
