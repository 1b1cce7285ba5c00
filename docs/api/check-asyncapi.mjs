// Validates asyncapi.yaml with the parser of the AsyncAPI initiative. The exit code is 1 if the parser reports anything
// except that a later version of AsyncAPI exists.
//
//   TEST_NODE_MODULES=… node docs/api/check-asyncapi.mjs
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.TEST_NODE_MODULES}/`);
const { Parser } = require("@asyncapi/parser");

const file = new URL("asyncapi.yaml", import.meta.url);
const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
const found = diagnostics.filter(({ code }) => code !== "asyncapi-latest-version");
for (const { message, path, range } of found) {
  console.error(`asyncapi.yaml:${range.start.line + 1}: ${message} (${path.join(".")})`);
}
if (!document || found.length > 0) {
  process.exit(1);
}
console.log("asyncapi.yaml: OK");
