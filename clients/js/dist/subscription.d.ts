/** Refuses names that the server would refuse. A comma is refused, too: it separates subscriptions in the query. */
export declare function check(name: string): string;
/** The path of a message. */
export declare function pathOf({ topic, key }: {
    topic: string;
    key?: string;
}): string;
/** Whether the subscription includes the path and everything below it. */
export declare function covers(subscription: string, path: string): boolean;
export declare function refuse(what: string, value: unknown, right: string): never;
/** Splits a position. Offsets order the positions of one epoch. Positions of different epochs cannot be compared. */
export declare function split(position: string): [epoch: string, offset: number];
