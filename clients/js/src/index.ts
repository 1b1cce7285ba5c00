// oddswire's client for browsers and Node; see README.md.

export { connect, type Client } from './client.js';
export type { Events, Gap, Status } from './events.js';
export type { Timeouts } from './link.js';
export type * from './messages.js';
export type { ConnectOptions } from './options.js';
export type { LiveState } from './state.js';
export type { Transport, WebSocketClass } from './transports.js';
