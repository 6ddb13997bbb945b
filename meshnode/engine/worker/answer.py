"""What of one answer may leave, and in what form: text, tool calls, log-probabilities.

Pure: tokens and their bytes go in, releases come out. It knows neither models nor processes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from meshnode.engine.holdback import Holdback, overlap
from meshnode.engine.holdback import Release as Held
from meshnode.engine.worker import schema as schemas
from meshnode.engine.worker.calls import (
    FORMS,
    PARAMETERS_PARAM,
    Style,
    callable_tools,
    must_call,
    parameters_of,
    read_calls,
)
from meshnode.engine.worker.constraint import output_schema
from meshnode.errors import EngineFailed
from meshnode.terms import FinishReason, Job, Output, TokenLogprob, ToolCall


class Release(NamedTuple):
    """As a Piece: whole tokens, exactly the text they make, the calls they complete, their likelihoods."""

    first_index: int
    ids: tuple[int, ...]
    text: str
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Answer:
    """The answer to a job as it grows. Every id leaves exactly once, in order, with all of its bytes.

    Text leaves as it comes, but for what may be the beginning of a stop string or of a tool call; a call leaves
    whole, without the text that wrote it. What turns out to be no call leaves as the text it is. Stop strings do
    not count in an answer that is held to a form, which knows its own end. `markers` is the text of those
    control tokens that open and close calls.
    """

    def __init__(self, job: Job, style: Style, markers: Mapping[int, bytes] | None = None) -> None:
        self._job = job
        self._form = FORMS[style]
        self._whole = style is Style.LLAMA  # a call is all of the answer or nothing of it
        self._markers = markers or {}
        self._tools = callable_tools(job)
        held_to = job.output is not Output.TEXT or (bool(self._tools) and must_call(job))
        self._holdback = Holdback(() if held_to else job.sampling.stop)
        self._names = frozenset(tool.name for tool in self._tools)
        self._calls: list[ToolCall] = []
        self._spoken = False  # whether text that is not blank has left
        self._kept: list[str] = []  # all text that has left, where it will be checked
        self._logprobs: list[TokenLogprob] = []  # of ids that have not left
        self._ids: list[int] = []  # between the holdback and the way out,
        self._text = ""  # and their text,
        self._ends: list[tuple[int, int]] = []  # and where in both a token ends with all its bytes
        self._left = 0  # ids that have left
        self._skip_ids, self._skip_chars = 0, 0  # held back here, but written elsewhere before

    @property
    def stopped(self) -> bool:
        """Whether the answer is complete by its own text: a stop string, or the one call that is allowed."""
        return self._holdback.stopped or (bool(self._calls) and not self._job.parallel_tool_calls)

    def push(self, token: int, piece: bytes, logprob: TokenLogprob | None = None) -> Release | None:
        """Take one token; what may leave now, if anything."""
        if logprob is not None:
            self._logprobs.append(logprob)
        return self._sift(self._holdback.push(token, piece or self._markers.get(token, b"")))

    def replay(self, ids: Sequence[int], pieces: Sequence[bytes]) -> None:
        """Take tokens that were written elsewhere: what they make does not leave again."""
        unknown = TokenLogprob(b"", 0.0) if self._job.sampling.logprobs else None
        for token, piece in zip(ids, pieces, strict=True):
            self.push(token, piece, unknown)
        self._skip_ids = len(ids) - self._left
        self._skip_chars = len(self._text) + len(self._holdback.pending)

    def flush(self) -> Release | None:
        """All that is still held, at the end of an answer; nothing of what stands after a stop string."""
        if not self._holdback.stopped:
            self._take(self._holdback.flush())
        released = None
        while (found := self._release_calls(at_end=True)) is not None:
            released = _joined(released, found)
        if self._ids or self._text:
            length = 0 if self._after_call() else len(self._text)
            released = _joined(released, self._release(len(self._ids), length))
        return released

    def reason(self, default: FinishReason) -> FinishReason:
        """Why it ended, after `flush`, where `default` is what the loop saw.

        Raises EngineFailed when an answer that ended by itself is not what it was held to.
        """
        if default is not FinishReason.STOP:
            return default
        if self._calls:
            for call in self._calls if must_call(self._job) else ():
                self._check_call(call)
            return FinishReason.TOOL_CALLS
        if self._tools and must_call(self._job):
            raise EngineFailed("the model ended without the tool call that was required")
        schema = output_schema(self._job)
        if schema is not None and (fault := schemas.fault(schema, "".join(self._kept))):
            raise EngineFailed(f"the model's answer does not fit the schema: {fault}")
        return default

    def _check_call(self, call: ToolCall) -> None:
        tool = next((tool for tool in self._tools if tool.name == call.name), None)
        if tool is None:
            raise EngineFailed(f"the model called {call.name}, which is not among the tools")
        if fault := schemas.fault(parameters_of(tool), call.arguments):
            raise EngineFailed(
                f"the model's arguments for {call.name} do not fit its {PARAMETERS_PARAM}: {fault}"
            )

    def _sift(self, held: Held | None) -> Release | None:
        """Let text out that is surely none of a call, and calls once they are whole."""
        if held is None:
            return None
        self._take(held)
        if not self._tools:
            return self._release(len(self._ids), len(self._text))
        if (made := self._release_calls()) is not None:
            return made
        opened = self._opened()
        if opened < 0:
            return self._release_until(len(self._text) - self._may_open())
        return None if self._whole else self._release_until(opened)

    def _take(self, held: Held | None) -> None:
        if held is None:
            return
        self._ids += held.ids
        self._text += held.text
        self._ends.append((len(self._ids), len(self._text)))

    def _opened(self) -> int:
        """Where in the held text a call begins; -1 for nowhere."""
        if not self._whole:
            return self._text.find(self._form.opening)
        indent = len(self._text) - len(self._text.lstrip())
        return indent if not self._spoken and self._text.startswith("{", indent) else -1

    def _may_open(self) -> int:
        """How much of the end of the held text may be the beginning of a call."""
        if self._after_call() or (self._whole and not self._spoken and not self._text.strip()):
            return len(self._text)
        return 0 if self._whole else overlap(self._text, self._form.opening)

    def _after_call(self) -> bool:
        """Whether only blanks stand between a call and here: they are no text of the answer."""
        return bool(self._calls) and not self._text.strip()

    def _release_calls(self, *, at_end: bool = False) -> Release | None:
        """The held ids up to the end of the first call, with what it calls; None when there is none yet."""
        start = self._opened()
        if start < 0 or not self._tools:
            return None
        begin = start if self._whole else start + len(self._form.opening)
        end = self._text.find(self._form.closing, begin) if self._form.closing else -1
        if end < 0 and not at_end:
            return None
        inside = self._text[begin:end] if end >= 0 else self._text[begin:]
        after = end + len(self._form.closing) if end >= 0 else len(self._text)
        calls = read_calls(inside, self._job.id, len(self._calls))
        if not self._job.parallel_tool_calls:
            calls = calls[: 1 - len(self._calls)]
        if not calls or any(call.name not in self._names for call in calls):
            return self._release(self._count_until(after), after)
        self._calls += calls
        self._skip_chars = 0
        return self._release(self._count_until(after), after, self._text[:start].rstrip(), calls)

    def _release_until(self, length: int) -> Release | None:
        """The tokens that end at or before `length` in the held text."""
        whole = [end for end in self._ends if end[1] <= length]
        return self._release(*whole[-1]) if whole else None

    def _count_until(self, length: int) -> int:
        """How many held ids end there or before; all of them at the very end."""
        if length == len(self._text):
            return len(self._ids)
        return max((count for count, end in self._ends if end <= length), default=0)

    def _release(
        self, count: int, length: int, shown: str | None = None, calls: tuple[ToolCall, ...] = ()
    ) -> Release | None:
        """Let ids and characters go; `shown` is their text where it differs, because calls are in it."""
        ids, text = tuple(self._ids[:count]), self._text[:length] if shown is None else shown
        self._ids, self._text = self._ids[count:], self._text[length:]
        self._ends = [(c - count, end - length) for c, end in self._ends if c > count]
        logprobs = tuple(self._logprobs[:count])
        del self._logprobs[:count]
        self._spoken = self._spoken or bool(text.strip())
        if self._job.output is not Output.TEXT:
            self._kept.append(text)
        first, self._left = self._left, self._left + count
        return self._unseen(Release(first, ids, text, calls, logprobs))

    def _unseen(self, release: Release) -> Release | None:
        """Without what was written elsewhere before."""
        ids, chars = min(self._skip_ids, len(release.ids)), min(self._skip_chars, len(release.text))
        self._skip_ids -= ids
        self._skip_chars -= chars
        first, left = release.first_index + ids, release.ids[ids:]
        if not left and not release.text[chars:] and not release.calls:
            return None
        return Release(first, left, release.text[chars:], release.calls, release.logprobs[ids:])


def _joined(first: Release | None, second: Release | None) -> Release | None:
    """Two releases that follow each other as one."""
    if first is None or second is None:
        return first or second
    return Release(
        first.first_index,
        first.ids + second.ids,
        first.text + second.text,
        first.calls + second.calls,
        first.logprobs + second.logprobs,
    )
