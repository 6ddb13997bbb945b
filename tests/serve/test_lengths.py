"""What the lengths and times of sealed messages tell a relay, or who listens on the wire, of what an answer is about.

The attack is that of "Whisper Leak" (arXiv 2511.03675), small: topics whose words have their own lengths and whose
tokens come in their own rhythm, as many answers to learn from as to guess, and the nearest centroid of what was seen.
"""

import random
import statistics
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest
import trio

from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.net import switch
from meshnode.net.link import Link
from meshnode.serve import pacing
from meshnode.serve.admit import Admission
from meshnode.serve.inbound import Inbound
from meshnode.serve.local import Bench
from meshnode.serve.pacing import Manner
from meshnode.serve.remote import run_on_link
from meshnode.serve.scopes import Scopes
from meshnode.terms import Emitted, End, FinishReason, Piece, Privacy, Usage
from tests.net.hubs import Hub, World, open_world
from tests.serve.test_remote import JOB

ANSWERS = 12  # of each topic to learn from, and as many to guess
TOKENS = (18, 22)  # fewest and most, of any topic
SEEN = 32  # messages that are looked at
MARGIN = 0.2  # over guessing blindly: chance alone moves the score of 36 guesses by 0.08
FOUND = 0.9  # where nothing protects

Seen = list[tuple[float, int]]
Features = list[float]
Look = Callable[[Seen], Features]


@dataclass(frozen=True)
class Topic:
    """Word lengths and pauses that are drawn from, in turn; all topics last as long on the whole."""

    words: tuple[int, ...]
    pauses_ms: tuple[int, ...]


TOPICS = (
    Topic((2, 3, 2, 4), (40,)),
    Topic((3, 11, 5, 12), (10, 70)),
    Topic((9, 8, 14, 10), (10, 10, 10, 130)),
)
IN_STEP = tuple(Topic(topic.words, (40,)) for topic in TOPICS)  # the same words in one rhythm


class Speaker(ScriptedEngine):
    """Says what it was told to say, in that rhythm."""

    said: Sequence[tuple[float, str]] = ()

    async def _emit(self, run: object) -> AsyncGenerator[Emitted, None]:
        for index, (pause_s, text) in enumerate(self.said):
            await trio.sleep(pause_s)
            yield Piece(index, (index * 37 % 30_000,), text)
        run.finished = True  # type: ignore[attr-defined]
        yield End(FinishReason.STOP, Usage(5, len(self.said), 0))


def answer_on(topic: Topic, rng: random.Random) -> list[tuple[float, str]]:
    """One answer: its tokens, each with the pause before it."""
    count = rng.randint(*TOKENS)
    return [
        (
            topic.pauses_ms[place % len(topic.pauses_ms)] / 1000 * rng.uniform(0.9, 1.1),
            "x" * max(1, topic.words[place % len(topic.words)] + rng.choice((-1, 0, 0, 1))),
        )
        for place in range(count)
    ]


@dataclass
class Scene:
    """A node that asks, one that answers, and what is seen between them."""

    engine: Speaker
    link: Link
    seen: Seen = field(default_factory=list)

    async def observe(self, said: list[tuple[float, str]], privacy: Privacy) -> Seen:
        """What passes while one answer is given, by the seconds since it was asked for."""
        self.engine.said = said
        wish = msgspec.structs.replace(JOB.wish, privacy=privacy)
        self.seen.clear()
        began = trio.current_time()
        async with run_on_link(self.link, msgspec.structs.replace(JOB, wish=wish)) as pieces:
            text = "".join([one.text async for one in pieces if isinstance(one, Piece)])
        assert text == "".join(word for _, word in said)
        seen = [(at - began, size) for at, size in self.seen]
        await trio.sleep(1)
        return seen


@asynccontextmanager
async def watched(*, relayed: bool) -> AsyncIterator[Scene]:
    """Two nodes, watched by the relay between them, or by who listens on the wire between the two."""
    engine = Speaker(scripted_card(slots=1))
    inbound = Inbound(Admission(4), Bench((engine,), Scopes(b"test")), lambda _job: scripted_card(slots=1))
    seen: Seen = []

    def note(message: bytes) -> None:
        seen.append((trio.current_time(), len(message)))

    async with open_world() as world, trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await nursery.start(inbound.run)
        link, worker = await _line(world, note, relayed=relayed)
        worker.on_ask = inbound.serve  # type: ignore[method-assign]
        await trio.sleep(1)
        yield Scene(engine, link, seen)
        nursery.cancel_scope.cancel()


async def _line(world: World, note: Callable[[bytes], None], *, relayed: bool) -> tuple[Link, Hub]:
    if relayed:
        a, relay, b = await world.line("a", "relay", "b", relay_tap=note)
        return await a.circuits.reach((relay.node, b.node)), b
    a, b = await world.line("a", "b")
    world.network.on_message = lambda _source, _target, message: note(message)
    return a.up[0], b


