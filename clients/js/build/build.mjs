// Builds dist/: the types, and one minified module. `build(directory)` writes it elsewhere, to compare.
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build as bundle } from 'esbuild';

const HERE = fileURLToPath(new URL('..', import.meta.url));

export async function build(directory) {
    rmSync(directory, { recursive: true, force: true });
    const tsc = fileURLToPath(new URL('../node_modules/typescript/bin/tsc', import.meta.url));
    execFileSync(process.execPath, [tsc, '--project', HERE, '--outDir', directory], { stdio: 'inherit' });
    await bundle({
        absWorkingDir: HERE,
        entryPoints: ['src/index.ts'],
        outfile: `${directory}/oddswire.js`,
        bundle: true,
        minify: true,
        format: 'esm',
        target: 'es2022',
    });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await build(`${HERE}dist`);
