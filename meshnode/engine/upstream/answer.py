"""What an upstream streams, read into Pieces and one End. Pure: payloads of events in, emitted items out.

Token ids are not known here, so `ids` is empty and the numbering stays at 0: such an answer cannot be resumed.
Thinking that a server streams beside the text (`reasoning_content`) is not part of the answer and is left out.
"""

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import msgspec

from meshnode.engine.upstream.failures import failure_in_stream
from meshnode.errors import EngineFailed
from meshnode.terms import End, FinishReason, Job, Likelihood, Piece, TokenLogprob, ToolCall, Usage
from meshnode.terms.job import TOOLS_MAX
from meshwire.limits import RESPONSE_MAX

DONE = b"[DONE]"
LOGPROB_MIN = -9999.0  # what servers write for a probability of zero, which JSON cannot say otherwise
_REASONS = {
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}


class Top(msgspec.Struct, frozen=True):
    """A token and its likelihood; `bytes` where the server tells them."""

    token: str = ""
    logprob: float | None = None
    bytes: list[int] | None = None


class Entry(Top, frozen=True):
    """A token that was written, with the likeliest in its place."""

    top_logprobs: list[Top] | None = None


class Logprobs(msgspec.Struct, frozen=True):
    """The likelihoods of a chunk's tokens."""

    content: list[Entry] | None = None


class Function(msgspec.Struct, frozen=True):
    """A part of a call: the name at its beginning, then pieces of the arguments."""

    name: str | None = None
    arguments: str | None = None


class CallDelta(msgspec.Struct, frozen=True):
    """A part of the call with this index."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct, frozen=True):
    """What a chunk adds to the message."""

    content: str | None = None
    tool_calls: list[CallDelta] | None = None


class Choice(msgspec.Struct, frozen=True):
    """The one choice of a chunk."""

    delta: Delta | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Cached(msgspec.Struct, frozen=True):
    """How much of the prompt was not computed again."""

    cached_tokens: int | None = None


class Counts(msgspec.Struct, frozen=True):
    """The server's own count of tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Cached | None = None


class Timings(msgspec.Struct, frozen=True):
    """llama-server's own measurement, in tokens per second."""

    prompt_per_second: float | None = None
    predicted_per_second: float | None = None


class Event(msgspec.Struct, frozen=True):
    """One chunk of a streamed completion, as far as it counts here."""

    choices: list[Choice] | None = None
    usage: Counts | None = None
    timings: Timings | None = None
    error: Any = None


class AnswerReader:
    """Reads one answer. After the last payload `end()` is its End, or says that it was cut short."""

    def __init__(self, job: Job) -> None:
        self.usage = Usage()
        self.timings = Timings()
        self._calls = CallReader(job.id)
        self._reason: str | None = None
        self._characters = 0

    @property
    def complete(self) -> bool:
        """Whether the answer's end has come; after it, only the count of tokens may."""
        return self._reason is not None

    def take(self, payload: bytes) -> list[Piece]:
        """The pieces that an event holds. Raises MeshError for an error in it, and for nonsense."""
        if payload.strip() == DONE:
            return []
        event = _decoded(payload)
        if event.error:
            raise failure_in_stream(event.error)
        self.usage = _usage(event.usage) if event.usage else self.usage
        self.timings = event.timings or self.timings
        pieces = [self._piece(choice) for choice in (event.choices or ())[:1]]
        return [piece for piece in pieces if piece.text or piece.calls or piece.logprobs]

    def end(self) -> End:
        """The answer's end; raises EngineFailed when the server stopped without one."""
        if not self.complete:
            raise EngineFailed("The upstream server broke off in the middle of the answer.")
        reason = _REASONS.get(self._reason or "", FinishReason.STOP)
        return End(FinishReason.TOOL_CALLS if self._calls.made else reason, self.usage)

    def _count(self, delta: Delta) -> None:
        parts = [part.function.arguments for part in delta.tool_calls or () if part.function]
        self._characters += sum(len(text or "") for text in (delta.content, *parts))
        if self._characters > RESPONSE_MAX:
            raise EngineFailed(f"The upstream server's answer is longer than {RESPONSE_MAX} characters.")

    def _piece(self, choice: Choice) -> Piece:
        delta = choice.delta or Delta()
        self._count(delta)
        calls = self._calls.take(delta.tool_calls or ())
        if choice.finish_reason:
            self._reason = choice.finish_reason
            calls += self._calls.finish()
        entries = (choice.logprobs and choice.logprobs.content) or ()
        return Piece(0, (), delta.content or "", tuple(calls), tuple(_likelihood(entry) for entry in entries))


class CallReader:
    """Puts calls together from their parts: a call is complete when the next begins, or the answer ends."""

    def __init__(self, job_id: str) -> None:
        self.made = 0
        self._job_id = job_id
        self._index: int | None = None
        self._id = self._name = ""
        self._arguments: list[str] = []

    def take(self, parts: Iterable[CallDelta]) -> list[ToolCall]:
        """The calls that these parts complete. Raises EngineFailed for nonsense."""
        complete: list[ToolCall] = []
        for part in parts:
            if self._begins(part):
                complete += self.finish()
                self._id = part.id or ""
            self._index = part.index
            if part.function:
                self._name = self._name or part.function.name or ""
                self._arguments.append(part.function.arguments or "")
        return complete

    def finish(self) -> list[ToolCall]:
        """The call that was being put together, if there was one."""
        if not (self._name or self._arguments):
            return []
        raw = {"id": self._id or self._own_id(), "name": self._name, "arguments": "".join(self._arguments)}
        self._id = self._name = ""
        self._arguments = []
        self.made += 1
        try:
            call = msgspec.convert(raw, ToolCall)
        except msgspec.ValidationError as error:
            raise EngineFailed(f"The upstream server made a call that is none: {error}.") from None
        if self.made > TOOLS_MAX:
            raise EngineFailed(f"The upstream server made more than {TOOLS_MAX} calls.")
        return [call]

    def _begins(self, part: CallDelta) -> bool:
        """By its index, or by its id: some servers give every call the index 0."""
        other_id = bool(part.id and self._id and part.id != self._id)
        return other_id or part.index != self._index or not (self._name or self._arguments)

    def _own_id(self) -> str:
        """An id for a call that came without."""
        return "call_" + hashlib.sha256(f"{self._job_id}/{self.made}".encode()).hexdigest()[:16]


def _decoded(payload: bytes) -> Event:
    try:
        return msgspec.json.decode(payload, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise EngineFailed("The upstream server streamed something that is no completion.") from None


def _usage(counts: Counts) -> Usage:
    cached = counts.prompt_tokens_details.cached_tokens if counts.prompt_tokens_details else 0
    return Usage(*(max(0, count or 0) for count in (counts.prompt_tokens, counts.completion_tokens, cached)))


def _likelihood(entry: Entry) -> TokenLogprob:
    top = tuple(Likelihood(_bytes(one), _logprob(one)) for one in entry.top_logprobs or ())
    return TokenLogprob(_bytes(entry), _logprob(entry), top)


def _bytes(one: Top) -> bytes:
    told = one.bytes
    if told and all(0 <= byte < 256 for byte in told):
        return bytes(told)
    return one.token.encode()


def _logprob(one: Top) -> float:
    known = one.logprob is not None and math.isfinite(one.logprob)
    return max(LOGPROB_MIN, one.logprob) if known and one.logprob is not None else LOGPROB_MIN
