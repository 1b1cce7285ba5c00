// Prints the size of the built file, and fails if it is not below the limit.
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

/** Maximum size of the built file in bytes, compressed with gzip at the highest level. */
const LIMIT = 5000;

const built = readFileSync(new URL('../dist/oddswire.js', import.meta.url));
const size = gzipSync(built, { level: 9 }).length;
console.log(`dist/oddswire.js: ${built.length} bytes, ${size} gzipped (the limit is ${LIMIT})`);
if (size >= LIMIT) process.exitCode = 1;
