"""A sound header is read; every truncation and every forged count is told apart, quickly."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import ModelFileInvalid
from meshnode.models.facts import facts_of
from meshnode.models.gguf import (
    ARRAY_MAX,
    METADATA_MAX,
    STRING_MAX_BYTES,
    TENSORS_MAX,
    TensorUse,
    read_header,
)
from tests.models.conftest import gguf_file


@pytest.fixture
def read(tmp_path):
    def read_bytes(data):
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return read_header(path)

    return read_bytes


def test_a_sound_file(read, make_gguf):
    header = read(make_gguf())
    assert (header.version, header.tensors) == (3, 1)
    assert header.facts == {"general.architecture": "llama", "general.basename": "tiny"}


def test_every_truncation_is_seen(read, make_gguf):
    data = make_gguf()
    for length in range(len(data)):
        with pytest.raises(ModelFileInvalid):
            read(data[:length])


def test_the_message_says_what_to_do(read, make_gguf):
    with pytest.raises(ModelFileInvalid, match="incomplete") as refusal:
        read(make_gguf()[:-1])
    assert "again" in refusal.value.hint


@pytest.mark.parametrize("data", [b"", b"GGUX", b"<html>not found</html>", b"GGUF" + struct.pack("<I", 1)])
def test_what_is_no_model_is_refused(read, data):
    with pytest.raises(ModelFileInvalid):
        read(data)


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<IQQ", 3, TENSORS_MAX + 1, 0),
        struct.pack("<IQQ", 3, 0, METADATA_MAX + 1),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62),
        struct.pack("<IQQ", 3, 0, 1)
        + struct.pack("<Q", 1)
        + b"k"
        + struct.pack("<IQ", 8, STRING_MAX_BYTES + 1),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 4, ARRAY_MAX + 1),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 4, ARRAY_MAX),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 4),
        struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 5),
        struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 1 << 39, 0, 0),
        struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 1, 0, 1 << 60),
    ],
)
def test_forged_counts_are_refused(read, head):
    with pytest.raises(ModelFileInvalid):
        read(b"GGUF" + head + b"\0" * 64)


SHAPE = {
    "general.architecture": "tiny",
    "general.file_type": 7,
    "tiny.block_count": 3,
    "tiny.context_length": 4096,
    "tiny.embedding_length": 256,
    "tiny.attention.head_count": 8,
    "tiny.attention.head_count_kv": [2, 0, 2],
    "tiny.attention.sliding_window": 512,
    "tiny.pooling_type": 1,
    "tokenizer.chat_template": "{{ messages }}",
}


def test_the_facts_that_a_footprint_needs(read, make_gguf):
    header = read(make_gguf(facts=SHAPE, tensor_type=8, elements=3200))
    assert (header.architecture, header.block_count, header.context_length) == ("tiny", 3, 4096)
    assert (header.embedding_length, header.head_count, header.kv_heads) == (256, 8, (2, 0, 2))
    assert (header.key_length, header.value_length, header.sliding_window) == (32, 32, 512)
    assert (header.pooling, header.has_template, header.vocabulary) == ("mean", True, 2)
    assert header.types == {"Q8_0": TensorUse(1, 3200, 3400)}
    assert (header.parameters, header.weights_bytes, header.bits_per_weight) == (3200, 3400, 8.5)
    assert header.file_type == 7


def test_heads_that_are_alike_in_all_layers(read, make_gguf):
    facts = {**SHAPE, "tiny.attention.head_count_kv": 4, "tiny.attention.key_length": 64}
    header = read(make_gguf(facts=facts))
    assert (header.kv_heads, header.key_length) == ((4, 4, 4), 64)


def test_what_a_file_does_not_say_is_zero(read, make_gguf):
    header = read(make_gguf(facts={}, tensor_type=77))
    assert (header.block_count, header.kv_heads, header.key_length, header.pooling) == (0, (), 0, "")
    assert (header.bits_per_weight, header.file_type, header.has_template) == (0.0, None, False)


def test_a_long_header_is_refused_before_it_is_read(tmp_path, monkeypatch, make_gguf):
    monkeypatch.setattr("meshnode.models.gguf.HEADER_MAX_BYTES", 100)
    path = tmp_path / "model.gguf"
    path.write_bytes(make_gguf(facts=SHAPE))
    with pytest.raises(ModelFileInvalid, match="has a header"):
        read_header(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bits_and_lost_ends_do_nothing_but_be_refused(tmp_path_factory, data):
    whole = bytearray(gguf_file(facts=SHAPE, tensor_type=8, elements=320))
    for _ in range(data.draw(st.integers(0, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "model.gguf"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(ModelFileInvalid):
        facts_of(read_header(path))


@given(st.binary(max_size=300))
def test_noise_never_does_anything_but_be_refused(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "model.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + noise)
    with contextlib.suppress(ModelFileInvalid):
        read_header(path)
