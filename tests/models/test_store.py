"""What the store names is there, whole, and what it was verified to be."""

import hashlib
import os

import pytest

from meshnode.errors import HomeUnusable, ModelFileInvalid
from meshnode.models import store as store_module
from meshnode.models.store import ModelStore, shared_cache


@pytest.fixture
def cache(tmp_path):
    directory = tmp_path / "cache"
    directory.mkdir()
    return directory


def cached(cache, data=b"weights"):
    digest = hashlib.sha256(data).digest()
    (cache / f"sha256-{digest.hex()}").write_bytes(data)
    return digest


def test_homes_share_one_file(tmp_path, cache):
    digest = cached(cache)
    stores = [ModelStore(tmp_path / home, cache) for home in "abc"]
    models = [store.add("tiny:1m", digest, "test") for store in stores]
    assert len({model.path.stat().st_ino for model in models}) == 1
    assert stores[1].find("TINY:1m") == models[1]
    assert stores[1].find(f"sha256:{digest.hex()}") == models[1]
    assert stores[1].models() == [models[1]]
    assert stores[1].find("other") is None


def test_where_links_are_impossible_the_file_is_copied(tmp_path, cache, monkeypatch):
    def refuse(*_):
        raise OSError("cross-device link")

    monkeypatch.setattr(store_module.os, "link", refuse)
    model = ModelStore(tmp_path / "home", cache).add("tiny:1m", cached(cache), "test")
    assert model.path.read_bytes() == b"weights"


def test_a_file_that_was_changed_is_found_out(tmp_path, cache):
    store = ModelStore(tmp_path / "home", cache)
    model = store.add("tiny:1m", cached(cache), "test")
    model.path.write_bytes(b"WEIGHTS")
    os.utime(model.path, ns=(1, 1))
    with pytest.raises(ModelFileInvalid, match="changed or damaged") as refusal:
        store.find("tiny:1m")
    assert "meshnode pull tiny:1m" in refusal.value.hint


def test_a_file_that_was_only_touched_is_checked_once_and_kept(tmp_path, cache, monkeypatch):
    store = ModelStore(tmp_path / "home", cache)
    model = store.add("tiny:1m", cached(cache), "test")
    os.utime(model.path, ns=(1, 1))
    assert store.find("tiny:1m") == model
    monkeypatch.setattr(store_module, "file_sha256", lambda path: pytest.fail("read again"))
    assert store.find("tiny:1m") == model


def test_a_missing_file_is_no_model(tmp_path, cache):
    store = ModelStore(tmp_path / "home", cache)
    store.add("tiny:1m", cached(cache), "test").path.unlink()
    assert store.find("tiny:1m") is None
    assert store.models() == []


def test_removing_the_last_name_removes_the_file(tmp_path, cache):
    store = ModelStore(tmp_path / "home", cache)
    digest = cached(cache)
    path = store.add("one:1m", digest, "test").path
    store.add("two:1m", digest, "test")
    assert store.remove("one:1m")
    assert path.is_file()
    assert store.remove("two:1m")
    assert not path.exists()
    assert not store.remove("two:1m")


def test_a_damaged_index_says_what_to_do(tmp_path, cache):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "index.json").write_text("{")
    with pytest.raises(HomeUnusable, match=r"index\.json"):
        ModelStore(tmp_path / "home", cache).models()


def test_the_index_is_never_half_written(tmp_path, cache, monkeypatch):
    store = ModelStore(tmp_path / "home", cache)
    digest = cached(cache)
    store.add("one:1m", digest, "test")

    def interrupted(self, target):
        raise OSError("power cut")

    monkeypatch.setattr(store_module.Path, "replace", interrupted)
    with pytest.raises(HomeUnusable):
        store.add("two:1m", digest, "test")
    assert [model.name for model in store.models()] == ["one:1m"]


def test_without_a_usable_cache_the_home_has_one_of_its_own(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert ModelStore(tmp_path / "home", blocked / "cache").cache == tmp_path / "home" / "cache"


def test_the_shared_cache_follows_the_users_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert shared_cache().is_relative_to(tmp_path) or os.uname().sysname == "Darwin"
