"""The codec: round trips, strictness, bounds that hold before anything is built, and the golden vectors."""

import json
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwire import inner, limits, numbers
from meshwire import messages as m
from meshwire.codec import (
    DATA_PAYLOAD_MAX,
    JOINED_MAX,
    Frame,
    Joiner,
    batches,
    decode_frames,
    decode_inner,
    encode_data,
    encode_frame,
    encode_frame_as,
    encode_inner,
    scan,
    split,
)
from meshwire.digests import pack_digest
from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.inner import INNER
from meshwire.messages import NOTICES, REPLIES, TYPE_OF, Refusal
from meshwire.numbers import Flag, FrameType, Message
from tests.meshwire import frame_vectors

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors" / "frames.json"

u32 = st.integers(0, 2**32 - 1)
messages = st.one_of(
    st.builds(
        m.Open,
        st.sampled_from(["ask", "circuit"]),
        st.lists(st.binary(min_size=20, max_size=20), max_size=3).map(tuple),
    ),
    st.builds(m.Window, st.integers(1, limits.CONNECTION_CREDIT)),
    st.builds(m.Reset, st.sampled_from(list(numbers.ResetCode))),
    st.builds(m.Ping, st.integers(0, 2**63 - 1)),
    st.builds(m.GoAway, st.integers(0, 255), st.text(max_size=100)),
    st.builds(m.DhtFind, st.binary(min_size=20, max_size=20), st.booleans()),
    st.builds(
        m.GossipSyn,
        st.lists(st.tuples(st.binary(min_size=8, max_size=8), u32), max_size=20).map(pack_digest),
        u32,
    ),
)
inner_messages = st.one_of(
    st.builds(inner.Ask, st.binary(max_size=2000)),
    st.builds(inner.Chunk, u32, st.lists(u32, max_size=200).map(tuple), st.text(max_size=2000)),
    st.builds(inner.Fail, st.text(max_size=20), retry_after_s=st.none() | st.floats(0, 1e6)),
)


def read(raw: bytes) -> Frame:
    (frame,) = decode_frames(raw)
    return frame


def refused(raw: bytes) -> CloseCode:
    with pytest.raises(RemoteWireError) as caught:
        decode_frames(raw)
    return caught.value.code


@given(st.lists(st.tuples(messages, u32), max_size=8))
def test_control_frames_come_back_as_they_were(sent: list[tuple[Message, int]]) -> None:
    raw = b"".join(encode_frame(message, number) for message, number in sent)
    assert [(frame.body, frame.stream) for frame in decode_frames(raw)] == sent


@given(st.lists(st.tuples(u32, st.binary(max_size=500), st.booleans()), max_size=8))
def test_data_frames_come_back_as_they_were(sent: list[tuple[int, bytes, bool]]) -> None:
    raw = b"".join(encode_data(stream, payload, end=end) for stream, payload, end in sent)
    assert [(f.stream, f.body, f.flags == Flag.END) for f in decode_frames(raw)] == sent


@given(u32, st.binary(max_size=300), st.booleans())
def test_the_quick_reading_of_data_agrees_with_msgpack(stream: int, payload: bytes, end: bool) -> None:
    raw = encode_data(stream, payload, end=end)
    assert list(read(raw)) == msgpack.unpackb(raw)


@given(inner_messages)
def test_inner_messages_come_back_as_they_were(message: Message) -> None:
    assert decode_inner(encode_inner(message)) == message


@given(st.binary(max_size=400))
def test_random_bytes_raise_remote_errors_only(raw: bytes) -> None:
    for read_any in (decode_frames, decode_inner):
        with suppress(RemoteWireError):
            read_any(raw)


@given(st.lists(messages, min_size=1, max_size=3), st.data())
def test_changed_frames_raise_remote_errors_only(sent: list[Message], data: st.DataObject) -> None:
    raw = bytearray(b"".join(encode_frame(message, 1) for message in sent) + encode_data(1, b"payload"))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(RemoteWireError):
        decode_frames(bytes(raw))


