// The page's life: look at the node each second, show what is there, slower when nothing comes, not at all when hidden.

import { ago, byId } from "./dom.js";
import { offerInvitation, setUpJoin } from "./join.js";
import { offerModels, setUpPlayground } from "./playground.js";
import { addLines, showDecision, showModels, showNodes, showRequests } from "./tables.js";
import { drawTopology, setUpTopology } from "./topology.js";
import { call, dropKey, useKey } from "./wire.js";

const EVERY_MS = 1000;
const BUSY_MS = 400; // while requests are under way
const BACK_OFF_MS_MAX = 15_000;
const PATIENCE_MS = 8000;

let state = null;
let seen = 0;
let failures = 0;
let timer = 0;
let looking = false;
let refusal = ""; // why the key that was tried last opens nothing

async function look() {
  clearTimeout(timer);
  if (looking) return;
  looking = true;
  try {
    const response = await call(`/admin/state?after=${seen}`, { signal: AbortSignal.timeout(PATIENCE_MS) });
    const news = await response.json();
    if (state && news.snapshot.uptime_s < state.snapshot.uptime_s) seen = 0; // it has started anew, and so have its lines
    state = news;
    failures = 0;
    refusal = "";
    byId("key-form").hidden = true;
    show();
    live("live", "ok");
  } catch (error) {
    failures += 1;
    if (error.wantsKey && dropKey()) refusal = error.message;
    else if (error.wantsKey) askForKey(refusal || error.message);
    else live(error.status ? error.message : "the node does not answer", "lost");
  } finally {
    looking = false;
  }
  if (!document.hidden && byId("key-form").hidden) timer = setTimeout(look, pause());
}

function pause() {
  if (failures) return Math.min(BACK_OFF_MS_MAX, EVERY_MS * 2 ** (failures - 1));
  return state.requests.some((one) => !one.over) ? BUSY_MS : EVERY_MS;
}

function show() {
  const { snapshot, requests, log } = state;
  document.title = `${snapshot.name} · meshnode`;
  byId("name").textContent = snapshot.name;
  const joining = snapshot.join_state === "joining" || snapshot.join_state === "failed" ? `, joining: ${snapshot.join_state}. ${snapshot.join_detail}` : "";
  const mesh = snapshot.mesh.name ? `in the ${snapshot.mesh.open ? "open" : "closed"} mesh “${snapshot.mesh.name}”` : "not in a mesh yet";
  byId("about").textContent = `${snapshot.state}, ${mesh}${joining}, version ${snapshot.version}, up ${ago(snapshot.uptime_s)}`;
  drawTopology(snapshot, requests);
  showNodes(snapshot);
  showRequests(requests, snapshot, why);
  showModels(snapshot);
  offerModels(snapshot.models);
  offerInvitation(snapshot);
  addLines(log);
  seen = log.length ? log.at(-1).n : seen;
}

function live(text, kind) {
  const at = byId("live");
  if (at.textContent !== text) at.textContent = text;
  at.className = `live ${kind}`;
}

function askForKey(reason) {
  live("needs a key", "lost");
  byId("key-why").textContent = reason;
  byId("key-form").hidden = false;
  byId("key").focus();
}

async function why(id) {
  try {
    const response = await call(`/admin/requests/${encodeURIComponent(id)}`);
    showDecision(await response.json(), state.snapshot);
  } catch (error) {
    byId("decision-said").textContent = error.message;
    byId("candidates").replaceChildren();
  }
  byId("decision").showModal();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
  byId("key").value = "";
  byId("key-form").hidden = true;
  look();
});
document.addEventListener("visibilitychange", () => !document.hidden && look());
addEventListener("resize", () => state && drawTopology(state.snapshot, state.requests));
setUpPlayground(why);
setUpJoin();
setUpTopology();
look();
