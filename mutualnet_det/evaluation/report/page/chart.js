// Score against cost: every point, the frontier of each run, and the budget.

const MARGIN = { left: 56, right: 18, top: 16, bottom: 46 };
const NEAR = 34; // px from a point where its numbers show
const SNAP = 9; // px from a point where a click asks for its cost

const HINT = "Hover over a point for its numbers, or step through them with the arrow keys; click or drag to move the budget.";
const TIMES = " Times of two runs compare only as far as the machine was equally busy.";

const chart = { dots: [], active: null, x: null, inverse: null };

// As tall as what stands beside it; it stays so while the budget moves.
function sizeChart() {
  const base = Math.min(Math.max(byId("chart").clientWidth * 0.62, 300), 460);
  const card = byId("chart").parentElement.getBoundingClientRect();
  const asking = document.querySelector(".asking").getBoundingClientRect();
  const beside = asking.left > card.left + 10;
  const wanted = byId("answers").getBoundingClientRect().bottom - asking.top + 18 - 51;
  chart.height = Math.round(beside ? Math.min(Math.max(base, wanted), 700) : base);
}

function drawChart() {
  const place = byId("chart");
  const [metric, cost] = [metricNow(), costNow()];
  const has = (row) => cost.of(row) !== null && metric.of(row) !== null;
  const all = runs.flatMap((run) => run.rows).filter(has);
  const rows = all.filter((row) => !state.hidden.has(row.run.index));
  byId("tip").hidden = true;
  drawLegend(has);
  chart.dots = [];
  byId("chart-hint").hidden = !rows.length;
  byId("chart-hint").textContent = HINT + (several && cost.device ? TIMES : "");
  if (!rows.length) {
    const reason = all.length || !shownRuns().length ? "No run is shown." : `No operating point has ${metric.text}.`;
    fill(place, [h("p", { class: "note" }, reason)]);
    return;
  }
  const width = Math.max(place.clientWidth, 260);
  const height = chart.height;
  // The axes do not move when runs are hidden.
  const horizontal = costAxis(all.map(cost.of), MARGIN.left, width - MARGIN.right, width);
  const vertical = scoreAxis(all.map(metric.of), height - MARGIN.bottom, MARGIN.top);
  Object.assign(chart, { x: horizontal.place, inverse: horizontal.inverse });
  const at = (row) => [horizontal.place(cost.of(row)), vertical.place(metric.of(row))];

  const parts = [
    axes(horizontal, vertical, width, height, cost, metric),
    budgetMark(width, height),
    ...shownRuns().map((run) => curves(run, run.rows.filter(has), at, cost, metric)),
  ];
  const dots = rows.slice().sort((a, b) => onFrontier(a) - onFrontier(b)).map((row) => dot(row, at(row)));
  chart.dots = rows.slice().sort((a, b) => cost.of(a) - cost.of(b)).map((row) => ({ row, at: at(row) }));
  const rings = chosenRows().filter(has).map((row) => chosenMark(row, at(row)));
  const svg = s("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "application", tabindex: 0,
    "aria-roledescription": "chart", "aria-describedby": "chart-hint",
    "aria-label": `${metric.text} against ${cost.axis}, ${rows.length} operating points`,
  }, parts, dots, rings, labels(rows, at, width, height));
  const focused = place.contains(document.activeElement);
  const { active } = chart;
  fill(place, [svg]);
  if (focused) svg.focus();
  chart.active = active; // the keys go on from there
  listen(svg);
}

const onFrontier = (row) => frontierOf(row.run).has(row);
function frontierOf(run) {
  return new Set(frontier(run.rows, costNow().of, metricNow().of));
}

// Axes -------------------------------------------------------------------------------------------

function costAxis(values, from, to, width) {
  let [low, high] = spanOf(values);
  const wide = isWide([low, high]);
  if (wide) {
    const margin = (high / low) ** 0.06;
    [low, high] = [low / margin, high * margin];
  } else {
    const margin = (high - low || high || 1) * 0.08;
    [low, high] = [Math.max(low - margin, 0), high + margin];
  }
  const turn = wide ? Math.log : (value) => value;
  const back = wide ? Math.exp : (value) => value;
  const scale = (to - from) / (turn(high) - turn(low));
  const ticks = wide ? logTicks(low, high, width) : linearTicks(low, high, width / 90);
  return {
    ticks, wide,
    place: (value) => from + (turn(value) - turn(low)) * scale,
    inverse: (x) => back(turn(low) + (Math.min(Math.max(x, from), to) - from) / scale),
  };
}

