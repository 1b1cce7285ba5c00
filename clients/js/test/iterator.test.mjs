// Messages from an async iterator.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, follow, offsetOf } from './harness/client.mjs';
import { serve } from './harness/server.mjs';

test('an iterator yields every message and ends with the client', async t => {
    const server = await serve(t);
    const follower = follow(t, server.url, { since: 'now' });
    const { client } = follower;
    const seen = [];
    const reading = (async () => {
        for await (const { data } of client) {
            seen.push(data);
            if (data === 99) client.close();
        }
    })();
    await follower.live();
    for (let at = 0; at < 100; at += 1) await server.odds('8301/1x2/betpawa', at);
    await reading;
    assert.deepEqual(seen, Array.from({ length: 100 }, (_, at) => at));
});

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: an iterator that is behind pauses the client`, async t => {
        const server = await serve(t);
        const follower = follow(t, server.url, { transport, since: 'now', queue: 10 });
        const { client } = follower;
        const iterator = client[Symbol.asyncIterator]();
        const first = iterator.next();
        await follower.live();
        for (let at = 0; at < 50; at += 1) await server.odds(`8301/1x2/${at}`, at);
        await follower.until('it has stopped', ({ client }) => client.status.reason === 'iterator is behind');
        await eventually('the connection is closed', async () => await server.connections() === 0);
        const seen = [(await first).value.data];
        while (seen.length < 50) seen.push((await iterator.next()).value.data);
        assert.deepEqual(seen, Array.from({ length: 50 }, (_, at) => at));
        assert.deepEqual(follower.gaps, []);
        await follower.at(await server.odds('8301/1x2/betpawa', 'live again'));
        await iterator.return();
    });
}

test('messages missed by a slow iterator are reported as a gap', async t => {
    const server = await serve(t, { 'history-messages': '20' });
    const follower = follow(t, server.url, { since: 'now', queue: 10 });
    const iterator = follower.client[Symbol.asyncIterator]();
    const first = iterator.next();
    await follower.live();
    const send = async (from, to) => {
        for (let at = from; at < to; at += 1) await server.publish({ topic: 'scrape_progress', data: at });
    };
    await send(0, 30);
    await follower.until('it has stopped', ({ client }) => client.status.reason === 'iterator is behind');
    await send(30, 100);
    const offsets = [offsetOf((await first).value.id)];
    while (offsets.at(-1) < 100) offsets.push(offsetOf((await iterator.next()).value.id));
    const skipped = follower.gaps.reduce((sum, { topics }) => sum + topics.scrape_progress.skipped, 0);
    assert.equal(offsets.length + skipped, 100, 'each message came or was reported as skipped');
    assert(skipped > 0);
    await iterator.return();
});

test('the client continues after the loop is left', async t => {
    const server = await serve(t);
    const follower = follow(t, server.url, { since: 'now', queue: 5 });
    const leaving = (async () => {
        for await (const message of follower.client) return message.data;
    })();
    await follower.live();
    for (let at = 0; at < 20; at += 1) await server.odds(`8301/1x2/${at}`, at);
    assert.equal(await leaving, 0);
    await follower.at(await server.odds('8301/1x2/betpawa', 'last'));
});
