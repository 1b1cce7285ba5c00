// Fails if the committed files src/messages.ts and dist/ differ from what the sources produce.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from './build.mjs';
import { generated } from './generate.mjs';

const HERE = fileURLToPath(new URL('..', import.meta.url));

function fail(what, remedy) {
    console.error(`${what} is not up to date: ${remedy}`);
    process.exitCode = 1;
}

if (readFileSync(join(HERE, 'src/messages.ts'), 'utf8') !== await generated()) {
    fail('clients/js/src/messages.ts', 'npm run generate');
}
const fresh = mkdtempSync(join(tmpdir(), 'oddswire-js-build-'));
await build(fresh);
const files = new Set([...readdirSync(fresh), ...readdirSync(join(HERE, 'dist'))]);
const read = path => {
    try {
        return readFileSync(path, 'utf8');
    } catch {
        return null;
    }
};
for (const file of files) {
    if (read(join(fresh, file)) !== read(join(HERE, 'dist', file))) fail(`clients/js/dist/${file}`, 'npm run build');
}
rmSync(fresh, { recursive: true });
await import('./size.mjs');
