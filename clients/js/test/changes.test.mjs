// Compares the client with a model, under random faults, changed subscriptions and deleted keys. After each phase the
// states are equal to the server's. For subscriptions that lasted the whole phase, each message came once or was
// reported as skipped. `SEED=… node --test test/changes.test.mjs` repeats a run. RUNS sets the number of runs; each run
// uses the next seed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { follow, offsetOf } from './harness/client.mjs';
import { proxy } from './harness/proxy.mjs';
import { randomOf } from './harness/random.mjs';
import { directory, serve } from './harness/server.mjs';

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32));
const RUNS = Number(process.env.RUNS ?? 3);
const PHASES = 3;
const ROUNDS = 8;
const NAMES = ['odds_updates', 'odds_updates/0', 'odds_updates/1', 'odds_updates/1/2', 'scrape_progress'];
const TOPICS = ['odds_updates', 'scrape_progress'];

const pathOf = ({ topic, key }) => key ? `${topic}/${key}` : topic;
const covers = (name, path) => `${path}/`.startsWith(`${name}/`);

class Run {
    /** The latest message of each existing key, and the latest one without a key, by path. */
    current = new Map();
    /** Subscriptions by name; true if the client has the complete state of the subscription. */
    held = new Map();
    /** Names whose subscription changed in this phase. */
    touched = new Set();

    constructor(t, seed) {
        this.t = t;
        this.random = randomOf(seed);
    }

    pick(list) {
        return list[this.random(list.length)];
    }

    async start() {
        const { t } = this;
        const history = this.pick(['100000', '12']);
        this.server = await serve(t, { engine: 'journal', 'data-dir': directory(t), 'drain-spread': '200ms', 'sse-comment-interval': '100ms', 'history-messages': history });
        this.way = await proxy(t, this.server);
        for (let at = 0; at < 5; at += 1) await this.publish();
        const position = (await (await fetch(new URL('api/topics', this.server.url))).json()).topics[0].position;
        const since = this.pick(['now', 'snapshot', position]);
        const topics = NAMES.filter(() => this.random(2) === 0);
        if (!topics[0]) topics.push('odds_updates');
        for (const name of topics) this.held.set(name, since === 'snapshot');
        this.positions = [position];
        const timeouts = { open: 500, idle: 300, pong: 300, retry: 20, maxRetry: 100, upgrade: 200, stable: 300 };
        this.transport = this.pick(['auto', 'websocket', 'sse']);
        this.follower = follow(t, this.way.url, { since, topics, timeouts, transport: this.transport });
        this.states = new Map(NAMES.map(name => [name, this.follower.client.state(name)]));
        for (const name of topics) this.touched.add(name);
    }

    message() {
        const keys = [...this.current.values()].filter(({ key }) => key);
        if (keys[0] && this.random(5) === 0) {
            const { topic, key } = this.pick(keys);
            return { topic, key, data: null };
        }
        if (this.random(4) === 0) return { topic: 'scrape_progress', data: this.random(2 ** 32) };
        return { topic: 'odds_updates', key: `${this.random(3)}/${this.random(4)}`, data: this.random(2 ** 32) };
    }

    async publish(message = this.message()) {
        const position = await this.server.publish(message);
        this.positions?.push(position);
        if (message.data === null) this.current.delete(pathOf(message));
        else this.current.set(pathOf(message), { ...message, id: position });
        return position;
    }

    change() {
        const { client } = this.follower;
        const name = this.pick(NAMES);
        this.touched.add(name);
        if (this.held.has(name) && this.random(2) === 0) {
            client.unsubscribe([name]);
            return this.held.delete(name);
        }
        const since = this.pick(['now', 'snapshot', 'snapshot', this.pick(this.positions)]);
        client.subscribe([name], since);
        // If the client requests a subscription again before it has begun, the latest `since` counts.
        return this.held.set(name, since === 'snapshot');
    }

