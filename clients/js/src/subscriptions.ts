// The client's subscriptions, and the position that each has reached. These decide where to resume, and which messages
// are new.
//
// One position is enough for all topics, because the messages of a connection come in the order of their positions.
// When a catch-up begins with a snapshot of one topic, the position goes back. If the client then resumes, messages of
// other topics may come again. The cursor of each subscription recognises such repeats.

import type { CatchUpMessage, TopicMessage } from './messages.js';
import { check, covers, pathOf, refuse, split } from './subscription.js';

/** 'now', 'snapshot' or a position. */
export type Since = string;

/** The query of a connection. */
export interface Plan {
    /** Empty: all topics. */
    readonly names: readonly string[];
    readonly begin: Since;
}

interface Held {
    readonly name: string;
    /**
     * Where the subscription will begin; null once a resume at the client's position delivers everything that the
     * subscription misses.
     */
    begin: Since | null;
    /**
     * Messages up to this offset were delivered or reported as skipped; Infinity until the server says where the
     * subscription begins.
     */
    cursor: number;
    /**
     * The number of the request that asks for the subscription: 0 is the connection's query, Infinity means no request
     * yet.
     */
    asked: number;
    /**
     * The mode of a catch-up that the server has announced for the subscription; null after the first message of that
     * catch-up.
     */
    told: string | null;
    /**
     * Whether the subscription already receives messages. This stays true while a new request changes where it begins.
     */
    isSettled?: boolean;
}

export interface Subscriptions {
    /** The names of all subscriptions, sorted. */
    names(): string[];
    /** The subscriptions that should continue from another position than this one. */
    behind(position: string): string[];
    /** Where the client resumes; null until it has seen a position. */
    reached(): string | null;
    /** Whether there is no subscription to connect for. */
    isEmpty(): boolean;
    /**
     * Whether there are subscriptions, and a resume at the client's position delivers everything that each of them
     * misses.
     */
    isQuiet(): unknown;
    include(names: readonly string[], since: Since): void;
    exclude(names: readonly string[]): void;
    /** Whether one subscription includes the path and everything below it. */
    isCovered(path: string): unknown;
    /**
     * The query of the next connection. If the transport can send requests, later requests ask for the remaining
     * subscriptions.
     */
    plan(hasRequests: boolean): Plan;
    /** The requests that the client still has to send over a connection that has sent `asked` requests. */
    requests(asked: number): object[];
    /** Call this when the server has answered the request with this number; the acknowledgement answers request 0. */
    answered(topics: readonly string[], position: string, request: number): void;
    /**
     * Call this when the server refuses these names, or the new subscriptions of the request with this number. Returns
     * a true value if some subscriptions are dropped and others are left.
     */
    refused(names: readonly string[], request: number | false): unknown;
    /** Call this when the server announces a catch-up. `answered` is the number of the latest answered request. */
    announced(topics: CatchUpMessage['data']['topics'], answered: number): void;
    /**
     * Whether a message is new for a subscription that includes it. If so, the client's position moves to the message.
     */
    take(message: TopicMessage): unknown;
    /** Call this when all messages up to this position are delivered or reported as skipped. */
    reach(position: string): void;
}

/**
 * Maximum number of names in a request. Even with the longest names, the request stays below the server's limit of 16
 * KiB.
 */
const MOST_NAMES = 25;

/**
 * Calls `snapshot` at the first message of a subscription's snapshot: from then on, a client that loses its connection
 * resumes within the snapshot.
 */
