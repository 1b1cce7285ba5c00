import type { TopicMessage } from './messages.js';
export declare class Queue implements AsyncIterableIterator<TopicMessage> {
    #private;
    constructor(taken: () => void, left: (queue: Queue) => void);
    get length(): number;
    [Symbol.asyncIterator](): this;
    push(message: TopicMessage): void;
    /** Nothing more comes; what is there is still handed out. */
    end(error?: Error): void;
    next(): Promise<IteratorResult<TopicMessage, undefined>>;
    /** The loop was left. */
    return(): Promise<IteratorResult<TopicMessage, undefined>>;
}
