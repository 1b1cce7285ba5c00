//! Carries out the client's requests (`ping`, `subscribe`, `unsubscribe`, `auth`), if the client's token allows them.

use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, debug, warn};
use tokio::time::Instant;

use crate::auth::{Access, AccessError, Token, Verifier};
use crate::close::Close;
use crate::log::Since;
use crate::manager::Connection;
use crate::message::Timestamp;
use crate::protocol::{self, ClientMessage, ClientMessageError};
use crate::rate::Bucket;
use crate::topic::Subscription;

/// A burst may have as many messages as the rate allows in this many seconds.
const BURST_SECONDS: u32 = 2;

pub(super) struct Requests {
    access: Access,
    verifier: Option<Arc<Verifier>>,
    bucket: Bucket,
}

impl Requests {
    pub(super) fn new(access: Access, verifier: Option<Arc<Verifier>>, per_second: u32) -> Self {
        let burst = per_second.saturating_mul(BURST_SECONDS);
        Self { access, verifier, bucket: Bucket::new(per_second, burst, std::time::Instant::now()) }
    }

    /// When the client's token expires.
    pub(super) fn expires(&self) -> Option<Instant> {
        let left = self.access.expires?.as_millis().saturating_sub(Timestamp::now().as_millis());
        Instant::now().checked_add(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// Counts a message against the client's message rate.
    pub(super) fn is_too_fast(&mut self) -> bool {
        self.bucket.take(std::time::Instant::now()).is_err()
    }

    /// Carries out the request in a text message.
    pub(super) fn obey(&mut self, text: &str, connection: &Connection, logger: &Logger) {
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Ping) => connection.tell(protocol::pong()),
            Ok(ClientMessage::Subscribe { topics, since }) => self.subscribe(topics, since, connection),
            Ok(ClientMessage::Unsubscribe { topics }) => {
                let (known, unknown) = connection.manager().topics().partition(topics);
                connection.unsubscribe(&known);
                connection.tell_unknown(&unknown, &[]);
            }
            Ok(ClientMessage::Auth { token }) => self.authenticate(&token, connection),
            Err(ClientMessageError::BadRequest(detail)) => {
                connection.tell(protocol::error("bad_request", &detail, &[]));
            }
            Err(ClientMessageError::Malformed(error)) => {
                warn!(logger, "ws.malformed_message"; "error" => error, "bytes" => text.len());
            }
            Err(ClientMessageError::UnknownType(kind)) => {
                debug!(logger, "ws.unknown_message_type"; "type" => kind);
            }
        }
    }

    /// Adds the subscriptions that the token allows and whose topics are configured. Names all others in an `error`.
    fn subscribe(&self, topics: Vec<Subscription>, since: Since, connection: &Connection) {
        let (known, unknown) = connection.manager().topics().partition(topics);
        let (allowed, forbidden): (Vec<_>, Vec<_>) = known.into_iter().partition(|asked| self.access.covers(asked));
        if let Err(error) = connection.subscribe(allowed, since) {
            return connection.tell(protocol::error("too_many_subscriptions", &error.to_string(), &[]));
        }
        connection.tell_unknown(&unknown, &[]);
        if !forbidden.is_empty() {
            let detail = "the token does not allow these subscriptions: its claim 'topics' must list them";
            connection.tell(protocol::error("forbidden", detail, &forbidden));
        }
    }

    /// Replaces the client's token. Closes the connection if the new token does not allow the current subscriptions.
    fn authenticate(&mut self, token: &Token, connection: &Connection) {
        let Some(verifier) = &self.verifier else {
            return connection.tell(protocol::error("bad_request", "this server asks for no token", &[]));
        };
        match verifier.check(token.expose()) {
            Ok(access) if connection.subscriptions().iter().all(|held| access.covers(held)) => {
                connection.tell(protocol::auth_ack(access.expires));
                self.access = access;
            }
            Ok(_) => connection.outbox().close(Close::Forbidden),
            Err(error) => {
                let code = if error == AccessError::Expired { "token_expired" } else { "unauthorized" };
                connection.tell(protocol::error(code, &error.to_string(), &[]));
            }
        }
    }
}
