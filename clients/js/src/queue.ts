// What an async iterator has yet to hand out. It has a bound, but it drops nothing: the client stops listening when it is
// full, and resumes where it stopped.

import type { TopicMessage } from './messages.js';

interface Reader {
    resolve(result: IteratorResult<TopicMessage, undefined>): void;
    reject(error: Error): void;
}

export class Queue implements AsyncIterableIterator<TopicMessage> {
    #messages: TopicMessage[] = [];
    #readers: Reader[] = [];
    #end: { error: Error | undefined } | null = null;
    #taken: () => void;
    #left: (queue: Queue) => void;

    constructor(taken: () => void, left: (queue: Queue) => void) {
        this.#taken = taken;
        this.#left = left;
    }

    get length(): number {
        return this.#messages.length;
    }

    [Symbol.asyncIterator](): this {
        return this;
    }

    push(message: TopicMessage): void {
        const reader = this.#readers.shift();
        if (reader) reader.resolve({ done: false, value: message });
        else this.#messages.push(message);
    }

    /** Nothing more comes; what is there is still handed out. */
    end(error?: Error): void {
        this.#end ??= { error };
        for (const reader of this.#readers.splice(0)) this.#finish(reader);
    }

    next(): Promise<IteratorResult<TopicMessage, undefined>> {
        return new Promise((resolve, reject) => {
            const value = this.#messages.shift();
            if (value) resolve({ done: false, value });
            else if (this.#end) this.#finish({ resolve, reject });
            else this.#readers.push({ resolve, reject });
            this.#taken();
        });
    }

    /** The loop was left. */
    async return(): Promise<IteratorResult<TopicMessage, undefined>> {
        this.#messages = [];
        this.end();
        this.#left(this);
        return { done: true, value: undefined };
    }

    #finish(reader: Reader): void {
        if (this.#end!.error) reader.reject(this.#end!.error);
        else reader.resolve({ done: true, value: undefined });
    }
}
