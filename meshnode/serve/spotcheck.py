"""Spot checks: answers of other nodes, drawn again here by the same weights when this machine has nothing to do.

What they show is decided in `routing.spotchecks`. Here they are gathered, wait for an idle moment, and are handed to
the engine. It knows engines and neither links nor sockets.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

import msgspec
import trio

from meshnode.engine.base import EngineState, Rechecker
from meshnode.routing.spotchecks import PLACES, Finding, SpotChecks
from meshnode.seams import Seams
from meshnode.serve.local import Bench
from meshnode.serve.transcript import Transcript
from meshnode.terms import Candidate, Emitted, Job, Privacy, Recheck, Redrawn, can_be_redrawn

CHECKED_CLASSES = (Privacy.PUBLIC, Privacy.PRIVATE)  # of stricter ones nothing is kept, not for a moment
WAITING_MAX = 16
ASKED_MAX = 4096
HASH_BYTES = 16
LOOK_S = 0.5
IDLE_WITHIN_S = 120.0  # else an answer is not checked: nobody waits for that
SEED_BITS = 62
MISSED = Redrawn(0, 0.0, 0.0, 1.0)

Hear = Callable[[Emitted], None]
OnForeign = Callable[[Candidate, Finding], Awaitable[None]]


class SpotChecker:
    """Checks the answers of others while `run` runs; `on_foreign` hears whom that has shown to run other weights."""

    def __init__(self, bench: Bench, checks: SpotChecks, seams: Seams, on_foreign: OnForeign) -> None:
        self._bench = bench
        self._checks = checks
        self._seams = seams
        self._on_foreign = on_foreign
        self._asked: OrderedDict[bytes, None] = OrderedDict()
        self._hash_key = seams.entropy(HASH_BYTES)
        self._waiting: deque[Transcript] = deque(maxlen=WAITING_MAX)
        self._came = trio.Event()

    def watch(self, candidate: Candidate, job: Job) -> tuple[Job, Hear]:
        """The job as it is to be sent to a candidate, and who is to hear all that comes of it.

        Where it may be checked and lots are drawn, they are drawn by a seed: so the same weights draw the same.
        """
        if not self._may_check(candidate, job):
            return job, _nobody
        if job.sampling.seed is None and job.sampling.temperature > 0:
            seeded = msgspec.structs.replace(job.sampling, seed=self._seams.rng.getrandbits(SEED_BITS))
            job = msgspec.structs.replace(job, sampling=seeded)
        return (job, Transcript(candidate, job, self._on_end).take) if can_be_redrawn(job) else (job, _nobody)

    def _may_check(self, candidate: Candidate, job: Job) -> bool:
        engine = self._bench.engine_for(candidate.card.digest)
        return self._checks.on and job.wish.privacy in CHECKED_CLASSES and isinstance(engine, Rechecker)

    def _on_end(self, transcript: Transcript) -> None:
        """An answer has come whole: whether it is checked is only decided now."""
        told = transcript.ids or transcript.evades
        if told and self._checks.wants(transcript.key) and self._is_new(transcript):
            self._waiting.append(transcript)
            self._came.set()

    def _is_new(self, transcript: Transcript) -> bool:
        """Whether this node was not checked with the same question before: it comes to the same near ties again."""
        said = msgspec.msgpack.encode((transcript.key, transcript.job.turns))
        hashed = hashlib.blake2b(said, key=self._hash_key, digest_size=HASH_BYTES).digest()
        if hashed in self._asked:
            return False
        while len(self._asked) >= ASKED_MAX:
            self._asked.popitem(last=False)
        self._asked[hashed] = None
        return True

    async def run(self) -> None:
        """Check what comes, one after the other, until cancelled."""
        while True:
            while not self._waiting:
                self._came = trio.Event()
                await self._came.wait()
            transcript = self._waiting.popleft()
            if places := await self._redrawn(transcript):
                finding = self._checks.note(transcript.key, places, self._seams.now_ms())
                if finding is not None:
                    await self._on_foreign(transcript.candidate, finding)

    async def _redrawn(self, transcript: Transcript) -> tuple[Redrawn, ...]:
        """Some places of an answer, drawn again; nothing if there was no idle moment for it."""
        if transcript.evades:
            return (MISSED,) * PLACES
        with trio.move_on_after(IDLE_WITHIN_S):
            while True:
                engine = self._idle_engine(transcript.candidate.card.digest)
                if engine is not None:
                    return await engine.recheck(self._part_of(transcript))
                await trio.sleep(LOOK_S)
        return ()

    def _idle_engine(self, digest: bytes) -> Rechecker | None:
        """The engine with these weights, if it is in memory and neither others nor the owner need the machine."""
        engine = self._bench.engine_for(digest)
        if not isinstance(engine, Rechecker) or engine.state is not EngineState.READY:
            return None
        gate = self._bench.gate
        return engine if gate.openness.takes_others and not gate.load(engine).in_flight else None

    def _part_of(self, transcript: Transcript) -> Recheck:
        """As many places as are checked, from one drawn by lot; what a node resumed with is not its own."""
        job = transcript.job
        first = len(job.resume)
        ids = (*job.resume, *transcript.ids)
        start = self._seams.rng.randint(first, max(first, len(ids) - PLACES))
        text = "" if job.resume else transcript.text
        return Recheck(job, ids[: start + PLACES], start, text)


def _nobody(_emitted: Emitted) -> None:
    """Hears nothing."""