export function subscriptionsOf(
    topics: readonly string[],
    since: Since,
    snapshot: (of: string) => void,
): Subscriptions {
    const held = new Map<string, Held>();
    /** Dropped subscriptions for which the client has not sent `unsubscribe` yet. */
    const dropped = new Set<string>();
    /** Where a client of all topics begins; null once the server has named the topics. */
    let all = topics[0] ? null : since;
    let position: string | null = null;
    let epoch = '';

    const list = (holds: (held: Held) => unknown): Held[] => [...held.values()].filter(holds);
    const namesOf = (list: Held[]): string[] => list.map(held => held.name).sort();
    const isPending = (held: Held): Since | null => held.begin;

    const settle = (held: Held): void => {
        held.begin = null;
        held.asked = 0;
        held.isSettled = true;
    };

    /**
     * Stores the epoch of a position, and returns the offset. Resets the cursors of another epoch, which are no longer
     * valid.
     */
    const enter = (position: string): number => {
        const [of, offset] = split(position);
        if (of !== epoch) for (const known of list(each => each.cursor < Infinity)) known.cursor = -1;
        epoch = of;
        return offset;
    };

    const include = (names: readonly string[], since: Since, asked = Infinity): void => {
        if (!/^(now|snapshot|\d+-\d+)$/.test(since)) {
            refuse('since', since, 'now, snapshot or position');
        }
        for (const name of names.map(check)) {
            const before = held.get(name);
            // If `since` is 'now', a subscription that already receives messages continues unchanged.
            if (before?.isSettled && since === 'now') continue;
            held.set(name, { cursor: Infinity, ...before, name, begin: since, asked, told: null });
        }
    };
    include(topics, since);

    const reach = (to: string): void => {
        const offset = enter(to);
        // Do not move the position back: the old connection may have delivered more than the catch-up of its
        // replacement.
        if (!position || list(each => each.cursor < offset)[0]) position = to;
        for (const each of held.values()) {
            if (each.told === 'snapshot') snapshot(each.name);
            if (each.told && each.begin) settle(each);
            each.told = null;
            each.cursor = Math.max(each.cursor, offset);
        }
    };

    return {
        names: () => namesOf(list(() => true)),
        behind: at => namesOf(list(({ begin }) => !['now', 'snapshot', at].includes(begin ?? position!))),
        reached: () => position,
        isEmpty: () => !held.size && !all,
        isQuiet: () => held.size && !dropped.size && !list(isPending)[0],
        include,
        exclude(names) {
            for (const name of names.map(check)) {
                const before = held.get(name);
                held.delete(name);
                // Unsubscribe only from subscriptions that the server may know of.
                if (all || before?.isSettled || before?.asked! < Infinity) dropped.add(name);
            }
        },
        isCovered: path => list(held => held.isSettled && covers(held.name, path))[0],
        plan(hasRequests) {
            if (all) return { names: [], begin: all };
            dropped.clear();
            const wanted = list(isPending).map(held => held.begin!).filter(begin => begin !== 'now');
            // Resume at the position only if a subscription has begun. Without names in the query, the server would
            // apply the position to all topics.
            if (!list(held => held.isSettled)[0]) position = null;
            let begin = position ?? wanted[0] ?? 'now';
            // Without requests all subscriptions begin at the same place. If they begin with a snapshot, some may miss
            // messages that the snapshot leaves out.
            if (!hasRequests && wanted.some(each => each !== begin)) begin = 'snapshot';
            const named = list(held => !hasRequests || (position ? held.isSettled : held.begin === begin));
            for (const each of held.values()) {
                each.told = null;
                if (!isPending(each)) continue;
                each.asked = named.includes(each) && !(hasRequests && each.isSettled) ? 0 : Infinity;
                if (!each.isSettled) each.cursor = Infinity;
            }
            return { names: namesOf(named), begin };
        },
        requests(asked) {
            const requests: object[] = [];
            const gone = [...dropped];
            dropped.clear();
            while (gone[0]) requests.push({ type: 'unsubscribe', topics: gone.splice(0, MOST_NAMES) });
            for (let unsent; (unsent = list(held => held.asked === Infinity))[0];) {
                const since = unsent[0].begin;
                const group = unsent.filter(held => held.begin === since).slice(0, MOST_NAMES);
                requests.push({ type: 'subscribe', topics: namesOf(group), since });
                for (const held of group) held.asked = asked + requests.length;
            }
            return requests;
        },
        answered(topics, at, request) {
            const offset = enter(at);
            if (all) {
                include(topics.filter(name => !dropped.has(name)), all, 0);
                all = null;
            }
            for (const begun of list(held => held.begin === 'now' && held.asked <= request)) {
                position ??= at;
                begun.cursor = offset;
                settle(begun);
            }
        },
        refused(names, request) {
            list(held => held.asked === request && held.isSettled).forEach(settle);
            const gone = list(held => names.includes(held.name) || (held.asked === request && !held.isSettled));
            for (const { name } of gone) held.delete(name);
            return gone[0] && held.size;
        },
        announced(topics, answered) {
            for (const each of held.values()) {
                const mode = topics[each.name]?.mode;
                const isAnswered = each.asked <= answered;
                // The catch-up may belong to an earlier subscription of this name, which was dropped and requested
                // again.
                if (!mode || !(each.isSettled || isAnswered)) continue;
                if (each.begin && isAnswered) {
                    const [of, offset] = split(each.begin);
                    each.cursor = of === epoch ? offset : -1;
                }
                if (mode === 'snapshot') {
                    each.cursor = -1;
                    each.told = mode;
                } else if (isAnswered) each.told ??= mode;
            }
        },
        take(message) {
            const offset = enter(message.id);
            const isNew = list(held => held.cursor < offset && covers(held.name, pathOf(message)))[0];
            if (isNew) reach(message.id);
            return isNew;
        },
        reach,
    };
}
