"""What the store names is there, whole, and what it was verified to be."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from meshnode.errors import BadRequest, HomeUnusable, ModelFileInvalid
from meshnode.models import store as store_module
from meshnode.models.facts import ModelFacts
from meshnode.models.store import ModelStore, Removed, shared_cache


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
    assert "meshnode pull test" in refusal.value.hint


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
    assert store.remove("one:1m") == Removed("one:1m", 0)
    assert path.is_file()
    assert store.remove("TWO:1m") == Removed("two:1m", len(b"weights"))
    assert not path.exists()
    assert not store.is_cached(digest)
    assert store.remove("two:1m") is None


FACTS = ModelFacts(quant="Q8_0", tier=6)


def test_a_name_is_one_models_and_the_next_gets_its_quantisation(tmp_path, cache):
    store = ModelStore(tmp_path / "home", cache)
    store.add("tiny:1m", cached(cache), "one")
    other = cached(cache, b"other")
    assert store.free_name("Tiny:1M", cached(cache), "two", FACTS) == "tiny:1m"
    assert store.free_name("tiny:1m", other, "one", FACTS) == "tiny:1m"
    assert store.free_name("tiny:1m", other, "two", FACTS) == "tiny:1m-q8_0"
    store.add("tiny:1m-q8_0", cached(cache, b"third"), "three")
    assert store.free_name("tiny:1m", other, "two", FACTS) == f"tiny:1m-{other.hex()[:8]}"
    with pytest.raises(BadRequest, match="another model") as refusal:
        store.free_name("x", other, "two", FACTS, given="tiny:1m")
    assert "meshnode rm tiny:1m" in refusal.value.hint


def test_a_newer_file_under_the_same_name_frees_the_older(tmp_path, cache):
    store = ModelStore(tmp_path / "home", cache)
    old = cached(cache)
    path = store.add("tiny:1m", old, "one").path
    store.add("tiny:1m", cached(cache, b"newer"), "one")
    assert not path.exists()
    assert not store.is_cached(old)


def test_a_model_is_found_by_where_it_came_from(tmp_path, cache):
    store = ModelStore(tmp_path / "home", cache)
    model = store.add("tiny:1m", cached(cache), "hf:someone/Tiny:a.gguf", facts=FACTS)
    assert store.find("hf:someone/Tiny:a.gguf") == model
    assert store.facts(model) == FACTS


def test_two_processes_that_add_at_once_lose_nothing(tmp_path, cache):
    digest = cached(cache)
    names = [f"tiny:{number}" for number in range(16)]
    stores = [ModelStore(tmp_path / "home", cache) for _ in names]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: pair[0].add(pair[1], digest, "test"), zip(stores, names, strict=True)))
    assert [model.name for model in stores[0].models()] == sorted(names)


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
