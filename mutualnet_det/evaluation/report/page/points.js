// The query table, or the whole grid, of the runs that are shown.

const pointsState = { sort: { key: "gflops", down: false }, all: false };

function pointColumns(rows) {
  const columns = [{
    key: "point", text: "point", of: (row) => row.point,
    show: (row) => h("span", { class: "point" }, pretty(row.point), copyButton(row.point, row.point)),
  }];
  if (several) {
    columns.push({
      key: "run", text: "run", of: (row) => row.run.name,
      show: (row) => h("span", { class: "run-name" }, swatch(row.run), h("span", {}, row.run.name)),
    });
  }
  const number = (key, text, of, show, more) =>
    columns.push({ key, text, of, show: (row) => show(of(row)), numeric: true, ...more });
  number("gflops", "GFLOPs", (row) => row.gflops, short);
  const main = mainMetrics.filter((metric) => rows.some((row) => metric.of(row) !== null));
  const chosen = metricNow();
  const shown = main.includes(chosen) ? main : [...main, chosen];
  for (const metric of shown) {
    const best = Math.max(...rows.map((row) => metric.of(row) ?? 0));
    columns.push({
      key: metric.text, text: metric.text, of: metric.of, numeric: true, downFirst: true,
      show: (row) => {
        const score = metric.of(row);
        const bar = h("span", { class: "bar", "aria-hidden": "true" });
        styled(bar, { "--share": score === null || best === 0 ? 0 : score / best });
        return [devices.length < 2 ? bar : null, h("span", { class: "score" }, percent(score))];
      },
    });
  }
  for (const device of devices) {
    const of = (field) => (row) => row.latency[device]?.[field] ?? null;
    number(`p50 ${device}`, "p50, ms", of("p50"), percent, { group: device });
    number(`p95 ${device}`, "p95, ms", of("p95"), percent, { group: device });
    if (rows.some((row) => of("memory")(row) !== null)) {
      number(`memory ${device}`, "peak, MiB", of("memory"), short, { group: device });
    }
  }
  number("parameters", "params, M", (row) => row.parameters / 1e6, short);
  return columns;
}

function drawPoints() {
  const shown = shownRuns();
  const rows = shown.flatMap((run) => (pointsState.all ? run.rows : run.entries));
  const chosen = new Set(chosenRows());
  const table = rows.length ? sortedTable({
    columns: pointColumns(rows), rows, sort: pointsState.sort,
    caption: pointsState.all ? "Every operating point of the grid" : "The query table",
    onSort: (sort) => { pointsState.sort = sort; drawPoints(); },
    decorate: (line, row) => {
      if (chosen.has(row)) line.classList.add("chosen");
      if (!row.run.inTable.has(row.point)) line.classList.add("beaten");
    },
  }) : h("p", { class: "note" }, shown.length ? "No operating point has a score." : "No run is shown.");
  replaceTable(byId("points-table"), table);
}

function startPoints() {
  const by = [...new Set(runs.filter((run) => run.metric).map((run) => decides(run).text))];
  byId("points-about").textContent = by.length
    ? `The query table: the points that no cheaper point, or faster one, beats in ${by.join(", ")}. The one your budget buys is marked.`
    : "No operating point has a score, so there is no query table.";
  byId("all-points").addEventListener("change", (event) => { pointsState.all = event.target.checked; drawPoints(); });
  onBudget(drawPoints);
}