function scoreAxis(values, from, to) {
  let [low, high] = spanOf(values);
  const margin = Math.max((high - low) * 0.1, 0.5);
  [low, high] = [Math.max(low - margin, 0), high + margin];
  return {
    ticks: linearTicks(low, high, (from - to) / 55),
    place: (value) => from + ((value - low) * (to - from)) / (high - low),
  };
}

function linearTicks(low, high, count) {
  const raw = (high - low) / Math.max(count, 2);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw);
  const ticks = [];
  for (let index = Math.ceil(low / step); index * step <= high; index++) ticks.push(Number((index * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high, width) {
  const within = (factors) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const factor of factors) {
        const tick = Number((factor * 10 ** power).toPrecision(6));
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    }
    return ticks;
  };
  const choices = [[1], [1, 3], [1, 2, 5], [1, 2, 3, 5, 7], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]].map(within);
  return choices.filter((ticks) => ticks.length <= width / 64).at(-1) ?? choices[0];
}

function axes(horizontal, vertical, width, height, cost, metric) {
  const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
  const tick = (text, x, y, anchor) => s("text", { x, y, "text-anchor": anchor, class: "tick" }, text);
  return s("g", { class: "axes", "aria-hidden": "true" },
    vertical.ticks.map((value) => {
      const y = vertical.place(value);
      return [s("line", { x1: MARGIN.left, x2: right, y1: y, y2: y }), tick(String(value), MARGIN.left - 8, y + 4, "end")];
    }),
    horizontal.ticks.map((value) => {
      const x = horizontal.place(value);
      return [s("line", { x1: x, x2: x, y1: MARGIN.top, y2: bottom }), tick(String(value), x, bottom + 18, "middle")];
    }),
    s("text", { x: (MARGIN.left + right) / 2, y: height - 6, "text-anchor": "middle", class: "title" }, cost.axis + (horizontal.wide ? ", logarithmic" : "")),
    s("text", { x: 14, y: (MARGIN.top + bottom) / 2, "text-anchor": "middle", class: "title", transform: `rotate(-90 14 ${(MARGIN.top + bottom) / 2})` }, `${metric.text}, %`));
}

// Curves -----------------------------------------------------------------------------------------

const line = (points) => points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function curves(run, rows, at, cost, metric) {
  const best = frontier(rows, cost.of, metric.of);
  const widths = [...new Set(rows.map((row) => row.width))];
  const colour = several ? runColour(run) : null;
  const band = s("path", { d: line(best.map(at)), class: several ? "frontier" : "frontier band", "data-run": run.index });
  if (colour) styled(band, { stroke: colour });
  const ofWidths = widths.map((width) => {
    const along = rows.filter((row) => row.width === width).sort((a, b) => cost.of(a) - cost.of(b));
    return styled(s("path", { d: line(along.map(at)), class: several ? "width faint" : "width" }), { stroke: rowColour(along[0]) });
  });
  return s("g", { "aria-hidden": "true" }, several ? [ofWidths, band] : [band, ofWidths]);
}

function dot(row, [x, y]) {
  const best = onFrontier(row);
  return styled(s("path", {
    d: marker(row.run, best ? 5 : 3.6), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
    class: best ? "dot best" : "dot", "data-run": row.run.index, "data-point": row.point,
  }), { fill: rowColour(row) });
}

