"""Websocket framing, held against the library that knows all of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import events
from wsproto.connection import Connection, ConnectionType
from wsproto.utilities import ProtocolError

from meshnode.net.framing import Cutter, wrap
from meshwire.limits import TRANSPORT_MESSAGE_MAX

MASK = bytes((1, 2, 3, 250))
MESSAGES = st.one_of(st.binary(max_size=300), st.integers(0, TRANSPORT_MESSAGE_MAX).map(bytes))


def cut(cutter: Cutter, stream: bytes, step: int) -> list[tuple[bool, bytes]]:
    """What comes of a stream that arrives `step` bytes at a time."""
    return [piece for at in range(0, len(stream), step) for piece in cutter.cut(stream[at : at + step])]


@given(MESSAGES)
def test_the_library_reads_what_we_wrap(message: bytes) -> None:
    for side, mask in ((ConnectionType.SERVER, MASK), (ConnectionType.CLIENT, b"")):
        reader = Connection(side)
        reader.receive_data(wrap(message, mask))
        found = list(reader.events())
        assert b"".join(event.data for event in found) == message
        assert found[-1].message_finished


@given(st.lists(MESSAGES, min_size=1, max_size=5), st.integers(1, 70_000))
def test_we_read_what_the_library_writes_however_it_arrives(messages: list[bytes], step: int) -> None:
    for side, expects_mask in ((ConnectionType.CLIENT, True), (ConnectionType.SERVER, False)):
        writer = Connection(side)
        stream = b"".join(writer.send(events.BytesMessage(data=message)) for message in messages)
        step = max(step, len(stream) // 500 + 1)
        assert cut(Cutter(expects_mask=expects_mask), stream, step) == [(True, one) for one in messages]


@pytest.mark.parametrize(
    "event",
    [
        events.Ping(payload=b"still there?"),
        events.TextMessage(data="words"),
        events.BytesMessage(data=b"part", message_finished=False),
        events.CloseConnection(code=1000),
    ],
)
def test_any_other_frame_is_handed_on_whole_and_untouched(event: events.Event) -> None:
    frame = Connection(ConnectionType.CLIENT).send(event)
    stream = wrap(b"before", MASK) + frame + wrap(b"after", MASK)
    assert cut(Cutter(expects_mask=True), stream, 1) == [(True, b"before"), (False, frame), (True, b"after")]


def test_a_frame_with_the_wrong_masking_is_left_to_the_library_to_refuse() -> None:
    assert cut(Cutter(expects_mask=True), wrap(b"bare"), 99) == [(False, wrap(b"bare"))]
    assert cut(Cutter(expects_mask=False), wrap(b"masked", MASK), 99) == [(False, wrap(b"masked", MASK))]


def test_a_length_written_longer_than_needed_is_left_to_the_library_to_refuse() -> None:
    for head, size in ((bytes((126, 0, 3)), 3), (bytes((127, 0, 0, 0, 0, 0, 0, 1, 0)), 256)):
        frame = b"\x82" + head + bytes(size)
        assert cut(Cutter(expects_mask=False), frame, 999) == [(False, frame)]


@pytest.mark.parametrize("opcode", [0x82, 0x02, 0x81, 0x89])
def test_too_long_a_frame_is_refused_by_its_head_alone(opcode: int) -> None:
    head = bytes((opcode, 127)) + (TRANSPORT_MESSAGE_MAX + 1).to_bytes(8, "big")
    with pytest.raises(ProtocolError):
        list(Cutter(expects_mask=False).cut(head))


@given(st.binary(max_size=200))
def test_noise_is_cut_or_refused_and_nothing_is_lost(noise: bytes) -> None:
    cutter = Cutter(expects_mask=True)
    try:
        pieces = list(cutter.cut(noise))
    except ProtocolError:
        return
    assert sum(len(frame) for is_message, frame in pieces if not is_message) <= len(noise)
