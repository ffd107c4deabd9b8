// The head of the page, and the start of every section.

function startHead() {
  const datasets = [...new Set(runs.map((run) => run.dataset))];
  const list = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
  const named = runs.length > 3 ? `${runs.length} runs` : list(runs.map((run) => run.name));
  byId("title").textContent = `${named} on ${list(datasets)}`;
  const count = runs.reduce((sum, run) => sum + run.rows.length, 0);
  const points = `${count} operating point${count === 1 ? "" : "s"}`;
  byId("lead").textContent = several
    ? `${points} in all, each a pair of network width and image resolution.`
    : `${points} of one set of weights, each a pair of network width and image resolution.`;
  fill(byId("warnings"), data.warnings.map((text) => h("p", { class: "note warning", role: "alert" }, text)));

  const metric = metricNow();
  const rows = runs.flatMap((run) => run.rows);
  const where = (row) => pretty(row.point) + (several ? `, ${row.run.name}` : "");
  const scored = rows.filter((row) => metric.of(row) !== null);
  const tiles = [];
  if (scored.length) {
    const best = scored.reduce((a, b) => (metric.of(b) > metric.of(a) ? b : a));
    tiles.push([`Best ${metric.text}`, percent(metric.of(best)), where(best)]);
  }
  const cheapest = rows.reduce((a, b) => (b.gflops < a.gflops ? b : a));
  tiles.push(["Cheapest point", `${short(cheapest.gflops)} GFLOPs`, where(cheapest)]);
  const wide = (cost) => { const span = costSpan(cost); return span && span[0] > 0 ? span[1] / span[0] : 1; };
  const times = [...costs.values()].filter((cost) => cost.device);
  if (rows.length > 1) {
    const spans = times.map((cost) => `${withPlaces(wide(cost), 1)}\u2009\u00d7 in ms${times.length > 1 ? ` on ${cost.device}` : ""}`);
    tiles.push(["Dearest over cheapest", `${withPlaces(wide(costs.get("gflops")), 1)}\u2009\u00d7 GFLOPs`, spans.join(", ")]);
  }
  const images = [...new Set(runs.map((run) => run.facts.Images.toLocaleString("en")))];
  tiles.push(["Evaluated on", `${images.join(" / ")} images`, devices.join("; ")]);
  fill(byId("tiles"), tiles.map(([term, value, more]) => h("div", {}, h("dt", {}, term), h("dd", {}, value), h("dd", { class: "fine" }, more))));
  byId("footer").textContent = `Made on ${data.made} by mutualnet_det. Nothing on this page is loaded from elsewhere.`;
}

function startSections() {
  const names = { budget: "Budget", points: "Points", heat: "Width \u00d7 resolution", classes: "Classes", pictures: "Images", runs: "Runs" };
  fill(byId("sections"), Object.entries(names).map(([id, text]) => h("li", {}, h("a", { href: `#${id}` }, text))));
  const links = new Map([...byId("sections").querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
    if (!isIntersecting) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(target.id).setAttribute("aria-current", "true");
  }), { rootMargin: "-20% 0px -70% 0px" });
  links.forEach((_, id) => seen.observe(byId(id)));
}

startHead();
startSections();
startBudget();
startChart();
startPoints();
startHeat();
startClasses();
startPictures();
startRuns();
change({});
