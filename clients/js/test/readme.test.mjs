// Runs the README's examples. The test replaces only the server's address and the imported file.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { serve } from './harness/server.mjs';

const README = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
const BUILT = new URL('../dist/oddswire.js', import.meta.url).href;
const EXAMPLES = [...README.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code);

test('the README has examples', () => assert(EXAMPLES.length >= 4));

for (const [at, example] of EXAMPLES.entries()) {
    test(`example ${at + 1} of the README prints its output`, { timeout: 20_000 }, async t => {
        const server = await serve(t);
        await server.odds('8301/1x2/betpawa', { home: 1.85 });
        const program = example.replace("'oddswire'", JSON.stringify(BUILT)).replaceAll('https://odds.example.com/', server.url);
        const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 'inherit'] });
        t.after(() => child.kill());
        const expected = /\/\/ → (.*)/.exec(example)[1];
        let said = '';
        for await (const piece of child.stdout) {
            said += piece;
            if (said.includes(expected)) return;
        }
        assert.fail(`it printed '${said}' instead of '${expected}'`);
    });
}
