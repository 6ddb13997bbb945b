"""Padded messages have one length, and say what they said before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwire import inner
from meshwire.codec import decode_inner, encode_inner
from meshwire.errors import LocalWireError
from meshwire.limits import PAD_BYTES, PAD_STEADY_BYTES
from meshwire.padding import PAD_KEY, padded
from tests.meshwire.frame_vectors import INNER


@given(st.text(max_size=2000), st.sampled_from([PAD_BYTES, PAD_STEADY_BYTES]))
def test_a_message_becomes_a_multiple_and_means_the_same(text: str, bucket: int) -> None:
    message = inner.Chunk(7, (1, 2**32 - 1), text)
    raw = encode_inner(message)
    long = padded(raw, bucket)
    assert len(long) % bucket == 0
    assert len(long) - len(raw) < bucket + 4
    assert decode_inner(long) == message


@pytest.mark.parametrize("message", INNER, ids=repr)
def test_every_message_can_be_padded(message: inner.Message) -> None:
    assert decode_inner(padded(encode_inner(message), PAD_STEADY_BYTES)) == message


def test_messages_of_any_length_below_a_bucket_look_alike() -> None:
    sizes = {len(padded(encode_inner(inner.Chunk(0, (7,), "x" * count)), PAD_BYTES)) for count in range(100)}
    assert sizes == {PAD_BYTES}


def test_no_bucket_leaves_a_message_as_it_is() -> None:
    assert padded(encode_inner(inner.Ask(b"job")), 0) == encode_inner(inner.Ask(b"job"))


def test_what_has_no_room_for_one_more_field_is_not_padded() -> None:
    with pytest.raises(LocalWireError):
        padded(b"\x92\x42\x8f" + b"\0" * 30, 64)
    with pytest.raises(LocalWireError):
        padded(encode_inner(inner.Ask(b"job")), 100_000)


def test_padding_comes_after_all_that_messages_may_grow() -> None:
    assert PAD_KEY > 64 + 32
    filled = padded(encode_inner(inner.Fail("busy", "Full.", "", 2.5, "", 7.5)), 128)  # which has key 64
    assert decode_inner(filled) == inner.Fail("busy", "Full.", "", 2.5, "", 7.5)
