// Making elements and writing numbers. Text always goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(node, children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// An HTML element; keys that begin with "on" are listeners, "class" and the like attributes.
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  return fill(node, children);
}

function s(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes ?? {})) node.setAttribute(key, value);
  return fill(node, children);
}

function styled(node, style) {
  for (const [key, value] of Object.entries(style)) node.style.setProperty(key, value);
  return node;
}

// Options of a select: [value, text] each, or {label, options} for a group of them.
function setOptions(select, options, chosen) {
  const option = ([value, text]) => h("option", { value, selected: value === chosen }, text);
  fill(select, options.map((each) =>
    Array.isArray(each) ? option(each) : h("optgroup", { label: each.label }, each.options.map(option))));
}

const NONE = "\u2013";
const withPlaces = (number, places) =>
  number.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });

// Three digits, or all that stand before the point.
function short(number) {
  if (number === null || number === undefined) return NONE;
  if (number === 0) return "0";
  const places = 2 - Math.floor(Math.log10(Math.abs(number)));
  return withPlaces(number, Math.min(Math.max(places, 0), 12));
}

const percent = (score) => (score === null || score === undefined ? NONE : withPlaces(score, 1));
const signed = (number) => {
  const text = withPlaces(Math.abs(number), 1);
  return text === "0.0" ? text : (number < 0 ? "\u2212" : "+") + text;
};
const pretty = (point) => point.replace("x", "\u202f\u00d7\u202f");

function say(text) {
  byId("said").textContent = text;
}

function copyButton(text, what) {
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${what}`, title: `Copy ${text}` },
    s("svg", { viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" },
      s("rect", { x: 5.5, y: 5.5, width: 8, height: 8, rx: 1.5 }),
      s("path", { d: "M10.5 3.5v-1h-8v8h1" })));
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No clipboard for a page opened in this way: select it instead, and copy as of old.
      const field = h("textarea", { readonly: true, class: "hidden" });
      field.value = text;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    button.classList.add("done");
    say(`Copied ${text}`);
    setTimeout(() => button.classList.remove("done"), 1200);
  });
  return button;
}
