// AP class by class, of one operating point against another.

const FEW = 24; // classes that are shown at once
const classState = { kind: null, a: null, b: null, sort: { key: "difference", down: false }, all: false };

const rowKey = (row) => `${row.run.index} ${row.point}`;
const rowOf = (key) => runs.flatMap((run) => run.rows).find((row) => rowKey(row) === key);
const rowName = (row) => (several ? `${row.run.name} ` : "") + pretty(row.point);

function drawClasses() {
  const { kind } = classState;
  const [a, b] = [rowOf(classState.a), rowOf(classState.b)];
  const label = data.kinds[kind].label;
  const [of, against] = [a.classes[kind] ?? {}, b.classes[kind] ?? {}];
  const rows = [...new Set([...Object.keys(of), ...Object.keys(against)])].map((name) => {
    const [x, y] = [of[name] ?? null, against[name] ?? null];
    return { name, a: x, b: y, difference: x === null || y === null ? null : y - x };
  });
  const top = Math.max(...rows.flatMap((row) => [row.a ?? 0, row.b ?? 0]), 1);
  const column = (key, text, show) => ({ key, text, of: (row) => row[key], show: (row) => show(row[key]), numeric: true, downFirst: key !== "difference" });
  const columns = [
    { key: "name", text: "class", of: (row) => row.name, show: (row) => row.name },
    { key: "plot", text: `${label}, 0 to ${short(top)}`, of: (row) => row.a, show: (row) => dumbbell(row, top), numeric: false },
    column("a", pretty(a.point), percent),
    column("b", pretty(b.point), percent),
    column("difference", "difference", (number) => (number === null ? NONE : signed(number))),
  ];
  const draw = (sort) => { classState.sort = sort; drawClasses(); };
  const table = sortedTable({
    columns, rows, sort: classState.sort, onSort: draw, caption: `${label} of each class`,
    decorate: (tr, row) => {
      const d = row.difference;
      if (d !== null && Math.abs(d) >= 0.05) tr.lastElementChild.classList.add(d < 0 ? "lost" : "won");
    },
  });
  table.classList.add("class-table");
  const lines = [...table.querySelectorAll("tbody tr")];
  const folded = !classState.all && lines.length > FEW;
  if (folded) lines.slice(FEW).forEach((tr) => tr.remove());
  replaceTable(byId("classes-table"), table);
  if (folded) {
    byId("classes-table").append(h("button", { type: "button", class: "plain more", onclick: () => { classState.all = true; drawClasses(); } }, `Show all ${lines.length} classes`));
  }
  byId("classes-about").textContent = summary(rows, label, a, b);
  drawConfusion(a);
}

function summary(rows, label, a, b) {
  const known = rows.filter((row) => row.difference !== null).sort((x, y) => x.difference - y.difference);
  if (!known.length) return "The two points have no class in common.";
  const [metric] = [...metrics.values()].filter((each) => each.kind === classState.kind && each.main);
  const means = metric.of(a) === null || metric.of(b) === null ? "" : `: ${percent(metric.of(a))} to ${percent(metric.of(b))} ${label}`;
  const [most, least] = [known[0], known.at(-1)];
  const name = (row) => `${row.name} (${signed(row.difference)})`;
  const extremes = most.difference < 0
    ? `Most is lost on ${name(most)}, ${least.difference < 0 ? "least" : "most is won"} on ${name(least)}`
    : `Nothing is lost; most is won on ${name(least)}`;
  return `From ${rowName(a)} to ${rowName(b)}${means}. ${extremes}.`;
}

// Both values on one line: the distance is what is lost, or won.
function dumbbell(row, top) {
  const at = (score) => `${(100 * score) / top}%`;
  const parts = [];
  if (row.a !== null && row.b !== null) {
    parts.push(styled(h("span", { class: "link" }), { left: at(Math.min(row.a, row.b)), width: at(Math.abs(row.a - row.b)) }));
  }
  if (row.b !== null) parts.push(styled(h("span", { class: "dot hollow" }), { left: at(row.b) }));
  if (row.a !== null) parts.push(styled(h("span", { class: "dot solid" }), { left: at(row.a) }));
  return h("span", { class: "dumbbell", "aria-hidden": "true" }, parts);
}

function startClasses() {
  const has = (kind) => runs.some((run) => run.rows.some((row) => row.classes[kind]));
  const kinds = Object.keys(data.kinds).filter(has);
  if (!kinds.length) {
    byId("classes-controls").hidden = true;
    byId("classes-about").textContent = "These grids hold no scores of single classes.";
    return;
  }
  classState.kind = kinds[0];
  setOptions(byId("classes-kind"), kinds.map((kind) => [kind, data.kinds[kind].label]), kinds[0]);
  byId("classes-kind-label").hidden = kinds.length < 2;
  const main = [...metrics.values()].find((metric) => metric.main && metric.kind === kinds[0]);
  const byCost = (run) => [...run.rows].filter((row) => row.classes[kinds[0]]).sort((x, y) => y.gflops - x.gflops);
  const options = runs.map((run) => ({
    label: run.name,
    options: byCost(run).map((row) => [rowKey(row), `${several ? `${run.name} ` : ""}${pretty(row.point)}, ${percent(main.of(row))}`]),
  })).filter((group) => group.options.length);
  // At first: the best and the cheapest of the first run.
  const first = runs.find((run) => byCost(run).length);
  const table = first.entries.length ? first.entries : byCost(first);
  const best = table.reduce((x, y) => ((main.of(y) ?? -1) > (main.of(x) ?? -1) ? y : x));
  const cheapest = table.reduce((x, y) => (y.gflops < x.gflops ? y : x));
  [classState.a, classState.b] = [rowKey(best), rowKey(cheapest)];
  for (const end of ["a", "b"]) {
    const select = byId(`classes-${end}`);
    setOptions(select, several ? options : options[0].options, classState[end]);
    select.addEventListener("change", () => { classState[end] = select.value; drawClasses(); });
  }
  byId("classes-kind").addEventListener("change", (event) => { classState.kind = event.target.value; drawClasses(); });
  drawClasses();
}