function chosenMark(row, [x, y]) {
  return s("g", { class: "chosen", "data-run": row.run.index, "data-point": row.point },
    s("path", { d: `M${MARGIN.left} ${y.toFixed(1)}H${(x - 10).toFixed(1)}`, class: "lead-line" }),
    styled(s("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 9.5 }), { stroke: rowColour(row) }));
}

// What a budget leaves out is shaded.
function budgetMark(width, height) {
  const budget = budgetNow();
  if (budget === null) return null;
  const right = width - MARGIN.right;
  const x = Math.min(Math.max(budget > 0 ? chart.x(budget) : MARGIN.left, MARGIN.left), right);
  const tall = height - MARGIN.top - MARGIN.bottom;
  return s("g", { class: "budget-mark", "aria-hidden": "true" },
    s("rect", { x, y: MARGIN.top, width: right - x, height: tall }),
    s("path", { d: `M${x.toFixed(1)} ${MARGIN.top}v${tall}` }),
    s("circle", { cx: x.toFixed(1), cy: height - MARGIN.bottom, r: 4.5 }));
}

// Where a name may stand beside its point: a frontier has room above and to the left of it.
const PLACES = [[-7, -8, "end"], [-11, 4, "end"], [0, -11, "middle"], [-3, -18, "end"], [8, 16, "start"], [11, 4, "start"], [0, 20, "middle"]];

// The names of the frontier's points, where they cover nothing; a point without such a place has none.
function labels(rows, at, width, height) {
  const cheaper = (a, b) => costNow().of(a) - costNow().of(b);
  const taken = rows.map(at).map(([x, y]) => [x - 6, y - 6, x + 6, y + 6]);
  for (const run of shownRuns()) {
    const lines = [frontier(run.rows, costNow().of, metricNow().of)];
    if (!several) lines.push(...[...new Set(rows.map((row) => row.width))].map((each) => rows.filter((row) => row.width === each).sort(cheaper)));
    for (const along of lines) taken.push(...along.slice(1).flatMap((row, index) => between(at(along[index]), at(row))));
  }
  const best = rows.filter(onFrontier).sort(cheaper);
  const ends = (row) => (row === best[0] || row === best.at(-1) ? 0 : 1);
  return best.sort((a, b) => ends(a) - ends(b)).map((row) => {
    const [x, y] = at(row);
    const wide = row.point.length * 6.3 + 4;
    for (const [dx, dy, anchor] of PLACES) {
      const left = x + dx - (anchor === "end" ? wide : anchor === "middle" ? wide / 2 : 0);
      const box = [left, y + dy - 10, left + wide, y + dy + 3];
      const inside = box[0] >= MARGIN.left && box[2] <= width - 2 && box[1] >= 2 && box[3] <= height - MARGIN.bottom;
      if (inside && !taken.some((other) => overlap(box, other))) {
        taken.push(box);
        return s("text", { x: x + dx, y: y + dy, "text-anchor": anchor, class: "name", "aria-hidden": "true" }, pretty(row.point));
      }
    }
    return null;
  });
}

const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

// Small boxes along a line.
function between([x0, y0], [x1, y1]) {
  const steps = Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 4) + 1;
  return Array.from({ length: steps }, (_, i) => {
    const [x, y] = [x0 + ((x1 - x0) * i) / steps, y0 + ((y1 - y0) * i) / steps];
    return [x - 1.5, y - 1.5, x + 1.5, y + 1.5];
  });
}

// Legend -----------------------------------------------------------------------------------------

function drawLegend(has) {
  const place = byId("legend");
  if (!several) {
    const widths = [...new Set(runs[0].rows.map((row) => row.width))].sort((a, b) => a - b);
    place.setAttribute("aria-label", "Widths");
    fill(place, [
      h("span", { class: "key" }, s("svg", { viewBox: "0 0 22 10", width: 22, height: 10, "aria-hidden": "true" }, s("path", { d: "M4 5H18", class: "frontier band" })), "frontier"),
      widths.map((width) => h("span", { class: "key" }, styled(h("span", { class: "disc" }), { "background-color": widthColour(runs[0], width) }), `width ${widthName(runs[0], width)}`)),
    ]);
    return;
  }
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.run : null;
  fill(place, runs.map((run) => {
    const shown = !state.hidden.has(run.index);
    const lacks = run.rows.some(has) ? null : h("span", { class: "fine" }, ` (no such numbers)`);
    return h("button", {
      type: "button", class: "toggle", "aria-pressed": String(shown), "data-run": run.index,
      onclick: () => {
        const hidden = new Set(state.hidden);
        if (!hidden.delete(run.index)) hidden.add(run.index);
        change({ hidden });
      },
    }, swatch(run), run.name, lacks);
  }));
  place.querySelector(`[data-run="${focused}"]`)?.focus();
}

// Pointer and keys -------------------------------------------------------------------------------

function listen(svg) {
  const nearest = (event) => {
    const frame = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    const far = (each) => Math.hypot(each.at[0] - x, each.at[1] - y);
    const found = chart.dots.reduce((a, b) => (far(a) <= far(b) ? a : b));
    return { x, found, distance: far(found) };
  };
  svg.addEventListener("pointermove", (event) => {
    const { x, found, distance } = nearest(event);
    if (event.buttons && chart.dragging && budgetNow() !== null) {
      hideTip();
      askFor(roundedUp(chart.inverse(x)));
    } else if (distance < NEAR) showTip(found);
    else hideTip();
  });
  svg.addEventListener("pointerdown", (event) => {
    const { x, found, distance } = nearest(event);
    if (event.button !== 0 || budgetNow() === null) return;
    chart.dragging = true;
    askFor(roundedUp(distance < SNAP ? costNow().of(found.row) : chart.inverse(x)));
  });
  svg.addEventListener("pointerleave", hideTip);
  svg.addEventListener("blur", hideTip);
  svg.addEventListener("keydown", (event) => {
    const last = chart.dots.length - 1;
    const now = chart.dots.findIndex((each) => each.row === chart.active);
    const to = { ArrowRight: now + 1, ArrowLeft: now < 0 ? last : now - 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") hideTip();
    if (event.key === "Enter" && now >= 0 && budgetNow() !== null) askFor(roundedUp(costNow().of(chart.active)));
    if (to === undefined) return;
    event.preventDefault();
    const found = chart.dots[Math.min(Math.max(to, 0), last)];
    showTip(found);
    const { row } = found;
    say(`${several ? `${row.run.name}, ` : ""}${row.point}: ${metricNow().text} ${percent(metricNow().of(row))}, ${short(costNow().of(row))} ${costNow().unit}`);
  });
}

// To four digits, so that what costs just this still fits.
function roundedUp(value) {
  const unit = 10 ** (Math.floor(Math.log10(value)) - 3);
  return Number((Math.ceil(value / unit) * unit).toPrecision(4));
}

function showTip({ row, at: [x, y] }) {
  const tip = byId("tip");
  const pair = (term, text) => [h("dt", {}, term), h("dd", {}, text)];
  const memory = (each) => (each.memory === null ? "" : `, ${short(each.memory)} MiB`);
  fill(tip, [
    h("p", { class: "tip-title" }, pretty(row.point), several ? h("span", { class: "run-name" }, swatch(row.run), row.run.name) : null),
    h("dl", {},
      mainMetrics.filter((metric) => metric.of(row) !== null).map((metric) => pair(metric.text, percent(metric.of(row)))),
      metricNow().main ? null : pair(metricNow().text, percent(metricNow().of(row))),
      pair("GFLOPs", short(row.gflops)),
      pair("parameters", `${short(row.parameters / 1e6)} M`),
      Object.entries(row.latency).map(([device, each]) => pair(device, `${percent(each.p50)} ms (p95 ${percent(each.p95)}${memory(each)})`))),
  ]);
  tip.hidden = false;
  chart.active = row;
  const frame = byId("chart").getBoundingClientRect();
  const [w, t] = [tip.offsetWidth, tip.offsetHeight];
  const left = Math.min(Math.max(frame.left + x - w / 2, 8), document.documentElement.clientWidth - w - 8);
  const above = frame.top + y - t - 14;
  styled(tip, { left: `${left}px`, top: `${above > 4 ? above : frame.top + y + 16}px` });
  for (const each of byId("chart").querySelectorAll(".dot")) {
    each.classList.toggle("active", each.dataset.point === row.point && Number(each.dataset.run) === row.run.index);
  }
}

function hideTip() {
  byId("tip").hidden = true;
  chart.active = null;
  byId("chart").querySelectorAll(".dot.active").forEach((each) => each.classList.remove("active"));
}

function startChart() {
  const known = [...metrics].filter(([, metric]) => metric.known);
  const kinds = Object.keys(data.kinds).map((kind) => ({
    label: data.kinds[kind].label.replace(/ AP$/, ""),
    options: known.filter(([, metric]) => metric.kind === kind).map(([key, metric]) => [key, metric.text]),
  })).filter((group) => group.options.length);
  setOptions(byId("metric"), kinds.length > 1 ? kinds : (kinds[0]?.options ?? []), state.metric);
  setOptions(byId("cost"), [...costs].map(([key, cost]) => [key, cost.text]), state.cost);
  byId("metric").addEventListener("change", (event) => change({ metric: event.target.value }));
  byId("cost").addEventListener("change", (event) => change({ cost: event.target.value }));
  addEventListener("pointerup", () => { chart.dragging = false; });
  let width = 0;
  new ResizeObserver(() => {
    if (byId("chart").clientWidth === width) return;
    width = byId("chart").clientWidth;
    sizeChart();
    drawChart();
  }).observe(byId("chart"));
  addEventListener("scroll", () => { byId("tip").hidden = true; }, { passive: true });
  onChange(sizeChart);
  onBudget(drawChart);
}
