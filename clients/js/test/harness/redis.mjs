// A Redis for the test, for servers that share one sequence.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';

/** Starts Redis and returns its URL. Without redis-server, skips the test and returns null, except in CI. */
export async function redis(t) {
    if (spawnSync('redis-server', ['--version']).error) {
        if (process.env.CI === 'true') throw new Error('redis-server is missing, and CI needs it');
        t.skip('redis-server is not installed');
        return null;
    }
    const port = await freePort();
    const args = ['--port', port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'];
    const program = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'inherit'] });
    const ended = once(program, 'exit');
    t.after(async () => {
        program.kill('SIGKILL');
        await ended;
    });
    for await (const output of program.stdout) {
        if (!String(output).includes('eady to accept connections')) continue;
        program.stdout.resume();
        return `redis://127.0.0.1:${port}`;
    }
    throw new Error('redis-server did not start');
}

async function freePort() {
    const listener = createServer().listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const { port } = listener.address();
    listener.close();
    await once(listener, 'close');
    return port;
}
