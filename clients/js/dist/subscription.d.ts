export interface Subscription {
    readonly name: string;
    readonly topic: string;
    /** The leading segments; undefined where it is the whole topic. */
    readonly key: string | undefined;
}
/** Reads a subscription. What the server would refuse, and what its query cannot name, is refused here. */
export declare function parse(name: string): Subscription;
/** Whether all of what lies at this topic and key belongs to the subscription. */
export declare function covers(subscription: Subscription, { topic, key }: {
    topic: string;
    key?: string | undefined;
}): boolean;
