"""Small GGUF files that are right in every respect, to be made wrong in one."""

import struct

import pytest


def gguf_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(value) -> bytes:
    """A metadata value: a text, a number, or a list of numbers."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    if isinstance(value, list):
        return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return struct.pack("<II", 4, value)


def gguf_file(*, facts=None, tensor_type=0, elements=64, padding=0, version=3) -> bytes:
    """A GGUF file with one tensor of `elements` elements and some facts, and a list of words."""
    facts = {"general.architecture": "llama", "general.basename": "tiny"} if facts is None else facts
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(facts) + 1)
    for key, value in facts.items():
        head += gguf_string(key) + gguf_value(value)
    words = [gguf_string(word) for word in ("a", "bc")]
    head += gguf_string("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, len(words)) + b"".join(words)
    head += gguf_string("weight") + struct.pack("<IQIQ", 1, elements, tensor_type, 0)
    head += b"\0" * (-len(head) % 32)
    return head + b"\1" * (elements * 4 + padding)


@pytest.fixture
def make_gguf():
    """Makes the bytes of a small GGUF file."""
    return gguf_file
