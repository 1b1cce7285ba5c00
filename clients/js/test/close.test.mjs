// Clients that are closed, or get invalid messages, during other work.
import assert from 'node:assert/strict';
import { getEventListeners, once } from 'node:events';
import { test } from 'node:test';
import { WebSocketServer } from 'ws';
import { assertExactlyOnce, follow } from './harness/client.mjs';
import { ASKS_FOR_TOKENS, serve, token } from './harness/server.mjs';

for (const [what, listen, options] of [
    ['a state', ({ client }, close) => client.state('odds_updates').on('change', close)],
    ['raw texts', ({ client }, close) => client.on('raw', close)],
    ['messages, as an iterator falls behind', ({ client }, close) => {
        client[Symbol.asyncIterator]().next();
        client.on('message', close);
    }],
    ['errors, as an event stream is refused', ({ client }, close) => client.on('error', close), { transport: 'sse', topics: ['odds_updates', 'scrape_progress'], token: token(60, ['odds_updates']) }],
]) {
    test(`a listener of ${what} may close the client`, async t => {
        const server = await serve(t, options && ASKS_FOR_TOKENS);
        await server.odds('8301/1x2/betpawa', 1);

        const follower = follow(t, server.url, { transport: 'websocket', queue: 1, ...options });
        listen(follower, () => follower.client.close());
        await follower.until('closed', ({ client }) => client.status.state === 'closed');
        assert.equal(follower.client.status.state, 'closed', 'it stays closed');
    });
}

test('an iterator that is behind yields its queue after close', async t => {
    const server = await serve(t);
    const follower = follow(t, server.url, { since: 'now', queue: 10 });
    const iterator = follower.client[Symbol.asyncIterator]();
    const first = iterator.next();
    await follower.live();
    await server.publish(...Array.from({ length: 20 }, (_, at) => ({ topic: 'odds_updates', key: `8301/${at}`, data: at })));
    await follower.until('it has stopped', ({ client }) => client.status.reason === 'iterator is behind');
    await first;
    follower.client.close();
    let taken = 1;
    while (!(await iterator.next()).done) taken += 1;
    assert.equal(taken, 10);
    assert.equal(follower.client.status.state, 'closed');
});

test('a closed client does not listen to the signal', async t => {
    const server = await serve(t);
    const { signal } = new AbortController();
    const { client } = follow(t, server.url, { signal });
    assert.equal(getEventListeners(signal, 'abort').length, 1);
    client.close();
    assert.equal(getEventListeners(signal, 'abort').length, 0);
});

for (const text of ['null', '{"type":"connection_ack"}', 'no JSON']) {
    test(`an invalid message (${text}) only ends the connection`, async t => {
        const other = new WebSocketServer({ port: 0, host: '127.0.0.1' });
        t.after(() => other.close());
        await once(other, 'listening');
        other.on('connection', socket => socket.send(text));
        const follower = follow(t, `http://127.0.0.1:${other.address().port}/`, { transport: 'websocket' });
        await follower.until('it waits', ({ client }) => client.status.state === 'waiting');
        assert.match(follower.client.status.reason, /Error/);
    });
}

test('a listener may change subscriptions during a replacement', async t => {
    const server = await serve(t, ASKS_FOR_TOKENS);
    let asked = 0;
    const follower = follow(t, server.url, { transport: 'sse', since: 'now', topics: ['odds_updates'], token: () => token(++asked === 1 ? 4 : 60) });
    const { client } = follower;
    let acknowledged = 0;
    client.on('raw', text => {
        // The second acknowledgement belongs to the replacement.
        if (text.includes('"connection_ack"') && ++acknowledged === 2) client.subscribe(['scrape_progress'], 'now');
    });
    await follower.live();
    await follower.until('it is replaced', () => acknowledged === 3);
    await follower.live();
    await server.publish({ topic: 'scrape_progress', data: 1 });
    await follower.at(await server.odds('1/x', 2));
    assertExactlyOnce(follower, server);
});
