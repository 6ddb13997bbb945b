"""A sound header is read; every truncation and every forged count is told apart, quickly."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import ModelFileInvalid
from meshnode.models.gguf import ARRAY_MAX, METADATA_MAX, STRING_MAX_BYTES, TENSORS_MAX, read_header


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


@given(st.binary(max_size=300))
def test_noise_never_does_anything_but_be_refused(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "model.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + noise)
    with contextlib.suppress(ModelFileInvalid):
        read_header(path)
