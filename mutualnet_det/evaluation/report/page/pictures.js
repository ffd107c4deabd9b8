// A few images, and what was found on them at any operating point.

const MIN_CELL = 160; // px
const MAX_COLUMNS = 4; // the ground truth among them
const pictureState = { group: 0, columns: [], score: 0.5, masks: true, image: 0, run: null };

const groupNow = () => data.pictures.groups[pictureState.group];
// The points of a run that there are pictures of, from cheap to dear.
const pictured = (run) => run.rows.filter((row) => groupNow().found[run.index]?.[row.point]).sort((a, b) => a.gflops - b.gflops);
const picturedRuns = () => runs.filter((run) => groupNow().found[run.index]);

function describe(objects) {
  if (!objects.length) return "nothing";
  return objects.map(([id, score]) => className(id) + (score === null ? "" : ` ${Math.round(100 * score)} %`)).join(", ");
}
const className = (id) => groupNow().classes[id]?.[0] ?? String(id);
const classColour = (id) => groupNow().classes[id]?.[1] ?? "#888888";

// One image with objects drawn over it; the ground truth's have no score.
function picture(index, objects, title) {
  const { name, width, height, source } = groupNow().images[index];
  const shown = objects.filter(([, score]) => score === null || score >= pictureState.score);
  // Large ones first, so that small ones stay visible.
  shown.sort((a, b) => b[2][2] * b[2][3] - a[2][2] * a[2][3]);
  const overlay = s("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, shown.map(([id, , box, outline, keypoints]) => {
    const colour = classColour(id);
    const points = (keypoints ?? []).reduce((path, x, i, all) => (i % 2 ? path : `${path}M${x} ${all[i + 1]}h0`), "");
    return [
      outline && pictureState.masks ? styled(s("path", { d: outline, class: "mask" }), { fill: colour }) : null,
      styled(s("rect", { x: box[0], y: box[1], width: box[2], height: box[3] }), { stroke: colour }),
      points ? styled(s("path", { d: points, class: "keypoints" }), { stroke: colour }) : null,
    ];
  }));
  const names = shown.map(([id, score, [x, y, w]]) => {
    const right = x > 0.7 * width;
    const colour = classColour(id);
    return styled(h("span", { class: "object" }, className(id) + (score === null ? "" : ` ${Math.round(100 * score)}`)), {
      "background-color": colour, color: inkOn(channels(colour)),
      top: `${(100 * Math.max(y, 0)) / height}%`,
      [right ? "right" : "left"]: `${right ? 100 - (100 * Math.min(x + w, width)) / width : (100 * Math.max(x, 0)) / width}%`,
    });
  });
  const empty = shown.length || objects.some(([, score]) => score === null) ? null
    : h("span", { class: "nothing" }, `nothing above ${pictureState.score}`);
  const frame = h("div", { class: "frame", role: "img", "aria-label": `${name}, ${title}: ${describe(shown)}` },
    h("img", { src: source, alt: "", width, height, draggable: "false" }), overlay, names, empty);
  return styled(frame, { "--ratio": `${width} / ${height}` });
}

// A name half hidden under another is worse than none.
function thinNames(place) {
  for (const frame of place.querySelectorAll(".frame")) {
    const kept = [];
    for (const name of frame.querySelectorAll(".object")) {
      const { left, top, right, bottom } = name.getBoundingClientRect();
      const hidden = kept.some((box) => overlap(box, [left, top, right, bottom]));
      name.classList.toggle("covered", hidden);
      if (!hidden) kept.push([left, top, right, bottom]);
    }
  }
}

function foundAt(row, index) {
  return groupNow().found[row.run.index][row.point][index];
}

function caption(row) {
  const time = Object.values(row.latency)[0];
  return `${short(row.gflops)} GFLOPs${time ? `, ${percent(time.p50)} ms` : ""}`;
}

function drawSheet() {
  const place = byId("sheet");
  const group = groupNow();
  const count = Math.min(Math.max(Math.floor(place.clientWidth / MIN_CELL), 1), MAX_COLUMNS);
  pictureState.count = count;
  const columns = pictureState.columns.slice(-Math.max(count - 1, 1)).map(rowOf);
  const options = picturedRuns().map((run) => ({
    label: run.name, options: pictured(run).map((row) => [rowKey(row), `${several ? `${run.name} ` : ""}${pretty(row.point)}`]),
  }));
  const offset = pictureState.columns.length - columns.length;
  const heads = columns.map((row, index) => {
    const select = h("select", { "aria-label": `Operating point of column ${index + 1}` });
    setOptions(select, several ? options : options[0].options, rowKey(row));
    select.addEventListener("change", () => { pictureState.columns[offset + index] = select.value; drawSheet(); });
    return h("div", { class: "head" }, select, h("span", { class: "fine" }, caption(row)));
  });
  const truthHead = h("div", { class: "head" }, h("strong", {}, "ground truth"), h("span", { class: "fine" }, group.dataset));
  const withTruth = count > 1;
  const cells = group.images.flatMap((image, index) => [
    withTruth ? cell(index, group.truth[index], "ground truth", null) : null,
    ...columns.map((row) => cell(index, foundAt(row, index), rowName(row), row)),
  ]);
  fill(place, [styled(h("div", { class: "sheet" }, withTruth ? truthHead : null, heads, cells), { "--columns": withTruth ? columns.length + 1 : 1 })]);
  thinNames(place);
  byId("pictures-score-shown").textContent = pictureState.score.toFixed(2);
}