@given(messages, st.data())
def test_frames_cut_short_are_refused(message: Message, data: st.DataObject) -> None:
    for raw in (encode_frame(message, 300), encode_data(70_000, b"x" * 300)):
        refused(raw[: data.draw(st.integers(1, len(raw) - 1))])


# --- Bounds ---


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x90"


def test_nesting_is_bounded() -> None:
    assert scan(nested(limits.DEPTH_MAX - 1), 0) == limits.DEPTH_MAX
    with pytest.raises(RemoteWireError, match="deep"):
        scan(nested(limits.DEPTH_MAX), 0)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff" + b"\x80" * 60_000,  # an array of four billion empty maps
        b"\xdc\xff\xff" + b"\x80" * 60_000,
        b"\xdf\xff\xff\xff\xff" + b"\x80" * 60_000,
        b"\x94\x03\x00\x00" + (b"\xdc\x01\x00" + b"\x91" * 7) * 200 + b"\x80" * 40_000,
        b"\x91" * 60_000,
    ],
)
def test_a_bomb_is_refused_before_it_is_built(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        refused(bomb)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_containers_are_bounded() -> None:
    key = dict.fromkeys(range(1, limits.MAP_MAX + 2), 0)
    assert refused(msgpack.packb([3, 0, 0, key])) is CloseCode.TOO_LARGE
    assert refused(msgpack.packb([3, 0, 0, {1: [0] * (limits.ARRAY_MAX + 1)}])) is CloseCode.TOO_LARGE


def test_frames_are_bounded() -> None:
    assert len(encode_data(2**32 - 1, b"x" * DATA_PAYLOAD_MAX)) <= limits.DATA_FRAME_MAX
    with pytest.raises(LocalWireError):
        encode_data(1, b"x" * (DATA_PAYLOAD_MAX + 1))
    assert refused(msgpack.packb([2, 1, 0, b"x" * limits.DATA_FRAME_MAX])) is CloseCode.TOO_LARGE
    long = msgpack.packb([7, 0, 0, {1: 9, 2: "x" * limits.CONTROL_FRAME_MAX}])
    assert refused(long) is CloseCode.TOO_LARGE
    with pytest.raises(LocalWireError):
        encode_frame(m.GoAway(9, "x" * limits.CONTROL_FRAME_MAX))


@pytest.mark.parametrize(
    "frame",
    [
        {1: 2},
        [3, 0, 0],
        [3, 0, 0, {1: 5}, 0],
        [True, 0, 0, {}],
        [3, True, 0, {1: 5}],
        [3, -1, 0, {1: 5}],
        [3, 2**32, 0, {1: 5}],
        [3, 0, 0, {1: True}],  # a boolean is no integer
        [3, 0, 0, {1: 0}],  # no credit
        [3, 0, 0, {1: 2**60}],
        [3, 0, 0, {1: 5, 2: 5}],  # an unknown field
        [3, 0, 0, {"credit": 5}],
        [3, 0, 0, [5]],
        [3, 0, 1, {1: 5}],  # no reply of that type
        [3, 0, 4, {1: 5}],
        [10, 0, 0, {}],  # a number nobody uses
        [42, 0, 0, {}],  # a reserved one
        [2, 1, 0, {}],
        [2, 1, 0, "text"],
        [2, 1, 2, b""],
        [2, -1, 0, b""],
        [2, 1.5, 0, b""],
        [17, 1, 0, {1: b"x" * 19}],
        [7, 0, 0, {1: 9, 2: b"bytes"}],
        [3, 0, 0, {1: msgpack.ExtType(1, b"x")}],
    ],
)
def test_what_is_not_quite_a_frame_is_refused(frame: Any) -> None:
    refused(msgpack.packb(frame))


def test_a_key_that_comes_twice_is_refused() -> None:
    refused(b"\x94\x03\x00\x00\x82\x01\x05\x01\x06")
    refused(b"\x94\x07\x00\x00\x82\x02\xa1a\x01\x09")  # or out of order


def test_text_must_be_utf8() -> None:
    refused(b"\x94\x07\x00\x00\x82\x01\x09\x02\xa1\xff")


def test_what_is_left_for_growth_is_ignored() -> None:
    assert read(msgpack.packb([3, 0, 0, {1: 5, 64: "new"}])).body == m.Window(5)
    assert read(msgpack.packb([99, 0, 0, {1: "whatever"}])).body is None


def test_a_refusal_has_the_type_of_what_it_refuses() -> None:
    raw = encode_frame_as(FrameType.DHT_FIND, Refusal("busy"), 5, Flag.REPLY | Flag.ERROR)
    assert read(raw) == (FrameType.DHT_FIND, 5, 3, Refusal("busy"))


def test_an_inner_message_stands_alone() -> None:
    raw = encode_inner(inner.Progress(1, 2))
    for wrong in (raw + b"\0", msgpack.packb([68]), msgpack.packb([3, {}]), msgpack.packb(["68", {}])):
        with pytest.raises(RemoteWireError):
            decode_inner(wrong)


# --- Batches and parts ---


@given(st.lists(st.integers(1, limits.DATA_FRAME_MAX), min_size=1, max_size=40))
def test_batches_keep_order_and_fit(sizes: list[int]) -> None:
    frames = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    found = batches(frames)
    assert b"".join(found) == b"".join(frames)
    assert all(0 < len(batch) <= limits.PLAINTEXT_MAX for batch in found)


@given(st.integers(0, 3 * DATA_PAYLOAD_MAX))
def test_parts_make_the_whole_again(size: int) -> None:
    whole = bytes(size)
    joiner = Joiner()
    parts = split(whole)
    assert all(len(part) <= DATA_PAYLOAD_MAX for part in parts)
    assert [joiner.add(part) for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert joiner.add(parts[-1]) == whole
    assert not joiner.waiting


def test_parts_are_bounded() -> None:
    joiner = Joiner(limit=100)
    joiner.add(b"\1" + b"x" * 60)
    assert joiner.waiting
    with pytest.raises(RemoteWireError) as caught:
        joiner.add(b"\0" + b"x" * 60)
    assert caught.value.code is CloseCode.TOO_LARGE
    with pytest.raises(LocalWireError):
        split(bytes(JOINED_MAX + 1))


@pytest.mark.parametrize("part", [b"", b"\1", b"\2x"])
def test_a_part_without_sense_is_refused(part: bytes) -> None:
    with pytest.raises(RemoteWireError):
        Joiner().add(part)


# --- Tables and vectors ---


def test_the_tables_are_complete() -> None:
    structs = [*NOTICES.values(), *REPLIES.values(), *INNER.values()]
    assert len(set(structs)) == len(structs) == len(TYPE_OF)
    assert set(m.REPLY_OF.values()) == set(REPLIES.values())
    requests = (
        set(NOTICES.values()) - set(m.NOTICES_ALONE) - {m.Open, m.Window, m.Reset, m.Ping, m.Pong, m.GoAway}
    )
    assert set(m.REPLY_OF) == requests
    spoken = {type(message) for message, _ in frame_vectors.NOTICES}
    spoken |= {type(message) for message in (*frame_vectors.REPLIES, *frame_vectors.INNER)}
    assert spoken == set(structs)


def test_the_golden_vectors_hold() -> None:
    assert json.loads(VECTORS.read_text(encoding="utf-8")) == frame_vectors.frame_vectors()


def test_every_golden_frame_is_read() -> None:
    for vector in frame_vectors.frame_vectors():
        raw = bytes.fromhex(vector["hex"])
        if vector["what"].startswith("inner"):
            what, _, _ = vector["what"].partition(" padded to ")
            assert f"inner {decode_inner(raw)!r}" == what
        else:
            assert (read(raw).stream, read(raw).flags) == (vector["stream"], vector["flags"])
