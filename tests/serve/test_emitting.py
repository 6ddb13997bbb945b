"""Everything that is emitted survives the wire, whatever its size; half a piece is none."""

import math

import msgspec
import pytest

from meshnode.errors import Busy, Interrupted
from meshnode.serve.emitting import IMPOSSIBLE, Reader, write
from meshnode.terms import (
    Emitted,
    End,
    FinishReason,
    Likelihood,
    Piece,
    Progress,
    TokenLogprob,
    ToolCall,
    Usage,
    Vector,
)
from meshwire import inner, numbers
from meshwire.codec import decode_inner, encode_inner
from meshwire.errors import RemoteWireError
from meshwire.limits import ANSWER_TOKENS, ARRAY_MAX, CHUNK_TOKENS, VECTOR_MAX

TOP = tuple(Likelihood(b" token%d" % n, -float(n)) for n in range(20))


def likelihoods(count: int) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(b"\xc3", -0.25 * n, TOP) for n in range(count))


def carried(emitted: Emitted) -> Emitted:
    """What comes out at the other end, over real bytes."""
    reader = Reader()
    *parts, last = [decode_inner(encode_inner(message)) for message in write(emitted)]
    assert [reader.read(part) for part in parts] == [None] * len(parts)
    whole = reader.read(last)
    assert whole is not None
    return whole


CALLS = (ToolCall("call_1", "look", '{"at":"sea"}'), ToolCall("call_2", "listen", ""))


@pytest.mark.parametrize(
    "emitted",
    [
        Piece(0, (), ""),
        Piece(7, (1, 2**32 - 1), "zwei", CALLS, likelihoods(2)),
        Piece(0, tuple(range(CHUNK_TOKENS)), "x"),
        Piece(5, tuple(range(1000)), "held back for long", CALLS, likelihoods(1000)),
        Piece(3, (), "from a server that knows no ids", (), likelihoods(300)),
        Piece(0, tuple(range(ANSWER_TOKENS)), "x" * 500_000),
        Progress(3, 9),
        Vector(255, bytes(4 * 8192)),
        Vector(0, bytes(VECTOR_MAX)),
        *(End(reason, Usage(7, 3, 2)) for reason in FinishReason),
    ],
    ids=lambda emitted: type(emitted).__name__,
)
def test_what_is_emitted_comes_out_as_it_went_in(emitted: Emitted) -> None:
    assert carried(emitted) == emitted


def test_minus_infinity_is_sent_as_a_number() -> None:
    never = Piece(0, (1,), "x", (), (TokenLogprob(b"x", -math.inf, (Likelihood(b"y", math.nan),)),))
    read = carried(never)
    assert isinstance(read, Piece)
    assert read.logprobs == (TokenLogprob(b"x", IMPOSSIBLE, (Likelihood(b"y", IMPOSSIBLE),)),)


@pytest.mark.parametrize(
    "message",
    [
        inner.Chunk(0, logprobs=(inner.TokenLogprob(b"x", math.nan),)),
        inner.Chunk(0, calls=(inner.Call("i", "n" * 257),)),
        inner.Vector(0, b""),
        inner.Vector(0, bytes(VECTOR_MAX + 4)),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_the_wire(message: numbers.Message) -> None:
    with pytest.raises(RemoteWireError):
        decode_inner(encode_inner(message))


def part(first_index: int, count: int, *, more: bool = True) -> inner.Chunk:
    return inner.Chunk(first_index, tuple(range(count)), more=more)


@pytest.mark.parametrize(
    "rest",
    [
        [inner.End("stop")],
        [inner.Progress(1, 2)],
        [part(3, 1)],
        [part(1, 1)],
        [part(at, ARRAY_MAX) for at in range(2, ANSWER_TOKENS + ARRAY_MAX, ARRAY_MAX)],
        [part(2, 0) for _ in range(ANSWER_TOKENS)],
    ],
    ids=["an end", "progress", "a gap", "a part twice", "too many tokens", "too many parts"],
)
def test_a_piece_that_is_not_completed_is_nothing(rest: list[numbers.Message]) -> None:
    reader = Reader()
    assert reader.read(part(0, 2)) is None
    with pytest.raises(Interrupted):
        for message in rest:
            assert reader.read(message) is None


def test_a_failure_may_come_in_the_middle_of_a_piece() -> None:
    reader = Reader()
    assert reader.read(part(0, 2)) is None
    with pytest.raises(Busy):
        reader.read(inner.Fail("busy", "full"))


def test_ids_travel_before_their_text_never_after() -> None:
    """If the link breaks between two parts, nobody holds ids whose text is lost, for the piece is not read."""
    *early, last = write(Piece(0, tuple(range(500)), "text", CALLS))
    assert all(isinstance(one, inner.Chunk) and one.more and not one.text and not one.calls for one in early)
    assert msgspec.structs.asdict(last)["text"] == "text"
