"""Streams that nobody reads, beside one that is read: the connection's credit is less than the sum of theirs."""

import pytest

from meshwire import limits
from meshwire.messages import Open
from meshwire.streams import Inflow
from tests.meshwire.pairs import Pair, open_pair


def fill(pair: Pair, count: int, payload: int) -> list[int]:
    """Streams on which a sends whatever it may, and b uses nothing up."""
    streams = []
    for _ in range(count):
        stream = pair.a.open(Open("ask"))
        streams.append(stream)
        while pair.a.credit(stream) >= payload:
            pair.a.send_data(stream, bytes(payload))
        pair.settle()
        pair.b.send_data(stream, b"heard")  # else too many are without an answer
        pair.settle()
    return streams


def pass_through(pair: Pair, stream: int, payload: int, amount: int) -> int:
    """How many bytes pass on a stream that b reads at once, up to an amount."""
    passed = 0
    while passed < amount and pair.a.credit(stream) >= payload:
        pair.a.send_data(stream, bytes(payload))
        pair.settle()
        pair.b.consumed(stream, payload)
        pair.settle()
        passed += payload
    return passed


@pytest.mark.parametrize(("count", "payload"), [(9, 100), (25, 100), (22, 4000), (16, 30_000)])
def test_streams_that_nobody_reads_do_not_stop_one_that_is_read(count: int, payload: int) -> None:
    pair = open_pair(sealed=False)
    fill(pair, count, payload)
    read = pair.a.open(Open("ask"))
    amount = 3 * limits.CONNECTION_CREDIT
    assert pass_through(pair, read, payload, amount) >= amount


def test_what_is_due_comes_back_when_others_take_the_rest() -> None:
    pair = open_pair(sealed=False)
    read = pair.a.open(Open("ask"))
    pass_through(pair, read, 30_000, 180_000)  # less than half of the window: none of it has been given back
    fill(pair, 14, 30_000)
    assert pass_through(pair, read, 30_000, 600_000) >= 600_000


def test_a_stream_that_nobody_reads_may_fill_its_window_while_there_is_room() -> None:
    pair = open_pair(sealed=False)
    (stream,) = fill(pair, 1, 1000)
    spent = limits.STREAM_CREDIT - pair.a._streams._streams[stream].outflow.left
    assert spent > 0.9 * limits.STREAM_CREDIT


def test_a_share_is_given_back_by_halves_of_what_is_free() -> None:
    inflow = Inflow(100, shared=True)
    assert inflow.take(60)
    assert inflow.give(29) == 0
    assert inflow.take(12)  # 28 are left, and 29 due
    assert inflow.give(0) == 29
    assert inflow.left == 57
    assert inflow.give(0) == 0
