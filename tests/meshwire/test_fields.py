"""Structs as maps: round trips, strict types, and room for growth."""

from enum import IntEnum, StrEnum
from typing import Annotated, Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwire.errors import LocalWireError, RemoteWireError
from meshwire.fields import grown, pack_fields, unpack_fields


class Colour(IntEnum):
    RED = 1
    BLUE = 2


class Word(StrEnum):
    YES = "yes"


class Leaf(msgspec.Struct, frozen=True):
    key: bytes
    weight: int = 0


class Tree(msgspec.Struct, frozen=True):
    number: int
    key: bytes
    ratio: float = 0.0
    leaves: tuple[Leaf, ...] = ()
    colour: Colour = Colour.RED
    best: Leaf | None = None
    words: tuple[str, ...] = ()
    maybe: float | None = None
    flag: bool = False
    word: Word = Word.YES


INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.builds(Leaf, st.binary(max_size=8), INTEGERS)
TREES = st.builds(
    Tree,
    INTEGERS,
    st.binary(max_size=8),
    FLOATS,
    st.lists(LEAVES, max_size=3).map(tuple),
    st.sampled_from(Colour),
    st.none() | LEAVES,
    st.lists(st.text(max_size=5), max_size=3).map(tuple),
    st.none() | FLOATS,
    st.booleans(),
    st.just(Word.YES),
)


@given(TREES)
def test_round_trip_through_msgpack(tree: Tree) -> None:
    fields = pack_fields(tree)
    assert list(fields) == sorted(fields)
    wire = msgpack.unpackb(msgpack.packb(fields), strict_map_key=False)
    assert unpack_fields(Tree, wire) == tree


def test_defaults_are_left_out_and_the_name_comes_first() -> None:
    assert pack_fields(Tree(1, b"k"), name="n") == {0: "n", 1: 1, 2: b"k"}
    assert pack_fields(Tree(1, b"k", flag=True)) == {1: 1, 2: b"k", 9: True}


def test_the_name_is_left_to_the_envelope() -> None:
    assert unpack_fields(Tree, {0: "n", 1: 1, 2: b"k"}) == Tree(1, b"k")


@pytest.mark.parametrize(
    "change",
    [
        {1: True},
        {1: 1.0},
        {1: "1"},
        {1: None},
        {2: "azEy"},
        {2: [1]},
        {3: "1.0"},
        {3: float("nan")},
        {3: float("inf")},
        {4: [{}]},
        {4: {1: b"k"}},
        {4: [1]},
        {4: "x"},
        {4: None},
        {4: [None]},
        {5: 9},
        {5: "RED"},
        {6: [{1: b"k"}]},
        {6: 3},
        {7: "words"},
        {7: [b"w"]},
        {7: [1]},
        {8: float("nan")},
        {9: 1},
        {10: "no"},
        {11: 1},
        {63: 1},
        {-1: 1},
        {"1": 1},
        {None: 1},
    ],
    ids=repr,
)
def test_anything_else_is_refused(change: dict[Any, Any]) -> None:
    with pytest.raises(RemoteWireError):
        unpack_fields(Tree, {1: 1, 2: b"k"} | change)


def test_true_is_not_the_key_one() -> None:
    with pytest.raises(RemoteWireError):
        unpack_fields(Leaf, {True: b"k"})


@given(st.integers(64, 2**63), st.none() | st.text() | INTEGERS)
def test_keys_from_64_on_are_ignored(key: int, value: Any) -> None:
    assert unpack_fields(Leaf, {1: b"k", key: value}) == Leaf(b"k")
    assert unpack_fields(Tree, {1: 1, 2: b"k", 6: {1: b"k", key: value}}).best == Leaf(b"k")


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_field_is_refused(missing: int) -> None:
    fields: dict[int, Any] = {1: 1, 2: b"k"}
    del fields[missing]
    with pytest.raises(RemoteWireError):
        unpack_fields(Tree, fields)


@pytest.mark.parametrize("fields", [None, 1, "x", [1, 2]])
def test_only_a_map_is_a_struct(fields: Any) -> None:
    with pytest.raises(RemoteWireError):
        unpack_fields(Leaf, fields)


class Grown(msgspec.Struct, frozen=True):
    """A Leaf as a later version has it."""

    key: bytes
    weight: int = 0
    shade: Annotated[int, grown(64)] = 0


def test_a_field_that_came_later_is_ignored_by_older_readers() -> None:
    fields = pack_fields(Grown(b"k", 1, 7))
    assert fields == {1: b"k", 2: 1, 64: 7}
    assert unpack_fields(Grown, fields) == Grown(b"k", 1, 7)
    assert unpack_fields(Leaf, fields) == Leaf(b"k", 1)
    assert unpack_fields(Grown, pack_fields(Leaf(b"k", 1))) == Grown(b"k", 1)
    with pytest.raises(RemoteWireError):
        unpack_fields(Grown, {1: b"k", 3: 7})  # its place is no key
    with pytest.raises(RemoteWireError):
        unpack_fields(Grown, {1: b"k", 64: "x"})


def test_a_key_that_older_readers_would_refuse_is_no_key_for_growth() -> None:
    with pytest.raises(LocalWireError):
        grown(63)

    class Twice(msgspec.Struct):
        shade: Annotated[int, grown(64)] = 0
        tint: Annotated[int, grown(64)] = 0

    with pytest.raises(LocalWireError, match="ascend"):
        pack_fields(Twice())
