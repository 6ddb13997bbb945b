// The tables: devices, requests, models, the candidates of a decision, and the log.

import { ago, badge, byId, fillTable, html, milliseconds, short } from "./dom.js";
import { labelOf, nodeOf } from "./topology.js";

const LINES_SHOWN = 200;

export function showNodes(snapshot) {
  const engines = snapshot.engines.filter((one) => one.kind !== "none");
  const sum = (name) => engines.reduce((total, engine) => total + engine[name], 0);
  const self = {
    node: snapshot.node, name: snapshot.name, state: "this device", trust: "self", self: true,
    in_flight: sum("in_flight"), queued: sum("queued"), slots: sum("slots"), accepting: snapshot.sharing.state === "accepting",
    models: snapshot.models.filter((one) => one.local).map((one) => one.name),
  };
  const names = [self, ...[...snapshot.peers].sort(nearest)];
  const way = (peer) => (peer.path ?? []).map((id) => labelOf(names.find((one) => one.node === id) ?? { node: id })).join(" → ");
  fillTable(byId("nodes"), [
    { title: "Device", cell: (one) => html("span", { title: one.node }, labelOf(one)) },
    { title: "State", cell: (one) => badge(one.state, { linked: "good", unreachable: "bad" }[one.state] ?? "") },
    { title: "Way", cell: (one) => (one.self ? "" : way(one) || "–") },
    { title: "Round trip", number: true, cell: (one) => (one.self ? "" : milliseconds(one.rtt_ms)) },
    { title: "Trust", cell: (one) => one.trust },
    { title: "Running", number: true, cell: (one) => (one.slots ? `${one.in_flight} of ${one.slots}` : String(one.in_flight)) },
    { title: "Tokens queued", number: true, cell: (one) => String(one.queued) },
    { title: "Takes work", cell: (one) => (one.state === "unreachable" ? "–" : one.accepting ? "yes" : "no") },
    { title: "Models", wrap: true, cell: (one) => (one.models ?? []).join(", ") || "none" },
  ], names, "");
}

