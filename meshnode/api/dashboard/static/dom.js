// Making elements and tables. All text goes in as text: names come from other machines, and none may become markup.

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Columns are {title, number, wrap, cell(row)}; a cell is text, or a node. A focused button of a row keeps its focus.
export function fillTable(table, columns, rows, empty) {
  const focused = table.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const head = html("tr", {}, ...columns.map((one) => html("th", { scope: "col", class: one.number ? "number" : "" }, one.title)));
  const lines = rows.map((row) => html("tr", {}, ...columns.map((one) => cellOf(one, row))));
  if (!rows.length) lines.push(html("tr", {}, html("td", { colspan: columns.length, class: "soft wrap" }, empty)));
  table.replaceChildren(html("thead", {}, head), html("tbody", {}, ...lines));
  if (focused !== undefined) table.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function cellOf(column, row) {
  const kind = column.number ? "number" : column.wrap ? "wrap" : "";
  return html("td", { class: kind }, column.cell(row) ?? "");
}

export function badge(text, kind) {
  return html("span", { class: kind }, text);
}

export const milliseconds = (ms) => (ms === null || ms === undefined ? "–" : ms < 1 ? "<1 ms" : ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export function ago(seconds) {
  if (seconds < 2) return "now";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

export const short = (id) => id.slice(0, 8);
