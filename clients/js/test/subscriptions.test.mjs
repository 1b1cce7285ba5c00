// Subscriptions that change, and where what they ask for begins.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { follow } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { serve } from './harness/server.mjs';

/** Ends the connection, and waits until the client knows. */
function cut(way, follower) {
    way.cut();
    return follower.until('it is noticed', ({ client }) => client.status.state !== 'live');
}

for (const transport of ['websocket']) {
    test(`${transport}: a client that begins at a position after which there is nothing resumes there`, async t => {
        const server = await serve(t);
        const way = await proxy(t, server);
        const since = await server.odds('8301/1x2/betpawa', 1);
        const follower = follow(t, way.url, { transport, since, topics: ['odds_updates'] });
        await follower.live();
        assert.equal(follower.client.position, since);
        await cut(way, follower);
        await follower.at(await server.odds('8301/1x2/betpawa', 2));
        assert.deepEqual(follower.data, [2]);
    });
}

test('where the only subscription was exchanged before a cut, the next connection asks for the new one alone', async t => {
    const server = await serve(t);
    const way = await proxy(t, server);
    await server.odds('8301/1x2/betpawa', 1);
    const follower = follow(t, way.url, { topics: ['odds_updates/8301'] });
    await follower.live();
    follower.client.unsubscribe(['odds_updates/8301']);
    follower.client.subscribe(['odds_updates/8302']);
    await cut(way, follower);
    await follower.live();
    assert.match(way.requests.at(-1), /topics=odds_updates%2F8302&since=snapshot/);
    assert.deepEqual(follower.client.topics, ['odds_updates/8302']);
});
