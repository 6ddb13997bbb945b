"""A file in chunks: only what is right is kept, and what was kept is known after any end."""

import hashlib
import random
from collections import namedtuple
from pathlib import Path

import pytest

from meshnode.errors import DownloadFailed
from meshnode.mesh.chunks import ChunkList
from meshnode.models import place
from meshnode.models.partial import Partial
from meshwire.limits import BLOB_CHUNK_MIN

CONTENT = random.Random(1).randbytes(3 * BLOB_CHUNK_MIN - 100)
CHUNKS = [CONTENT[n : n + BLOB_CHUNK_MIN] for n in range(0, len(CONTENT), BLOB_CHUNK_MIN)]


def listed(chunks: list[bytes]) -> ChunkList:
    hashes = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
    return ChunkList(sum(map(len, chunks)), BLOB_CHUNK_MIN, hashes)


def test_chunks_come_in_any_order_and_make_the_file(tmp_path: Path) -> None:
    partial = Partial(tmp_path)
    assert partial.follow(listed(CHUNKS)) == []
    assert all(partial.put(index, CHUNKS[index]) for index in (2, 0, 1))
    partial.close()
    assert partial.path.read_bytes() == CONTENT


def test_a_wrong_chunk_is_never_written(tmp_path: Path) -> None:
    partial = Partial(tmp_path)
    partial.follow(listed(CHUNKS))
    assert partial.put(1, CHUNKS[1])
    assert not partial.put(1, CHUNKS[0])
    assert not partial.put(0, CHUNKS[0][:-1] + b"!")
    partial.close()
    assert Partial(tmp_path).follow(listed(CHUNKS)) == [1]
    assert partial.path.read_bytes()[BLOB_CHUNK_MIN : 2 * BLOB_CHUNK_MIN] == CHUNKS[1]


def test_what_was_kept_is_known_without_any_goodbye_as_far_as_lists_agree(tmp_path: Path) -> None:
    partial = Partial(tmp_path)
    partial.follow(listed(CHUNKS))
    partial.put(0, CHUNKS[0])
    partial.put(2, CHUNKS[2])  # and no close
    other = listed([CHUNKS[0], CHUNKS[1], CHUNKS[2][::-1]])
    assert Partial(tmp_path).follow(other) == [0]
    assert Partial(tmp_path).follow(listed(CHUNKS)) == [0]
    assert Partial(tmp_path).follow(listed(CHUNKS[:2])) == []


@pytest.mark.parametrize("damaged", ["chunks.list", "chunks.done", "chunks.part"])
def test_what_is_damaged_is_begun_anew(tmp_path: Path, damaged: str) -> None:
    partial = Partial(tmp_path)
    partial.follow(listed(CHUNKS))
    partial.put(0, CHUNKS[0])
    partial.close()
    (tmp_path / damaged).write_bytes(b"x")
    assert Partial(tmp_path).follow(listed(CHUNKS)) == []


def test_a_chunk_that_the_disk_lost_is_found(tmp_path: Path) -> None:
    partial = Partial(tmp_path)
    partial.follow(listed(CHUNKS))
    partial.put(0, CHUNKS[0])
    partial.put(1, CHUNKS[1])
    with partial.path.open("r+b") as file:
        file.write(b"damaged")
    assert [partial.recheck(0), partial.recheck(1)] == [False, True]
    partial.close()
    assert Partial(tmp_path).follow(listed(CHUNKS)) == [1]


def test_room_on_the_disk_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(place.shutil, "disk_usage", lambda _where: usage(place.SPACE_SLACK_BYTES + 1000))
    with pytest.raises(DownloadFailed, match="MiB free"):
        Partial(tmp_path).follow(listed(CHUNKS))
    assert list(tmp_path.iterdir()) == []
