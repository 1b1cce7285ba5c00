// Connections that end without an announcement.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertExactlyOnce, dataOf, follow } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { directory, serve } from './harness/server.mjs';

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: messages during a cut come once and in order`, async t => {
        const server = await serve(t);
        const way = await proxy(t, server);
        const follower = follow(t, way.url, { transport, since: 'now' });
        await follower.live();
        await server.odds('8301/1x2/betpawa', 1);
        await follower.at(await server.publish({ topic: 'scrape_progress', data: 'half' }));
        for (let round = 0; round < (transport === 'sse' ? 2 : 5); round += 1) {
            way.cut();
            await follower.until('it is noticed', ({ client }) => client.status.state !== 'live');
            for (let at = 0; at < 20; at += 1) await server.odds(`8301/1x2/${at}`, { round, at });
            await follower.at(await server.publish({ topic: 'scrape_progress', data: round }));
        }
        assertExactlyOnce(follower, server);
        assert(follower.modes.every(({ odds_updates }) => odds_updates === 'replayed'), JSON.stringify(follower.modes));
    });

    test(`${transport}: messages in pieces are put together`, async t => {
        const server = await serve(t);
        const way = await proxy(t, server);
        way.most = 3;
        const follower = follow(t, way.url, { transport, since: 'now' });
        await follower.live();
        const text = 'ü€😀\u2028\n\r\\"'.repeat(20);
        await server.odds('8301/1x2/ü€😀', { text });
        await follower.at(await server.odds('8301/1x2/betpawa', [text, text]));
        assert.deepEqual(follower.data, [{ text }, [text, text]]);
        assert.equal(follower.messages[0].key, '8301/1x2/ü€😀');
    });

    test(`${transport}: a silent connection is replaced without loss`, async t => {
        const server = await serve(t, { 'sse-comment-interval': '100ms' });
        const way = await proxy(t, server);
        const follower = follow(t, way.url, { transport, since: 'now', timeouts: { idle: 400, pong: 300 } });
        await follower.live();
        await follower.at(await server.odds('8301/1x2/betpawa', 1));
        way.stall();
        const position = await server.odds('8301/1x2/betpawa', 2);
        await follower.until('it is closed', ({ statuses }) => statuses.some(({ reason }) => reason === 'no answer'));
        await follower.at(position);
        assertExactlyOnce(follower, server);
    });

    test(`${transport}: a quiet connection stays open`, async t => {
        const server = await serve(t, { 'sse-comment-interval': '100ms' });
        const way = await proxy(t, server);
        const follower = follow(t, way.url, { transport, since: 'now', timeouts: { idle: 400, pong: 400 } });
        await follower.live();
        // Wait for pings and their answers: a client that only waited for messages would have timed out by then.
        await way.carried(12);
        assert.deepEqual(follower.statuses.map(({ state }) => state), ['live']);
    });

    test(`${transport}: each message comes once over a journal restart`, async t => {
        const server = await serve(t, { engine: 'journal', 'data-dir': directory(t) });
        const way = await proxy(t, server);
        const follower = follow(t, way.url, { transport, since: 'now' });
        const odds = follower.client.state('odds_updates');
        await follower.live();
        for (let at = 0; at < 10; at += 1) await server.odds(`8301/1x2/${at}`, 'before');
        await server.restart('SIGKILL');
        for (let at = 5; at < 15; at += 1) await server.odds(`8301/1x2/${at}`, 'after');
        await follower.at(await server.odds('8301/1x2/0', null));
        assertExactlyOnce(follower, server);
        assert.deepEqual(dataOf(odds), await server.state('odds_updates'));
        assert.equal(odds.complete, false, "since 'now' it does not hold what was there before");
    });

    test(`${transport}: after a restart without journal the state is new`, async t => {
        const server = await serve(t);
        const way = await proxy(t, server);
        const follower = follow(t, way.url, { transport });
        const [odds, progress] = ['odds_updates', 'scrape_progress'].map(topic => follower.client.state(topic));
        await follower.live();
        await server.odds('8301/1x2/gone', 1);
        await server.odds('8301/1x2/stays', 1);
        await follower.at(await server.publish({ topic: 'scrape_progress', data: 'old' }));
        assert.equal(progress.latest.data, 'old');
        const changes = [];
        odds.on('change', changed => changes.push(changed.map(({ key, data }) => [key, data])));
        follower.gaps.length = 0;
        await server.restart('SIGKILL');
        await server.odds('8301/1x2/new', 2);
        await follower.at(await server.odds('8301/1x2/stays', 2));
        assert.deepEqual(dataOf(odds), { '8301/1x2/new': 2, '8301/1x2/stays': 2 });
        assert.equal(progress.latest, null, 'the latest message of the old sequence is removed');
        assert(odds.complete && progress.complete);
        const [gap] = follower.gaps;
        assert.deepEqual(gap.topics.odds_updates, { mode: 'snapshot', skipped: null });
        assert(changes.some(changed => changed.some(([key, data]) => key === '8301/1x2/gone' && data === null)));
    });

    test(`${transport}: cut snapshots leave nothing after a data loss`, async t => {
        const server = await serve(t);
        const way = await proxy(t, server);
        await server.publish({ topic: 'scrape_progress', data: 'old' });
        await server.publish(...Array.from({ length: 400 }, (_, at) => ({ topic: 'odds_updates', key: `8301/${at}`, data: 'x'.repeat(200) })));
        way.most = 2048;
        const follower = follow(t, way.url, { transport });
        const [odds, progress] = ['odds_updates', 'scrape_progress'].map(topic => follower.client.state(topic));
        await follower.until('a part has arrived', ({ messages }) => messages.length >= 100);
        way.server = { port: 1 };
        way.cut();
        await server.restart('SIGKILL');
        await server.publish({ topic: 'odds_updates', data: 'new' });
        Object.assign(way, { server, most: Infinity });
        await follower.live();
        assert.deepEqual([dataOf(odds), odds.complete, progress.latest], [{}, true, null]);
    });
}
