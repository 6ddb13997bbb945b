// An invitation for one more device: as text to copy, and as a QR code drawn from the rows that the node gives.

import { byId, svg } from "./dom.js";
import { call } from "./wire.js";

const QUIET = 4; // modules of white around the code, as readers expect

export function setUpJoin() {
  byId("invite").addEventListener("click", invite);
  byId("copy").addEventListener("click", copy);
}

export function offerInvitation(snapshot) {
  const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  const may = here && snapshot.mesh.role === "issuer";
  byId("invite").disabled = !may;
  if (may) return;
  byId("invite-said").textContent = !here
    ? "Invitations are made at the machine itself: open this page there, or use `meshnode invite`."
    : snapshot.mesh.open
      ? "This mesh is open: another device joins with `meshnode join ws://…`, the address of this one."
      : "This device may not invite; the one that founded the mesh can.";
}

async function invite() {
  const said = byId("invite-said");
  said.textContent = "";
  try {
    const made = await (await call("/admin/invite", { body: {} })).json();
    draw(made.qr);
    byId("ticket").value = `meshnode join ${made.ticket}`;
    byId("invitation").hidden = false;
    said.textContent = `Good once, for ${Math.round(made.expires_s / 60)} minutes. The QR code holds the ticket alone.`;
  } catch (error) {
    said.textContent = error.message;
  }
}

function draw(rows) {
  const dark = rows.flatMap((row, y) => [...row].map((bit, x) => (bit === "1" ? `M${x + QUIET} ${y + QUIET}h1v1h-1z` : "")));
  const side = rows.length + 2 * QUIET;
  byId("qr").setAttribute("viewBox", `0 0 ${side} ${side}`);
  byId("qr").replaceChildren(svg("path", { d: dark.join(""), "shape-rendering": "crispEdges" }));
}

async function copy() {
  byId("ticket").select();
  try {
    await navigator.clipboard.writeText(byId("ticket").value);
    byId("invite-said").textContent = "Copied.";
  } catch {
    byId("invite-said").textContent = "It is selected: copy it with Ctrl+C.";
  }
}
