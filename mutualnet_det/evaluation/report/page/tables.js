// Tables that are sorted by a click on a column's head.

// columns: {key, text, of(row), show(row), numeric, group}; of gives a number or text, null goes last.
function sortedTable({ columns, rows, sort, onSort, caption, decorate }) {
  const column = columns.find((each) => each.key === sort.key) ?? columns[0];
  const compare = (a, b) => {
    const [x, y] = [column.of(a), column.of(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return sort.down ? -order : order;
  };
  const arrow = (current) => h("span", { class: "arrow", "aria-hidden": "true" }, current ? (sort.down ? "\u2193" : "\u2191") : "");
  const heads = columns.map((each) => {
    const current = each === column;
    const next = { key: each.key, down: current ? !sort.down : Boolean(each.numeric && each.downFirst) };
    return h("th", {
      scope: "col", class: each.numeric ? "number" : null,
      "aria-sort": current ? (sort.down ? "descending" : "ascending") : null,
    }, h("button", { type: "button", "data-key": each.key, onclick: () => onSort(next) },
    each.numeric ? [arrow(current), each.text] : [each.text, arrow(current)]));
  });
  const groups = columns.some((each) => each.group)
    ? h("tr", { class: "groups" }, grouped(columns).map(([name, count]) =>
      h(name ? "th" : "td", { colspan: count, scope: name ? "colgroup" : null }, name)))
    : null;
  const body = [...rows].sort(compare).map((row) => {
    const line = h("tr", {}, columns.map((each, index) =>
      h(index === 0 ? "th" : "td", { scope: index === 0 ? "row" : null, class: each.numeric ? "number" : null },
        each.show(row))));
    decorate?.(line, row);
    return line;
  });
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, groups, h("tr", {}, heads)), h("tbody", {}, body)));
}

function grouped(columns) {
  const found = [];
  for (const { group = "" } of columns) {
    if (found.length && found.at(-1)[0] === group) found.at(-1)[1] += 1;
    else found.push([group, 1]);
  }
  return found;
}

// Put a new table in the place of the old one, with the focus where it was.
function replaceTable(place, table) {
  const key = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const left = place.querySelector(".scroll")?.scrollLeft ?? 0;
  fill(place, [table]);
  const scroll = place.querySelector(".scroll");
  if (scroll) scroll.scrollLeft = left;
  if (key) [...place.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus();
}
