//! What subscribers receive over WebSocket and SSE, and what the server refuses.

mod auth;
mod browser;
mod catch_up;
mod clients;
mod contract;
mod handshake;
mod interleavings;
mod lifecycle;
mod limits;
mod messages;
mod origins;
mod proxies;
mod reads;
mod replay;
mod rfc6455;
mod slow;
mod sse;
mod tokens;
mod vanished;
mod websocket;
