// Tests the built file in Chromium, where WebSocket, fetch streams and the page's events differ from Node.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { offsetOf } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { directory, serve } from './harness/server.mjs';

const BUILT = new URL('../dist/oddswire.js', import.meta.url);
const CHROMIUM = process.env.TEST_CHROMIUM ?? '/usr/bin/chromium';

/** Returns Playwright's driver. If a dependency is missing, skips the test and returns null, except in CI. */
function driver(t) {
    const modules = process.env.TEST_NODE_MODULES;
    try {
        if (!existsSync(CHROMIUM)) throw new Error('chromium is missing');
        return createRequire(modules ? join(modules, 'x') : import.meta.url)('playwright-core').chromium;
    } catch (error) {
        if (process.env.CI === 'true') throw error;
        t.skip(`${error.message.split('\n')[0]}`);
        return null;
    }
}

/** A page that can import the client. The page's origin differs from the server's. */
async function pageOf(t, chromium) {
    const site = createServer(async (request, response) => {
        const isModule = request.url === '/oddswire.js';
        response.setHeader('content-type', isModule ? 'text/javascript' : 'text/html');
        response.end(isModule ? await readFile(BUILT) : '<!doctype html><title>test</title>');
    }).listen(0, '127.0.0.1');
    await once(site, 'listening');
    const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
    t.after(async () => {
        await browser.close();
        site.closeAllConnections();
        site.close();
    });
    const page = await browser.newPage();
    const errors = [];
    page.on('pageerror', error => errors.push(error.message));
    const origin = `http://127.0.0.1:${site.address().port}`;
    return { page, errors, origin, open: () => page.goto(origin) };
}

/** Starts a client in the page, and collects the client's events there. */
function begin(page, url, options) {
    return page.evaluate(async ([url, options]) => {
        const { connect } = await import('/oddswire.js');
        const timeouts = { open: 1000, retry: 50, maxRetry: 400, idle: 500, pong: 500, upgrade: 200 };
        const client = connect(url, { since: 'now', timeouts, ...options });
        const told = { messages: [], gaps: [], statuses: [] };
        client.on('message', message => told.messages.push(message));
        client.on('gap', gap => told.gaps.push(gap));
        client.on('status', status => told.statuses.push(status));
        Object.assign(window, { client, told, odds: client.state('odds_updates') });
    }, [url, options]);
}

const isLive = () => window.client.status.state === 'live';
const isAt = position => window.client.position === position && window.client.status.state === 'live';
const told = page => page.evaluate(() => window.told);

test('in Chromium every message comes once despite faults', async t => {
    const chromium = driver(t);
    if (!chromium) return;
    const site = await pageOf(t, chromium);
    const server = await serve(t, { engine: 'journal', 'data-dir': directory(t), 'allowed-origins': site.origin, 'sse-comment-interval': '100ms' });
    const way = await proxy(t, server);
    await site.open();
    const { page } = site;
    await begin(page, way.url, {});
    await page.waitForFunction(isLive);
    const faults = [
        () => way.cut(),
        () => way.stall(),
        () => server.restart('SIGKILL'),
        () => {
            way.upgrades = 'refuse';
            way.cut();
        },
        () => way.cut(),
        () => {
            way.upgrades = 'pass';
        },
    ];
    for (const [round, fault] of faults.entries()) {
        await fault();
        for (let at = 0; at < 10; at += 1) await server.odds(`8301/1x2/${at}`, { round, at });
        await page.waitForFunction(isAt, await server.publish({ topic: 'scrape_progress', data: round }));
    }
    await page.waitForFunction(() => window.client.status.transport === 'websocket');
    const { messages, gaps, statuses } = await told(page);
    assert.deepEqual(messages.map(({ id }) => offsetOf(id)), [...server.published.keys()]);
    assert.deepEqual(gaps, []);
    assert(statuses.some(({ transport }) => transport === 'sse'), 'it used an event stream in between');
    const state = await page.evaluate(() => Object.fromEntries([...window.odds].map(([key, { data }]) => [key, data])));
    assert.deepEqual(state, await server.state('odds_updates'));
    assert.deepEqual(site.errors, []);
});

test('in Chromium the event online ends a wait', async t => {
    const chromium = driver(t);
    if (!chromium) return;
    const site = await pageOf(t, chromium);
    const server = await serve(t, { 'allowed-origins': site.origin });
    await site.open();
    const { page } = site;
    // The waits are longer than the test's timeout, so only the tested event can end a wait.
    await begin(page, server.url, { timeouts: { open: 2000, retry: 600_000, maxRetry: 600_000, idle: 60_000, pong: 500, stable: 60_000 } });
    await page.waitForFunction(isLive);
    await server.restart('SIGKILL');
    await page.waitForFunction(() => window.client.status.state === 'waiting');
    // Replace the random numbers, so that waits are long or short. The status changes at once.
    const [first, unseen, longer, shorter] = await page.evaluate(() => {
        const { client } = window;
        const look = (isHidden, drawn) => {
            Object.defineProperty(document, 'hidden', { value: isHidden, configurable: true });
            Math.random = () => drawn;
            document.dispatchEvent(new Event('visibilitychange', { bubbles: true }));
            return client.status;
        };
        return [client.status, look(true, 0), look(false, 1), look(false, 0.0001)];
    });
    assert.deepEqual(unseen, first, 'a hidden page changes nothing');
    assert(longer.retryInMs <= first.retryInMs, `${longer.retryInMs} is longer than ${first.retryInMs}`);
    assert(shorter.retryInMs <= 60, `${shorter.retryInMs}`);
    for (const status of [longer, shorter]) assert.deepEqual([status.code, status.reason], [first.code, first.reason]);
    await page.evaluate(() => {
        Math.random = () => 0;
        window.dispatchEvent(new Event('online'));
    });
    await page.waitForFunction(() => window.told.statuses.filter(({ state }) => state === 'connecting').length > 0);
});
