// Clients that are closed while something goes on.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import { follow } from './harness/client.mjs';
import { serve } from './harness/server.mjs';

for (const [what, listen] of [
    ['a state', ({ client }, close) => client.state('odds_updates').on('change', close)],
    ['what comes', ({ client }, close) => client.on('raw', close)],
    ['messages, as an iterator falls behind', ({ client }, close) => {
        client[Symbol.asyncIterator]().next();
        client.on('message', close);
    }],
]) {
    test(`a listener of ${what} may close the client`, async t => {
        const server = await serve(t);
        await server.odds('8301/1x2/betpawa', 1);

        const follower = follow(t, server.url, { transport: 'websocket', queue: 1 });
        listen(follower, () => follower.client.close());
        await follower.until('closed', ({ client }) => client.status.state === 'closed');
        assert.equal(follower.client.status.state, 'closed', 'nothing opens it again');
    });
}

test('an iterator that was behind when the client was closed hands out what it has, and wakes nobody', async t => {
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

test('a closed client no longer listens to the signal', async t => {
    const server = await serve(t);
    const { signal } = new AbortController();
    const { client } = follow(t, server.url, { signal });
    assert.equal(getEventListeners(signal, 'abort').length, 1);
    client.close();
    assert.equal(getEventListeners(signal, 'abort').length, 0);
});
