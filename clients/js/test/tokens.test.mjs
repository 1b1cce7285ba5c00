// Tokens: how they are sent, and what happens when they expire.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import WebSocket from 'ws';
import { assertExactlyOnce, follow } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { ASKS_FOR_TOKENS, serve, token } from './harness/server.mjs';

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: a token is renewed in time without a break`, async t => {
        const server = await serve(t, ASKS_FOR_TOKENS);
        const way = await proxy(t, server);
        let asked = 0;
        const follower = follow(t, way.url, { transport, since: 'now', token: async () => token(++asked === 1 ? 4 : 60) });
        await follower.live();
        let goesOn = true;
        const publishing = (async () => {
            let position;
            for (let at = 0; goesOn; at += 1) position = await server.odds(`8301/1x2/${at % 5}`, at);
            return position;
        })();
        // When the server has closed this connection, the first token has expired, too: it expires no later than this
        // fixed token.
        const fixed = follow(t, server.url, { transport: 'websocket', token: token(4) });
        await fixed.until('it has expired', ({ client }) => client.status.state === 'closed');
        goesOn = false;
        await follower.at(await publishing);
        assert.equal(asked, 2);
        assertExactlyOnce(follower, server);
        assert(follower.statuses.every(({ state }) => state === 'live'), JSON.stringify(follower.statuses));
        assert.equal(way.requests.length, 2);
        assert.deepEqual(follower.errors, []);
        assert.equal(way.requests.every(line => !line.includes('token=')), transport === 'sse', 'an event stream sends the token in a header');
    });
}

test('a token is renewed although a subscription is refused meanwhile', async t => {
    const server = await serve(t, { ...ASKS_FOR_TOKENS, 'subscriptions-per-connection': '2' });
    const followers = [['scrape_progress'], ['odds'], ['odds_updates/2', 'odds_updates/3']].map(refused => {
        let asked = 0;
        let acknowledged = 0;
        const given = () => token(++asked === 1 ? 12 : 600, ['odds_updates']);
        const follower = follow(t, server.url, { transport: 'websocket', since: 'now', topics: ['odds_updates/1'], token: given });
        follower.client.on('raw', text => {
            if (text.includes('"connection_ack"') && ++acknowledged === 2) follower.client.subscribe(refused);
        });
        return { follower, isRenewed: () => acknowledged === 3 };
    });
    await Promise.all(followers.map(({ follower, isRenewed }) => follower.until('it is renewed', isRenewed)));
    for (const { follower } of followers) {
        assert.equal(follower.errors.length, 1);
        assert(follower.statuses.every(({ state }) => state !== 'waiting'), JSON.stringify(follower.statuses));
    }
});

test('a replacement becomes live after the old connection ended early', async t => {
    const server = await serve(t, ASKS_FOR_TOKENS);
    const way = await proxy(t, server);
    // Pass on single bytes, so that the messages after the acknowledgement can be held back.
    way.most = 1;
    const sockets = [];
    class Noted extends WebSocket {
        constructor(url) {
            super(url);
            sockets.push(this);
        }
    }
    let asked = 0;
    const follower = follow(t, way.url, { since: 'now', WebSocket: Noted, token: () => token(++asked === 1 ? 4 : 60) });
    const { client } = follower;
    let caughtUp = 0;
    client.on('caughtup', () => { caughtUp += 1; });
    let acknowledged = 0;
    client.on('raw', text => {
        if (text.includes('"connection_ack"') && ++acknowledged === 2) sockets[1].pause();
    });
    await follower.live();
    await follower.until('the old one has ended', () => client.status.state === 'catching-up');
    assert.equal(caughtUp, 0);
    sockets[1].resume();
    await follower.live();
    await follower.until('it is reported', () => caughtUp === 1);
});

test('the client reconnects with a new token after expiry', async t => {
    const server = await serve(t, ASKS_FOR_TOKENS);
    let given = 0;
    let hasExpired = false;
    // The client's attempt to renew the token before its expiry fails.
    const follower = follow(t, server.url, { since: 'now', token: () => given++ === 0 ? token(2) : hasExpired ? token(60) : 'no token' });
    follower.client.on('status', ({ code }) => {
        hasExpired ||= code === 4401;
    });
    await follower.live();
    await server.odds('8301/1x2/betpawa', 1);
    await follower.until('it has expired', ({ statuses }) => statuses.some(({ code }) => code === 4401));
    await follower.at(await server.odds('8301/1x2/betpawa', 2));
    assertExactlyOnce(follower, server);
});

// The server still accepts tokens that expired less than 30 s ago.
for (const [transport, seconds, code] of [['websocket', 2, 4401], ['websocket', -60, 401], ['sse', -60, 401]]) {
    test(`${transport}: expiry of a fixed token is final (${code})`, async t => {
        const server = await serve(t, ASKS_FOR_TOKENS);
        const follower = follow(t, server.url, { transport, token: token(seconds) });
        await follower.until('closed', ({ client }) => client.status.state === 'closed');
        assert.equal(follower.client.status.code, code);
        assert.match(follower.client.status.reason, /expired/);
    });
}

test('a token function that fails or hangs is called again', async t => {
    const server = await serve(t, ASKS_FOR_TOKENS);
    const answers = [() => { throw new Error('no session'); }, () => Promise.reject(new Error('no network')), () => new Promise(() => {})];
    const follower = follow(t, server.url, { token: () => (answers.shift() ?? (() => token(60)))(), timeouts: { open: 200 } });
    await follower.live();
    const reasons = follower.statuses.filter(({ state }) => state === 'waiting').map(({ reason }) => reason);
    assert.deepEqual(reasons, ['Error: no session', 'Error: no network', 'no answer']);
});