// Linked ones first, then those in reach, each by name.
const ORDER = ["linked", "reachable", "unreachable"];
const nearest = (a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || labelOf(a).localeCompare(labelOf(b));

const ENDED = { ok: "good", cancelled: "warn", streaming: "good", choosing: "", waiting: "" };

export function showRequests(requests, snapshot, onChoose) {
  const nodes = [snapshot, ...snapshot.peers];
  const named = (label) => labelOf(nodeOf(label, nodes) ?? { node: label });
  fillTable(byId("request-rows"), [
    { title: "When", cell: (one) => (one.age_s < 2 ? "now" : `${ago(one.age_s)} ago`) },
    { title: "State", cell: (one) => badge(one.state, ENDED[one.state] ?? "bad") },
    { title: "Model", cell: (one) => one.model || modelName(one.asked, snapshot) },
    { title: "Way", cell: (one) => (one.origin ? `${named(one.origin)} → here` : one.path.map(named).join(" → ") || "–") },
    { title: "Rung", cell: (one) => (one.origin ? "for a peer" : one.cache ? `cache (${one.cache})` : one.rung || "–") },
    { title: "Privacy", cell: (one) => one.privacy },
    { title: "Tokens", number: true, cell: (one) => String(one.tokens) },
    { title: "First token", number: true, cell: (one) => milliseconds(one.first_token_ms) },
    { title: "Took", number: true, cell: (one) => milliseconds(one.took_ms) },
    { title: "Why", cell: (one) => (one.origin ? "" : whyButton(one, onChoose)) },
  ], requests, "None yet. Ask something below, or point a program at this device.");
}

function whyButton(request, onChoose) {
  const button = html("button", { type: "button", "data-key": request.id, "aria-label": `Why request ${request.id} ran there` }, "why");
  button.addEventListener("click", () => onChoose(request.id));
  return button;
}

function modelName(asked, snapshot) {
  if (!asked.startsWith("sha256:")) return asked || "auto";
  return snapshot.models.find((one) => one.digest === asked.slice(7))?.name ?? `${asked.slice(0, 15)}…`;
}

export function showModels(snapshot) {
  const nodes = [snapshot, ...snapshot.peers];
  fillTable(byId("model-rows"), [
    { title: "Model", cell: (one) => one.name },
    { title: "Quantisation", cell: (one) => one.quant || "–" },
    { title: "Tier", number: true, cell: (one) => String(one.tier) },
    { title: "Context", number: true, cell: (one) => (one.context ? one.context.toLocaleString("en") : "–") },
    { title: "Speed here", number: true, cell: (one) => (one.local && one.generate_tps ? `${one.generate_tps.toFixed(1)} tokens/s` : "–") },
    { title: "Price per million tokens", number: true, cell: (one) => priceOf(one) },
    { title: "Digest", cell: (one) => html("span", { class: "mono", title: one.digest }, short(one.digest) || "–") },
    { title: "Who has it", wrap: true, cell: (one) => (one.cloud ? `${one.cloud} (commercial)` : one.nodes.map((id) => holder(id, nodes)).join(", ")) },
    { title: "State", cell: (one) => badge(one.state, one.state === "ready" ? "good" : one.state === "failed" ? "bad" : "warn") },
  ], snapshot.models, "None yet. `meshnode pull smollm2:135m` fetches a small one.");
}

function holder(id, nodes) {
  const node = nodes.find((one) => one.node === id) ?? { node: id };
  return node.state === "unreachable" ? `${labelOf(node)} (out of reach)` : labelOf(node);
}

function priceOf(model) {
  if (model.cloud) return "as the API asks";
  if (model.local) return "free here";
  return model.price_usd ? `$${model.price_usd.toFixed(2)}` : "free";
}

export function showDecision(decision, snapshot) {
  const nodes = [snapshot, ...snapshot.peers];
  byId("decision-said").textContent = (decision.made ? "" : "No decision is kept for this request (a kept answer needs none). This is the one that would be made now. ") +
    (decision.refusal || "Candidates in the order in which they were preferred: the lowest sum of estimated seconds comes first, where a preference counts as seconds less. Those ruled out say why.");
  fillTable(byId("candidates"), [
    { title: "Place", cell: (one) => (one.place ? String(one.place) : badge("out", "bad")) },
    { title: "Device", cell: (one) => labelOf(nodes.find((node) => node.node === one.node) ?? { node: one.node }) },
    { title: "Model", cell: (one) => `${one.model} ${one.quant}` },
    { title: "Rung", cell: (one) => one.rung || "–" },
    { title: "Trust", cell: (one) => one.trust },
    { title: "Links", number: true, cell: (one) => String(one.links) },
    { title: "Seconds", number: true, cell: (one) => (one.place ? one.total_s.toFixed(3) : "–") },
    { title: "Made up of", wrap: true, cell: (one) => one.reason || termsOf(one.terms) },
    { title: "Asked first", cell: (one) => (one.answered ? "answered" : one.asked ? "no answer" : "no") },
  ], decision.candidates, "Nobody on the mesh has such a model.");
}

const termsOf = (terms) => Object.entries(terms).filter(([, seconds]) => seconds).map(([name, seconds]) => `${name} ${seconds}`).join(", ");

const LEVELS = { warning: "warn", error: "bad", critical: "bad" };

export function addLines(lines) {
  const list = byId("lines");
  for (const { fields } of lines) {
    const { event, level, time, room, ...rest } = fields;
    const said = Object.entries(rest).filter(([, value]) => value !== "").map(([name, value]) => `${name}=${value}`).join(" ");
    const clock = (time ?? "").replace(/^.*T/, "").replace(/\..*$/, "");
    list.prepend(html("li", {}, badge(`${clock} `, "soft"), badge(`${level} `, LEVELS[level] ?? "soft"), html("strong", {}, `${room ? `${room}: ` : ""}${event}`), ` ${said}`));
  }
  while (list.children.length > LINES_SHOWN) list.lastElementChild.remove();
}
