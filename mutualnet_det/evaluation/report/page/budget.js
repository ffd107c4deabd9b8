// The budget: an entry and a slider, and what the query table of each run answers.

const STEPS = 1000; // of the slider
const many = runs.length > 2; // answers are kept short

function budgetRange() {
  const span = costSpan(costNow());
  return span && [span[0] * 0.95, span[1] * 1.05];
}

function fromSlider(position) {
  const [low, high] = budgetRange();
  const value = isWide([low, high]) ? low * (high / low) ** (position / STEPS) : low + ((high - low) * position) / STEPS;
  return Number(value.toPrecision(3));
}

function toSlider(budget) {
  const [low, high] = budgetRange();
  const place = isWide([low, high]) ? Math.log(Math.max(budget, low) / low) / Math.log(high / low) : (budget - low) / (high - low);
  return Math.round(Math.min(Math.max(place, 0), 1) * STEPS);
}

// At first, a budget in the middle: of the cheapest and the dearest point.
function budgetNow() {
  if (!runs.some((run) => costNow().asked(run) && run.entries.length)) return null;
  if (!(state.cost in state.budgets)) state.budgets[state.cost] = fromSlider(0.45 * STEPS);
  return state.budgets[state.cost];
}

// The rows that the budget buys, one of each run that is shown.
function chosenRows() {
  const budget = budgetNow();
  return budget === null ? [] : shownRuns().map((run) => lookup(run, costNow(), budget)?.entry).filter(Boolean);
}

function drawBudget() {
  const budget = budgetNow();
  const cost = costNow();
  const asking = document.querySelector(".asking");
  asking.classList.toggle("idle", budget === null);
  for (const id of ["budget-value", "budget-slider"]) byId(id).disabled = budget === null;
  byId("budget-unit").textContent = cost.device ? `${cost.unit} on ${cost.device}` : cost.unit;
  if (budget === null) {
    byId("budget-value").value = "";
    byId("budget-low").textContent = byId("budget-high").textContent = "";
    const reason = runs.some((run) => run.entries.length)
      ? "A query table is asked for GFLOPs or for milliseconds on one of its devices. Choose such a cost above."
      : "No operating point has a score, so there is nothing to ask.";
    fill(byId("answers"), [h("p", { class: "note" }, reason)]);
    return;
  }
  const entry = byId("budget-value");
  if (document.activeElement !== entry) entry.value = budget;
  const slider = byId("budget-slider");
  slider.value = toSlider(budget);
  slider.setAttribute("aria-valuetext", `${short(budget)} ${cost.unit}`);
  const [low, high] = costSpan(cost);
  byId("budget-low").textContent = short(low);
  byId("budget-high").textContent = short(high);
  const shown = shownRuns();
  fill(byId("answers"), [
    shown.length ? shown.map((run) => answer(run, cost, budget)) : h("p", { class: "note" }, "No run is shown."),
    code(cost, budget),
  ]);
}

function answer(run, cost, budget) {
  const head = several ? h("p", { class: "run-name" }, swatch(run), run.name) : null;
  const found = lookup(run, cost, budget);
  if (!found) {
    const reason = run.entries.length ? `Not measured on ${cost.device}.` : "No operating point has a score.";
    return h("div", { class: "answer", "data-run": run.index, "data-point": "" }, head, h("p", { class: "note" }, reason));
  }
  const { entry, cheapest, best } = found;
  if (!entry) {
    return h("div", { class: "answer", "data-run": run.index, "data-point": "" }, head, h("p", { class: "note" },
      "Nothing fits. The cheapest, ", h("strong", {}, pretty(cheapest.point)), `, costs ${short(cost.of(cheapest))} ${cost.unit}.`));
  }
  const decider = decides(run);
  const share = decider.of(entry) / decider.of(best);
  const part = cost.of(entry) / cost.of(best);
  const rounded = (fraction) => `${withPlaces(100 * fraction, fraction < 0.1 ? 1 : 0)} %`;
  const comparison = entry === best
    ? `The best there is in ${decider.text}.`
    : `${rounded(share)} of the best ${decider.text} for ${rounded(part)} of its ${cost.device ? "time" : cost.unit}.`;
  const times = Object.entries(entry.latency).map(([device, { p50 }]) => `${percent(p50)} ms${devices.length > 1 ? ` on ${device}` : ""}`);
  return h("div", { class: "answer", "data-run": run.index, "data-point": entry.point }, head,
    h("p", { class: "big" }, pretty(entry.point), copyButton(entry.point, entry.point)),
    h("dl", { class: "scores" }, mainMetrics.filter((metric) => metric.of(entry) !== null).map((metric) =>
      h("div", {}, h("dt", {}, metric.text), h("dd", {}, percent(metric.of(entry)))))),
    many ? null : h("p", { class: "fine" }, [`${short(entry.gflops)} GFLOPs`, ...times].join(", ")),
    h("p", { class: "fine" }, comparison));
}

// How a program asks the same.
function code(cost, budget) {
  const predictor = cost.device && devices.length > 1
    ? `BudgetPredictor.from_pretrained(folder, latency_device=${JSON.stringify(cost.device)})`
    : "predictor";
  const text = `${predictor}(image, ${cost.argument}=${budget})`;
  return h("p", { class: "code" }, h("code", {}, text), copyButton(text, "this line"));
}

function startBudget() {
  byId("answers").classList.toggle("many", many);
  byId("budget-slider").addEventListener("input", (event) => askFor(fromSlider(Number(event.target.value))));
  byId("budget-value").addEventListener("input", (event) => {
    const budget = event.target.valueAsNumber;
    if (budget >= 0) askFor(budget);
  });
  byId("budget-value").addEventListener("blur", drawBudget);
  onBudget(drawBudget);
}
