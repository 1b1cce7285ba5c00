/** Refuses what the server would refuse, and what its query cannot name: a comma separates subscriptions there. */
export declare function check(name: string): string;
/** Where a message stands. */
export declare function pathOf({ topic, key }: {
    topic: string;
    key?: string;
}): string;
/** Whether all of what stands at or below the path belongs to the subscription. */
export declare function covers(subscription: string, path: string): boolean;
