// Talking to the node: the key, if one is needed, travels in a header and is kept for this tab alone.

const KEPT = "meshnode-key";
let key = sessionStorage.getItem(KEPT) ?? "";

export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `The node answered ${status}.`);
    this.status = status;
    this.code = error?.code ?? "";
  }
  get wantsKey() {
    return this.status === 401 || (this.status === 403 && this.code === "not_allowed");
  }
}

export function useKey(text) {
  key = text;
  if (text) sessionStorage.setItem(KEPT, text);
  else sessionStorage.removeItem(KEPT);
}

// Let go of a key that opens nothing here, and say whether there was one: without it the node may be open.
export function dropKey() {
  const had = key !== "";
  useKey("");
  return had;
}

export async function call(path, { body, signal } = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "omit",
  });
  if (!response.ok) throw new Refused(response.status, (await response.json().catch(() => ({}))).error);
  return response;
}

// The events of a streamed answer, decoded; ends at [DONE].
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      if (!block.startsWith("data: ")) continue;
      if (block === "data: [DONE]") return;
      yield JSON.parse(block.slice(6));
    }
  }
}
