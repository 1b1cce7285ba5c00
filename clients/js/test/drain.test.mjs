// Servers that announce their shutdown.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertExactlyOnce, dataOf, eventually, follow } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { redis } from './harness/redis.mjs';
import { serve } from './harness/server.mjs';

/** Publishes without a pause until the test stops it. */
function publishing(t, publish) {
    let goesOn = true;
    const done = (async () => {
        let last;
        for (let at = 0; goesOn; at += 1) last = await publish(at);
        return last;
    })();
    const stop = () => {
        goesOn = false;
        return done;
    };
    t.after(stop);
    return stop;
}

/** Number of clients. The server closes the connection of one client at once. */
const FOLLOWERS = 4;

function followAll(t, url, options) {
    return Array.from({ length: FOLLOWERS }, () => follow(t, url, options));
}

function all(followers, what) {
    return Promise.all(followers.map(what));
}

/**
 * Checks that the clients always had a connection, except the first client, and on a slow machine perhaps the second.
 */
function assertStayed(followers) {
    const left = followers.filter(({ statuses }) => statuses.some(({ state }) => state === 'waiting' || state === 'connecting'));
    assert(left.length <= FOLLOWERS / 2, `${left.length} of ${FOLLOWERS} lost their connection`);
}

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: the next node takes over before the old one is left`, async t => {
        const url = await redis(t);
        if (!url) return;
        const settings = { engine: 'redis', 'redis-url': url, 'drain-spread': '3s' };
        const [old, next] = [await serve(t, settings), await serve(t, settings)];
        const way = await proxy(t, old);
        const followers = followAll(t, way.url, { transport, since: 'now' });
        const states = followers.map(({ client }) => client.state('odds_updates'));
        await all(followers, follower => follower.live());
        const stop = publishing(t, at => next.publish({ topic: 'odds_updates', key: `8301/1x2/${at % 7}`, data: at },
            { topic: 'scrape_progress', data: at }));
        await all(followers, follower => follower.until('messages come', ({ messages }) => messages.length > 20));
        way.server = next;
        old.drain();
        await old.ended;
        const position = await stop();
        await all(followers, follower => follower.at(position));
        for (const follower of followers) assertExactlyOnce(follower, next);
        for (const state of states) assert.deepEqual(dataOf(state), await next.state('odds_updates'));
        assertStayed(followers);
        await eventually('each has one connection', async () => await next.connections() === FOLLOWERS);
    });

    test(`${transport}: another sequence is reported and replaces the state`, async t => {
        const [old, next] = [await serve(t, { 'drain-spread': '3s' }), await serve(t)];
        const way = await proxy(t, old);
        const followers = followAll(t, way.url, { transport });
        const states = followers.map(({ client }) => client.state('odds_updates'));
        await all(followers, follower => follower.live());
        await old.odds('8301/1x2/gone', 1);
        const before = await old.odds('8301/1x2/stays', 1);
        await all(followers, follower => follower.at(before));
        const after = await next.odds('8301/1x2/stays', 2);
        way.server = next;
        old.drain();
        await all(followers, follower => follower.at(after));
        for (const state of states) assert.deepEqual(dataOf(state), { '8301/1x2/stays': 2 });
        for (const { gaps } of followers) assert.deepEqual(gaps[0].topics.odds_updates, { mode: 'snapshot', skipped: null });
        assertStayed(followers);
    });
}

test('clients wait between attempts at a draining server', async t => {
    const old = await serve(t, { 'drain-spread': '3s' });
    const way = await proxy(t, old);
    const followers = followAll(t, way.url, { timeouts: { retry: 500, maxRetry: 1000 } });
    await all(followers, follower => follower.live());
    old.drain();
    await old.ended;
    const attempts = way.requests.length / FOLLOWERS - 1;
    assert(attempts > 0 && attempts <= 12, `${attempts} attempts each in 3 s`);
    way.server = await serve(t);
    await all(followers, follower => follower.live());
});

// The `retry:` of a drain asks an EventSource to wait longer than the drain lasts. This client must not wait that long.
test('sse: retry of a drain does not delay the client', { timeout: 20_000 }, async t => {
    const old = await serve(t, { 'drain-spread': '60s' });
    const way = await proxy(t, old);
    let asked = 0;
    let isTried;
    const tried = new Promise(resolve => { isTried = resolve; });
    const follower = follow(t, way.url, { transport: 'sse', since: 'now', token: () => ++asked === 4 ? isTried() : '' });
    await follower.live();
    way.server = { port: 1 };
    old.drain();
    await tried;
});

for (const transport of ['websocket', 'sse']) {
    test(`${transport}: topics that the next node lacks are reported`, async t => {
        const [old, next] = [await serve(t, { 'drain-spread': '3s' }), await serve(t, { topics: 'odds_updates' })];
        const way = await proxy(t, old);
        const followers = followAll(t, way.url, { transport, topics: ['odds_updates', 'scrape_progress'] });
        const states = followers.map(({ client }) => client.state('scrape_progress'));
        await all(followers, follower => follower.live());
        const position = await old.publish({ topic: 'scrape_progress', data: 'half' });
        await all(followers, follower => follower.at(position));
        way.server = next;
        old.drain();
        await all(followers, follower => follower.until('it is reported', ({ errors }) => errors.length > 0));
        for (const { client, errors } of followers) {
            assert.deepEqual(errors[0].data.topics, ['scrape_progress']);
            assert.deepEqual(client.topics, ['odds_updates']);
        }
        for (const { latest, complete } of states) assert.deepEqual([latest, complete], [null, false]);
    });
}

test('a broadcast during a replacement comes once', async t => {
    const url = await redis(t);
    if (!url) return;
    const settings = { engine: 'redis', 'redis-url': url, 'drain-spread': '4s' };
    const [old, next] = [await serve(t, settings), await serve(t, settings)];
    const way = await proxy(t, old);
    const followers = followAll(t, way.url, {});
    await all(followers, follower => follower.live());
    const stop = publishing(t, async at => {
        await next.broadcast({ type: 'notice', data: at });
        return at;
    });
    way.server = next;
    old.drain();
    await old.ended;
    const last = await stop();
    assert(last > 20, `${last} were sent`);
    const stayed = followers.filter(({ statuses }) => statuses.every(({ state }) => state !== 'waiting' && state !== 'connecting'));
    assert(stayed.length >= FOLLOWERS / 2, `${stayed.length} stayed`);
    await all(stayed, follower => follower.until('the last', ({ broadcasts }) => broadcasts.some(({ data }) => data === last)));
    const sent = Array.from({ length: last + 1 }, (_, at) => at);
    for (const { broadcasts } of stayed) assert.deepEqual(broadcasts.map(({ data }) => data).sort((a, b) => a - b), sent);
});

test('a drain during a failing WebSocket attempt is followed', async t => {
    const url = await redis(t);
    if (!url) return;
    const settings = { engine: 'redis', 'redis-url': url, 'drain-spread': '8s' };
    const [old, next] = [await serve(t, settings), await serve(t, settings)];
    const way = await proxy(t, old);
    way.upgrades = 'mute';
    // With these timeouts the clients give up their WebSocket attempts long before the server closes most connections.
    const followers = followAll(t, way.url, { since: 'now', timeouts: { open: 1500, upgrade: 10 } });
    await all(followers, follower => follower.live());
    const attempts = () => way.requests.filter(line => line.includes('/api/ws')).length;
    await way.until(() => attempts() === 2 * FOLLOWERS);
    for (const { statuses } of followers) statuses.length = 0;
    way.server = next;
    old.drain();
    await old.ended;
    await all(followers, follower => follower.live());
    assertStayed(followers);
    const position = await next.odds('8301/1x2/betpawa', 1);
    await all(followers, follower => follower.at(position));
    for (const follower of followers) assertExactlyOnce(follower, next);
});
