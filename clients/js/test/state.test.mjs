// Live states, changed subscriptions, and reported gaps.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { test } from 'node:test';
import { dataOf, eventually, follow } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { serve } from './harness/server.mjs';

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: a state begins complete and follows changes`, async t => {
        const server = await serve(t);
        await server.odds('8301/1x2/betpawa', 1);
        await server.odds('8302/1x2/betpawa', 2);
        await server.publish({ topic: 'scrape_progress', data: 'half' });
        const follower = follow(t, server.url, { transport });
        const [odds, one, progress] = ['odds_updates', 'odds_updates/8301', 'scrape_progress'].map(topic => follower.client.state(topic));
        const changes = [];
        odds.on('change', changed => changes.push([odds.size, changed.map(({ key, data }) => [key, data])]));
        assert.equal(odds.complete, false);
        await follower.live();
        assert.deepEqual(changes, [[2, [['8301/1x2/betpawa', 1], ['8302/1x2/betpawa', 2]]]], 'one call with all changes');
        assert(odds.complete && one.complete);
        assert.equal(progress.latest.data, 'half');
        await follower.at(await server.odds('8301/1x2/betpawa', null));
        assert.deepEqual(changes[1], [1, [['8301/1x2/betpawa', null]]]);
        assert.deepEqual([dataOf(odds), dataOf(one)], [{ '8302/1x2/betpawa': 2 }, {}]);
        assert.equal(follower.client.state('odds_updates'), odds);
    });

    test(`${transport}: each subscription adds and removes its state`, async t => {
        const server = await serve(t);
        for (const event of [8301, 8302, 83]) await server.odds(`${event}/1x2/betpawa`, event);
        const follower = follow(t, server.url, { transport, topics: ['odds_updates/8301'] });
        const { client } = follower;
        const [wide, narrow] = ['odds_updates', 'odds_updates/8302'].map(topic => client.state(topic));
        await follower.live();
        assert.deepEqual(dataOf(wide), { '8301/1x2/betpawa': 8301 });
        client.subscribe(['odds_updates/8302', 'odds_updates/83']);
        await follower.until('both', () => narrow.size === 1 && wide.size === 3);
        assert(narrow.complete);
        assert(!wide.complete, 'of the whole topic it holds a part');
        client.unsubscribe(['odds_updates/8301', 'odds_updates/83']);
        assert.deepEqual(dataOf(wide), { '8302/1x2/betpawa': 8302 });
        client.subscribe(['odds_updates/8301'], 'now');
        await follower.until('three', () => client.topics.length === 2 && client.status.state === 'live');
        await eventually('the server has been asked', async () => (await server.connections()) === 1);
        await follower.at(await server.odds('8302/1x2/betpawa', 'changed'));
        assert.equal(narrow.get('8302/1x2/betpawa').data, 'changed');
        client.unsubscribe(client.topics);
        assert.deepEqual([wide.size, narrow.size, narrow.complete, client.topics], [0, 0, false, []]);
        client.subscribe(['scrape_progress']);
        await follower.at(await server.publish({ topic: 'scrape_progress', data: 'again' }));
        assert.deepEqual(follower.data.at(-1), 'again');
    });

    test(`${transport}: losses through another snapshot are reported`, async t => {
        const server = await serve(t);
        const way = await proxy(t, server);
        await server.odds('8301/1x2/betpawa', 1);
        const follower = follow(t, way.url, { transport, topics: ['scrape_progress'], since: 'now' });
        await follower.live();
        await follower.at(await server.publish({ topic: 'scrape_progress', data: 1 }));
        // Delay all data, so that messages are still in flight when the client closes the event stream.
        way.delay = 50;
        const odds = follower.client.state('odds_updates');
        follower.client.subscribe(['odds_updates']);
        for (let at = 2; at < 10; at += 1) await server.publish({ topic: 'scrape_progress', data: at });
        way.delay = 0;
        await follower.until('the state', () => odds.complete);
        await follower.at(await server.publish({ topic: 'scrape_progress', data: 10 }));
        const missing = 10 - new Set(follower.messages.filter(({ topic }) => topic === 'scrape_progress').map(({ data }) => data)).size;
        if (transport === 'websocket') assert.equal(missing, 0);
        else assert(missing === 0 || follower.gaps.some(({ topics }) => topics.scrape_progress?.skipped === null), JSON.stringify(follower.gaps));
    });

    test(`${transport}: messages beyond the history are a counted gap`, async t => {
        const server = await serve(t, { 'history-messages': '5' });
        const way = await proxy(t, server);
        const follower = follow(t, way.url, { transport, since: 'now' });
        const odds = follower.client.state('odds_updates');
        const called = [];
        follower.client.onGap = gap => called.push(gap);
        await follower.live();
        await follower.at(await server.odds('8301/1x2/betpawa', 'before'));
        way.server = { port: 1 };
        way.cut();
        await follower.until('it is noticed', ({ client }) => client.status.state !== 'live');
        for (let at = 0; at < 20; at += 1) await server.odds(`8301/1x2/${at % 2}`, at);
        for (let at = 0; at < 20; at += 1) await server.publish({ topic: 'scrape_progress', data: at });
        way.server = server;
        await follower.at(`${follower.client.position.split('-')[0]}-41`);
        assert.deepEqual(called, [{
            topics: { odds_updates: { mode: 'conflated', skipped: 18 }, scrape_progress: { mode: 'gap', skipped: 15 } },
            broadcastsSkipped: 0,
        }]);
        assert.deepEqual(follower.gaps, called);
        assert.deepEqual(dataOf(odds), await server.state('odds_updates'));
        assert.deepEqual(follower.data, ['before', 18, 19, 15, 16, 17, 18, 19]);
    });
}

test('a snapshot that is often cut is shown only when complete', async t => {
    const server = await serve(t);
    const messages = Array.from({ length: 400 }, (_, at) => ({ topic: 'odds_updates', key: `8301/${at}`, data: 'x'.repeat(200) }));
    await server.publish(...messages);
    const way = await proxy(t, server);
    way.most = 2048;
    const follower = follow(t, way.url, { topics: ['odds_updates'] });
    const odds = follower.client.state('odds_updates');
    const sizes = [];
    odds.on('change', () => sizes.push(odds.size));
    for (const count of [100, 200, 300]) {
        await follower.until(`${count} messages`, ({ messages }) => messages.length >= count);
        way.cut();
    }
    await follower.live();
    assert.deepEqual(sizes, [400]);
    assert.deepEqual(dataOf(odds), await server.state('odds_updates'));
    assert(odds.complete);
    assert.equal(follower.messages.length, 400, 'it continued where it was cut');
});

test('a hundred changes in a burst need few requests', async t => {
    const server = await serve(t);
    const follower = follow(t, server.url, { topics: ['scrape_progress'] });
    await follower.live();
    const odds = follower.client.state('odds_updates');
    for (let at = 0; at < 100; at += 1) {
        await server.odds(`${at}/1x2`, at);
        follower.client.subscribe([`odds_updates/${at}`]);
        if (at >= 10) follower.client.unsubscribe([`odds_updates/${at - 10}`]);
    }
    await follower.until('the last ten', () => odds.size === 10);
    assert.deepEqual(Object.keys(dataOf(odds)).sort(), Array.from({ length: 10 }, (_, at) => `${at + 90}/1x2`));
    assert.deepEqual(follower.statuses.filter(({ state }) => state === 'waiting'), [], 'the server did not close it');
    assert.deepEqual(follower.errors, []);
});

test('excess subscriptions are refused and the others continue', async t => {
    const server = await serve(t, { 'subscriptions-per-connection': '3' });
    const follower = follow(t, server.url, { topics: ['odds_updates/1', 'odds_updates/2'] });
    await follower.live();
    follower.client.subscribe(['odds_updates/3', 'odds_updates/4']);
    await follower.until('told', ({ errors }) => errors[0]?.data.code === 'too_many_subscriptions');
    assert.deepEqual(follower.client.topics, ['odds_updates/1', 'odds_updates/2']);
    await follower.at(await server.odds('1/x', 1));
});

test('conflation keeps the latest of each key and a correct state', async t => {
    const server = await serve(t);
    const follower = follow(t, server.url, { conflateMs: 100 });
    const odds = follower.client.state('odds_updates');
    await follower.live();
    for (let at = 0; at < 100; at += 1) await server.odds(`8301/${at % 3}`, at);
    await follower.until('the last', () => odds.get('8301/0')?.data === 99 && odds.size === 3);
    assert.deepEqual(dataOf(odds), await server.state('odds_updates'));
    assert(follower.messages.length < 100);
    assert.deepEqual(follower.gaps, []);
});

test('an exception of a listener is uncaught but affects nothing else', async t => {
    const server = await serve(t);
    const program = `
        import { connect } from ${JSON.stringify(new URL('../dist/oddswire.js', import.meta.url))};
        process.on('uncaughtException', error => console.log('uncaught', error.message));
        const client = connect(${JSON.stringify(server.url)}, { transport: 'sse' });
        client.on('message', () => { throw new Error('a bug'); });
        client.on('message', ({ data }) => {
            console.log(data);
            if (data === 'last') client.close();
        });`;
    await server.odds('8301/1x2/betpawa', 'first');
    await server.odds('8302/1x2/betpawa', 'last');
    const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    const said = String(Buffer.concat(await child.stdout.toArray())).trim().split('\n').sort();
    assert.deepEqual(said, ['first', 'last', 'uncaught a bug', 'uncaught a bug']);
});
