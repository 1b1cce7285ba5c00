// A TCP proxy between client and server. It can cut, stall, delay and split connections, lead to another server, and
// block WebSockets.
import { once } from 'node:events';
import { createServer, connect } from 'node:net';

/** Opens a proxy to a server. The proxy is closed at the end of the test. */
export async function proxy(t, server) {
    const proxy = new Proxy(server);
    await proxy.listen();
    t.after(() => proxy.close());
    return proxy;
}

class Proxy {
    /** The target of new connections: an object with a `port`. */
    server;
    /** The request lines, in order. */
    requests = [];
    /** How to handle WebSocket handshakes: 'pass' passes them on, 'refuse' answers 403, 'mute' does not answer. */
    upgrades = 'pass';
    /** The delay of each piece in milliseconds, in both directions. */
    delay = 0;
    /** The maximum length of a piece in bytes. */
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

    /** The number of connections. */
    get open() {
        return this.#pipes.size;
    }

    /** Cuts every connection, also in the middle of a message. */
    cut() {
        for (const [client, server] of this.#pipes) {
            client.destroy();
            server.destroy();
        }
    }

    /** Stops all data on the current connections, but keeps them open, like a lost network. */
    stall() {
        for (const pipe of this.#pipes) pipe.isStalled = true;
    }

    /** Waits until this number of further pieces was passed on. */
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

    /** Waits until the condition on the requests is true. */
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
            // A stalled connection stays open when the other side ends.
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

    /** Passes on one piece after another, so that delays and splitting keep the order. */
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
            // Wait for the delay, or for a turn of the event loop, so that pieces arrive separately.
            if (this.delay > 0) await new Promise(resolve => setTimeout(resolve, this.delay));
            else if (this.most < bytes.length) await new Promise(resolve => setImmediate(resolve));
            if (pipe.isStalled || to.destroyed) return;
            to.write(bytes.subarray(at, at + this.most));
            for (const carrier of this.#carriers) carrier();
        }
    }
}
