"""Models that Ollama has already: linked, verified, and left as they are."""

import hashlib
import json

import pytest

from meshnode.errors import BadRequest, ModelFileInvalid, ModelNotFound
from meshnode.models import store as store_module
from meshnode.models.pull import pull
from meshnode.models.store import ModelStore
from meshnode.seams import inline

LAYER = "application/vnd.ollama.image.model"


@pytest.fixture
def ollama(tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    return tmp_path / "ollama"


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "home", tmp_path / "cache")


def put(ollama, data, *, name="library/tiny/latest", digest="", layers=1):
    digest = digest or f"sha256:{hashlib.sha256(data).hexdigest()}"
    manifest = ollama / "manifests" / "registry.example" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:00", "size": 1}]
    rows += [{"mediaType": LAYER, "digest": digest, "size": len(data)}] * layers
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": rows}))
    blob = ollama / "blobs" / digest.replace(":", "-")
    if "/" not in digest:
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(data)
    return blob


async def test_a_blob_is_linked_and_left_as_it_is(ollama, store, make_gguf):
    blob = put(ollama, make_gguf())
    before = blob.stat().st_mode
    model = await pull("ollama:tiny", store, blocking=inline)
    assert model.path.samefile(blob)
    assert blob.stat().st_mode == before
    assert (model.name, model.source) == ("tiny-latest", "ollama:tiny")
    assert store.remove(model.name).freed_bytes == 0
    assert blob.is_file()


async def test_a_tag_and_an_owner(ollama, store, make_gguf):
    put(ollama, make_gguf(), name="someone/tiny/1m")
    assert (await pull("ollama:someone/tiny:1m", store, blocking=inline)).path.is_file()
    with pytest.raises(ModelNotFound, match="no someone/tiny on"):
        await pull("ollama:someone/tiny", store, blocking=inline)


async def test_where_it_cannot_be_linked_it_is_copied(ollama, store, make_gguf, monkeypatch):
    def refuse(*_):
        raise PermissionError

    blob = put(ollama, make_gguf())
    monkeypatch.setattr(store_module.os, "link", refuse)
    model = await pull("ollama:tiny", store, blocking=inline)
    assert model.path.read_bytes() == blob.read_bytes()
    assert not model.path.samefile(blob)


async def test_a_damaged_blob_is_refused_and_left_to_its_owner(ollama, store, make_gguf):
    blob = put(ollama, make_gguf())
    blob.write_bytes(make_gguf()[:-1] + b"\2")
    with pytest.raises(ModelFileInvalid, match="expected"):
        await pull("ollama:tiny", store, blocking=inline)
    assert blob.is_file()
    assert store.models() == []


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "sha256:00", "../" + "0" * 64])
async def test_a_forged_manifest_leads_nowhere(ollama, store, make_gguf, digest):
    put(ollama, make_gguf(), digest=digest)
    with pytest.raises(ModelFileInvalid, match="cannot be"):
        await pull("ollama:tiny", store, blocking=inline)


async def test_manifests_that_are_none_or_not_of_one_model(ollama, store, make_gguf):
    put(ollama, make_gguf(), layers=2)
    with pytest.raises(ModelFileInvalid, match="2 model files"):
        await pull("ollama:tiny", store, blocking=inline)
    (ollama / "manifests" / "registry.example" / "library" / "tiny" / "latest").write_text("{")
    with pytest.raises(ModelFileInvalid, match="cannot be read"):
        await pull("ollama:tiny", store, blocking=inline)


@pytest.mark.parametrize("text", ["", "../tiny", "a/b/c", "tiny:../x", "tiny:"])
async def test_what_is_no_name_is_refused(ollama, store, text):
    with pytest.raises(BadRequest):
        await pull(f"ollama:{text}", store, blocking=inline)
