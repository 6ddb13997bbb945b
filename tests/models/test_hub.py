"""Models from a hub: the real client against a server that speaks the hub's protocol, with a CDN of its own."""

import hashlib

import pytest

from meshnode.errors import BadRequest, DownloadFailed, ModelFileInvalid, ModelNotFound
from meshnode.models.download import Patience
from meshnode.models.pull import pull
from meshnode.models.sources import hub as hub_module
from meshnode.models.sources.hub import HubFile, choose
from meshnode.models.store import ModelStore
from meshnode.seams import in_thread
from tests.models.web import Web

REPO = "someone/tiny-GGUF"
COMMIT = "c" * 40
FILE = "tiny.Q4_K_M.gguf"


@pytest.fixture
def cdn():
    with Web().running() as web:
        yield web


@pytest.fixture
def hub(cdn, monkeypatch, tmp_path):
    with Web().running() as web:
        monkeypatch.setenv("HF_ENDPOINT", web.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        quick = Patience(stall_s=0.5, tries=3, pause_s=0.01)
        monkeypatch.setattr(
            "meshnode.models.sources.naming.HubSource", lambda text: hub_module.HubSource(text, quick)
        )
        yield web


@pytest.fixture
def publish(hub, cdn):
    """Puts files into the repository as the hub does: listed by the API, resolved by a redirect to the CDN."""
    listed = []

    def add(name, data, **how):
        sha256 = hashlib.sha256(data).hexdigest()
        listed.append({
            "type": "file",
            "path": name,
            "size": len(data),
            "oid": "0" * 40,
            "lfs": {"oid": sha256, "size": len(data), "pointerSize": 134},
        })  # fmt: skip
        for revision in ("main", "v2"):
            hub.put_json(f"/api/models/{REPO}/tree/{revision}", listed)
            facts = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{sha256}"',
            }
            where = cdn.put(f"/blobs/{sha256}", data, **how)
            hub.put(f"/{REPO}/resolve/{revision}/{name}", redirect=where, headers=facts)
        return sha256

    return add


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "home", tmp_path / "cache")


async def test_a_quantisation_is_found_fetched_and_checked(publish, hub, cdn, store, make_gguf):
    data = make_gguf(elements=100_000)
    publish("README.md", b"hello")
    publish("tiny.Q8_0.gguf", make_gguf(elements=200_000))
    sha256 = publish(FILE, data)
    model = await pull(f"hf:{REPO}:q4_k_m", store, blocking=in_thread)
    assert (model.path.read_bytes(), model.digest.hex()) == (data, sha256)
    assert model.source == f"hf:{REPO}:{FILE}"
    assert await pull(f"hf:{REPO}", store, blocking=in_thread) == model
    assert len(cdn.requests(f"/blobs/{sha256}")) == 1


async def test_the_token_goes_to_the_hub_and_nowhere_else(publish, hub, cdn, store, make_gguf):
    sha256 = publish(FILE, make_gguf())
    await pull(f"hf:{REPO}@v2:{FILE}", store, blocking=in_thread)
    assert hub.requests(f"/api/models/{REPO}/tree/v2")[0]["Authorization"] == "Bearer hf_secret"
    assert hub.requests(f"/{REPO}/resolve/v2/{FILE}")[0]["Authorization"] == "Bearer hf_secret"
    (request,) = cdn.requests(f"/blobs/{sha256}")
    assert "Authorization" not in request


async def test_a_download_from_the_hub_goes_on_where_it_broke(publish, cdn, store, make_gguf):
    data = make_gguf(elements=200_000)
    sha256 = publish(FILE, data, cut=[300_000] * 4)
    with pytest.raises(DownloadFailed, match="broke off"):
        await pull(f"hf:{REPO}", store, blocking=in_thread)
    cdn.put(f"/blobs/{sha256}", data)
    await pull(f"hf:{REPO}", store, blocking=in_thread)
    assert cdn.requests(f"/blobs/{sha256}")[-1]["Range"] == "bytes=300000-"
    assert cdn.served[f"/blobs/{sha256}"] == len(data)


async def test_bytes_other_than_the_hub_announced_are_refused(publish, cdn, store, make_gguf):
    data = make_gguf()
    sha256 = publish(FILE, data)
    cdn.put(f"/blobs/{sha256}", data[:-1] + b"\2")
    with pytest.raises(ModelFileInvalid, match="expected"):
        await pull(f"hf:{REPO}", store, blocking=in_thread)
    assert store.models() == []
    assert not [path for path in store.cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ({"X-Error-Code": "GatedRepo"}, DownloadFailed, "accepted its licence"),
        ({"X-Error-Code": "RepoNotFound"}, ModelNotFound, "no repository"),
        ({"X-Error-Code": "RevisionNotFound"}, ModelNotFound, "no repository"),
        ({}, DownloadFailed, "refused"),
    ],
)
async def test_the_hubs_refusals_are_put_in_words(hub, store, how, kind, words):
    status = 403 if kind is DownloadFailed else 404
    hub.put(f"/api/models/{REPO}/tree/main", statuses=[status], headers=how)
    with pytest.raises(kind, match=words):
        await pull(f"hf:{REPO}", store, blocking=in_thread)


async def test_a_hub_out_of_reach_is_said_to_be_so(store, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # between the client's own tries
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        await pull(f"hf:{REPO}", store, blocking=in_thread)


@pytest.mark.parametrize("text", ["", "tiny", "a/b/c", "a/b:", "a b/c:q4", "../x/y"])
async def test_what_is_no_repository_is_refused(store, text, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BadRequest):
        await pull(f"hf:{text}", store, blocking=in_thread)


async def test_without_the_client_it_is_said_how_to_get_it(store, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(BadRequest, match="huggingface_hub") as refusal:
        await pull(f"hf:{REPO}", store, blocking=in_thread)
    assert "meshnode[hub]" in refusal.value.hint


def files(*paths):
    return [HubFile(path, 1, "") for path in paths]


USUAL = files("a-Q4_K_M.gguf", "a-Q4_K_S.gguf", "a-Q8_0.gguf", "mmproj-a-Q8_0.gguf", "README.md")


@pytest.mark.parametrize(
    ("which", "path"),
    [
        ("", "a-Q4_K_M.gguf"),
        ("Q8_0", "a-Q8_0.gguf"),
        ("q4_k_s", "a-Q4_K_S.gguf"),
        ("a-Q8_0.gguf", "a-Q8_0.gguf"),
    ],
)
def test_the_file_that_is_meant(which, path):
    assert choose(USUAL, which).path == path


def test_a_repository_with_one_model_needs_no_choice():
    assert choose(files("sub/odd.gguf", "README.md"), "").path == "sub/odd.gguf"


@pytest.mark.parametrize("which", ["Q4_K", "Q2_K", "nothing.gguf"])
def test_what_is_not_there_is_answered_with_what_is(which):
    with pytest.raises(ModelNotFound) as refusal:
        choose(USUAL, which)
    assert "a-Q4_K_S.gguf" in refusal.value.hint


def test_models_in_several_files_are_refused_clearly():
    with pytest.raises(BadRequest, match="one of several files"):
        choose(files("a-Q4_K_M-00001-of-00002.gguf", "a-Q4_K_M-00002-of-00002.gguf"), "Q4_K_M")
    with pytest.raises(ModelNotFound, match="no GGUF"):
        choose(files("README.md"), "")
