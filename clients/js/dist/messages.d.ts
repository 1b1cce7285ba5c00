/** Every message that a client receives. */
export type ServerMessage = ConnectionAck | SubscriptionUpdate | TopicMessage | CatchUpMessage | CaughtUpMessage | BroadcastMessage | ErrorMessage | Pong | AuthAck | ReconnectMessage;
export type ConnectionAck = {
    type: "connection_ack";
    topics: Subscriptions;
    timestamp: Timestamp;
    data: {
        topics: Subscriptions;
        /** Name of the connection in the server's log. */
        connection: string;
        position: Position;
        /** The conflation window in milliseconds; 0 means none. */
        conflate_ms: number;
        /** Time at which the token and the connection expire. Absent if the server requires no token. */
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
        /** An entry for each subscription, named as in `connection_ack`. Empty if no subscription is known. */
        topics: Record<string, CatchUpEntry>;
        /** Broadcasts that the client missed because it was too slow. Absent if it missed none. */
        broadcasts_skipped?: number;
    };
};
export type CatchUpEntry = {
    mode: CatchUpMode;
    /** Messages after the client's position that it does not get; null if the server cannot know. */
    skipped: number | null;
};
/**
 * `replayed`: every message. `conflated`: the newest message of each key that changed, and every keyless message.
 * `snapshot`: the whole state, which replaces what the client holds. `gap`: what the server still has; keyless
 * messages are lost.
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
        /** Text for people. */
        detail: string;
        /** The subscriptions that the error is about. */
        topics?: readonly Subscription[];
    };
};
export type ErrorCode = "bad_request" | "forbidden" | "token_expired" | "too_many_subscriptions" | "unauthorized" | "unknown_parameter" | "unknown_topic";
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
/** Every message that a client can send. The server ignores members that are not listed here. */
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
/**
 * The query of both channels. Other parameters have no effect. The server reports the first three of them in an `error`
 * (`unknown_parameter`) after `connection_ack`.
 */
export type SubscriberQuery = {
    /**
     * Subscriptions, comma-separated. Absent or empty: all topics, or all that the token allows. An `error` after
     * `connection_ack` names those that are not configured.
     */
    topics?: string;
    since?: Since;
    /** The server sends the newest message of each key once per window of this length, in milliseconds. */
    conflate_ms?: number;
    /** A JSON Web Token, if the server requires one. */
    token?: string;
};
/** Where to begin. */
export type Since = "now" | "snapshot" | Position;
/**
 * The publisher's data, byte for byte: at most 128 nested arrays and objects. `null` with a `key` means that the key
 * is deleted.
 */
export type Data = unknown;
/** Any text except the types of the server's own messages. */
export type PublishedType = string;
/** A place in the deployment's sequence, `<epoch>-<offset>`. Opaque to clients: keep it, and resume with it. */
export type Position = string;
/** RFC 3339, UTC, with milliseconds. */
export type Timestamp = string;
export type TopicName = string;
/** The path of the thing whose complete state the message contains; at most 256 bytes. */
export type Key = string;
/** A topic, or a topic and leading segments of the key. */
export type Subscription = string;
/** All current subscriptions, sorted. */
export type Subscriptions = readonly Subscription[];
