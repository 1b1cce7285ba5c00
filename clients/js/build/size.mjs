// Says how large the built file is, and fails where it is not smaller than the limit.
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

/** Bytes, compressed by gzip at its best. */
const LIMIT = 5000;

const built = readFileSync(new URL('../dist/oddswire.js', import.meta.url));
const size = gzipSync(built, { level: 9 }).length;
console.log(`dist/oddswire.js: ${built.length} bytes, ${size} gzipped (the limit is ${LIMIT})`);
if (size >= LIMIT) process.exitCode = 1;
