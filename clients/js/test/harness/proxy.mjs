// What lies between client and server: a TCP proxy that can cut, stall, delay and split, leads to another server when it
// is told to, and can stand for one that does not let WebSockets through.
import { once } from 'node:events';
import { createServer, connect } from 'node:net';

/** Opens a proxy to a server; it ends with the test. */
export async function proxy(t, server) {
    const proxy = new Proxy(server);
    await proxy.listen();
    t.after(() => proxy.close());
    return proxy;
}

class Proxy {
    /** Where new connections lead: anything with a `port`. */
    server;
    /** Request lines, in the order in which they came. */
    requests = [];
    /** What becomes of opening handshakes: passed on, answered 403, or left without an answer. */
    upgrades = 'pass';
    /** Milliseconds that each piece takes, in both directions. */
    delay = 0;
    /** Bytes passed on at once. */
    most = Infinity;
    #pipes = new Set();
    #carriers = new Set();
    #waiting = new Set();
    #listener = createServer(client => this.#accept(client));

    constructor(server) {
        this.server = server;
    }

    async listen() {
        this.#listener.listen(0, '127.0.0.1');
        await once(this.#listener, 'listening');
        this.port = this.#listener.address().port;
    }

    get url() {
        return `http://127.0.0.1:${this.port}/`;
    }

    /** How many connections there are. */
    get open() {
        return this.#pipes.size;
    }

    /** Ends every connection, in the middle of whatever is on its way. */
    cut() {
        for (const [client, server] of this.#pipes) {
            client.destroy();
            server.destroy();
        }
    }

    /** From here on present connections bring nothing more and stay open, as when a network goes away. */
    stall() {
        for (const pipe of this.#pipes) pipe.isStalled = true;
    }

    /** Waits until so many more pieces were passed on. */
    carried(count) {
        return new Promise(resolve => {
            const carrier = () => {
                count -= 1;
                if (count > 0) return;
                this.#carriers.delete(carrier);
                resolve();
            };
            this.#carriers.add(carrier);
        });
    }

    /** Waits until this holds of the requests. */
    until(holds) {
        return new Promise(resolve => {
            const check = () => holds() && this.#waiting.delete(check) && resolve();
            this.#waiting.add(check);
            check();
        });
    }

    close() {
        this.#listener.close();
        this.cut();
    }

    #accept(client) {
        const server = connect(this.server.port, '127.0.0.1');
        const pipe = [client, server];
        this.#pipes.add(pipe);
        const end = () => {
            this.#pipes.delete(pipe);
            client.destroy();
            server.destroy();
        };
        for (const socket of pipe) {
            socket.setNoDelay();
            // What has stalled does not tell that the other side is gone: it stays open.
            socket.on('error', () => {}).on('close', () => socket === server && pipe.isStalled || end());
        }
        client.once('data', head => {
            const [line] = head.toString('latin1').split('\r\n');
            this.requests.push(line);
            for (const check of this.#waiting) check();
            if (this.upgrades === 'pass' || !/upgrade: websocket/i.test(head)) return;
            pipe.isStalled = true;
            if (this.upgrades === 'refuse') client.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n');
        });
        this.#carry(pipe, client, server);
        this.#carry(pipe, server, client);
    }

    /** One piece after the other, so that delays and splitting do not change the order. */
    #carry(pipe, from, to) {
        let last = Promise.resolve();
        from.on('data', bytes => {
            last = last.then(() => this.#pass(pipe, bytes, to));
        });
        from.on('end', () => {
            last = last.then(() => pipe.isStalled || to.end());
        });
    }

    async #pass(pipe, bytes, to) {
        for (let at = 0; at < bytes.length; at += this.most) {
            // A timer for the delay, which is what is asked for; a turn of the loop, so that pieces arrive apart.
            if (this.delay > 0) await new Promise(resolve => setTimeout(resolve, this.delay));
            else if (this.most < bytes.length) await new Promise(resolve => setImmediate(resolve));
            if (pipe.isStalled || to.destroyed) return;
            to.write(bytes.subarray(at, at + this.most));
            for (const carrier of this.#carriers) carrier();
        }
    }
}
