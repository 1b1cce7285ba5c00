/** Refuses what the server would refuse, and what its query cannot name: a comma separates subscriptions there. */
export declare function check(name: string): string;
/** Where a message stands. */
export declare function pathOf({ topic, key }: {
    topic: string;
    key?: string;
}): string;
/** Whether all of what stands at or below the path belongs to the subscription. */
export declare function covers(subscription: string, path: string): boolean;
export declare function refuse(what: string, value: unknown, right: string): never;
/** Positions of one epoch are ordered by their offsets; those of different epochs say nothing about each other. */
export declare function split(position: string): [epoch: string, offset: number];
