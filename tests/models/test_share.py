"""What a node gives of its files: the list of chunks, worked out once, and the check before anything is told."""

import hashlib
from pathlib import Path

import pytest
import trio
import trio.testing

from meshnode.errors import ModelNotFound, NotAllowed
from meshnode.models import share
from meshnode.models.share import Library, recall_list
from meshnode.models.store import ModelStore
from meshnode.seams import inline
from meshwire.limits import BLOB_CHUNK_MIN

CONTENT = bytes(range(256)) * (5 * BLOB_CHUNK_MIN // 512)  # two chunks and a half
DIGEST = hashlib.sha256(CONTENT).digest()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Nothing here waits for real."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def nobody(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "models", tmp_path / "cache")
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    store.add("mine", DIGEST, "file", file=file)
    return store


def allowed(_key: bytes) -> None:
    pass


async def test_a_file_is_read_by_chunks_that_are_what_the_list_says(store: ModelStore) -> None:
    async with Library(store, inline, allowed).open(b"k", DIGEST, nobody) as file:
        assert file.size_bytes == len(CONTENT)
        last = await file.read(2 * BLOB_CHUNK_MIN, BLOB_CHUNK_MIN // 2)
        assert file.hashes[64:] == hashlib.sha256(last).digest()
        assert len(file.hashes) == 96
    kept = store.chunk_list_file(DIGEST)
    found = recall_list(kept, len(CONTENT))
    assert found is not None
    assert found.hashes == file.hashes
    kept.write_bytes(kept.read_bytes()[:-1])
    assert recall_list(kept, len(CONTENT)) is None
    store.remove("mine")
    assert not kept.exists()


async def test_who_may_not_have_it_is_not_even_told_whether_it_is_here(store: ModelStore) -> None:
    def check(_key: bytes) -> None:
        raise NotAllowed("no")

    for digest in (DIGEST, b"\0" * 32):
        with pytest.raises(NotAllowed):
            async with Library(store, inline, check).open(b"k", digest, nobody):
                pass
    with pytest.raises(ModelNotFound):
        async with Library(store, inline, allowed).open(b"k", b"\0" * 32, nobody):
            pass


async def test_a_list_is_worked_out_once_for_all_who_wait_and_they_hear_how_far_it_is(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []
    truly = share._Working._hash
    monkeypatch.setattr(share._Working, "_hash", lambda own, begin: hashed.append(begin) or truly(own, begin))
    told: list[tuple[int, int]] = []

    async def slowly(work):  # type: ignore[no-untyped-def]
        await trio.sleep(3.0)
        return work()

    library = Library(store, slowly, allowed)

    async def tell(done: int, total: int) -> None:
        told.append((done, total))

    async def one(scope: trio.CancelScope) -> None:
        with scope:
            async with library.open(b"k", DIGEST, tell):
                pass

    leaves = trio.CancelScope(deadline=trio.current_time() + 8.0)  # in the middle: another goes on
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, leaves)
        nursery.start_soon(one, trio.CancelScope())
        nursery.start_soon(one, trio.CancelScope())
    assert {total for _, total in told} == {3}
    assert max(done for done, _ in told) >= 1
    assert hashed == [0, BLOB_CHUNK_MIN, 2 * BLOB_CHUNK_MIN]
