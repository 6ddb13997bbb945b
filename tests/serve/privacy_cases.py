"""Random policies, wishes and meshes, and where a request goes in each of them: the real steps from admission on.

What may be is written down here once more, from the table of privacy classes, and shares nothing with the code.
"""

import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import trio
from hypothesis import strategies as st

from meshnode.errors import Busy, MeshError, Unreachable
from meshnode.routing.probing import Reply
from meshnode.seams import Seams, inline
from meshnode.serve.admit import Admission
from meshnode.serve.choose import Chooser
from meshnode.serve.local import Bench
from meshnode.serve.recall import Recall
from meshnode.serve.running import LinkLost
from meshnode.serve.scopes import Scopes
from meshnode.serve.walk import Walk
from meshnode.state.answers import AnswerRow
from meshnode.terms import Answer, CacheMode, Candidate, Emitted, Job, Place, Privacy, Trust
from tests.cache.small_cache import Words, answer, asked, said
from tests.routing.offers import card, offer
from tests.routing.test_cloud import api

OWN = b"\0" * 20
LABELS = ("eu", "clinic")
NEEDED = {"public": 1, "private": 2, "sensitive": 3, "local": 5}
TO_APIS = ("public", "private")
KEPT = ("public", "private")


@dataclass(frozen=True)
class Case:
    """A mesh, an owner's policy, and what is asked twice, the second time perhaps by another tenant.

    `fates` say what becomes of each run in turn: it "answers", "refuses", "breaks" off or is "lost" with its link.
    """

    candidates: tuple[Candidate, ...]
    ceiling: CacheMode
    jobs: tuple[Job, Job]
    fates: tuple[str, ...]
    seed: int


@dataclass
class Seen:
    """Everything that a request has reached: nodes asked how they are, nodes and APIs sent to, rows kept."""

    asked: list[tuple[Job, Candidate]] = field(default_factory=list)
    sent: list[tuple[Job, Candidate]] = field(default_factory=list)
    kept: list[tuple[Job, AnswerRow]] = field(default_factory=list)
    given: list[tuple[Job, Job]] = field(default_factory=list)  # whose answer was given to whom


labels = st.lists(st.sampled_from(LABELS), unique=True, max_size=2).map(tuple)


