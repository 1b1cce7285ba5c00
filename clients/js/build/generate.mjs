// Writes src/messages.ts from the schemas in docs/api/asyncapi.yaml. Tests compare the server's messages with these
// schemas, so the types are right. Only the keywords of that file are supported; others are an error.
import { readFile, writeFile } from 'node:fs/promises';
import { parse } from 'yaml';

const SCHEMAS = new URL('../../../docs/api/asyncapi.yaml', import.meta.url);
const TARGET = new URL('../src/messages.ts', import.meta.url);

/** Keywords that TypeScript types cannot express, or that only describe a type. */
const UNTYPED = ['description', 'pattern', 'minimum', 'maximum', 'minLength', 'maxLength', 'minItems', 'uniqueItems',
    'format', 'examples', 'default', 'not', 'propertyNames'];

function typeOf(schema) {
    const known = ['$ref', 'const', 'enum', 'oneOf', 'anyOf', 'type', 'properties', 'required', 'items',
        'additionalProperties', ...UNTYPED];
    const unknown = Object.keys(schema).filter(keyword => !known.includes(keyword));
    if (unknown.length > 0) throw new Error(`unsupported keyword ${unknown.join(', ')} in ${JSON.stringify(schema)}`);
    if (schema.$ref) return schema.$ref.replace('#/components/schemas/', '');
    if ('const' in schema) return JSON.stringify(schema.const);
    if (schema.enum) return schema.enum.map(value => JSON.stringify(value)).join(' | ');
    if (schema.oneOf) return schema.oneOf.map(typeOf).join(' | ');
    if (schema.anyOf) return schema.anyOf.map(typeOf).join(' | ');
    return [schema.type ?? 'unknown'].flat().map(type => typeNamed(type, schema)).join(' | ');
}

function typeNamed(type, schema) {
    switch (type) {
        case 'integer': return 'number';
        case 'array': return `readonly ${typeOf(schema.items)}[]`;
        case 'object': return objectType(schema);
        default: return type;
    }
}

function objectType({ properties, required = [], additionalProperties }) {
    if (properties) {
        const members = Object.entries(properties).map(([name, schema]) =>
            `${comment(schema)}${name}${required.includes(name) ? '' : '?'}: ${typeOf(schema)};`);
        return `{\n${members.join('\n')}\n}`;
    }
    return additionalProperties ? `Record<string, ${typeOf(additionalProperties)}>` : 'Record<string, never>';
}

function comment({ description }) {
    if (!description) return '';
    const lines = description.trim().split('\n');
    return lines.length === 1 ? `/** ${lines[0]} */\n` : `/**\n${lines.map(line => ` * ${line}`).join('\n')}\n */\n`;
}

function indented(text) {
    let depth = 0;
    return text.split('\n').map(line => {
        if (line.startsWith('}')) depth -= 1;
        const shown = line && '    '.repeat(depth) + line;
        if (line.endsWith('{')) depth += 1;
        return shown;
    }).join('\n');
}

export async function generated() {
    const { components } = parse(await readFile(SCHEMAS, 'utf8'));
    const types = Object.entries(components.schemas).map(([name, schema]) =>
        `${comment(schema)}export type ${name} = ${typeOf(schema)};\n`);
    const head = '// Generated from docs/api/asyncapi.yaml by build/generate.mjs: `npm run generate`.\n\n';
    return head + indented(types.join('\n'));
}

if (process.argv[1] === new URL(import.meta.url).pathname) await writeFile(TARGET, await generated());
