// What a client listens to: a topic, or a topic narrowed by leading segments of the key.

export interface Subscription {
    readonly name: string;
    readonly topic: string;
    /** The leading segments; undefined where it is the whole topic. */
    readonly key: string | undefined;
}

/** Reads a subscription. What the server would refuse, and what its query cannot name, is refused here. */
export function parse(name: string): Subscription {
    // A comma separates subscriptions in the query, and spaces around them do not count there.
    if (!/^[a-z0-9_]{1,64}(\/[^/,\p{Cc}]+)*$/u.test(name) || name !== name.trim()) {
        throw new TypeError(`'${name}' is no subscription: expected a topic (a-z, 0-9, _), or topic/segment/…`);
    }
    const slash = name.indexOf('/');
    return slash < 0
        ? { name, topic: name, key: undefined }
        : { name, topic: name.slice(0, slash), key: name.slice(slash + 1) };
}

/** Whether all of what lies at this topic and key belongs to the subscription. */
export function covers(subscription: Subscription, { topic, key }: { topic: string; key?: string | undefined }): boolean {
    return subscription.topic === topic && (subscription.key === undefined
        || key === subscription.key || !!key?.startsWith(subscription.key + '/'));
}
