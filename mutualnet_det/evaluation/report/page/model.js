// What the grids hold, what the reader has chosen, and the query table's rules.

const data = JSON.parse(byId("data").textContent);
const runs = data.runs;
const several = runs.length > 1;
runs.forEach((run, index) => {
  run.index = index;
  run.inTable = new Set(run.table);
  run.rows.forEach((row) => { row.run = run; });
  run.entries = run.rows.filter((row) => run.inTable.has(row.point)).sort((a, b) => a.gflops - b.gflops);
});

// Scores, by name such as "box.AP".
const metrics = new Map();
for (const [kind, { label, metrics: names }] of Object.entries(data.kinds)) {
  names.forEach((name, index) => {
    const word = label.split(" ")[0];
    const text = index === 0 ? label : ["panoptic", "class"].includes(kind) ? name.replace("_", " ") : `${word} ${name}`;
    metrics.set(`${kind}.${name}`, {
      kind, text, main: index === 0,
      of: (row) => row.scores[kind]?.[name] ?? null,
    });
  });
}
metrics.forEach((metric) => { metric.known = runs.some((run) => run.rows.some((row) => metric.of(row) !== null)); });
const mainMetrics = [...metrics.values()].filter((metric) => metric.main && metric.known);

// Costs, by name: what a budget may be given in, and the parameters.
const devices = [...new Set(runs.flatMap((run) => run.rows.flatMap((row) => Object.keys(row.latency))))];
const costs = new Map([["gflops", {
  text: "GFLOPs", unit: "GFLOPs", axis: "GFLOPs per image (multiply-adds)", argument: "gflops",
  of: (row) => row.gflops, asked: () => true,
}]]);
for (const device of devices) {
  costs.set(`ms ${device}`, {
    text: `ms on ${device}`, unit: "ms", axis: `ms per image (median) on ${device}`, device,
    argument: "milliseconds",
    of: (row) => row.latency[device]?.p50 ?? null, asked: (run) => run.devices.includes(device),
  });
}
costs.set("parameters", {
  text: "active parameters", unit: "million parameters", axis: "active parameters, millions",
  of: (row) => row.parameters / 1e6, asked: () => false,
});

// Entries that no cheaper one beats, cheapest first; as runtime/query_table.py has it.
function frontier(rows, cost, value) {
  const kept = [];
  const complete = rows.filter((row) => cost(row) !== null && value(row) !== null);
  for (const row of complete.sort((a, b) => cost(a) - cost(b) || value(b) - value(a))) {
    if (!kept.length || value(row) > value(kept.at(-1))) kept.push(row);
  }
  return kept;
}

const decides = (run) => metrics.get(data.columns[run.metric]);

// The entry of a run's query table for a budget, and the cheapest there is.
function lookup(run, cost, budget) {
  if (!run.entries.length || !cost.asked(run)) return null;
  const choices = frontier(run.entries, cost.of, decides(run).of);
  return { entry: choices.filter((row) => cost.of(row) <= budget).at(-1) ?? null, cheapest: choices[0], best: choices.at(-1) };
}

const firstShared = [...metrics].find(([, metric]) =>
  metric.main && runs.every((run) => run.rows.some((row) => metric.of(row) !== null)));
const firstKnown = [...metrics].find(([, metric]) => metric.known) ?? [...metrics][0];
const state = {
  metric: (firstShared ?? firstKnown)[0],
  cost: "gflops",
  budgets: {}, // by cost: what was asked last
  hidden: new Set(),
};
const metricNow = () => metrics.get(state.metric);
const costNow = () => costs.get(state.cost);
const shownRuns = () => runs.filter((run) => !state.hidden.has(run.index));

const spanOf = (values) => [Math.min(...values), Math.max(...values)];
function costSpan(cost) {
  const values = runs.flatMap((run) => run.rows.map(cost.of)).filter((value) => value !== null);
  return values.length ? spanOf(values) : null;
}
const isWide = ([low, high]) => low > 0 && high / low > data.logSpan;

// Who draws anew at any choice, and who already when the budget moves.
const listeners = [];
const budgetListeners = [];
const onChange = (listener) => listeners.push(listener);
const onBudget = (listener) => { listeners.push(listener); budgetListeners.push(listener); };
function change(changes) {
  Object.assign(state, changes);
  listeners.forEach((listener) => listener());
}
function askFor(budget) {
  state.budgets[state.cost] = budget;
  budgetListeners.forEach((listener) => listener());
}

// Colours ----------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => change({}));

function mapColour(fraction) {
  const place = Math.min(Math.max(fraction, 0), 1) * (data.colours.length - 1);
  const index = Math.min(Math.floor(place), data.colours.length - 2);
  const [from, to] = [data.colours[index], data.colours[index + 1]].map(channels);
  return from.map((value, i) => Math.round(value + (to[i] - value) * (place - index)));
}
const channels = (code) => [1, 3, 5].map((i) => parseInt(code.slice(i, i + 2), 16));
const rgb = (colour) => `rgb(${colour.join(",")})`;

// Black or white, whichever reads better on a colour (contrast as WCAG 2 defines it).
function inkOn(colour) {
  const [red, green, blue] = colour.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 ? "#fff" : "#000";
}

// One run is coloured by width, several each in a colour of their own.
const NUM_RUN_COLOURS = 6;
const runColour = (run) => `var(--run-${run.index % NUM_RUN_COLOURS})`;
function widthColour(run, width) {
  const widths = [...new Set(run.rows.map((row) => row.width))].sort((a, b) => a - b);
  const fraction = widths.indexOf(width) / Math.max(widths.length - 1, 1);
  // The end of the map that does not show on the background is left out.
  return rgb(mapColour(dark.matches ? 0.35 + 0.65 * fraction : 0.9 * fraction));
}
const widthName = (run, width) => run.rows.find((row) => row.width === width).point.split("x")[0];
const rowColour = (row) => (several ? runColour(row.run) : widthColour(row.run, row.width));

// A shape for each run, for those who do not tell the colours apart.
const SHAPES = [
  (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  (r) => `M${-r * 0.9} ${-r * 0.9}h${r * 1.8}v${r * 1.8}h${-r * 1.8}Z`,
  (r) => `M0 ${-r * 1.2}L${r * 1.15} ${r * 0.85}H${-r * 1.15}Z`,
  (r) => `M0 ${-r * 1.3}L${r * 1.3} 0L0 ${r * 1.3}L${-r * 1.3} 0Z`,
  (r) => `M0 ${r * 1.2}L${r * 1.15} ${-r * 0.85}H${-r * 1.15}Z`,
];
const marker = (run, radius) => SHAPES[run.index % SHAPES.length](radius);

function swatch(run) {
  return styled(s("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true", class: "swatch" },
    s("path", { d: marker(run, 5) })), { fill: runColour(run) });
}
