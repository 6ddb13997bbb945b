"""`meshnode run`: a prompt or a conversation in the terminal, through the running node's own API."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import httpx2
import msgspec
import trio

from meshnode import errors
from meshnode.cli import client
from meshnode.cli.complete import models_offered
from meshnode.cli.render import Screen
from meshnode.cli.verb import verb
from meshnode.config import ENV_KEY
from meshnode.errors import BadRequest, Interrupted, NotRunning

CONNECT_S = 5.0
SILENCE_S = 300.0  # a long prefill; the API sends comments meanwhile
DATA = "data: "
DONE = "data: [DONE]"
PROMPT_BYTES_MAX = 1024 * 1024
WHERE = {"local": ", this device", "peer": ", another device of the mesh", "cloud": ", a commercial API"}

Turn = dict[str, str]


class AnswerText(msgspec.Struct, frozen=True, tag_field="event", tag="text"):
    """What `run` prints as the answer comes."""

    text: str


class AnswerEnd(msgspec.Struct, frozen=True, tag_field="event", tag="end"):
    """What `run` prints last: the whole text, OpenAI's account of the tokens, and who answered with what."""

    text: str
    usage: dict[str, Any]
    served_by: str = ""
    model: str = ""
    rung: str = ""


class Delta(msgspec.Struct, frozen=True):
    """What a chunk adds."""

    content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """The one choice of a chunk."""

    delta: Delta
    finish_reason: str | None = None


class Failure(msgspec.Struct, frozen=True):
    """An error of the API."""

    message: str
    code: str | None = None
    param: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """An event of the API's stream, as far as this verb cares."""

    choices: tuple[Choice, ...] = ()
    usage: dict[str, Any] | None = None
    error: Failure | None = None


@click.command("run")
@click.argument("model", shell_complete=models_offered)
@click.argument("prompt", required=False)
@click.option("--privacy", help="Which nodes may run it: public, private, sensitive or local.")
@click.option("--route", help="Where it may run: local, prefer-local, mesh or cloud.")
@click.option("--max-tokens", type=int, help="End the answer after so many tokens.")
@verb
async def run(
    screen: Screen,
    home: Path,
    model: str,
    prompt: str | None,
    privacy: str | None,
    route: str | None,
    max_tokens: int | None,
) -> None:
    """Ask MODEL for an answer to PROMPT; without one, chat until Ctrl-D.

    Without a terminal the prompt is read from standard input. Where the node's API asks for a key, it is taken from
    the environment variable MESHNODE_API_KEY.
    """
    options = {"max_tokens": max_tokens, "mesh": {"privacy": privacy, "route": route}}
    async with talking(screen, home, {"model": model, **options}) as talk:
        if prompt is None and sys.stdin.isatty():
            await talk.chat()
        else:
            await talk.ask(_from_stdin() if prompt is None else prompt)


@asynccontextmanager
async def talking(screen: Screen, home: Path, options: dict[str, Any]) -> AsyncIterator[Talk]:
    """A conversation with the node of this home; `options` go into each request. Raises NotRunning."""
    seen = await client.status(home)
    timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
    key = os.environ.get(ENV_KEY, "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(
        base_url=seen.api_url, timeout=timeout, trust_env=False, headers=headers
    ) as http:
        yield Talk(http, screen, options)


class Talk:
    """A conversation and where it goes."""

    def __init__(self, http: httpx2.AsyncClient, screen: Screen, options: dict[str, Any]) -> None:
        self._http = http
        self._screen = screen
        self._options = options
        self._turns: list[Turn] = []
        self._served: Mapping[str, str] = {}

    async def chat(self) -> None:
        """One question after another, until the input ends."""
        self._screen.line("Ctrl-D ends the conversation.")
        while (question := await trio.to_thread.run_sync(_question, abandon_on_cancel=True)) is not None:
            if question.strip():
                await self.ask(question)

    async def ask(self, question: str) -> None:
        """One question; the answer is shown as it comes and kept for the next."""
        self._turns.append({"role": "user", "content": question})
        texts: list[str] = []
        await self._stream(lambda chunk: self._show(chunk, texts))
        self._screen.text("\n")
        self._tell_who()
        self._turns.append({"role": "assistant", "content": "".join(texts)})

    def _show(self, chunk: Chunk, texts: list[str]) -> None:
        for choice in chunk.choices:
            text = choice.delta.content or ""
            texts.append(text)
            self._screen.text(text)
            if text:
                self._screen.json(AnswerText(text))
        if chunk.usage:
            served = (self._served.get(f"x-mesh-{fact}", "") for fact in ("served-by", "model", "rung"))
            self._screen.json(AnswerEnd("".join(texts), chunk.usage, *served))

    def _tell_who(self) -> None:
        """Which device answered, and with what."""
        who, rung = self._served.get("x-mesh-served-by", ""), self._served.get("x-mesh-rung", "")
        if who:
            where = WHERE.get(rung, "")
            self._screen.aside(f"answered by {who}{where}, with {self._served.get('x-mesh-model', '')}")

    async def _stream(self, on_chunk: Callable[[Chunk], None]) -> None:
        """One request. Raises NotRunning, Interrupted, or the error that the API gives."""
        extra = {"stream": True, "stream_options": {"include_usage": True}}
        body = {**self._options, "messages": self._turns, **extra}
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code == httpx2.codes.OK:
                    self._served = response.headers
                    await _read_events(response, on_chunk)
                else:
                    raise _error_of(_failure(await response.aread()))
        except httpx2.ConnectError as error:
            raise NotRunning("The node's API does not answer.", hint="See `meshnode status`.") from error
        except (httpx2.TransportError, msgspec.DecodeError) as error:
            raise Interrupted(f"The answer broke off: {error}.") from error


async def _read_events(response: httpx2.Response, on_chunk: Callable[[Chunk], None]) -> None:
    """Read to the very end, so that the connection can be used again; then raise what it ended with."""
    failure: Failure | None = Failure("The answer broke off before its end.", "interrupted")
    async for line in response.aiter_lines():
        if line == DONE:
            failure = None
        elif line.startswith(DATA):
            chunk = msgspec.json.decode(line.removeprefix(DATA), type=Chunk)
            failure = chunk.error or failure
            on_chunk(chunk)
    if failure is not None:
        raise _error_of(failure)


def _failure(body: bytes) -> Failure:
    failure = msgspec.json.decode(body, type=Chunk).error
    return failure or Failure("The API refused without a reason.")


def _error_of(failure: Failure) -> errors.MeshError:
    return errors.from_code(failure.code or "internal_error", failure.message, param=failure.param or "")


def _question() -> str | None:
    try:
        return input(">>> ")
    except EOFError:
        return None


def _from_stdin() -> str:
    text = sys.stdin.read(PROMPT_BYTES_MAX + 1)
    if not text.strip():
        raise BadRequest("There is no prompt.", hint="Give it after the model's name.", param="prompt")
    if len(text) > PROMPT_BYTES_MAX:
        raise BadRequest(f"The prompt is longer than {PROMPT_BYTES_MAX} characters.", param="prompt")
    return text
