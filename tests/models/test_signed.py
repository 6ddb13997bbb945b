"""A signed model: kept with who signed it, and refused before it has a name when it is not what was signed."""

import hashlib

import pytest

from meshnode.errors import BadRequest, ModelFileInvalid
from meshnode.models.signed import keep, load_manifest, pull_signed, statement_of
from meshnode.models.store import ModelStore
from meshnode.seams import inline
from meshnode.trust.weights import Manifest, manifest_of, sign, to_json
from meshwire.signing import Signer

ANN, BOB = Signer(b"a" * 32), Signer(b"b" * 32)


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models", tmp_path / "cache")


@pytest.fixture
def gguf(tmp_path, make_gguf):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(make_gguf())
    return path


def statement_about(content, signer=ANN):
    return sign(signer, hashlib.sha256(content).digest(), 1)


def written(tmp_path, *statements):
    files = tuple(manifest_of(each, name="tiny", size_bytes=1).files[0] for each in statements)
    path = tmp_path / "manifest.json"
    path.write_bytes(to_json(Manifest(signer=statements[0].signer.hex(), files=files)))
    return path


async def bring(store, gguf, manifest, **options):
    return await pull_signed(
        str(gguf), store, manifest, blocking=inline, on_progress=lambda _progress: None, **options
    )


async def test_the_statement_stays_with_the_model(tmp_path, store, gguf):
    statement = statement_about(gguf.read_bytes())
    model = await bring(store, gguf, written(tmp_path, statement))
    assert statement_of(store, model.digest) == statement
    store.remove(model.name)
    assert statement_of(store, model.digest) is None


async def test_a_file_that_was_not_signed_gets_no_name(tmp_path, store, gguf):
    manifest = written(tmp_path, statement_about(b"other weights"))
    with pytest.raises(ModelFileInvalid, match="expected"):
        await bring(store, gguf, manifest)
    assert store.models() == []


async def test_a_forged_signer_is_found_before_anything_is_fetched(tmp_path, store, gguf):
    manifest = written(tmp_path, statement_about(gguf.read_bytes()))
    manifest.write_bytes(manifest.read_bytes().replace(ANN.public.hex().encode(), BOB.public.hex().encode()))
    with pytest.raises(ModelFileInvalid, match="is not that of"):
        await bring(store, gguf, manifest)
    assert store.models() == []


async def test_of_several_files_one_must_be_named(tmp_path, store, gguf):
    content = gguf.read_bytes()
    manifest = written(tmp_path, statement_about(b"first"), statement_about(content))
    with pytest.raises(BadRequest, match="several files"):
        await bring(store, gguf, manifest)
    with pytest.raises(ModelFileInvalid, match="says nothing"):
        await bring(store, gguf, manifest, sha256="e" * 64)
    model = await bring(store, gguf, manifest, sha256=hashlib.sha256(content).hexdigest())
    assert statement_of(store, model.digest) == statement_about(content)


def test_what_is_kept_is_verified_whenever_it_is_read(store):
    statement = statement_about(b"weights")
    keep(store, statement)
    path = store.statement_file(statement.digest)
    path.write_bytes(path.read_bytes().replace(ANN.public, BOB.public))
    assert statement_of(store, statement.digest) is None
    path.write_bytes(b"rubbish")
    assert statement_of(store, statement.digest) is None


def test_a_statement_about_another_file_does_not_count(store):
    statement = statement_about(b"weights")
    keep(store, statement)
    other = hashlib.sha256(b"other").digest()
    store.statement_file(statement.digest).rename(store.statement_file(other))
    assert statement_of(store, other) is None


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(BadRequest, match="cannot be read"):
        load_manifest(tmp_path / "none.json")
