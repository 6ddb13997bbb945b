"""An engine without a model: deterministic answers at a set speed, in trio's time, with switches for failure.

It ships, for tests of a mesh and for trying one out; it knows nothing of llama.cpp and starts no process.
"""

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import trio

from meshnode.engine.base import EngineState, Load
from meshnode.engine.holdback import Holdback, Release
from meshnode.engine.script import Script, prompt_of, vector
from meshnode.errors import Busy, ContextExceeded, EngineCrashed, EngineFailed, MeshError, ModelNotFound
from meshnode.terms import (
    Emitted,
    End,
    Feature,
    FinishReason,
    Job,
    ModelCard,
    Piece,
    Posture,
    Progress,
    Recheck,
    Redrawn,
    TokenLogprob,
    Usage,
    Vector,
)

PROGRESS_TOKENS = 128
PROMPTS_KEPT = 8  # whose beginnings a later run may share, of all scopes together
FEATURES = tuple(Feature)


def scripted_card(
    name: str = "smollm2:135m",
    *,
    tier: int = 2,
    context: int = 2048,
    slots: int = 8,
    tps: float = 100.0,
    features: tuple[str, ...] = FEATURES,
) -> ModelCard:
    """A card for a scripted engine; its digest is that of the name."""
    family, _, size = name.partition(":")
    return ModelCard(
        name=name,
        family=family,
        size=size or "tiny",
        quant="scripted",
        tier=tier,
        digest=hashlib.sha256(name.encode()).digest(),
        context=context,
        prompt_tps=tps * 10,
        generate_tps=tps,
        slots=slots,
        batch_gain=float(slots),
        features=features,
    )


class ScriptedEngine:
    """An Engine whose every answer follows from the job's text and seed alone; with another `voice` from that too.

    Tools that must be called are called with the smallest arguments that their schemas allow, and JSON that was
    asked for is the smallest that is valid. Jobs of one scope share the beginnings of the last few prompts.

    `answer_tokens` is where it ends by itself, and may be changed; `load_s` how long it loads, at the start and
    after `crash`; `queue` how many runs may wait for a slot. Speeds are the card's. A token is one word.
    """

    def __init__(
        self, card: ModelCard | None = None, *, answer_tokens: int = 32, load_s: float = 0.0, queue: int = 64
    ) -> None:
        self._card = card or scripted_card()
        self.answer_tokens = answer_tokens
        self.voice = ""
        self._load_s = load_s
        self._queue = queue
        self._state = EngineState.LOADING
        self._detail = ""
        self._watchers: list[Callable[[], None]] = []
        self._slots = trio.Semaphore(self._card.slots)
        self._runs: dict[object, _Run] = {}
        self._crashed = trio.Event()
        self._refusals: list[MeshError] = []
        self._prompts: deque[tuple[bytes, tuple[str, ...]]] = deque(maxlen=PROMPTS_KEPT)
        self._crash_after: int | None = None
        self.finished_jobs: list[str] = []
        self.cancelled_jobs: list[str] = []

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """Its one card, while it is ready."""
        return (self._card,) if self._state is EngineState.READY else ()

    @property
    def state(self) -> EngineState:
        """Loading, ready, or failed."""
        return self._state

    @property
    def detail(self) -> str:
        """Why it is not ready."""
        return self._detail

    @property
    def posture(self) -> Posture:
        """Nothing of a stranger's is run here."""
        return Posture(kind="scripted", network=False, writes=False, reads=False)

    @property
    def load(self) -> Load:
        """Exact figures over all runs."""
        return Load(
            in_flight=len(self._runs),
            queued_prefill=sum(run.prefill_left for run in self._runs.values()),
            queued_decode=sum(run.decode_left for run in self._runs.values()),
            slots=self._card.slots,
        )

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call back on every change of state."""
        self._watchers.append(on_change)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, be ready, and after each crash load again."""
        task_status.started()
        while True:
            await trio.sleep(self._load_s)
            if self._state is not EngineState.FAILED:
                self._become(EngineState.READY)
            await self._crashed.wait()
            self._crashed = trio.Event()

    def refuse_next(self, error: MeshError) -> None:
        """Make the next run fail with `error` before its first piece."""
        self._refusals.append(error)

    def crash_after(self, tokens: int) -> None:
        """Crash once, as soon as some run has written this many tokens."""
        self._crash_after = tokens

    def crash(self) -> None:
        """End every run as a crashed worker would, and load again."""
        for run in self._runs.values():
            run.crash()
        self._become(EngineState.LOADING, "the worker crashed; it is being restarted")
        self._crashed.set()

    def fail(self, detail: str) -> None:
        """Fail for good: end every run and serve none any more."""
        self.crash()
        self._become(EngineState.FAILED, detail)

    @asynccontextmanager
    async def run(self, job: Job, scope: bytes = b"") -> AsyncIterator[AsyncIterator[Emitted]]:
        """Run a job, see Engine.run."""
        run = self._admit(job, scope)
        self._runs[run] = run
        try:
            async with aclosing(self._emit(run)) as emitted:
                yield emitted
        finally:
            del self._runs[run]
            (self.finished_jobs if run.finished else self.cancelled_jobs).append(job.id)

    async def recheck(self, check: Recheck) -> tuple[Redrawn, ...]:
        """Compare an answer with the one that it would have given itself, see Rechecker.recheck."""
        if self._state is not EngineState.READY or self._runs:
            return ()
        script = Script(check.job, self.answer_tokens, self.voice)
        drawn = [(script.token(place)[0], check.ids[place]) for place in range(check.start, len(check.ids))]
        return tuple(Redrawn(token, 0.0, 0.0, float(token != written)) for token, written in drawn)

    def _admit(self, job: Job, scope: bytes) -> "_Run":
        if self._refusals:
            raise self._refusals.pop(0)
        if self._state is EngineState.FAILED:
            raise EngineFailed(self._detail)
        if self._state is not EngineState.READY:
            raise ModelNotFound(f"the model {self._card.name} is not loaded yet", retry_after_s=self._load_s)
        if len(self._runs) >= self._card.slots + self._queue:
            raise Busy("the queue is full", retry_after_s=1.0)
        return self._run_of(job, scope)

    def _run_of(self, job: Job, scope: bytes) -> "_Run":
        prompt, script = prompt_of(job), Script(job, self.answer_tokens, self.voice)
        room = self._card.context - len(prompt)
        wanted = 0 if job.inputs else 1 if job.sampling.shorten else max(job.sampling.max_tokens, 1)
        if wanted > room:
            raise ContextExceeded(
                f"the prompt and the answer asked for are {len(prompt) + wanted} tokens; "
                f"the context of {self._card.name} is {self._card.context}",
                param="input" if job.inputs else "messages",
            )
        cached = 0 if job.inputs or not scope else self._shared(scope, prompt)
        return _Run(job, script, len(prompt), cached, min(job.sampling.max_tokens or room, room))

    def _shared(self, scope: bytes, prompt: tuple[str, ...]) -> int:
        """How many tokens of a prompt an earlier one of its scope began with, at least one being new."""
        earlier = [known for of, known in self._prompts if of == scope]
        self._prompts.append((scope, prompt))
        shared = max((_common(prompt, known) for known in earlier), default=0)
        return min(shared, len(prompt) - 1)

    async def _emit(self, run: "_Run") -> AsyncGenerator[Emitted, None]:
        async with self._slots:
            while run.prefill_left:
                await run.pass_time(run.read_some(PROGRESS_TOKENS) / self._card.prompt_tps)
                yield Progress(run.prompt_tokens - run.prefill_left, run.prompt_tokens)
            for index, text in enumerate(run.inputs):
                yield Vector(index, vector(text))
            while run.decode_left:
                await run.pass_time(1 / self._card.generate_tps)
                if piece := run.write_one():
                    yield piece
                self._crash_if_due(run)
            if piece := run.last():
                yield piece
        run.finished = True
        yield run.end()

    def _crash_if_due(self, run: "_Run") -> None:
        if self._crash_after is not None and run.written >= self._crash_after:
            self._crash_after = None
            self.crash()

    def _become(self, state: EngineState, detail: str = "") -> None:
        self._state, self._detail = state, detail
        for on_change in self._watchers:
            on_change()


