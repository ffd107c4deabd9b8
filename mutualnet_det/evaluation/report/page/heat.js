// Width x resolution maps of any score or cost, one per run, all on one scale.

const heatState = { value: null };

function heatValues() {
  const values = new Map();
  metrics.forEach((metric, key) => { if (metric.known) values.set(key, { text: `${metric.text}, %`, of: metric.of, show: percent, group: "Scores" }); });
  costs.forEach((cost, key) => {
    values.set(key, { text: cost.device ? `p50 ms on ${cost.device}` : cost.text.replace(/^active/, "million active"), of: cost.of, show: cost.device ? percent : short, group: "Costs" });
    if (!cost.device) return;
    const field = (name) => (row) => row.latency[cost.device]?.[name] ?? null;
    values.set(`p95 ${cost.device}`, { text: `p95 ms on ${cost.device}`, of: field("p95"), show: percent, group: "Costs" });
    values.set(`memory ${cost.device}`, { text: `peak MiB on ${cost.device}`, of: field("memory"), show: short, group: "Costs" });
  });
  values.set("detections", { text: "detections per image", of: (row) => row.detections, show: percent, group: "Costs" });
  const some = ({ of }) => runs.some((run) => run.rows.some((row) => of(row) !== null));
  return new Map([...values].filter(([, value]) => some(value)));
}

function drawHeat() {
  const value = heatState.values.get(heatState.value);
  const shown = shownRuns();
  const numbers = shown.flatMap((run) => run.rows.map(value.of)).filter((number) => number !== null);
  if (!numbers.length) {
    fill(byId("heat-scale"), []);
    fill(byId("maps"), [h("p", { class: "note" }, shown.length ? "The runs shown have none of it." : "No run is shown.")]);
    return;
  }
  const [low, high] = spanOf(numbers);
  const wide = value.group === "Costs" && isWide([low, high]);
  const place = (number) => {
    if (high === low) return 0.5;
    return wide ? Math.log(number / low) / Math.log(high / low) : (number - low) / (high - low);
  };
  const stops = data.colours.join(", ");
  fill(byId("heat-scale"), high > low ? [value.show(low),
    styled(h("span", { class: "gradient", role: "img", "aria-label": "colour scale" }), { "background-image": `linear-gradient(90deg, ${stops})` }),
    value.show(high), wide ? h("span", { class: "fine" }, "logarithmic") : null] : []);
  fill(byId("maps"), shown.map((run) => heatMap(run, value, place)));
}

function heatMap(run, value, place) {
  const widths = [...new Set(run.rows.map((row) => row.width))].sort((a, b) => b - a);
  const resolutions = [...new Set(run.rows.map((row) => row.resolution))].sort((a, b) => a - b);
  const rows = new Map(run.rows.map((row) => [`${row.width} ${row.resolution}`, row]));
  const cell = (width, resolution) => {
    const row = rows.get(`${width} ${resolution}`);
    const number = row ? value.of(row) : null;
    if (number === null) return h("td", { class: "empty" }, row ? NONE : "");
    const colour = mapColour(place(number));
    const framed = run.inTable.has(row.point);
    return styled(h("td", { class: framed ? "framed" : null, title: row.point, "data-point": row.point },
      value.show(number), framed ? h("span", { class: "hidden" }, " (in the query table)") : null),
    { "background-color": rgb(colour), color: inkOn(colour) });
  };
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${value.text}, ${run.name}` },
    h("table", { class: "heat" },
      h("caption", {}, several ? h("span", { class: "run-name" }, swatch(run), run.name) : null, h("span", { class: "fine" }, value.text)),
      h("tbody", {}, widths.map((width) => h("tr", {},
        h("th", { scope: "row" }, widthName(run, width)),
        resolutions.map((resolution) => cell(width, resolution))))),
      h("tfoot", {}, h("tr", {}, h("td", { class: "corner" }, "width / px"), resolutions.map((resolution) => h("th", { scope: "col" }, resolution))))));
}

function startHeat() {
  heatState.values = heatValues();
  heatState.value = heatState.values.has(state.metric) ? state.metric : [...heatState.values.keys()][0];
  const groups = ["Scores", "Costs"].map((label) => ({
    label, options: [...heatState.values].filter(([, value]) => value.group === label).map(([key, value]) => [key, value.text]),
  }));
  setOptions(byId("heat-value"), groups.filter((group) => group.options.length), heatState.value);
  byId("heat-value").addEventListener("change", (event) => { heatState.value = event.target.value; drawHeat(); });
  onChange(drawHeat);
}
