// The event stream parser, tested against the HTML standard (section 9.2.6) with the text split at every place.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { build } from 'esbuild';

const { outputFiles } = await build({
    entryPoints: [new URL('../src/transports.ts', import.meta.url).pathname],
    format: 'esm',
    write: false,
});
const { eventParser } = await import(`data:text/javascript,${encodeURIComponent(outputFiles[0].text)}`);

function parse(pieces) {
    const events = [];
    const parse = eventParser({ hearText: text => events.push(text), hearRetry: ms => events.push(ms) });
    pieces.forEach(parse);
    return events;
}

for (const [name, text, events] of [
    ['an event ends with an empty line', 'data: a\n\ndata: b\n', ['a']],
    ['several data lines are joined', 'data: a\ndata:b\n\n', ['a\nb']],
    ['one space after the colon is removed', 'data:  a\ndata\n\n', [' a\n']],
    ['comments, ids and unknown fields are ignored', ': data: x\nid: 1-2\ndata: a\nother: x\ndataset: x\n\n', ['a']],
    ['lines end with a carriage return, a line feed, or both', 'data: a\r\rdata: b\r\n\r\ndata: c\n\n', ['a', 'b', 'c']],
    ['retry is digits only', 'retry: 2500\nretry: 2.5\nretry: -1\nretry\n\n', [2500]],
    ['an event without data is ignored', 'id: 1-2\n\n\n\ndata: a\n\n', ['a']],
    ['an event with empty data is reported', 'data\n\n', ['']],
    ['events with a name are ignored', 'event: x\ndata: a\n\nevent: message\ndata: b\n\ndata: c\n\n', ['b', 'c']],
    ['Unicode separators do not end a line', 'data: a\u2028b\u2029c\u0085d\n\n', ['a\u2028b\u2029c\u0085d']],
]) {
    test(name, () => {
        assert.deepEqual(parse([text]), events);
        assert.deepEqual(parse([...text]), events, 'a character at a time');
        for (let at = 0; at <= text.length; at += 1) {
            assert.deepEqual(parse([text.slice(0, at), text.slice(at)].filter(piece => piece)), events, `cut at ${at}`);
        }
    });
}

// A parser that scans the whole line for each piece would take minutes.
test('a long line in many pieces is scanned once', { timeout: 60_000 }, () => {
    const piece = 'x'.repeat(1 << 8);
    const pieces = Array(1 << 15).fill(piece);
    assert.deepEqual(parse(['data: ', ...pieces, '\n\n']), [pieces.join('')]);
});

test('the length of a line is limited', () => {
    assert.throws(() => parse(Array(17).fill('x'.repeat(1 << 20))), /long line/);
});