    async fault() {
        const { way, server } = this;
        const faults = [
            () => way.cut(),
            () => way.stall(),
            () => { way.most = this.pick([1, 7, 100, Infinity]); },
            () => { way.delay = this.random(3); },
            () => { way.upgrades = this.pick(['pass', 'refuse', 'mute']); },
            () => server.restart(this.pick(['SIGKILL', 'SIGTERM'])),
            () => {},
        ];
        await this.pick(faults)();
    }

    /** Runs one phase. If no subscription changes, every message can be counted. */
    async phase(changes) {
        for (let round = 0; round < ROUNDS; round += 1) {
            await this.fault();
            for (let count = changes ? this.random(3) : 0; count > 0; count -= 1) this.change();
            for (let count = this.random(10); count > 0; count -= 1) await this.publish();
        }
        await this.settle();
    }

    /** Waits until the server has answered all requests, and a message published after that has arrived. */
    async settle() {
        const { follower, way } = this;
        Object.assign(way, { most: Infinity, delay: 0, upgrades: 'pass' });
        if (!this.held.size) this.change();
        if (!this.held.size) this.held.set('odds_updates', true), follower.client.subscribe(['odds_updates']);
        const names = [...this.held.keys()].sort();
        assert.deepEqual(follower.client.topics, names);
        const isAnswered = () => follower.client.status.state === 'live' && String(follower.acknowledged) === String(names);
        await follower.until(`answered: ${names}`, isAnswered);
        for (const name of names) {
            const [topic, ...rest] = name.split('/');
            const key = topic === 'odds_updates' ? [...rest, 'last'].join('/') : undefined;
            await follower.at(await this.publish({ topic, key, data: this.random(2 ** 32) }));
        }
    }

    checkStates() {
        const { held } = this;
        for (const [name, state] of this.states) {
            for (const message of [...state.values(), ...state.latest ? [state.latest] : []]) {
                const path = pathOf(message);
                assert.equal(message.id, this.current.get(path)?.id, `the state of ${name} has an old ${path}`);
                assert([...held.keys()].some(name => covers(name, path)), `the state of ${name} has ${path}, which is not subscribed to`);
            }
            const whole = [...held].filter(([, isWhole]) => isWhole).map(([name]) => name);
            for (const [path, { key }] of this.current) {
                if (!key || !covers(name, path) || !(state.complete || whole.some(name => covers(name, path)))) continue;
                assert(state.has(key), `the state of ${name} lacks ${path}`);
            }
            if (whole.some(whole => covers(whole, name))) assert(state.complete, `the state of ${name} is complete`);
        }
    }

    checkMessages(from) {
        const { messages, gaps, catchUps } = this.follower;
        const came = new Set(messages.map(({ id }) => offsetOf(id)));
        for (const name of [...this.held.keys()].filter(name => !this.touched.has(name))) {
            const due = [...this.server.published].filter(([offset, message]) => offset > from && covers(name, pathOf(message)));
            const missing = due.filter(([offset]) => !came.has(offset));
            const told = gaps.reduce((sum, { topics }) => sum + (topics[name] ? topics[name].skipped ?? Infinity : 0), 0);
            assert(missing.length <= told, `${name}: missing ${JSON.stringify(missing)}, but ${told} were reported`);
        }
        // A snapshot may repeat messages that the client already has.
        const began = catchUps.flatMap(({ data }) => Object.keys(data.topics).filter(name => data.topics[name].mode === 'snapshot'));
        const seen = new Set();
        for (const message of messages) {
            const isAgain = [...began, ...this.touched].some(name => covers(name, pathOf(message)));
            assert(isAgain || !seen.has(message.id), `${message.id} came twice`);
            seen.add(message.id);
        }
        for (const list of [messages, gaps, catchUps]) list.length = 0;
        this.touched.clear();
    }
}

for (let run = 0; run < RUNS; run += 1) {
    const seed = (SEED + run) >>> 0;
    test(`client matches model after faults and changes (seed ${seed})`, async t => {
        const run = new Run(t, seed);
        await run.start();
        for (let phase = 0; phase < PHASES; phase += 1) {
            const from = offsetOf(run.positions.at(-1));
            await run.phase(phase % 3 !== 1);
            run.checkStates();
            run.checkMessages(from);
        }
    });
}
