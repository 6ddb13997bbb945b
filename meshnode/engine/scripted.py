"""An engine without a model: deterministic answers at a set speed, in trio's time, with switches for failure.

It ships, for tests of a mesh and for trying one out; it knows nothing of llama.cpp and starts no process.
"""

import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import trio

from meshnode.engine.base import EngineState, Load
from meshnode.engine.holdback import Holdback, Release
from meshnode.errors import Busy, ContextExceeded, EngineFailed, MeshError, ModelNotFound
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
    Usage,
)

PROGRESS_TOKENS = 128
TURN_TOKENS = 4  # what a template adds around each turn

_PHRASE = (
    "the mesh carries every word between your own devices and nobody else reads it while quiet machines "
    "lend their spare hours so answers arrive from the nearest peer über naïve 日本 café 🙂"
)
_WORDS = tuple(_PHRASE.split())


def scripted_card(
    name: str = "smollm2:135m", *, tier: int = 2, context: int = 2048, slots: int = 8, tps: float = 100.0
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
        features=(Feature.TOKEN_IDS,),
    )


class ScriptedEngine:
    """An Engine whose every answer follows from the job's text and seed alone.

    `answer_tokens` is where it ends by itself; `load_s` how long it loads, at the start and after `crash`;
    `queue` how many runs may wait for a slot. Speeds are the card's. A token is one word.
    """

    def __init__(
        self, card: ModelCard | None = None, *, answer_tokens: int = 32, load_s: float = 0.0, queue: int = 64
    ) -> None:
        self._card = card or scripted_card()
        self._answer_tokens = answer_tokens
        self._load_s = load_s
        self._queue = queue
        self._state = EngineState.LOADING
        self._detail = ""
        self._watchers: list[Callable[[], None]] = []
        self._slots = trio.Semaphore(self._card.slots)
        self._runs: dict[object, _Run] = {}
        self._crashed = trio.Event()
        self._refusals: list[MeshError] = []
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
        run = self._admit(job)
        self._runs[run] = run
        try:
            async with aclosing(self._emit(run)) as emitted:
                yield emitted
        finally:
            del self._runs[run]
            (self.finished_jobs if run.finished else self.cancelled_jobs).append(job.id)

    def _admit(self, job: Job) -> "_Run":
        if self._refusals:
            raise self._refusals.pop(0)
        if self._state is EngineState.FAILED:
            raise EngineFailed(self._detail)
        if self._state is not EngineState.READY:
            raise ModelNotFound(f"the model {self._card.name} is not loaded yet", retry_after_s=self._load_s)
        if len(self._runs) >= self._card.slots + self._queue:
            raise Busy("the queue is full", retry_after_s=1.0)
        run = _Run(job, self._answer_tokens, self._card.context)
        counted = run.prompt_tokens + max(job.sampling.max_tokens, 1)
        if counted > self._card.context:
            raise ContextExceeded(
                f"the prompt and the answer asked for are {counted} tokens; "
                f"the context of {self._card.name} is {self._card.context}",
                param="messages",
            )
        return run

    async def _emit(self, run: "_Run") -> AsyncGenerator[Emitted, None]:
        async with self._slots:
            while run.prefill_left:
                await run.pass_time(run.read_some(PROGRESS_TOKENS) / self._card.prompt_tps)
                yield Progress(run.prompt_tokens - run.prefill_left, run.prompt_tokens)
            while run.decode_left:
                await run.pass_time(1 / self._card.generate_tps)
                release = run.write_one()
                if release:
                    yield Piece(*release)
                self._crash_if_due(run)
            if release := run.last():
                yield Piece(*release)
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


class _Run:
    """One job's progress through its script."""

    def __init__(self, job: Job, answer_tokens: int, context: int) -> None:
        self.prompt_tokens = sum(TURN_TOKENS + len(turn.content.split()) for turn in job.turns)
        self.prefill_left = self.prompt_tokens
        room = context - self.prompt_tokens
        allowed = min(job.sampling.max_tokens or room, room)
        self.decode_left = min(answer_tokens, allowed)
        self.written = 0
        self.finished = False
        self._cut_short = allowed < answer_tokens
        self._holdback = Holdback(job.sampling.stop)
        self._script = _Script(job)
        self._crashed = trio.Event()

    def crash(self) -> None:
        self._crashed.set()

    async def pass_time(self, seconds: float) -> None:
        """Let the time pass, or fail at once when the engine crashes."""
        with trio.move_on_after(seconds):
            await self._crashed.wait()
        if self._crashed.is_set():
            raise EngineFailed(
                "the worker crashed while it answered; it is being restarted", retry_after_s=1.0
            )

    def read_some(self, most: int) -> int:
        read = min(most, self.prefill_left)
        self.prefill_left -= read
        return read

    def write_one(self) -> Release | None:
        token, piece = self._script.token(self.written)
        self.written += 1
        self.decode_left -= 1
        release = self._holdback.push(token, piece)
        if self._holdback.stopped:
            self.decode_left = 0
        return release

    def last(self) -> Release | None:
        return None if self._holdback.stopped else self._holdback.flush()

    def end(self) -> End:
        stopped = self._holdback.stopped or not self._cut_short
        reason = FinishReason.STOP if stopped else FinishReason.LENGTH
        return End(reason, Usage(self.prompt_tokens, self.written))


class _Script:
    """The words of an answer: those of the question mixed with a fixed list, by hash."""

    def __init__(self, job: Job) -> None:
        text = "\0".join(f"{turn.role}\0{turn.content}" for turn in job.turns)
        self._seed = f"{text}\0{job.sampling.seed}".encode()
        self._words = (*_WORDS, *job.turns[-1].content.split()[:64]) if job.turns else _WORDS

    def token(self, index: int) -> tuple[int, bytes]:
        drawn = hashlib.sha256(index.to_bytes(4) + self._seed).digest()
        word = self._words[int.from_bytes(drawn[:8]) % len(self._words)]
        piece = (f" {word}" if index else word).encode()
        return zlib.crc32(piece) & 0xFFFF, piece
