// Where the numbers come from.

function startRuns() {
  const details = runs.map((run) => h("article", { class: "card run" },
    h("h3", {}, several ? swatch(run) : null, run.name),
    h("dl", { class: "facts" }, Object.entries(run.facts).filter(([, fact]) => fact !== null).map(([term, fact]) =>
      h("div", {}, h("dt", {}, term), h("dd", {}, typeof fact === "number" ? fact.toLocaleString("en") : fact)))),
    h("details", {}, h("summary", {}, "Config"), h("div", { class: "config" }, copyButton(run.config, `the config of ${run.name}`), h("pre", { tabindex: 0 }, run.config)))));
  const { settings } = data;
  const differences = settings.length ? h("details", { class: "card", open: settings.length <= 8 },
    h("summary", {}, `Settings that differ (${settings.length})`),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Settings that differ" }, h("table", { class: "settings" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "key"), runs.map((run) => h("th", { scope: "col" }, run.name)))),
      h("tbody", {}, settings.map((row) => h("tr", {}, h("th", { scope: "row" }, row.key), row.values.map((value) => h("td", {}, value)))))))) : null;
  fill(byId("run-details"), [differences, h("div", { class: "run-cards" }, details)]);
}
