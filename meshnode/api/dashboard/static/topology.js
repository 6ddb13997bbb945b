// The mesh as a picture: this node in the middle, the others around it, by how many links away they are.

import { byId, milliseconds, short, svg } from "./dom.js";

const DRAWN_MAX = 40;
const RADIUS = 26;
const NAMED_FROM = 70;
const [STEP_X, STEP_Y] = [250, 150]; // between two neighbours, where there is room
const [MARGIN_X, MARGIN_TOP, MARGIN_BELOW, HEIGHT_MAX] = [64, 44, 78, 460];
const SHOWN_AFTER_S = 2.5; // an answer that has just come is still to be seen
const still = matchMedia("(prefers-reduced-motion: reduce)");

export const labelOf = (node) => node.name || short(node.node);

// A label such as desk#abcd1234 stands for the node whose id begins like that.
export function nodeOf(label, nodes) {
  const start = label.slice(label.lastIndexOf("#") + 1);
  return nodes.find((node) => start && node.node.startsWith(start));
}

export function drawTopology(snapshot, requests) {
  const within = snapshot.peers.filter((peer) => peer.state !== "unreachable");
  const peers = within.sort((a, b) => a.path.length - b.path.length || (a.node < b.node ? -1 : 1)).slice(0, DRAWN_MAX);
  const self = { node: snapshot.node, name: snapshot.name, path: [], self: true, state: "self", ...loadOf(snapshot) };
  const nodes = [self, ...peers];
  const canvas = byId("topology");
  const width = Math.max(280, canvas.clientWidth || canvas.parentElement.clientWidth);
  const { places, height } = placed(self, peers, width);
  const room = roomOf([...places.values()]);
  const drawn = within.length > peers.length ? `Drawn are the ${peers.length} nearest of ${within.length}. ` : "";
  byId("undrawn").textContent = drawn + (room.named ? "" : "Tap a device for its name.");
  const edges = edgesOf(snapshot, peers);
  const travels = requests.filter((one) => !one.over || one.age_s - one.took_ms / 1000 < SHOWN_AFTER_S);
  const routes = travels.map((one) => routeOf(one, nodes, snapshot.node)).filter((one) => one);
  for (const { ids } of routes) ids.slice(1).forEach((id, n) => (edgeAt(edges, ids[n], id).busy = true));
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  canvas.setAttribute("height", height);
  canvas.setAttribute("aria-label", `This device and ${peers.length} others: ${nodes.map(labelOf).join(", ")}. The table below says the same.`);
  canvas.replaceChildren(
    ...[...edges.values()].flatMap((edge) => drawnEdge(edge, places, room.named)),
    ...routes.filter((one) => one.ids.length > 1).flatMap((route, n) => drawnDot(route, n, places)),
    ...nodes.map((node) => drawnNode(node, places.get(node.node), routes, room)),
  );
}

function loadOf(snapshot) {
  const sum = (name) => snapshot.engines.reduce((total, engine) => total + engine[name], 0);
  return { in_flight: sum("in_flight"), queued: sum("queued"), slots: sum("slots"), models: snapshot.models.filter((one) => one.local) };
}

// A tree of shortest ways; each branch gets a part of the circle, as large as what hangs on it, and the whole the room
// there is. Gives the places and the height that they take.
function placed(self, peers, width) {
  const children = childrenOf(self, peers);
  const below = (node) => children.get(node) ?? [];
  const leaves = (node) => Math.max(1, below(node).reduce((sum, child) => sum + leaves(child), 0));
  const points = new Map();
  const place = (node, level, from, to) => {
    points.set(node, { x: Math.cos((from + to) / 2) * level, y: Math.sin((from + to) / 2) * level });
    let start = from;
    for (const child of below(node)) {
      const end = start + ((to - from) / leaves(node)) * leaves(child);
      place(child, level + 1, start, end);
      start = end;
    }
  };
  const first = below(self.node)[0];
  const turned = first ? (Math.PI * leaves(first)) / leaves(self.node) : 0; // the first one lies to the right
  place(self.node, 0, -turned, 2 * Math.PI - turned);
  return fitted(points, width);
}

function childrenOf(self, peers) {
  const known = new Set([self.node, ...peers.map((peer) => peer.node)]);
  const children = new Map();
  for (const peer of peers) {
    const way = peer.path.at(-2);
    const parent = known.has(way) && way !== peer.node ? way : self.node;
    children.set(parent, [...(children.get(parent) ?? []), peer.node].sort());
  }
  return children;
}

