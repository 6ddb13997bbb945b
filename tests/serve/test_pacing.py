"""The pace of an answer: what goes out when and how long it is, and that nothing of it is lost or late for ever."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio

from meshnode.serve.emitting import Reader
from meshnode.serve.pacing import MANNERS, WAITING_MAX, Manner, Pace, ended, gathered, manner_of
from meshnode.terms import Emitted, End, FinishReason, Piece, Privacy, Progress, ToolCall, Usage, Vector
from meshwire import inner
from meshwire.codec import decode_inner
from meshwire.errors import LocalWireError
from meshwire.limits import GATHER_S, PAD_BYTES, PAD_STEADY_BYTES, STEADY_END_STEPS, STEADY_S

END = ended(End(FinishReason.STOP, Usage(1, 2, 0)))


class Sent:
    """In place of a delivery: what was sent, and when."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, bytes]] = []
        self.last = False
        self.stalled = trio.Event()
        self.stalled.set()

    async def tell(self, message: bytes) -> None:
        await self.put((message,))

    async def put(self, item: tuple[bytes, ...], *, last: bool = False) -> None:
        assert not self.last
        self.last = last
        self.messages += [(round(trio.current_time(), 3), message) for message in item]
        await self.stalled.wait()

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.messages]

    @property
    def sizes(self) -> set[int]:
        return {len(message) for _, message in self.messages}

    @property
    def read(self) -> list[Emitted]:
        """What the other end makes of it."""
        reader = Reader()
        found = [reader.read(decode_inner(message)) for _, message in self.messages]
        return [one for one in found if one is not None]


@asynccontextmanager
async def paced(manner: Manner) -> AsyncIterator[tuple[Pace, Sent, float]]:
    sent = Sent()
    async with trio.open_nursery() as nursery:
        pace = Pace(sent, manner)  # type: ignore[arg-type]
        with pace.kept(nursery):
            yield pace, sent, trio.current_time()


def piece(index: int, text: str = "x") -> Piece:
    return Piece(index, (index,), text)


async def test_public_answers_go_out_as_they_come() -> None:
    async with paced(MANNERS[Privacy.PUBLIC]) as (pace, sent, began):
        for index in range(3):
            await pace.put(piece(index, "x" * index))
        await pace.end(END)
        assert sent.times == [began] * 4
    assert len(sent.sizes) > 1
    assert sent.last


async def test_private_ones_go_at_once_and_then_together() -> None:
    async with paced(MANNERS[Privacy.PRIVATE]) as (pace, sent, began):
        for index in range(20):
            await pace.put(piece(index, "ab" * (index % 5)))
            await trio.sleep(0.01)
        await pace.end(END)
    since = [at - began for at in sent.times]
    assert since[0] < 0.001
    gaps = [later - earlier for earlier, later in pairwise(since[:-2])]
    assert gaps
    assert all(gap == pytest.approx(GATHER_S, abs=0.002) for gap in gaps)
    assert since[-1] < 0.21  # nothing waits for more once the end is known
    assert sent.sizes == {PAD_BYTES}
    *pieces, _ = sent.read
    assert "".join(one.text for one in pieces if isinstance(one, Piece)) == "".join(
        "ab" * (index % 5) for index in range(20)
    )


async def test_sensitive_ones_go_in_even_steps_whatever_is_written() -> None:
    async with paced(MANNERS[Privacy.SENSITIVE]) as (pace, sent, began):
        await trio.sleep(0.25)
        await pace.put(Progress(1, 2))
        await trio.sleep(0.2)
        for index in range(7):
            await pace.put(piece(index, "word" * index))
        await trio.sleep(0.33)
        await pace.put(piece(7))
        await pace.end(END)
    count = len(sent.messages)
    assert sent.times == pytest.approx([began + step * STEADY_S for step in range(count)], abs=0.002)
    assert count % STEADY_END_STEPS == 0
    assert sent.sizes == {PAD_STEADY_BYTES}
    assert [type(one) for one in sent.read] == [Progress, Piece, Piece, End]


