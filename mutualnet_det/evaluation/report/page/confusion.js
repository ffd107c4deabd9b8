// What the objects of each class are found as, at one operating point.

const MOST = 24; // classes in the matrix

function drawConfusion(row) {
  byId("confusion").hidden = !row.confusion;
  if (!row.confusion) return;
  const { names, cells } = row.confusion;
  const none = names.length; // the row of what is found in vain, the column of what is missed
  const counts = new Map(cells.map(([is, as, count]) => [`${is} ${as}`, count]));
  const countOf = (is, as) => counts.get(`${is} ${as}`) ?? 0;
  const [objects, mistakes] = [new Array(none + 1).fill(0), new Array(none + 1).fill(0)];
  for (const [is, as, count] of cells) {
    objects[is] += count;
    if (is !== as) [is, as].forEach((index) => { mistakes[index] += count; });
  }
  const worst = [...names.keys()].sort((a, b) => mistakes[b] - mistakes[a]).slice(0, MOST).sort((a, b) => a - b);
  const cell = (is, as) => {
    const count = countOf(is, as);
    if (!count) return h("td", {});
    if (is === none) return h("td", {}, count.toLocaleString("en"));
    const share = count / objects[is];
    return styled(h("td", { class: "counted", title: `${percent(100 * share)} % of ${objects[is].toLocaleString("en")}` }, count.toLocaleString("en")), { "--share": share });
  };
  const line = (is, text) => h("tr", {}, h("th", { scope: "row" }, text), [...worst, none].map((as) => cell(is, as)));
  fill(byId("confusion-table"), [h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion matrix" },
    h("table", { class: "confusion" },
      h("thead", {}, h("tr", {}, h("td", {}, "is \\ found as"), [...worst.map((index) => names[index]), "missed"].map((name) => h("th", { scope: "col" }, h("span", {}, name))))),
      h("tbody", {}, worst.map((is) => line(is, names[is])), line(none, "in vain"))))]);
  byId("confusion-about").textContent = confusionSummary(row, names, cells)
    + (worst.length < none ? ` Shown are the ${MOST} classes with most mistakes.` : "");
}

function confusionSummary(row, names, cells) {
  const { score, iou } = data.confusion;
  const rule = `Objects at ${rowName(row)} by what they are found as, by detections from a score of ${score} on whose box has an IoU of ${iou} or more with theirs.`;
  const others = cells.filter(([is, as]) => is !== as && is < names.length && as < names.length);
  if (!others.length) return `${rule} None is taken for another class.`;
  const [is, as, count] = others.reduce((most, each) => (each[2] > most[2] ? each : most));
  return `${rule} Most often ${names[is]} is taken for ${names[as]} (${count.toLocaleString("en")}).`;
}
