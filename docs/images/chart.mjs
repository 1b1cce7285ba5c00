// Draws the chart in README.md from the tables of bench/RESULTS.md: `make screenshots`.

import { readFileSync, writeFileSync } from "node:fs";

const results = readFileSync(new URL("../../bench/RESULTS.md", import.meta.url), "utf8");

/** The median of a figure, from the table row of a case and a server. */
function median(kase, server, column) {
  const lines = results.split("\n").map(line => line.split("|").map(cell => cell.trim()));
  const row = lines.findIndex(cells => cells[1] === kase && cells[2] === server);
  const head = lines.slice(0, row).findLast(cells => cells[1] === "case");
  const text = lines[row]?.[head?.indexOf(column)]?.split(" ")[0];
  const value = Number(text?.replace("k", "")) * (text?.endsWith("k") ? 1000 : 1);
  if (!Number.isFinite(value)) throw new Error(`bench/RESULTS.md has no ${column} of ${kase}, ${server}`);
  return value;
}

const servers = [["oddswire", "#1f6feb"], ["nchan", "#8c959f"], ["stock-warp", "#8c959f"]];
const panels = [
  { title: "Memory of an idle WebSocket, kB (less is better)", kase: "idle", column: "B/connection", unit: 1000, digits: 1 },
  { title: "p99 latency, 5,000 clients, 50 messages/s, ms (less is better)", kase: "wide", column: "p99 ms", unit: 1, digits: 0 },
  { title: "Handshakes per second, thousands (more is better)", kase: "connect", column: "handshakes/s", unit: 1000, digits: 1 },
];

const [labels, bars, height, gap] = [110, 480, 18, 4];
let top = 8;
let body = "";
for (const { title, kase, column, unit, digits } of panels) {
  const values = servers.map(([server]) => median(kase, server, column) / unit);
  body += `<text x="8" y="${top + 14}" class="title">${title}</text>\n`;
  top += 24;
  servers.forEach(([server, colour], at) => {
    const width = Math.max(2, (values[at] / Math.max(...values)) * bars).toFixed(1);
    body += `<text x="${labels - 8}" y="${top + 13}" text-anchor="end">${server}</text>`
      + `<rect x="${labels}" y="${top}" width="${width}" height="${height}" rx="2" fill="${colour}"/>`
      + `<text x="${labels + Number(width) + 6}" y="${top + 13}">${values[at].toFixed(digits)}</text>\n`;
    top += height + gap;
  });
  top += 12;
}
writeFileSync(new URL("comparison.svg", import.meta.url), `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 ${top}" width="680" font-family="system-ui, sans-serif" font-size="12">
<style>text { fill: #1f2328 } .title { font-weight: 600 } @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }</style>
${body}</svg>
`);
