"""Ids: what they are made of, and that text has one form only."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwire.errors import LocalWireError
from meshwire.ids import from_text, mesh_id, node_id, to_text


def test_a_node_id_is_the_start_of_the_keys_hash() -> None:
    assert node_id(b"k" * 32) == hashlib.sha256(b"k" * 32).digest()[:20]


def test_a_mesh_id_cannot_be_mistaken_for_a_node_id() -> None:
    assert mesh_id(b"k" * 32) != node_id(b"k" * 32)[:16]
    assert len(mesh_id(b"k" * 32)) == 16


def test_keys_of_another_length_are_refused() -> None:
    for derive in (node_id, mesh_id):
        with pytest.raises(LocalWireError):
            derive(b"short")


@given(st.binary(min_size=20, max_size=20))
def test_text_round_trip(identifier: bytes) -> None:
    text = to_text(identifier)
    assert len(text) == 32
    assert text == text.lower()
    assert from_text(text) == identifier


@pytest.mark.parametrize(
    "text", ["", "a", "A" * 32, "a" * 31, "a" * 33, "0" * 32, "ä" * 32, "a" * 24, "a" * 32 + "="]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(LocalWireError):
        from_text(text)
