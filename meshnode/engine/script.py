"""What an engine without a model writes: tokens, calls, likelihoods and vectors that follow from the job alone.

Pure. It knows no time and no slots; those are the scripted engine's.
"""

import hashlib
import json
import math
import struct
import zlib
from typing import Any

from meshnode.engine.instance import NoInstance, minimal
from meshnode.engine.text import text_in
from meshnode.errors import BadRequest
from meshnode.terms import Job, Likelihood, Output, TokenLogprob, Tool, ToolCall
from meshnode.terms.job import TOOL_CHOICE_FUNCTION, TOOL_CHOICE_REQUIRED

TURN_TOKENS = 4  # what a template adds around each turn
JSON_TOKEN_CHARS = 4
DIMENSIONS = 64

_PHRASE = (
    "the mesh carries every word between your own devices and nobody else reads it while quiet machines "
    "lend their spare hours so answers arrive from the nearest peer über naïve 日本 café 🙂"
)
_WORDS = tuple(_PHRASE.split())


class Script:
    """The whole answer to a job. A token is one word, or a few characters of JSON.

    `length` is where it ends by itself; `calls` are made by its last token; another `voice` writes something else.
    Raises BadRequest for a schema that allows nothing.
    """

    def __init__(self, job: Job, words: int, voice: str = "") -> None:
        text = "\0".join(f"{turn.role}\0{turn.content}" for turn in job.turns)
        self._seed = f"{text}\0{job.sampling.seed}{voice}".encode()
        self._before = " " if job.is_text else ""  # of the first word
        self._words = (*_WORDS, *job.turns[-1].content.split()[:64]) if job.turns else _WORDS
        self.calls = _calls(job, self._seed)
        self._json = _json(job, self.calls)
        self.length = len(self._json) or words

    def token(self, index: int) -> tuple[int, bytes]:
        """The id and the bytes of one token."""
        piece = self._json[index] if self._json else self._word(index)
        return zlib.crc32(piece) & 0xFFFF, piece

    def likelihood(self, index: int, top: int) -> TokenLogprob:
        """How likely that token was, and `top` others' in its place."""
        piece = self.token(index)[1]
        first = -(self._drawn(index) % 100) / 1000
        others = [Likelihood(f" {_WORDS[n]}".encode(), first - n) for n in range(1, top)]
        best = (Likelihood(piece, first), *others) if top else ()
        return TokenLogprob(piece, first, best)

    def _word(self, index: int) -> bytes:
        word = self._words[self._drawn(index) % len(self._words)]
        return ((" " if index else self._before) + word).encode()

    def _drawn(self, index: int) -> int:
        return int.from_bytes(hashlib.sha256(index.to_bytes(4) + self._seed).digest()[:8])


def prompt_of(job: Job) -> tuple[str, ...]:
    """The prompt's tokens. Raises BadRequest for a bare text that is empty, or not alone."""
    if (text := text_in(job)) is not None:
        return _text_tokens(text)
    if job.inputs:
        return tuple(word for text in job.inputs for word in ("", *text.split()))
    return tuple(
        word for turn in job.turns for word in ((turn.role,) * TURN_TOKENS + tuple(turn.content.split()))
    )


def _text_tokens(text: str) -> tuple[str, ...]:
    if not text:
        raise BadRequest("the prompt is empty", param="messages")
    return tuple(text.split()) or (text,)


def vector(text: str) -> bytes:
    """An embedding of unit length; texts that share words are nearer to each other than others."""
    sums = [0.0] * DIMENSIONS
    for word in ("", *text.split()):
        for place, byte in enumerate(hashlib.blake2b(word.lower().encode(), digest_size=DIMENSIONS).digest()):
            sums[place] += byte - 127.5
    length = math.sqrt(sum(value * value for value in sums))
    return struct.pack(f"<{DIMENSIONS}f", *(value / length for value in sums))


def _calls(job: Job, seed: bytes) -> tuple[ToolCall, ...]:
    """The one call that is made, if one must be."""
    named = job.tool_choice.startswith(TOOL_CHOICE_FUNCTION)
    if not job.tools or not (named or job.tool_choice == TOOL_CHOICE_REQUIRED):
        return ()
    name = job.tool_choice.removeprefix(TOOL_CHOICE_FUNCTION) if named else job.tools[0].name
    for tool in job.tools:
        if tool.name == name:
            identifier = "call_" + hashlib.sha256(seed).hexdigest()[:12]
            return (ToolCall(identifier, name, _arguments(tool)),)
    raise BadRequest(f"There is no tool {name!r}.", param="tool_choice")


def _arguments(tool: Tool) -> str:
    return json.dumps(_instance(tool.parameters, "tools") if tool.parameters else {})


def _json(job: Job, calls: tuple[ToolCall, ...]) -> tuple[bytes, ...]:
    """The tokens of an answer that is JSON; none when it is words."""
    if calls:
        text = json.dumps([{"name": call.name, "arguments": call.arguments} for call in calls])
    elif job.output is Output.TEXT:
        return ()
    else:
        text = json.dumps(_instance(job.schema, "response_format") if job.schema else {})
    return tuple(text[at : at + JSON_TOKEN_CHARS].encode() for at in range(0, len(text), JSON_TOKEN_CHARS))


def _instance(schema: str, param: str) -> Any:
    try:
        return minimal(json.loads(schema))
    except (NoInstance, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadRequest(f"The schema cannot be used: {error}.", param=param) from error