function fitted(points, width) {
  const span = (axis) => {
    const all = [...points.values()].map((point) => point[axis]);
    return [Math.min(...all), Math.max(...all) - Math.min(...all)];
  };
  const [left, wide] = span("x");
  const [top, high] = span("y");
  const margin = Math.min(MARGIN_X, width / 8);
  const sx = Math.min(STEP_X, (width - 2 * margin) / (wide || 1));
  const sy = Math.min(STEP_Y, HEIGHT_MAX / (high || 1));
  const x0 = (width - wide * sx) / 2;
  const places = new Map([...points].map(([node, { x, y }]) => [node, { x: x0 + (x - left) * sx, y: MARGIN_TOP + (y - top) * sy }]));
  return { places, height: MARGIN_TOP + high * sy + MARGIN_BELOW };
}

// How large circles may be without touching, and whether names fit between them; elsewhere a tap tells them.
function roomOf(points) {
  const apart = points.flatMap((a, n) => points.slice(n + 1).map((b) => Math.hypot(a.x - b.x, a.y - b.y)));
  const nearest = Math.min(4 * RADIUS, ...apart);
  return { radius: Math.max(5, Math.min(RADIUS, nearest * 0.36)), named: nearest >= NAMED_FROM };
}

export function setUpTopology() {
  byId("topology").addEventListener("click", (event) => {
    byId("picked").textContent = event.target.closest(".device")?.querySelector("title").textContent ?? "";
  });
}

const keyOf = (a, b) => [a, b].sort().join(" ");

function edgeAt(edges, a, b) {
  const key = keyOf(a, b);
  if (!edges.has(key)) edges.set(key, { a, b, rtt_ms: null, heard: true });
  return edges.get(key);
}

function edgesOf(snapshot, peers) {
  const edges = new Map();
  for (const link of snapshot.links.filter((one) => one.path_links === 1)) {
    Object.assign(edgeAt(edges, snapshot.node, link.node), { rtt_ms: link.rtt_ms, heard: false });
  }
  for (const peer of peers) {
    [snapshot.node, ...peer.path].reduce((from, to) => (edgeAt(edges, from, to), to));
  }
  return edges;
}

function routeOf(request, nodes, self) {
  if (request.origin) {
    const ids = [request.origin, self].filter((id) => nodes.some((node) => node.node === id));
    return { request, ids };
  }
  const ids = request.path.map((label) => nodeOf(label, nodes)?.node);
  return ids.some((id) => !id) ? null : { request, ids };
}

function drawnEdge(edge, places, named) {
  const [a, b] = [places.get(edge.a), places.get(edge.b)];
  if (!a || !b) return [];
  const kind = `edge${edge.heard ? " heard" : ""}${edge.busy ? " busy" : ""}`;
  const line = svg("path", { class: kind, d: `M${a.x} ${a.y}L${b.x} ${b.y}` });
  if (edge.heard || !named) return [line];
  return [line, svg("text", { class: "small halo", x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 + 4 }, milliseconds(edge.rtt_ms))];
}

// On its way there until the first token, on the way back from then on.
function drawnDot({ request, ids }, n, places) {
  const way = ids.map((id) => places.get(id));
  if (way.some((place) => !place)) return [];
  const back = request.state === "streaming" || request.over;
  const path = (back ? way.reverse() : way).map(({ x, y }, at) => `${at ? "L" : "M"}${x} ${y}`).join("");
  if (still.matches) {
    const [a, b] = way;
    return [svg("circle", { class: "dot", r: 6, cx: (a.x * 2 + b.x) / 3, cy: (a.y * 2 + b.y) / 3 })];
  }
  const motion = svg("animateMotion", { path, dur: `${0.9 * (way.length - 1)}s`, begin: `${(-n * 0.23).toFixed(2)}s`, repeatCount: "indefinite" });
  return [svg("circle", { class: "dot", r: 6 }, motion)];
}

function drawnNode(node, place, routes, { radius, named }) {
  const serving = routes.some(({ request, ids }) => !request.over && ids.at(-1) === node.node);
  const { x, y } = place;
  const kind = `node${node.self ? " self" : ""}${node.models.length ? " model" : ""}`;
  const load = node.in_flight ? `${node.in_flight} running` : serving ? "at work" : node.models.length ? "idle" : "no model";
  return svg(
    "g",
    { class: "device", "data-node": node.node },
    svg("title", {}, `${labelOf(node)}: ${load}`),
    ...(serving || node.in_flight ? [svg("circle", { class: "ring", cx: x, cy: y, r: 1.22 * radius })] : []),
    svg("circle", { class: kind, cx: x, cy: y, r: radius }),
    ...(node.self && named ? [svg("text", { class: "onself", x, y: y + 4 }, "here")] : []),
    ...(named ? [svg("text", { class: "halo", x, y: y + radius + 20 }, cut(labelOf(node)))] : []),
    ...(named ? [svg("text", { class: "small halo", x, y: y + radius + 35 }, load)] : []),
  );
}

const cut = (text) => (text.length > 18 ? `${text.slice(0, 17)}…` : text);