@st.composite
def nodes(draw: st.DrawFn, number: int) -> Candidate:
    """A node of the mesh, or a commercial API whose owner lets some classes go there."""
    model = card(digest=bytes([draw(st.integers(1, 2))]) * 32)
    if draw(st.integers(0, 3)) == 0:
        classes = draw(st.lists(st.sampled_from([*Privacy]), unique=True).map(tuple))
        return api(number=number, privacy=classes, labels=draw(labels), model=model)
    trust = draw(st.sampled_from([*Trust]))
    relays = 0 if trust is Trust.SELF else draw(st.integers(0, 2))
    node = OWN if trust is Trust.SELF else bytes([number]) * 20
    path = () if trust is Trust.SELF else (*(bytes([200 + one]) * 20 for one in range(relays)), node)
    made = offer(number, trust=trust, path=path, labels=draw(labels), model=model)
    return msgspec.structs.replace(made, node=node)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A case."""
    wish = {
        "privacy": draw(st.sampled_from([*Privacy])),
        "residency": draw(st.one_of(st.just(()), labels)),
        "place": draw(st.one_of(st.just(Place.PREFER_LOCAL), st.sampled_from([*Place]))),
        "cache": draw(st.sampled_from([None, *CacheMode])),
    }
    first = asked(tenant=b"a", **wish)
    other = {"tenant": draw(st.sampled_from((b"a", b"b"))), **wish}
    if draw(st.booleans()):
        other["privacy"] = draw(st.sampled_from((Privacy.PUBLIC, Privacy.PRIVATE)))
    return Case(
        candidates=tuple(draw(nodes(number)) for number in range(1, draw(st.integers(2, 7)))),
        ceiling=draw(st.sampled_from([*CacheMode])),
        jobs=(first, asked(**other)),
        fates=tuple(draw(st.lists(st.sampled_from(("answers", "refuses", "breaks", "lost")), max_size=4))),
        seed=draw(st.integers(0, 7)),
    )


class Stage:
    """One node, and what becomes of its requests."""

    def __init__(self, case: Case) -> None:
        self.seen, self._case, self._fates = Seen(), case, iter(case.fates)
        self._rows: list[AnswerRow] = []
        self._author: dict[bytes, Job] = {}
        self._now: Job = case.jobs[0]
        rng = random.Random(case.seed)
        bench = Bench((), Scopes(b"test"), "")
        self._choose = Chooser(
            OWN, bench, rng, lambda: list(case.candidates), dict, self._look_up, reach=self._reach
        )
        seams = Seams(wall=lambda: 1_700_000_000.0, rng=rng, blocking=inline)
        self.recall = Recall(case.ceiling, self, Words(), seams)  # type: ignore[arg-type]
        self._walk = Walk(Admission(), self._choose, self._run_on, self._answer_for, recall=self.recall)

    async def play(self) -> Seen:
        """Both requests, one after the other."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.recall.run)
            await nursery.start(self._choose.run)
            for job in self._case.jobs:
                self._now = job
                await self._ask(job)
            nursery.cancel_scope.cancel()
        return self.seen

    async def _ask(self, job: Job) -> None:
        try:
            async with self._walk.ask(job) as running:
                _ = [item async for item in running.pieces]
                if running.answer.cache:
                    self.seen.given.append((self._author[running.answer.digest], job))
        except MeshError:
            pass  # whatever is refused reaches nobody
        await trio.sleep(1)  # kept by now, if it is kept

    # --- What the steps need of a node ---

    async def _look_up(self, family: str) -> None:
        """There are no others to find."""

    async def _reach(self, candidate: Candidate) -> None:  # type: ignore[return]
        self.seen.asked.append((self._now, candidate))
        self._choose.router.heard(candidate, Reply(0, 0, 0), {}, trio.current_time())
        raise Busy("It does not say how it is.")

    def _answer_for(self, candidate: Candidate) -> Answer:
        self._author[candidate.card.digest] = self._now
        return answer(digest=candidate.card.digest, tier=candidate.card.tier)

    @asynccontextmanager
    async def _run_on(self, candidate: Candidate, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
        self.seen.sent.append((job, candidate))
        fate = next(self._fates, "answers")
        if fate == "refuses":
            raise Busy("No.")
        async with aclosing(self._said(fate)) as pieces:
            yield pieces

    async def _said(self, fate: str) -> AsyncGenerator[Emitted, None]:
        first, *rest = said("It is", " so.")
        yield first
        if fate in ("breaks", "lost"):
            raise Unreachable("It broke.") if fate == "breaks" else LinkLost("The link is lost.")
        for item in rest:
            yield item

    # --- As a store of answers ---

    async def put(self, row: AnswerRow, now_ms: int) -> None:
        self.seen.kept.append((self._now, row))
        self._rows.append(row)

    async def of_ask(self, ask: bytes, now_ms: int) -> list[AnswerRow]:
        return [row for row in self._rows if row.ask == ask]

    async def near(self, namespace: bytes, now_ms: int, most: int) -> list[AnswerRow]:
        return [row for row in self._rows if row.namespace == namespace]

    async def put_labels(self, ask: bytes, weights: bytes, labels: bytes) -> None:
        """Nothing is learnt here."""

    async def aclose(self) -> None:
        """There is no file."""


def violations(case: Case) -> list[str]:
    """What a request of this case has reached although its class or its wish forbids it."""
    seen = trio.run(Stage(case).play, clock=trio.testing.MockClock(autojump_threshold=0))
    wrong = [f"{how} {fault}" for how, pairs in (("asked", seen.asked), ("sent to", seen.sent))
             for job, candidate in pairs for fault in _faults(job, candidate)]  # fmt: skip
    wrong += [f"kept a {job.wish.privacy} answer" for job, _ in seen.kept if job.wish.privacy not in KEPT]
    wrong += [
        f"gave {_who(one)}'s answer to {_who(other)}" for one, other in seen.given if _who(one) != _who(other)
    ]
    return wrong


def _faults(job: Job, candidate: Candidate) -> Sequence[str]:
    wish, cloud = job.wish, candidate.cloud
    faults = {
        "an API that the class never goes to": cloud is not None and wish.privacy not in TO_APIS,
        "an API whose owner keeps the class": cloud is not None and wish.privacy not in cloud.privacy,
        "a node that is not trusted enough": cloud is None and candidate.trust < NEEDED[wish.privacy],
        "a relay": wish.privacy == "sensitive" and len(candidate.path) > 1,
        "a place without the labels": not set(wish.residency) <= set(candidate.labels),
        "another node": wish.place == "local" and candidate.trust < NEEDED["local"],
        "an API where nodes were wished": cloud is not None and wish.place in ("mesh", "local"),
    }
    return [fault for fault, holds in faults.items() if holds]


def _who(job: Job) -> tuple[bytes, str]:
    return job.tenant_tag, job.wish.privacy.value
