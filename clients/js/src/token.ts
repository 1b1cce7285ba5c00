// What the client reads in a JSON Web Token: when it expires.

/** In Unix milliseconds; undefined where the token does not say, or is none. */
export function expiry(token: string | undefined): number | undefined {
    try {
        const claims = token!.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/');
        const { exp } = JSON.parse(atob(claims));
        return exp * 1000 || undefined;
    } catch {
        return undefined;
    }
}
