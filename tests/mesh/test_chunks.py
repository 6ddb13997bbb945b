"""Plays of the work on a file's chunks: who is asked for what, what is taken back or stolen, whom to believe."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from meshnode.mesh.chunks import ChunkList, Sharing, chunk_bytes_for, preferred
from meshwire.limits import BLOB_CHUNK_MIN, BLOB_CHUNKS_MAX, BLOB_SIZE_MAX


def promise(chunks: int = 4, other: tuple[int, ...] = (), short: int = 1) -> ChunkList:
    """A list of so many chunks, the last one short; those in `other` are not what everybody else says."""
    hashes = [hashlib.sha256(f"{n}{'!' if n in other else ''}".encode()).digest() for n in range(chunks)]
    return ChunkList(chunks * BLOB_CHUNK_MIN - short, BLOB_CHUNK_MIN, b"".join(hashes))


def test_chunks_grow_with_the_file_so_that_a_list_stays_small() -> None:
    assert chunk_bytes_for(98_000_000) == BLOB_CHUNK_MIN
    for size in (1, BLOB_CHUNK_MIN * BLOB_CHUNKS_MAX, 40 << 30, BLOB_SIZE_MAX):
        assert -(-size // chunk_bytes_for(size)) <= BLOB_CHUNKS_MAX


def test_a_list_whose_figures_do_not_fit_is_not_sound() -> None:
    good = promise()
    assert good.sound
    assert not good._replace(size_bytes=good.size_bytes + BLOB_CHUNK_MIN).sound
    assert not good._replace(chunk_bytes=2 * BLOB_CHUNK_MIN).sound
    assert not good._replace(hashes=good.hashes[:-1]).sound
    assert not ChunkList(0, BLOB_CHUNK_MIN, b"").sound


def test_each_chunk_is_asked_of_one_peer_first() -> None:
    work = Sharing(promise())
    asked = [work.next(peer, promise(), 0.0) for peer in ("a", "b", "a", "b")]
    assert asked == [0, 1, 2, 3]
    assert work.next("a", promise(), 0.0) == 1  # near the end: what the other has been at
    for index in range(4):
        work.came(index)
    assert work.done
    assert work.held_bytes == promise().size_bytes
    assert work.next("a", promise(), 1.0) is None


def test_what_the_slowest_has_been_at_for_longest_is_stolen_once() -> None:
    work = Sharing(promise(3))
    assert [work.next("slow", promise(3), float(now)) for now in range(3)] == [0, 1, 2]
    assert work.next("fast", promise(3), 5.0) == 0
    assert work.next("third", promise(3), 5.0) == 1  # 0 has two copies on their way
    work.came(0)
    work.failed("slow", 0)  # it comes too late, and that is all
    assert work.next("fast", promise(3), 6.0) == 2


def test_what_a_peer_fails_at_is_asked_of_another_and_first_comes_first() -> None:
    work = Sharing(promise())
    assert [work.next("a", promise(), 0.0), work.next("a", promise(), 0.0)] == [0, 1]
    work.failed("a", 1)
    work.failed("a", 0)
    assert [work.next("b", promise(), 1.0) for _ in range(4)] == [0, 1, 2, 3]


def test_a_chunk_is_only_asked_of_those_who_promise_the_same() -> None:
    work = Sharing(promise())
    odd = promise(other=(0, 2))
    assert [work.next("odd", odd, 0.0) for _ in range(2)] == [1, 3]
    assert not work.has_work("odd", odd)
    assert not work.hopeless([odd])  # something is on its way
    work.came(1)
    work.came(3)
    assert work.hopeless([odd])
    assert not work.hopeless([odd, promise()])
    assert [work.next("good", promise(), 1.0) for _ in range(2)] == [0, 2]


def test_what_is_held_already_is_not_asked_for() -> None:
    work = Sharing(promise(), [0, 3])
    assert [work.next("a", promise(), 0.0) for _ in range(2)] == [1, 2]
    assert work.held_bytes == 2 * BLOB_CHUNK_MIN - 1


def test_the_list_of_most_is_followed_and_of_equals_the_smaller_file() -> None:
    good, bad, small = promise(), promise(other=(1,)), promise(3)
    assert preferred({}) is None
    assert preferred({"a": bad, "b": good, "c": good}) == good
    assert preferred({"a": good, "b": small}) == small


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["next", "came", "failed"])), max_size=80))
def test_whatever_happens_no_chunk_is_forgotten(steps: list[tuple[str, str]]) -> None:
    work = Sharing(promise(6))
    out: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for now, (peer, step) in enumerate(steps):
        if step == "next":
            index = work.next(peer, promise(6), float(now))
            out[peer] += [] if index is None else [index]
        elif out[peer]:
            index = out[peer].pop()
            if step == "came":
                work.came(index)
            work.failed(peer, index)
    for peer, left in out.items():
        for index in left:
            work.failed(peer, index)
    while (index := work.next("d", promise(6), 100.0)) is not None:
        work.came(index)
    assert work.done
    assert work.held_bytes == promise(6).size_bytes
