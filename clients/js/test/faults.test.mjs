// Compares the client with a model under random faults. At the end the state is equal to the server's, and each message
// came once or was reported as skipped. `SEED=… node --test test/faults.test.mjs` repeats a run. A larger ROUNDS makes
// the run longer.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dataOf, follow, offsetOf } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { randomOf } from './harness/random.mjs';
import { directory, serve } from './harness/server.mjs';

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32));
const ROUNDS = Number(process.env.ROUNDS ?? 30);

function message(random, at) {
    if (random(4) === 0) return { topic: 'scrape_progress', data: at };
    const key = `${random(3)}/${random(4)}`;
    return { topic: 'odds_updates', key, data: at };
}

/** The possible faults. The server is running again after each fault. */
const FAULTS = {
    cut: ({ way }) => way.cut(),
    stall: ({ way }) => way.stall(),
    split: ({ way, random }) => {
        way.most = [1, 7, 100, Infinity][random(4)];
    },
    delay: ({ way, random }) => {
        way.delay = random(3);
    },
    block: ({ way, random }) => {
        way.upgrades = ['pass', 'refuse', 'mute'][random(3)];
    },
    kill: ({ server }) => server.restart('SIGKILL'),
    drain: ({ server }) => server.restart('SIGTERM'),
    nothing: () => {},
};

for (const [name, settings, kinds] of [
    ['a journal and a long history', { 'history-messages': '100000' }, Object.keys(FAULTS)],
    ['a short history', { 'history-messages': '15' }, ['cut', 'stall', 'split', 'block', 'nothing', 'kill']],
]) {
    test(`random faults with ${name}: no unreported loss (seed ${SEED})`, async t => {
        const random = randomOf(SEED);
        const server = await serve(t, { engine: 'journal', 'data-dir': directory(t), 'drain-spread': '300ms', 'sse-comment-interval': '100ms', ...settings });
        const way = await proxy(t, server);
        const timeouts = { open: 500, idle: 200, pong: 200, retry: 20, maxRetry: 100, upgrade: 200, stable: 300 };
        const follower = follow(t, way.url, { since: 'now', timeouts, topics: ['odds_updates', 'scrape_progress'] });
        const odds = follower.client.state('odds_updates');
        await follower.live();
        for (let round = 0; round < ROUNDS; round += 1) {
            await FAULTS[kinds[random(kinds.length)]]({ way, server, random });
            const batch = Array.from({ length: random(12) }, (_, at) => message(random, round * 100 + at));
            if (batch.length > 0) await server.publish(...batch);
            if (random(3) === 0) await server.odds(`${random(3)}/${random(4)}`, round);
        }
        Object.assign(way, { most: Infinity, delay: 0, upgrades: 'pass' });
        await follower.at(await server.odds('0/0', 'the end'));

        assert.deepEqual(dataOf(odds), await server.state('odds_updates'));
        const offsets = follower.messages.map(({ id }) => offsetOf(id));
        assert.equal(new Set(offsets).size, offsets.length, 'no message came twice');
        const missing = server.published.size - offsets.length;
        const told = follower.gaps.flatMap(({ topics }) => Object.values(topics)).reduce((sum, { skipped }) => sum + (skipped ?? Infinity), 0);
        assert(missing <= told, `${missing} are missing and ${told} were told`);
        if (settings['history-messages'] > 1000) assert.deepEqual([missing, follower.gaps], [0, []]);
    });
}
