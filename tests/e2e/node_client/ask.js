// What OpenAI's own client for Node makes of a node's answers, as JSON: `node ask.js URL WISHES`.
// WISHES are those of tests/e2e/clients.py, and what is printed has the shape of its `Told`.

const OpenAI = require("openai");

const [url, given] = process.argv.slice(2);
const wishes = JSON.parse(given);
const paths = [];

const client = new OpenAI({
  baseURL: `${url}/v1`,
  apiKey: "none",
  maxRetries: 0,
  defaultHeaders: { "x-mesh-cache": "off" },
  fetch: async (target, init) => {
    const response = await fetch(target, init);
    paths.push(response.headers.get("x-mesh-path"));
    return response;
  },
});

async function streamed() {
  const pieces = [];
  let last;
  let tokens = 0;
  for await (const chunk of await client.chat.completions.create(wishes.streamed)) {
    const choice = chunk.choices[0];
    if (choice?.delta.content) pieces.push(choice.delta.content);
    last = choice?.finish_reason ?? last;
    tokens = chunk.usage?.completion_tokens ?? tokens;
  }
  return { pieces, finish_reason: last, tokens };
}

async function called() {
  const asked = (await client.chat.completions.create(wishes.called)).choices[0];
  const [call] = asked.message.tool_calls;
  const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
  const messages = [...wishes.called.messages, asked.message, result];
  const said = (await client.chat.completions.create({ ...wishes.told, messages })).choices[0];
  return {
    finish_reason: asked.finish_reason,
    name: call.function.name,
    arguments: call.function.arguments,
    said: said.message.content,
  };
}

async function structured() {
  const answer = await client.chat.completions.create(wishes.structured);
  return answer.choices[0].message.content;
}

async function embedded() {
  const answer = await client.embeddings.create(wishes.embedded);
  return answer.data.map((entry) => Array.from(entry.embedding));
}

async function main() {
  const told = {
    streamed: await streamed(),
    called: await called(),
    structured: await structured(),
    embedded: await embedded(),
    paths,
  };
  process.stdout.write(JSON.stringify(told));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
