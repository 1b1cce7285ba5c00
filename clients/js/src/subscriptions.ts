// Which subscriptions the client has, and how far it has come with each: what decides where to resume, and which message
// is new.
//
// One position serves all topics, since the messages of a connection come in its order. During a catch-up that begins
// with an image of one topic the position goes back, and what other topics bring again after a resume is told by the
// cursor that each subscription has.

import type { CatchUpMessage, TopicMessage } from './messages.js';
import { covers, parse, type Subscription } from './subscription.js';

/** 'now', 'snapshot' or a position. */
export type Since = string;

/** What a connection asks for in its query. */
export interface Plan {
    /** Empty: all topics. */
    readonly topics: readonly string[];
    readonly since: Since;
    /** Subscriptions that may miss messages by it without being told by the server. */
    readonly lost: readonly string[];
}

interface Held extends Subscription {
    /** Where it has yet to begin; null once resuming at the client's position brings all that is left of it. */
    since: Since | null;
    /** What stands up to this offset was delivered or told as skipped; Infinity until the server says where it begins. */
    cursor: number;
    /** Which request of the connection asks for it: 0 is its query, Infinity none yet. */
    asked: number;
    /** The server has announced its catch-up. */
    told: boolean;
    /** Its messages come, whatever else is asked for it. */
    settled: boolean;
}

export function split(position: string): [epoch: string, offset: number] {
    const [epoch, offset] = position.split('-');
    return [epoch!, Number(offset)];
}

export class Subscriptions {
    /** Where the client resumes; null until it has seen a position. */
    position: string | null = null;
    #epoch = '';
    #held = new Map<string, Held>();
    #all: Since | null = null;
    /** Dropped, and the server has yet to be told. */
    #dropped = new Set<string>();

    constructor(topics: readonly string[], since: Since) {
        this.add(topics, since);
        if (topics.length === 0) this.#all = since;
    }

