"""OpenAI's own clients, each doing the same four things at a node: what is asked for, and what each was told.

The plain client and the asynchronous one run here, the one for Node as a process (`node_client/ask.js`).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai

from tests.e2e.test_openai_features import QUESTION, WEATHER, Report
from tests.e2e.world import HANG_S, MODEL
from tests.packages import fetched_for_node

NODE_CLIENT = Path(__file__).with_name("node_client")
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "report", "strict": True, "schema": Report.model_json_schema()},
}
COMPUTED = {"x-mesh-cache": "off"}
PLAIN = {"model": MODEL, "temperature": 0}
TEXTS = ["Dogs bark.", "Hounds bark.", "The tax office is closed."]
WISHES: dict[str, dict[str, Any]] = {
    "streamed": {
        **PLAIN,
        "messages": [{"role": "user", "content": "Why is the sea salty?"}],
        "max_tokens": 24,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "called": {
        **PLAIN,
        "messages": QUESTION,
        "tools": [WEATHER],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 200,
    },
    "told": {**PLAIN, "tools": [WEATHER], "tool_choice": "none", "max_tokens": 16},
    "structured": {**PLAIN, "messages": QUESTION, "response_format": SCHEMA},
    "embedded": {"model": MODEL, "input": TEXTS},
}


class Streamed(msgspec.Struct):
    """A streamed answer: its pieces as they came, why it ended, and how many tokens it is said to have."""

    pieces: list[str] = []
    finish_reason: str | None = None
    tokens: int = 0

    def add(self, chunk: Any) -> None:
        """One chunk of the stream."""
        for choice in chunk.choices:
            self.pieces += [choice.delta.content] if choice.delta.content else []
            self.finish_reason = choice.finish_reason or self.finish_reason
        self.tokens = chunk.usage.completion_tokens if chunk.usage else self.tokens


class Called(msgspec.Struct):
    """A tool that was called, and what was said once its result was known."""

    finish_reason: str
    name: str
    arguments: str
    said: str


class Told(msgspec.Struct):
    """What one client was told: `paths` is x-mesh-path of each response, `structured` the text of the JSON."""

    streamed: Streamed
    called: Called
    structured: str
    embedded: list[list[float]]
    paths: list[str]


def after_call(asked: Any) -> list[Any]:
    """The conversation once the tool that was called has given its result."""
    (call,) = asked.message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    return [*QUESTION, asked.message.model_dump(exclude_none=True), result]


def as_called(asked: Any, said: Any) -> Called:
    """Both answers of the conversation with the tool."""
    function = asked.message.tool_calls[0].function
    return Called(asked.finish_reason, function.name, function.arguments, said.message.content)


def plain(url: str) -> Told:
    """The synchronous client."""
    paths: list[str] = []
    http = httpx2.Client(
        event_hooks={"response": [lambda answer: paths.append(answer.headers["x-mesh-path"])]}
    )
    with openai.OpenAI(**_settings(url), http_client=http) as client:
        chat, streamed = client.chat.completions, Streamed()
        for chunk in chat.create(**WISHES["streamed"]):
            streamed.add(chunk)
        asked = chat.create(**WISHES["called"]).choices[0]
        said = chat.create(**WISHES["told"], messages=after_call(asked)).choices[0]
        parsed = chat.parse(**{**WISHES["structured"], "response_format": Report}).choices[0].message
        assert isinstance(parsed.parsed, Report)
        vectors = client.embeddings.create(**WISHES["embedded"])
    embedded = [entry.embedding for entry in vectors.data]
    return Told(streamed, as_called(asked, said), parsed.content, embedded, paths)


async def awaited(url: str) -> Told:
    """The asynchronous client, in whatever event loop runs this."""
    paths: list[str] = []

    async def note(answer: httpx2.Response) -> None:
        paths.append(answer.headers["x-mesh-path"])

    http = httpx2.AsyncClient(event_hooks={"response": [note]})
    async with openai.AsyncOpenAI(**_settings(url), http_client=http) as client:
        chat, streamed = client.chat.completions, Streamed()
        async for chunk in await chat.create(**WISHES["streamed"]):
            streamed.add(chunk)
        asked = (await chat.create(**WISHES["called"])).choices[0]
        said = (await chat.create(**WISHES["told"], messages=after_call(asked))).choices[0]
        answer = await chat.parse(**{**WISHES["structured"], "response_format": Report})
        parsed = answer.choices[0].message
        assert isinstance(parsed.parsed, Report)
        vectors = await client.embeddings.create(**WISHES["embedded"])
    embedded = [entry.embedding for entry in vectors.data]
    return Told(streamed, as_called(asked, said), parsed.content, embedded, paths)


def _settings(url: str) -> dict[str, Any]:
    waits = {"max_retries": 0, "timeout": HANG_S}
    return {"base_url": f"{url}/v1", "api_key": "none", "default_headers": COMPUTED, **waits}


def why_no_node() -> str:
    """What the client for Node lacks here; empty if nothing."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    return f"there is no {missing[0]} here" if missing else ""


def in_node(url: str) -> Told:
    """The client for Node."""
    packages = fetched_for_node(NODE_CLIENT)
    done = subprocess.run(
        ["node", str(NODE_CLIENT / "ask.js"), url, json.dumps(WISHES)],
        env={**os.environ, "NODE_PATH": str(packages)},
        capture_output=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=Told)
