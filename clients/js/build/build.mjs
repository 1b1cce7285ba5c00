// Builds dist/: the type declarations and one minified module.
import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build as bundle } from 'esbuild';
import { minify } from 'terser';

const HERE = fileURLToPath(new URL('..', import.meta.url));
const TSC = fileURLToPath(new URL('../node_modules/typescript/bin/tsc', import.meta.url));

/**
 * Names of internal properties, which are shortened to one letter. A name must not also be a property of an object that
 * other code defines. The tests run on the built file, so they find mistakes.
 */
const INTERNAL = ['isAcknowledged', 'isLive', 'asked', 'answered', 'acknowledge', 'probe', 'fail', 'end',
    'ended', 'plan', 'base', 'names', 'behind', 'isEmpty', 'isQuiet', 'include', 'exclude', 'isCovered',
    'refused', 'announced', 'requests', 'take', 'reach', 'stage', 'caughtUp', 'narrow', 'shown', 'told', 'cursor',
    'isSettled', 'hearText', 'hearRetry', 'isStream', 'begin', 'reached', 'getToken', 'name', 'expires', 'refusal',
    'conflation', 'webSocket', 'limits', 'via'];

/** Writes all files into this directory. */
export async function build(directory) {
    rmSync(directory, { recursive: true, force: true });
    execFileSync(process.execPath, [TSC, '--project', HERE, '--outDir', directory], { stdio: 'inherit' });
    const { outputFiles } = await bundle({
        absWorkingDir: HERE,
        entryPoints: ['src/index.ts'],
        bundle: true,
        minify: true,
        mangleProps: new RegExp(`^(${INTERNAL.join('|')})$`),
        format: 'esm',
        target: 'es2022',
        write: false,
    });
    const { code } = await minify(outputFiles[0].text, {
        module: true,
        ecma: 2020,
        compress: { passes: 4, hoist_funs: true, unsafe_arrows: true },
    });
    writeFileSync(`${directory}/oddswire.js`, `${code}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await build(`${HERE}dist`);