@pytest.mark.parametrize("lasts_s", [0.01, 0.12, 0.23, 0.34, 0.45])
async def test_how_long_a_sensitive_answer_took_is_seen_to_half_a_second_only(lasts_s: float) -> None:
    async with paced(MANNERS[Privacy.SENSITIVE]) as (pace, sent, _):
        await pace.put(piece(0))
        await trio.sleep(lasts_s)
        await pace.end(END)
    assert len(sent.messages) in (STEADY_END_STEPS, 2 * STEADY_END_STEPS)
    assert sent.last


async def test_who_is_refused_hears_at_once_in_any_class() -> None:
    async with paced(MANNERS[Privacy.SENSITIVE]) as (pace, sent, began):
        await pace.end(inner.Fail("busy", "Full."))
        assert trio.current_time() == pytest.approx(began, abs=0.001)
    assert len(sent.messages) == 1
    assert sent.last


async def test_a_run_waits_where_nothing_goes_out() -> None:
    async with paced(MANNERS[Privacy.PRIVATE]) as (pace, sent, _):
        sent.stalled = trio.Event()
        await pace.put(piece(0))
        await trio.sleep(1)
        with trio.move_on_after(1) as scope:
            for index in range(1, 2 * WAITING_MAX):
                await pace.put(piece(index))
        assert scope.cancelled_caught
        assert index == 1 + WAITING_MAX
        sent.stalled.set()
        await trio.sleep(0.2)
        await pace.end(END)
    assert sum(len(one.ids) for one in sent.read if isinstance(one, Piece)) == 1 + WAITING_MAX


async def test_what_cannot_be_sent_is_told_to_whoever_gave_it_and_the_end_still_goes() -> None:
    async with paced(MANNERS[Privacy.PRIVATE]) as (pace, sent, _):
        await pace.put(Vector(0, b"x" * 2_000_000))
        await trio.sleep(0.1)
        with pytest.raises(LocalWireError):
            await pace.put(piece(0))
        await pace.end(inner.Fail("internal", "Broken."))
    assert len(sent.messages) == 1


async def test_steps_that_were_missed_are_not_made_up_for() -> None:
    async with paced(MANNERS[Privacy.SENSITIVE]) as (pace, sent, began):
        sent.stalled = trio.Event()
        await pace.put(piece(0))
        await trio.sleep(1.05)
        sent.stalled.set()
        await pace.put(piece(1))
        await trio.sleep(0.2)
        assert sent.times == pytest.approx([began, began + 1.1, began + 1.2], abs=0.002)
        await pace.end(END)


CALL = ToolCall("call_1", "look", "{}")


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([piece(0, "a"), piece(1, "b")], [Piece(0, (0, 1), "ab")]),
        ([piece(0), piece(2)], [piece(0), piece(2)]),
        ([piece(0), Piece(1, (), "y")], [piece(0), Piece(1, (), "y")]),
        ([Piece(0, (), "a"), Piece(0, (), "b")], [Piece(0, (), "ab")]),
        ([Piece(0, (0,), "", (CALL,)), piece(1)], [Piece(0, (0,), "", (CALL,)), piece(1)]),
        ([piece(0), Piece(1, (1,), "", (CALL,))], [piece(0), Piece(1, (1,), "", (CALL,))]),
        ([piece(0), Vector(0, b"abcd"), piece(1)], [piece(0), Vector(0, b"abcd"), piece(1)]),
        ([piece(0, "x" * 20_000), piece(1, "y" * 20_000)], None),
        ([], []),
    ],
    ids=[
        "one",
        "a gap",
        "no ids after ids",
        "none at all",
        "a call",
        "a call after text",
        "vectors",
        "too long",
        "nothing",
    ],
)
def test_pieces_become_one_only_where_that_says_the_same(
    items: list[Emitted], expected: list[Emitted] | None
) -> None:
    assert list(gathered(items)) == (items if expected is None else expected)


def test_what_never_travels_would_travel_as_the_strictest_does() -> None:
    assert manner_of(Privacy.LOCAL) == MANNERS[Privacy.SENSITIVE]
