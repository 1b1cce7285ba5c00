// Networks that block WebSockets, servers that refuse, and errors that are final.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connect } from '../dist/oddswire.js';
import { assertExactlyOnce, eventually, follow } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { ASKS_FOR_TOKENS, serve, token } from './harness/server.mjs';

for (const upgrades of ['refuse', 'mute']) {
    test(`blocked WebSockets (${upgrades}) fall back to SSE and return later`, async t => {
        const server = await serve(t);
        const way = await proxy(t, server);
        way.upgrades = upgrades;
        const follower = follow(t, way.url, { since: 'now', timeouts: { open: 300, upgrade: 150 } });
        await follower.live();
        assert.equal(follower.client.status.transport, 'sse');
        await follower.at(await server.odds('8301/1x2/betpawa', 1));
        await follower.at(await server.odds('8301/1x2/betpawa', 2));
        way.upgrades = 'pass';
        let goesOn = true;
        const publishing = (async () => {
            let position;
            for (let at = 3; goesOn; at += 1) position = await server.odds(`8301/1x2/${at % 5}`, at);
            return position;
        })();
        await follower.until('a WebSocket', ({ client }) => client.status.transport === 'websocket');
        goesOn = false;
        await follower.at(await publishing);
        assertExactlyOnce(follower, server);
        const states = follower.statuses.slice(follower.statuses.findIndex(({ state }) => state === 'live'));
        assert(states.every(({ state }) => state === 'live'), 'it changed without a break');
        await eventually('the event stream is closed', async () => await server.connections() === 1);
    });
}

for (const [what, change] of [
    ['an existing one is requested', client => client.subscribe(['odds_updates'], 'now')],
    ['a missing one is dropped', client => client.unsubscribe(['odds_updates/1'])],
    ['one is added and dropped', client => {
        client.subscribe(['scrape_progress']);
        client.unsubscribe(['scrape_progress']);
    }],
]) {
    test(`upgrade survives changes without effect: ${what}`, async t => {
        const server = await serve(t);
        const way = await proxy(t, server);
        way.upgrades = 'refuse';
        const follower = follow(t, way.url, { since: 'now', topics: ['odds_updates'], timeouts: { upgrade: 150 } });
        const { client } = follower;
        await follower.live();
        let acknowledged = 0;
        client.on('raw', text => {
            // The first acknowledgement after the start belongs to the WebSocket that replaces the stream.
            if (text.includes('"connection_ack"') && ++acknowledged === 1) change(client);
        });
        way.upgrades = 'pass';
        await follower.until('a WebSocket', ({ client }) => client.status.transport === 'websocket');
        assert.equal(acknowledged, 2);
    });
}

test('transport websocket never takes messages from an event stream', async t => {
    const server = await serve(t);
    await server.odds('8301/1x2/betpawa', 1);
    const way = await proxy(t, server);
    way.upgrades = 'refuse';
    const follower = follow(t, way.url, { transport: 'websocket' });
    await follower.until('it has checked the reason', ({ statuses }) => statuses.some(({ reason }) => reason === 'no WebSocket'));
    assert.deepEqual(follower.messages, []);
    way.upgrades = 'pass';
    await follower.live();
    assert.equal(follower.client.status.transport, 'websocket');
    assert.deepEqual(follower.data, [1]);
});

test('without a WebSocket class the event stream is used', async t => {
    const server = await serve(t);
    const follower = follow(t, server.url, { WebSocket: undefined });
    await follower.live();
    assert.equal(follower.client.status.transport, globalThis.WebSocket ? 'websocket' : 'sse');
});

test('invalid options are refused with the expected value', () => {
    for (const [url, options, said] of [
        ['ftp://localhost/', {}, "invalid url 'ftp://localhost/': expected http(s) or ws(s)"],
        ['http://localhost/', { topics: ['Odds'] }, "invalid topics 'Odds': expected topic or topic/key"],
        ['http://localhost/', { topics: ['odds/a,b'] }, "invalid topics 'odds/a,b': expected topic or topic/key"],
        ['http://localhost/', { topics: ['odds/ '] }, "invalid topics 'odds/ ': expected topic or topic/key"],
        ['http://localhost/', { since: 'yesterday' }, "invalid since 'yesterday': expected now, snapshot or position"],
    ]) {
        assert.throws(() => connect(url, options), { name: 'TypeError', message: said });
    }
});

test('an unreachable server is retried with growing random waits', async t => {
    const server = await serve(t);
    await server.kill();
    const follower = follow(t, server.url, { timeouts: { retry: 20, maxRetry: 200 } });
    await follower.until('ten attempts', ({ client }) => client.status.attempt === 10);
    const waits = follower.statuses.filter(({ state }) => state === 'waiting').map(({ retryInMs }) => retryInMs);
    assert(waits.every((wait, at) => wait <= Math.min(200, 20 * 2 ** at)), JSON.stringify(waits));
    assert.equal(new Set(waits).size, waits.length);
});

test('Retry-After is respected', async t => {
    const server = await serve(t, { 'max-connections': '1' });
    const first = follow(t, server.url);
    await first.live();
    const second = follow(t, server.url, { transport: 'sse' });
    await second.until('refused', ({ statuses }) => statuses.some(({ code }) => code === 503));
    const { retryInMs, reason } = second.client.status;
    assert(retryInMs >= 2000, `the server said 2 s: ${retryInMs} ms`);
    assert.match(reason, /max-connections/);
});

test('a token without the topics ends the client and its iterator', async t => {
    const server = await serve(t, ASKS_FOR_TOKENS);
    const follower = follow(t, server.url, { token: token(60, ['odds_updates']), topics: ['scrape_progress'] });
    const next = follower.client[Symbol.asyncIterator]().next();
    await assert.rejects(next, /the token does not allow 'scrape_progress'.*\(403\)/);
    assert.equal(follower.client.status.state, 'closed');
    assert.equal(follower.client.status.code, 403);
    await assert.rejects(follower.client[Symbol.asyncIterator]().next(), /403/);
});

test('an unknown topic is reported and the others continue', async t => {
    const server = await serve(t);
    const follower = follow(t, server.url, { topics: ['odds_updates', 'odds'] });
    await follower.until('told', ({ errors }) => errors.length === 1);
    assert.deepEqual(follower.errors[0].data.topics, ['odds']);
    await follower.live();
    assert.deepEqual(follower.client.topics, ['odds_updates']);
});

test('closing is final, and an aborted signal closes', async t => {
    const server = await serve(t);
    const abort = new AbortController();
    const follower = follow(t, server.url, { signal: abort.signal });
    await follower.live();
    const next = follower.client[Symbol.asyncIterator]().next();
    abort.abort();
    assert.deepEqual(await next, { done: true, value: undefined });
    assert.equal(follower.client.status.state, 'closed');
    assert.equal(follower.client.status.code, 1000);
    follower.client.subscribe(['odds_updates/8301']);
    follower.client.close();
    assert.equal(follow(t, server.url, { signal: abort.signal }).client.status.state, 'closed');
});