def _common(left: tuple[str, ...], right: tuple[str, ...]) -> int:
    """How long the beginning is that both have in common."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))


class _Run:
    """One job's progress through its script."""

    def __init__(self, job: Job, script: Script, prompt_tokens: int, cached_tokens: int, limit: int) -> None:
        self.inputs = job.inputs
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = cached_tokens
        self.prefill_left = prompt_tokens - cached_tokens
        self.written = 0
        self.finished = False
        self._sampling = job.sampling
        self._script = script
        self._last = 0 if job.inputs else min(script.length, limit)
        self._cut_short = limit < script.length
        self._holdback = Holdback(job.sampling.stop)
        self._said = len(job.resume)
        self._crashed = trio.Event()
        while self.written < min(self._said, self._last):
            self.write_one()

    @property
    def decode_left(self) -> int:
        return 0 if self._holdback.stopped else self._last - self.written

    def crash(self) -> None:
        self._crashed.set()

    async def pass_time(self, seconds: float) -> None:
        """Let the time pass, or fail at once when the engine crashes."""
        with trio.move_on_after(seconds):
            await self._crashed.wait()
        if self._crashed.is_set():
            raise EngineCrashed(
                "the worker crashed while it answered; it is being restarted", retry_after_s=1.0
            )

    def read_some(self, most: int) -> int:
        read = min(most, self.prefill_left)
        self.prefill_left -= read
        return read

    def write_one(self) -> Piece | None:
        token, piece = self._script.token(self.written)
        self.written += 1
        return self._piece(self._holdback.push(token, piece))

    def last(self) -> Piece | None:
        """What is held back at the end, and the calls of an answer that is whole."""
        return None if self._holdback.stopped else self._piece(self._holdback.flush())

    def end(self) -> End:
        stopped = self._holdback.stopped or not self._cut_short
        reason = FinishReason.STOP if stopped else FinishReason.LENGTH
        if self._called:
            reason = FinishReason.TOOL_CALLS
        return End(reason, Usage(self.prompt_tokens, self.written, self.cached_tokens))

    @property
    def _called(self) -> bool:
        return bool(self._script.calls) and self.written == self._script.length

    def _piece(self, release: Release | None) -> Piece | None:
        """What is released, without what was said before this run."""
        if release is None or release.first_index + len(release.ids) <= self._said:
            return None
        first = max(release.first_index, self._said)
        ids = release.ids[first - release.first_index :]
        before = b"".join(self._script.token(index)[1] for index in range(release.first_index, first))
        text = "" if self._script.calls else release.text[len(before.decode()) :]
        calls = self._script.calls if self._called and first + len(ids) == self.written else ()
        return Piece(first, ids, text, calls, self._likelihoods(first, len(ids)))

    def _likelihoods(self, first: int, count: int) -> tuple[TokenLogprob, ...]:
        if not self._sampling.logprobs:
            return ()
        top = self._sampling.top_logprobs
        return tuple(self._script.likelihood(index, top) for index in range(first, first + count))