function cell(index, objects, title, row) {
  return h("button", {
    type: "button", class: "cell", "aria-haspopup": "dialog",
    onclick: () => openViewer(index, row ?? rowOf(pictureState.columns.at(-1))),
  }, picture(index, objects, title));
}

// Large, with every point on a slider -----------------------------------------------------------

function openViewer(index, row) {
  pictureState.image = index;
  pictureState.run = row.run;
  const named = picturedRuns();
  setOptions(byId("viewer-run"), named.map((run) => [String(run.index), run.name]), String(row.run.index));
  byId("viewer-run-label").hidden = named.length < 2;
  setViewerPoints(row.point);
  byId("viewer").showModal();
  drawViewer();
  byId("viewer-point").focus();
}

function setViewerPoints(point) {
  const points = pictured(pictureState.run).map((row) => row.point);
  byId("viewer-point").max = points.length - 1;
  byId("viewer-point").value = Math.max(points.indexOf(point), 0);
}

function drawViewer() {
  const slider = byId("viewer-point");
  const row = pictured(pictureState.run)[Number(slider.value)];
  const index = pictureState.image;
  const group = groupNow();
  byId("viewer-title").textContent = group.images[index].name;
  byId("viewer-shown").textContent = `${pretty(row.point)}, ${caption(row)}`;
  slider.setAttribute("aria-valuetext", row.point);
  const figure = (id, objects, title) => fill(byId(id), [picture(index, objects, title), h("figcaption", {}, title)]);
  figure("viewer-truth", group.truth[index], "ground truth");
  figure("viewer-found", foundAt(row, index), rowName(row));
  thinNames(byId("viewer"));
}

function startViewer() {
  const step = (by) => {
    const count = groupNow().images.length;
    pictureState.image = (pictureState.image + by + count) % count;
    drawViewer();
  };
  byId("viewer-point").addEventListener("input", drawViewer);
  byId("viewer-previous").addEventListener("click", () => step(-1));
  byId("viewer-next").addEventListener("click", () => step(1));
  byId("viewer-close").addEventListener("click", () => byId("viewer").close());
  byId("viewer").addEventListener("click", (event) => { if (event.target === byId("viewer")) byId("viewer").close(); });
  byId("viewer-run").addEventListener("change", (event) => {
    const before = pictured(pictureState.run)[Number(byId("viewer-point").value)].point;
    pictureState.run = runs[Number(event.target.value)];
    setViewerPoints(before);
    drawViewer();
  });
}

// At first, from cheap to dear: of one run its points, of several their dearest and the cheapest.
function firstColumns() {
  const named = picturedRuns();
  const points = pictured(named[0]);
  const evenly = (list, count) => Array.from({ length: count }, (_, i) => list[Math.round((i * (list.length - 1)) / Math.max(count - 1, 1))]);
  const chosen = named.length > 1 ? [...evenly(points, 2), pictured(named[1]).at(-1)] : evenly(points, Math.min(3, points.length));
  pictureState.columns = [...new Set(chosen)].map(rowKey);
}

function startPictures() {
  const { groups, notes } = data.pictures;
  fill(byId("pictures-notes"), notes.map((note) => h("p", { class: "note" }, `Left out: ${note}`)));
  if (!groups.length) {
    byId("pictures-controls").hidden = true;
    byId("pictures-about").hidden = true;
    return;
  }
  byId("pictures-about").textContent = "Any operating point of the query table in any column. Choose a picture to see it large, with every point on a slider.";
  byId("pictures-group-label").hidden = groups.length < 2;
  setOptions(byId("pictures-group"), groups.map((group, index) => [String(index), group.dataset]), "0");
  byId("pictures-group").addEventListener("change", (event) => { pictureState.group = Number(event.target.value); firstColumns(); drawSheet(); });
  byId("pictures-score").min = Math.round(100 * groups[0].minScore);
  byId("pictures-score").addEventListener("input", (event) => { pictureState.score = Number(event.target.value) / 100; drawSheet(); });
  byId("pictures-masks").addEventListener("change", (event) => { pictureState.masks = event.target.checked; drawSheet(); });
  firstColumns();
  startViewer();
  let width = 0;
  new ResizeObserver(() => {
    if (byId("sheet").clientWidth === width) return;
    width = byId("sheet").clientWidth;
    drawSheet();
  }).observe(byId("sheet"));
}
