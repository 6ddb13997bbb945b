"""`meshnode trust` from end to end, and what of it a running node tells others: no node is needed to sign."""

import json

import pytest
from click.testing import CliRunner

from meshnode import identity
from meshnode.cli import exits
from meshnode.cli.program import program
from meshnode.models.signed import statement_of
from meshnode.models.store import ModelStore
from tests.models.conftest import gguf_file


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path):
    facts = {"general.architecture": "llama", "general.basename": "Tiny", "general.size_label": "1M"}
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf_file(facts=facts, elements=1 << 10))
    return path


@pytest.fixture
def manifest(tmp_path):
    return tmp_path / "manifest.json"


@pytest.fixture
def meshnode(home):
    def invoke(*words, code=0):
        *verb, last = words
        result = CliRunner().invoke(program, [*map(str, verb), str(last), "--home", str(home)])
        assert result.exit_code == code, result.output
        return result

    return invoke


def key_of(home):
    return identity.load_or_create(home, bytes).key.hex()


def test_a_file_is_signed_checked_and_taken(meshnode, home, file, manifest):
    assert "is signed by" in meshnode("trust", "sign-weights", file, "--out", manifest).stdout
    assert json.loads(manifest.read_bytes())["signer"] == key_of(home)
    assert f"{file} is what was signed" in meshnode("trust", "verify-weights", manifest, file).stdout
    meshnode("pull", file, "--manifest", manifest)
    store = ModelStore(home / "models")
    (model,) = store.models()
    statement = statement_of(store, model.digest)
    assert statement is not None
    assert statement.signer.hex() == key_of(home)


def test_a_changed_file_is_refused(meshnode, home, file, manifest):
    meshnode("trust", "sign-weights", file, "--out", manifest)
    file.write_bytes(file.read_bytes() + b"!")
    refused = exits.TABLE["model_file_invalid"]
    meshnode("trust", "verify-weights", manifest, file, code=refused)
    meshnode("pull", file, "--manifest", manifest, code=refused)
    assert ModelStore(home / "models").models() == []


def test_a_changed_manifest_is_refused(meshnode, file, manifest):
    meshnode("trust", "sign-weights", file, "--out", manifest)
    content = json.loads(manifest.read_bytes())
    content["files"][0]["signed_at_ms"] += 1
    manifest.write_text(json.dumps(content))
    meshnode("trust", "verify-weights", manifest, code=exits.TABLE["model_file_invalid"])


def test_a_model_that_is_here_keeps_its_statement(meshnode, home, file):
    meshnode("pull", file)
    printed = json.loads(meshnode("trust", "sign-weights", "tiny:1m").stdout)
    store = ModelStore(home / "models")
    (model,) = store.models()
    statement = statement_of(store, model.digest)
    assert statement is not None
    assert printed["files"][0]["signature"] == statement.signature.hex()
    assert json.loads(meshnode("show", "--json", "tiny:1m").stdout)["signer"] == statement.signer.hex()


def test_the_root_key_signs_only_where_it_is(meshnode, home, file, manifest):
    meshnode("trust", "sign-weights", file, "--key", "root", code=exits.TABLE["not_allowed"])
    assert not (home / identity.ROOT_FILE).exists()
    root = identity.load_or_create_root(home, lambda count: b"r" * count)
    meshnode("trust", "sign-weights", file, "--key", "root", "--out", manifest)
    assert json.loads(manifest.read_bytes())["signer"] == root.public.hex()


def test_what_is_not_there_cannot_be_signed(meshnode, tmp_path):
    meshnode("trust", "sign-weights", "none:1m", code=exits.TABLE["model_not_found"])
    meshnode("trust", "verify-weights", tmp_path / "none.json", code=exits.USAGE)
