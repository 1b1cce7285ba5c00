// Subscriptions that change, and where what they ask for begins.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dataOf, eventually, follow } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { ASKS_FOR_TOKENS, serve, token } from './harness/server.mjs';

/** Ends the connection, and waits until the client knows. */
function cut(way, follower) {
    way.cut();
    return follower.until('it is noticed', ({ client }) => client.status.state !== 'live');
}

for (const transport of ['websocket', 'sse']) {
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

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: what begins at a position gets what came after it`, async t => {
        const server = await serve(t);
        const since = await server.publish({ topic: 'scrape_progress', data: 0 });
        for (const data of [1, 2, 3]) await server.publish({ topic: 'scrape_progress', data });
        const follower = follow(t, server.url, { transport, since, topics: ['scrape_progress'] });
        await follower.live();
        assert.deepEqual(follower.data, [1, 2, 3]);
        assert.deepEqual(follower.gaps, []);
    });

    test(`${transport}: what is added at a position comes, or is told as skipped`, async t => {
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

test('a state is not kept for a wider subscription that has not begun', async t => {
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

test('more changes at once than fit in one request are taken', async t => {
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
    await eventually('they are there', async () => await subscribers() > 0);
    await follower.live();
    follower.client.unsubscribe(names);
    await eventually('they are gone', async () => await subscribers() === 0);
    assert.equal(follower.client.status.state, 'live');
    assert.deepEqual(follower.statuses.filter(({ state }) => state === 'waiting'), []);
    assert.deepEqual(follower.errors, []);
});

test('a key that is longer than a key can be is refused, and counted in bytes', async t => {
    const server = await serve(t);
    const { client } = follow(t, server.url, { topics: ['odds_updates/8302'] });
    client.subscribe([`odds_updates/${'ü'.repeat(128)}`]);
    assert.throws(() => client.subscribe([`odds_updates/x${'ü'.repeat(128)}`]), TypeError);
});

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: of what is added, what the token does not allow is told and given up, and all else goes on`, async t => {
        const server = await serve(t, ASKS_FOR_TOKENS);
        const follower = follow(t, server.url, { transport, since: 'now', topics: ['odds_updates/1'], token: token(60, ['odds_updates']) });
        const { client } = follower;
        await follower.live();
        await follower.at(await server.odds('1/x', 1));
        client.subscribe(['scrape_progress', 'odds_updates/2']);
        await server.odds('1/x', 2);
        await follower.until('it is told', ({ errors }) => errors.length > 0);
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

    test(`${transport}: an added topic that the server does not have is told and given up, and all else goes on`, async t => {
        const server = await serve(t);
        const follower = follow(t, server.url, { transport, since: 'now', topics: ['odds_updates'] });
        await follower.live();
        follower.client.subscribe(['odds']);
        await follower.until('it is told', ({ errors }) => errors.length > 0);
        assert.deepEqual([follower.errors[0].data.code, follower.errors[0].data.topics], ['unknown_topic', ['odds']]);
        await follower.at(await server.odds('1/x', 1));
        assert.deepEqual([follower.client.topics, follower.data], [['odds_updates'], [1]]);
    });

    test(`${transport}: where more is added than the server takes, that is told, and what there was goes on`, async t => {
        const server = await serve(t, { 'subscriptions-per-connection': '2' });
        const follower = follow(t, server.url, { transport, since: 'now', topics: ['odds_updates/1', 'odds_updates/2'] });
        await follower.live();
        // One is there already: it is not given up, though the request that asks for it anew is refused.
        follower.client.subscribe(['odds_updates/2', 'odds_updates/3']);
        await follower.until('it is told', ({ errors }) => errors.length > 0);
        assert.equal(follower.errors[0].data.code, 'too_many_subscriptions');
        assert.deepEqual(follower.client.topics, ['odds_updates/1', 'odds_updates/2']);
        await server.odds('1/x', 1);
        await server.odds('2/x', 2);
        await follower.until('both', ({ data }) => data.includes(1) && data.includes(2));
    });

    test(`${transport}: where a token allows nothing of what is asked for, the client ends`, async t => {
        const server = await serve(t, ASKS_FOR_TOKENS);
        const follower = follow(t, server.url, { transport, topics: ['scrape_progress'], token: token(60, ['odds_updates']) });
        await follower.until('closed', ({ client }) => client.status.state === 'closed');
        assert.equal(follower.client.status.code, 403);
        assert.deepEqual(follower.errors, []);
    });
}

test('a client whose topics are all refused asks for none, and not for all', async t => {
    const server = await serve(t, { 'drain-spread': '200ms' });
    const way = await proxy(t, server);
    const follower = follow(t, way.url, { transport: 'websocket', topics: ['odds'] });
    await follower.until('it is told', ({ errors }) => errors.length > 0);
    server.drain();
    await follower.until('nothing is left to ask for', ({ client }) => client.status.reason === 'no topics');
    assert.equal(way.requests.length, 1);
});
