// A subscription is a topic (`odds_updates`), or a topic narrowed by leading segments of the key (`odds_updates/8301`).
// The path of a message is its topic and key, written the same way.

/** Refuses names that the server would refuse. A comma is refused, too: it separates subscriptions in the query. */
export function check(name: string): string {
    // Limit the length of the key in UTF-8: the server's answer shortens a longer name, so the client could not
    // recognise it.
    const isLong = new Blob([name]).size - name.indexOf('/') > 257;
    if (isLong || !/^[a-z0-9_]{1,64}(\/[^/,\p{Cc}]+)*$/u.test(name) || name !== name.trim()) {
        refuse('topics', name, 'topic or topic/key');
    }
    return name;
}

/** The path of a message. */
export function pathOf({ topic, key }: { topic: string; key?: string }): string {
    return key ? `${topic}/${key}` : topic;
}

/** Whether the subscription includes the path and everything below it. */
export function covers(subscription: string, path: string): boolean {
    return `${path}/`.startsWith(`${subscription}/`);
}

export function refuse(what: string, value: unknown, right: string): never {
    throw new TypeError(`invalid ${what} '${value}': expected ${right}`);
}

/** Splits a position. Offsets order the positions of one epoch. Positions of different epochs cannot be compared. */
export function split(position: string): [epoch: string, offset: number] {
    const [epoch, offset] = position.split('-');
    return [epoch!, +offset!];
}