    get names(): string[] {
        return [...this.#held.keys()].sort();
    }

    /** Whether there is nothing to connect for. */
    get isEmpty(): boolean {
        return this.#held.size === 0 && this.#all === null;
    }

    /** Whether resuming at the position brings all that is left of every subscription. */
    get isSettled(): boolean {
        return this.#dropped.size === 0 && this.#some(held => held.since !== null) === undefined;
    }

    add(names: readonly string[], since: Since): void {
        if (!/^(now|snapshot|\d+-\d+)$/.test(since)) {
            throw new TypeError(`since is '${since}': expected 'now', 'snapshot' or a position`);
        }
        for (const subscription of names.map(parse)) {
            const before = this.#held.get(subscription.name);
            // What is held already goes on as it was, unless a beginning is asked for.
            if (before?.settled && since === 'now') continue;
            const fresh = { ...subscription, cursor: Infinity, settled: false };
            this.#held.set(subscription.name, { ...(before ?? fresh), since, asked: Infinity, told: false });
        }
    }

    remove(names: readonly string[]): Subscription[] {
        const gone = names.map(parse).filter(({ name }) => this.#held.delete(name) || this.#all !== null);
        for (const { name } of gone) this.#dropped.add(name);
        return gone;
    }

    /** Whether the subscription, or this message, belongs to what is held. */
    covers(what: { topic: string; key?: string | undefined }): boolean {
        return this.#some(held => covers(held, what)) !== undefined;
    }

    /** What the next connection asks for in its query; the rest is asked for by requests, where the transport has them. */
    plan(hasRequests: boolean): Plan {
        const all = [...this.#held.values()];
        const pending = all.filter(held => held.since !== null);
        for (const held of pending) {
            held.told = false;
            if (!held.settled) held.cursor = Infinity;
        }
        if (this.#all !== null) return { topics: [], since: this.#all, lost: [] };
        this.#dropped.clear();
        const since = this.#since(pending, hasRequests);
        const asks = (held: Held) => !hasRequests || (this.position === null ? held.since === since : held.settled);
        const named = all.filter(asks);
        for (const held of pending) held.asked = named.includes(held) && !(hasRequests && held.settled) ? 0 : Infinity;
        const lost = since === 'snapshot' ? all.filter(held => held.since === null) : [];
        return { topics: named.map(held => held.name), since, lost: lost.map(held => held.name) };
    }

    /** Where a connection begins: at the position, unless a new subscription without requests needs something else. */
    #since(pending: Held[], hasRequests: boolean): Since {
        if (this.position === null) return pending[0]!.since!;
        if (hasRequests) return this.position;
        const wanted = pending.map(held => held.since!).filter(since => since !== 'now');
        const [epoch] = split(this.position);
        if (wanted.some(since => split(since)[0] !== epoch)) return 'snapshot';
        return [this.position, ...wanted].reduce((one, other) => split(one)[1] < split(other)[1] ? one : other);
    }

    /** What has to be requested of a connection: names to drop, and to add, by where they begin. */
    requests(): { dropped: string[]; added: Map<Since, Held[]> } {
        const dropped = [...this.#dropped];
        this.#dropped.clear();
        const added = new Map<Since, Held[]>();
        for (const held of this.#held.values()) {
            if (held.since === null || held.asked < Infinity) continue;
            added.set(held.since, [...(added.get(held.since) ?? []), held]);
        }
        return { dropped, added };
    }

    /** The server has acknowledged a connection. */
    acknowledged(topics: readonly string[], position: string, since: Since): void {
        const offset = this.#enter(position);
        if (this.#all !== null) {
            this.add(topics.filter(name => !this.#dropped.has(name) && !this.#held.has(name)), this.#all);
            for (const name of topics) {
                const held = this.#held.get(name);
                if (held) held.asked = 0;
            }
            this.#all = null;
        }
        if (since === 'now') this.position ??= position;
        this.#begin(offset, 0);
    }

    /** The server has answered the connection's request of this number. */
    answered(position: string, request: number): void {
        const offset = this.#enter(position);
        this.position ??= position;
        this.#begin(offset, request);
    }

    #begin(offset: number, request: number): void {
        for (const held of this.#held.values()) {
            if (held.since !== 'now' || held.asked > request) continue;
            held.cursor = offset;
            settle(held);
        }
    }

    /** The server refuses these, or what the connection's request of this number asked for. */
    refused(names: readonly string[] | undefined, request: number): void {
        for (const held of this.#held.values()) {
            if (names ? names.includes(held.name) : held.asked === request) this.#held.delete(held.name);
        }
    }

    /** The server has announced a catch-up; returns the subscriptions whose state it is to replace. */
    announced(topics: CatchUpMessage['data']['topics'], answered: number): Subscription[] {
        const replaced = [];
        for (const [name, { mode }] of Object.entries(topics)) {
            const held = this.#held.get(name);
            // Of one that was dropped and is asked for anew this may be the old one's.
            if (!held || (!held.settled && held.asked > answered)) continue;
            if (held.since !== null && held.asked <= answered) {
                const [epoch, offset] = split(held.since);
                held.told = true;
                held.cursor = epoch === this.#epoch ? offset : -1;
            }
            if (mode !== 'snapshot') continue;
            held.cursor = -1;
            replaced.push(held);
        }
        return replaced;
    }

    /** Whether a message is new to any of its subscriptions; the client has come to it then. */
    take(message: TopicMessage): boolean {
        const offset = this.#enter(message.id);
        const isNew = this.#some(held => held.cursor < offset && covers(held, message)) !== undefined;
        if (isNew) this.reach(message.id);
        return isNew;
    }

    /** Everything up to this position has been delivered or told as skipped. */
    reach(position: string): void {
        const offset = this.#enter(position);
        this.position = position;
        for (const held of this.#held.values()) {
            if (held.told) settle(held);
            held.cursor = Math.max(held.cursor, offset);
        }
    }

    /** Notes the epoch of a position: offsets of another one mean nothing any more. */
    #enter(position: string): number {
        const [epoch, offset] = split(position);
        if (epoch !== this.#epoch) {
            this.#epoch = epoch;
            for (const held of this.#held.values()) if (held.cursor < Infinity) held.cursor = -1;
        }
        return offset;
    }

    #some(holds: (held: Held) => boolean): Held | undefined {
        for (const held of this.#held.values()) if (holds(held)) return held;
        return undefined;
    }
}

function settle(held: Held): void {
    Object.assign(held, { since: null, asked: 0, told: false, settled: true });
}
