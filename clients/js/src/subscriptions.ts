// Which subscriptions the client has, and how far it has come with each: what decides where to resume, and which message
// is new.
//
// One position serves all topics, since the messages of a connection come in its order. During a catch-up that begins
// with an image of one topic the position goes back, and what other topics bring again after a resume is told by the
// cursor that each subscription has.

import type { CatchUpMessage, TopicMessage } from './messages.js';
import { check, covers, pathOf, refuse, split } from './subscription.js';

/** 'now', 'snapshot' or a position. */
export type Since = string;

/** What a connection asks for in its query. */
export interface Plan {
    /** Empty: all topics. */
    readonly names: readonly string[];
    readonly begin: Since;
}

interface Held {
    readonly name: string;
    /** Where it has yet to begin; null once resuming at the client's position brings all that is left of it. */
    begin: Since | null;
    /** What stands up to this offset was delivered or told as skipped; Infinity until the server says where it begins. */
    cursor: number;
    /** Which request of the connection asks for it: 0 is its query, Infinity none yet. */
    asked: number;
    /** The mode of the catch-up that is announced for it, and of which nothing has come yet. */
    told: string | null;
    /** Its messages come, whatever else is asked for it. */
    isSettled?: boolean;
}

export interface Subscriptions {
    /** Sorted. */
    names(): string[];
    /** Those that were to go on from another position than this one. */
    behind(position: string): string[];
    /** Where the client resumes; null until it has seen a position. */
    reached(): string | null;
    /** Whether there is nothing to connect for. */
    isEmpty(): boolean;
    /** Whether resuming at the position brings all that is left of every subscription, and there is one. */
    isQuiet(): unknown;
    include(names: readonly string[], since: Since): void;
    exclude(names: readonly string[]): void;
    /** Whether all of what stands at or below the path belongs to a subscription. */
    isCovered(path: string): unknown;
    /** What the next connection asks for in its query; the rest is asked for by requests, where the transport has them. */
    plan(hasRequests: boolean): Plan;
    /** The requests that a connection has yet to be sent, after `asked` others. */
    requests(asked: number): object[];
    /** The server has answered the connection's request of this number; 0 is the acknowledgement. */
    answered(topics: readonly string[], position: string, request: number): void;
    /**
     * The server refuses these, or what the connection's request of this number asked for beyond what there was. Whether some
     * are given up by that, and others are left.
     */
    refused(names: readonly string[], request: number | false): unknown;
    /** The server has announced a catch-up, having answered so many requests. */
    announced(topics: CatchUpMessage['data']['topics'], answered: number): void;
    /** Whether a message is new to any of its subscriptions; the client has come to it then. */
    take(message: TopicMessage): unknown;
    /** Everything up to this position has been delivered or told as skipped. */
    reach(position: string): void;
}

/** Names in one request: with the longest there are it stays below the 16 KiB that the server takes. */
const MOST_NAMES = 25;

/** `snapshot` is called when a connection that is cut would resume within the snapshot of this subscription. */
export function subscriptionsOf(
    topics: readonly string[],
    since: Since,
    snapshot: (of: string) => void,
): Subscriptions {
    const held = new Map<string, Held>();
    /** Dropped, and the server has yet to be told. */
    const dropped = new Set<string>();
    /** Where all topics begin that the server has; null once it has said which these are. */
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

    /** Notes the epoch of a position: offsets of another one mean nothing any more. */
    const enter = (position: string): number => {
        const [of, offset] = split(position);
        if (of !== epoch) for (const known of list(each => each.cursor < Infinity)) known.cursor = -1;
        epoch = of;
        return offset;
    };

    const include = (names: readonly string[], since: Since, asked = Infinity): void => {
        if (!/^(now|snapshot|\d+-\d+)$/.test(since)) {
            refuse('since', since, "'now', 'snapshot' or a position");
        }
        for (const name of names.map(check)) {
            const before = held.get(name);
            // What is held already goes on as it was, unless a beginning is asked for.
            if (before?.isSettled && since === 'now') continue;
            held.set(name, { cursor: Infinity, ...before, name, begin: since, asked, told: null });
        }
    };
    include(topics, since);

    const reach = (to: string): void => {
        const offset = enter(to);
        // A connection that is replaced may have come further than the replacement's catch-up.
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
                // The server need not be told of what it was never asked for.
                if (all || before?.isSettled || before?.asked! < Infinity) dropped.add(name);
            }
        },
        isCovered: path => list(held => held.isSettled && covers(held.name, path))[0],
        plan(hasRequests) {
            if (all) return { names: [], begin: all };
            dropped.clear();
            const wanted = list(isPending).map(held => held.begin!).filter(begin => begin !== 'now');
            // A position stands for those that have begun: without one of them the server would take it for all topics.
            if (!list(held => held.isSettled)[0]) position = null;
            let begin = position ?? wanted[0] ?? 'now';
            // Without requests all begin in the same place. Where that is the image, some may miss what it leaves out.
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
                // Of one that was dropped and is asked for anew this may be the old one's.
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
