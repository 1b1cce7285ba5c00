// What a client listens to: a topic (`odds_updates`), or a topic narrowed by leading segments of the key
// (`odds_updates/8301`). A message stands at its topic and key, written the same way.

/** Refuses what the server would refuse, and what its query cannot name: a comma separates subscriptions there. */
export function check(name: string): string {
    // The key, in UTF-8: of the server's answer to a longer one it could not be told what it answers.
    const isLong = new Blob([name]).size - name.indexOf('/') > 257;
    if (isLong || !/^[a-z0-9_]{1,64}(\/[^/,\p{Cc}]+)*$/u.test(name) || name !== name.trim()) {
        refuse('topics', name, 'topic or topic/key');
    }
    return name;
}

/** Where a message stands. */
export function pathOf({ topic, key }: { topic: string; key?: string }): string {
    return key ? `${topic}/${key}` : topic;
}

/** Whether all of what stands at or below the path belongs to the subscription. */
export function covers(subscription: string, path: string): boolean {
    return `${path}/`.startsWith(`${subscription}/`);
}

export function refuse(what: string, value: unknown, right: string): never {
    throw new TypeError(`${what} '${value}': expected ${right}`);
}

/** Positions of one epoch are ordered by their offsets; those of different epochs say nothing about each other. */
export function split(position: string): [epoch: string, offset: number] {
    const [epoch, offset] = position.split('-');
    return [epoch!, +offset!];
}
