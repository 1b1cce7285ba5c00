/** In Unix milliseconds; nothing where the token does not say, or is none. */
export declare function expiry(token: string | undefined): number | void;
