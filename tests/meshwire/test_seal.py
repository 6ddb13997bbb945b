"""The seal: what a relay can tell from lengths, and what it can open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwire.codec import decode_frames, encode_data
from meshwire.errors import RemoteWireError
from meshwire.limits import PLAINTEXT_MAX
from meshwire.noise import CipherState
from meshwire.seal import PAD_BUCKET, PAD_TYPE, Seal, padding

KEY = bytes(range(32))


def two_ends(*, bucket: int = PAD_BUCKET, on: bool = True) -> tuple[Seal, Seal]:
    back = bytes(reversed(KEY))
    near = Seal((CipherState(KEY), CipherState(back)), bucket=bucket, on=on)
    return near, Seal((CipherState(back), CipherState(KEY)), bucket=bucket, on=on)


@given(st.integers(0, PLAINTEXT_MAX))
def test_padding_fills_whole_buckets_wherever_it_fits(size: int) -> None:
    total = size + len(padding(size, PAD_BUCKET))
    assert total <= PLAINTEXT_MAX
    assert total % PAD_BUCKET == 0 or size > PLAINTEXT_MAX - 2 * PAD_BUCKET


@given(st.binary(min_size=1, max_size=600))
def test_padding_is_a_frame_that_is_skipped(payload: bytes) -> None:
    near, far = two_ends()
    frames = decode_frames(far.open(near.close(encode_data(3, payload))))
    assert [frame.body for frame in frames if frame.type != PAD_TYPE] == [payload]
    assert all(frame.body is None for frame in frames if frame.type == PAD_TYPE)


def test_tokens_of_different_length_look_alike() -> None:
    near, _ = two_ends()
    assert len({len(near.close(encode_data(3, bytes(size)))) for size in range(1, 100)}) == 1


def test_without_a_bucket_nothing_is_added() -> None:
    near, far = two_ends(bucket=0)
    assert far.open(near.close(b"x")) == b"x"
    assert len(near.close(b"x")) == 17


def test_a_changed_message_does_not_open() -> None:
    near, far = two_ends()
    message = bytearray(near.close(b"frame"))
    message[3] ^= 1
    with pytest.raises(RemoteWireError):
        far.open(bytes(message))


def test_switched_off_it_shows_everything() -> None:
    near, far = two_ends(on=False)
    message = near.close(encode_data(1, b"the prompt"))
    assert b"the prompt" in message
    assert far.open(message) == message
