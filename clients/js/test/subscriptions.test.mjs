// Changes of subscriptions, and where they begin.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dataOf, eventually, follow } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { ASKS_FOR_TOKENS, serve, token } from './harness/server.mjs';

/** Cuts the connection, and waits until the client notices. */
function cut(way, follower) {
    way.cut();
    return follower.until('it is noticed', ({ client }) => client.status.state !== 'live');
}

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: a client resumes at the newest position`, async t => {
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

test('a subscription replaced before a cut is not requested again', async t => {
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

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: a client at a position gets the later messages`, async t => {
        const server = await serve(t);
        const since = await server.publish({ topic: 'scrape_progress', data: 0 });
        for (const data of [1, 2, 3]) await server.publish({ topic: 'scrape_progress', data });
        const follower = follow(t, server.url, { transport, since, topics: ['scrape_progress'] });
        await follower.live();
        assert.deepEqual(follower.data, [1, 2, 3]);
        assert.deepEqual(follower.gaps, []);
    });

    test(`${transport}: messages since an added position come or are a gap`, async t => {
        const server = await serve(t);
        const since = await server.publish({ topic: 'scrape_progress', data: 0 });
        for (const data of [1, 2, 3]) await server.publish({ topic: 'scrape_progress', data });
        const follower = follow(t, server.url, { transport, topics: ['odds_updates'] });
        await follower.live();
        follower.client.subscribe(['scrape_progress'], since);
        await follower.until('the newest', ({ data, client }) => data.at(-1) === 3 && client.status.state === 'live');
        if (transport === 'websocket') assert.deepEqual(follower.data, [1, 2, 3]);
        else assert.deepEqual(follower.gaps[0].topics.scrape_progress, { mode: 'snapshot', skipped: null });
    });
}

test('a wider subscription that has not begun keeps no state', async t => {
    const server = await serve(t);
    const way = await proxy(t, server);
    await server.odds('8301/1x2/betpawa', 'old');
    const follower = follow(t, way.url, { topics: ['odds_updates/8301'] });
    const odds = follower.client.state('odds_updates/8301');
    await follower.live();
    follower.client.subscribe(['odds_updates'], 'now');
    follower.client.unsubscribe(['odds_updates/8301']);
    assert.deepEqual([dataOf(odds), odds.complete], [{}, false]);
});

test('changes are split over several requests', async t => {
    const server = await serve(t);
    const follower = follow(t, server.url, { transport: 'websocket', topics: ['scrape_progress'] });
    await follower.live();
    const names = Array.from({ length: 99 }, (_, at) => `odds_updates/${at}${'"'.repeat(250)}`);
    for (let at = 0; at < 500; at += 1) {
        follower.client.subscribe([`odds_updates/event-number-${at}/1x2/betpawa`]);
        follower.client.unsubscribe([`odds_updates/event-number-${at}/1x2/betpawa`]);
    }
    follower.client.subscribe(names);
    const subscribers = async () => (await (await fetch(new URL('api/topics', server.url))).json())
        .topics.find(({ name }) => name === 'odds_updates').subscribers;
    await eventually('all subscriptions exist', async () => await subscribers() > 0);
    await follower.live();
    follower.client.unsubscribe(names);
    await eventually('all subscriptions are removed', async () => await subscribers() === 0);
    assert.equal(follower.client.status.state, 'live');
    assert.deepEqual(follower.statuses.filter(({ state }) => state === 'waiting'), []);
    assert.deepEqual(follower.errors, []);
});

test('a key that is too long in bytes is refused', async t => {
    const server = await serve(t);
    const { client } = follow(t, server.url, { topics: ['odds_updates/8302'] });
    client.subscribe([`odds_updates/${'ü'.repeat(128)}`]);
    assert.throws(() => client.subscribe([`odds_updates/x${'ü'.repeat(128)}`]), TypeError);
});

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: an added forbidden topic is reported and dropped`, async t => {
        const server = await serve(t, ASKS_FOR_TOKENS);
        const follower = follow(t, server.url, { transport, since: 'now', topics: ['odds_updates/1'], token: token(60, ['odds_updates']) });
        const { client } = follower;
        await follower.live();
        await follower.at(await server.odds('1/x', 1));
        client.subscribe(['scrape_progress', 'odds_updates/2']);
        await server.odds('1/x', 2);
        await follower.until('it is reported', ({ errors }) => errors.length > 0);
        assert.deepEqual([follower.errors[0].type, follower.errors[0].data.code], ['error', 'forbidden']);
        assert.deepEqual(follower.errors[0].data.topics, ['scrape_progress']);
        assert.deepEqual(client.topics, ['odds_updates/1', 'odds_updates/2']);
        await follower.live();
        await server.odds('1/x', 3);
        await server.odds('2/x', 4);
        await follower.until('both', ({ data }) => data.includes(3) && data.includes(4));
        for (const data of [1, 2, 3]) assert.equal(follower.data.filter(each => each === data).length, 1, `${data} came once`);
        assert.equal(follower.errors.length, 1);
    });

    test(`${transport}: an added unknown topic is reported and dropped`, async t => {
        const server = await serve(t);
        const follower = follow(t, server.url, { transport, since: 'now', topics: ['odds_updates'] });
        await follower.live();
        follower.client.subscribe(['odds']);
        await follower.until('it is reported', ({ errors }) => errors.length > 0);
        assert.deepEqual([follower.errors[0].data.code, follower.errors[0].data.topics], ['unknown_topic', ['odds']]);
        await follower.at(await server.odds('1/x', 1));
        assert.deepEqual([follower.client.topics, follower.data], [['odds_updates'], [1]]);
    });

    test(`${transport}: excess added topics are reported and dropped`, async t => {
        const server = await serve(t, { 'subscriptions-per-connection': '2' });
        const follower = follow(t, server.url, { transport, since: 'now', topics: ['odds_updates/1', 'odds_updates/2'] });
        await follower.live();
        // `odds_updates/2` exists already. It stays, although the request that asks for it again is refused.
        follower.client.subscribe(['odds_updates/2', 'odds_updates/3']);
        await follower.until('it is reported', ({ errors }) => errors.length > 0);
        assert.equal(follower.errors[0].data.code, 'too_many_subscriptions');
        assert.deepEqual(follower.client.topics, ['odds_updates/1', 'odds_updates/2']);
        await server.odds('1/x', 1);
        await server.odds('2/x', 2);
        await follower.until('both', ({ data }) => data.includes(1) && data.includes(2));
    });

    test(`${transport}: a token that allows no requested topic is final`, async t => {
        const server = await serve(t, ASKS_FOR_TOKENS);
        const follower = follow(t, server.url, { transport, topics: ['scrape_progress'], token: token(60, ['odds_updates']) });
        await follower.until('closed', ({ client }) => client.status.state === 'closed');
        assert.equal(follower.client.status.code, 403);
        assert.deepEqual(follower.errors, []);
    });
}

test('a client without any allowed topic does not ask for all', async t => {
    const server = await serve(t, { 'drain-spread': '200ms' });
    const way = await proxy(t, server);
    const follower = follow(t, way.url, { transport: 'websocket', topics: ['odds'] });
    await follower.until('it is reported', ({ errors }) => errors.length > 0);
    server.drain();
    await follower.until('no topic is left', ({ client }) => client.status.reason === 'no topics');
    assert.equal(way.requests.length, 1);
});
