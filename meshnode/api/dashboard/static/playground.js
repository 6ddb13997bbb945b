// Asking: the answer as it streams, a way to stop it, and who served it.

import { byId, html } from "./dom.js";
import { call, eventsOf } from "./wire.js";

let stopping = null;
let asked = "";

export function setUpPlayground(onWhy) {
  const form = byId("ask-form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (stopping === null) ask();
  });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  byId("ask-stop").addEventListener("click", () => stopping?.abort());
  byId("ask-why").addEventListener("click", () => onWhy(asked));
}

export function offerModels(models) {
  const select = byId("ask-model");
  const names = ["auto", ...new Set(models.map((one) => one.name))];
  if (names.join() === [...select.options].map((one) => one.value).join()) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => html("option", { value: name }, name === "auto" ? "whichever is best" : name)));
  select.value = names.includes(chosen) ? chosen : "auto";
}

async function ask() {
  const answer = byId("answer");
  stopping = new AbortController();
  setBusy(true);
  answer.textContent = "";
  answer.hidden = false;
  answer.classList.remove("failed");
  byId("served").textContent = "Looking for the best place …";
  try {
    const response = await call("/v1/chat/completions", { body: bodyOf(), signal: stopping.signal });
    tellWho(response.headers);
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) answer.append(choice.delta.content ?? "");
      answer.scrollTop = answer.scrollHeight;
    }
  } catch (error) {
    if (error.name === "AbortError") {
      byId("served").append(" Stopped.");
    } else {
      answer.append(`${answer.textContent ? "\n" : ""}${error.message}`);
      answer.classList.add("failed");
      if (!asked) byId("served").textContent = "";
    }
  } finally {
    stopping = null;
    setBusy(false);
  }
}

const bodyOf = () => ({
  model: byId("ask-model").value,
  stream: true,
  messages: [{ role: "user", content: byId("question").value }],
  mesh: { privacy: byId("ask-privacy").value },
});

function setBusy(busy) {
  byId("ask-go").disabled = busy;
  byId("ask-stop").disabled = !busy;
  if (busy) {
    asked = "";
    byId("ask-why").hidden = true;
  }
}

function tellWho(headers) {
  asked = headers.get("x-mesh-job") ?? headers.get("x-request-id");
  const path = (headers.get("x-mesh-path") ?? "").split(",").map((one) => one.split("#")[0]).join(" → ");
  const cache = headers.get("x-mesh-cache");
  byId("served").textContent = `${headers.get("x-mesh-model")}, served by ${(headers.get("x-mesh-served-by") ?? "").split("#")[0]} (${headers.get("x-mesh-rung")}, trust: ${headers.get("x-mesh-trust")}), by way of ${path}${cache ? `, from the cache (${cache})` : ""}.`;
  byId("ask-why").hidden = false;
}