# --- The attack ---


def lengths(seen: Seen) -> Features:
    """The sizes in order, how many, and their sum."""
    sizes = [float(size) for _, size in seen]
    padded = [*sizes, *[0.0] * SEEN][:SEEN]
    return [*padded, float(len(sizes)), sum(sizes)]


def rhythm(seen: Seen) -> Features:
    """The lengths, and the times between them in order."""
    gaps = [round(later - earlier, 4) for (earlier, _), (later, _) in pairwise(seen)]
    return [*lengths(seen), *[*gaps, *[0.0] * SEEN][:SEEN]]


def score(learnt: list[tuple[int, Features]], guessed: list[tuple[int, Features]]) -> float:
    """The share of right guesses by the nearest centroid, each feature in units of its own spread."""
    columns = list(zip(*(features for _, features in learnt), strict=True))
    spread = [statistics.pstdev(column) or 1.0 for column in columns]
    centroids = [
        [statistics.fmean(column) for column in zip(*(f for of, f in learnt if of == topic), strict=True)]
        for topic in range(len(TOPICS))
    ]

    def distance(features: Features, centroid: Features) -> float:
        return sum(
            ((one - mean) / unit) ** 2 for one, mean, unit in zip(features, centroid, spread, strict=True)
        )

    guesses = [
        min(range(len(TOPICS)), key=lambda topic: distance(features, centroids[topic]))
        for _, features in guessed
    ]
    return statistics.fmean(float(of == guess) for (of, _), guess in zip(guessed, guesses, strict=True))


async def attack(privacy: Privacy, look: Look, *, relayed: bool, topics: tuple[Topic, ...] = TOPICS) -> float:
    """How often the topic of an answer of this class is guessed."""
    rng = random.Random(7)
    observed: list[tuple[int, Features]] = []
    async with watched(relayed=relayed) as scene:
        for _ in range(2 * ANSWERS):
            for number in rng.sample(range(len(topics)), len(topics)):  # pings come in a rhythm of their own
                seen = await scene.observe(answer_on(topics[number], rng), privacy)
                observed.append((number, look(seen)))
    half = len(observed) // 2
    return score(observed[:half], observed[half:])


CHANCE = 1 / len(TOPICS)


PLACES = pytest.mark.parametrize("relayed", [True, False], ids=["a relay", "on the wire"])


@PLACES
async def test_of_a_private_answer_the_lengths_do_not_tell_the_topic(*, relayed: bool) -> None:
    assert await attack(Privacy.PRIVATE, lengths, relayed=relayed, topics=IN_STEP) <= CHANCE + MARGIN


@PLACES
async def test_of_a_sensitive_answer_neither_lengths_nor_times_tell_the_topic(*, relayed: bool) -> None:
    assert await attack(Privacy.SENSITIVE, rhythm, relayed=relayed) <= CHANCE + MARGIN


@pytest.mark.parametrize(
    ("privacy", "look", "topics"),
    [(Privacy.PRIVATE, lengths, IN_STEP), (Privacy.SENSITIVE, rhythm, TOPICS)],
    ids=["private", "sensitive"],
)
async def test_without_padding_and_pace_they_do(
    privacy: Privacy, look: Look, topics: tuple[Topic, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "MANNERS", {kind: Manner() for kind in Privacy})
    monkeypatch.setattr(switch, "PAD_BUCKET", 0)
    assert await attack(privacy, look, relayed=True, topics=topics) >= FOUND


async def test_padding_alone_does_not_hide_the_rhythm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is why a sensitive answer goes out in even steps."""
    monkeypatch.setitem(pacing.MANNERS, Privacy.SENSITIVE, Manner(512))
    assert await attack(Privacy.SENSITIVE, rhythm, relayed=True) >= FOUND


async def test_even_steps_alone_do_not_hide_the_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pacing.MANNERS, Privacy.SENSITIVE, Manner(0, 0.1, steady=True))
    assert await attack(Privacy.SENSITIVE, lengths, relayed=False) >= FOUND


async def test_prompts_of_unlike_length_look_alike() -> None:
    sizes = set()
    async with watched(relayed=False) as scene:
        for words in ("Yes?", "What are the side effects of the pills that I was given?"):
            turn = msgspec.structs.replace(JOB.turns[0], content=words)
            wish = msgspec.structs.replace(JOB.wish, privacy=Privacy.SENSITIVE)
            scene.seen.clear()
            async with run_on_link(
                scene.link, msgspec.structs.replace(JOB, turns=(turn,), wish=wish)
            ) as pieces:
                assert [one async for one in pieces]
            sizes.add(tuple(size for _, size in scene.seen[:3]))
            await trio.sleep(1)
    assert len(sizes) == 1
