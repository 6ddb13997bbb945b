"""Files at addresses: they go on where they stopped, wait out what passes, and say clearly what does not."""

import hashlib
import resource
from collections import namedtuple

import pytest

from meshnode.errors import BadRequest, DownloadFailed, ModelFileInvalid, ModelNotFound
from meshnode.models import place as place_module
from meshnode.models.download import Patience, Wanted, download
from meshnode.models.place import Place
from meshnode.models.progress import Meter
from meshnode.models.pull import pull
from meshnode.models.sources import web as web_module
from meshnode.models.store import ModelStore
from meshnode.seams import in_thread
from tests.models.web import Web

QUICK = Patience(stall_s=0.3, tries=3, pause_s=0.01)
MODEL = "/tiny.gguf"


@pytest.fixture
def web():
    with Web().running() as web:
        yield web


@pytest.fixture
def data(make_gguf):
    return make_gguf(elements=256 * 1024)  # a megabyte


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "place")
    place.directory.mkdir()
    return place


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "home", tmp_path / "cache")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    def quick(url, sha256=""):
        return web_module.WebSource(url, sha256, QUICK)

    monkeypatch.setattr("meshnode.models.sources.naming.WebSource", quick)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


async def fetch(url, place, *, tell=lambda _: None, **known):
    wanted = Wanted(url, plain=True, **known)
    fetched = await download(wanted, place, in_thread, Meter(tell), QUICK)
    return fetched.path.read_bytes(), fetched.digest.hex()


async def test_an_address_is_pulled_and_its_digest_recorded(web, data, store):
    url = web.put(MODEL, data)
    model = await pull(url, store, blocking=in_thread)
    assert model.path.read_bytes() == data
    assert (model.digest.hex(), model.source) == (sha256(data), url)
    assert await pull(url, store, blocking=in_thread) == model
    assert len(web.requests(MODEL)) == 1


async def test_a_signed_address_is_kept_without_its_signature(web, data, store):
    url = web.put(MODEL, data)
    with_password = url.replace("://", "://me:secret@")
    model = await pull(f"{with_password}?token=secret", store, blocking=in_thread)
    assert model.source == url
    assert web.requests(MODEL)[0]["Authorization"].startswith("Basic ")
    assert "secret" not in (store._root / "index.json").read_text()


async def test_a_wrong_digest_leaves_nothing_behind(web, data, store):
    url = web.put(MODEL, data)
    with pytest.raises(ModelFileInvalid, match="expected 00"):
        await pull(url, store, blocking=in_thread, sha256="0" * 64)
    assert store.models() == []
    assert not [path for path in store.cache.rglob("*") if path.is_file()]


async def test_what_is_no_model_is_refused_and_not_kept(web, store):
    url = web.put(MODEL, b"<html>please log in</html>")
    with pytest.raises(ModelFileInvalid, match="not a GGUF"):
        await pull(url, store, blocking=in_thread)
    assert not [path for path in store.cache.rglob("*") if path.is_file()]


async def test_a_connection_that_breaks_is_taken_up_where_it_broke(web, data, place):
    url = web.put(MODEL, data, cut=[300_000, 700_000])
    assert await fetch(url, place) == (data, sha256(data))
    ranges = [request.get("Range") for request in web.requests(MODEL)]
    assert ranges == [None, "bytes=300000-", "bytes=700000-"]
    assert web.served[MODEL] == len(data)


async def test_a_silent_server_is_asked_again_and_then_given_up(web, data, place):
    url = web.put(MODEL, data, stall=[200_000, 500_000])
    assert await fetch(url, place) == (data, sha256(data))
    place.clear()
    place.directory.mkdir()
    url = web.put(MODEL, data, stall=[200_000] * 9)
    with pytest.raises(DownloadFailed, match="no byte came for a long time") as failure:
        await fetch(url, place)
    assert "run it again to go on" in failure.value.hint
    assert place.held() == 200_000
    web.put(MODEL, data)
    assert await fetch(url, place) == (data, sha256(data))


async def test_a_file_that_changed_begins_anew(web, data, place):
    url = web.put(MODEL, data, cut=[300_000] + [300_000] * 5)
    with pytest.raises(DownloadFailed):
        await fetch(url, place)
    newer = data[:100_000] + b"\2" * (len(data) - 100_000)
    web.put(MODEL, newer, etag='"two"')
    assert await fetch(url, place) == (newer, sha256(newer))


async def test_without_a_validator_parts_are_joined_only_under_a_promise(web, data, place):
    url = web.put(MODEL, data, etag="", cut=[300_000] * 9)
    with pytest.raises(DownloadFailed):
        await fetch(url, place)
    newer = b"\2" * len(data)
    web.put(MODEL, newer, etag="")
    assert await fetch(url, place) == (newer, sha256(newer))
    assert web.requests(MODEL)[-1].get("Range") is None


async def test_a_promise_is_enough_to_go_on(web, data, place):
    url = web.put(MODEL, data, etag="", cut=[300_000])
    assert await fetch(url, place, promised=True) == (data, sha256(data))
    assert web.served[MODEL] == len(data)


@pytest.mark.parametrize("how", [{"ranges": False}, {"sized": False, "etag": ""}, {"etag": 'W/"weak"'}])
async def test_poor_servers_are_put_up_with(web, data, place, how):
    url = web.put(MODEL, data, cut=[300_000] if how.get("sized", True) else [], **how)
    assert await fetch(url, place) == (data, sha256(data))


async def test_what_is_whole_already_is_not_fetched_again(web, data, place):
    url = web.put(MODEL, data)
    await fetch(url, place)
    assert await fetch(url, place) == (data, sha256(data))
    assert web.served[MODEL] == len(data)


async def test_a_file_that_shrank_begins_anew(web, data, place):
    url = web.put(MODEL, data, cut=[300_000] * 9)
    with pytest.raises(DownloadFailed):
        await fetch(url, place)
    web.put(MODEL, data[:1000])
    assert await fetch(url, place) == (data[:1000], sha256(data[:1000]))


async def test_passing_trouble_is_waited_out(web, data, place):
    url = web.put(MODEL, data, statuses=[503, 429])
    seen = []
    assert (await fetch(url, place, tell=seen.append))[0] == data
    assert "retrying" in {progress.step for progress in seen}
    web.put(MODEL, data, statuses=[500] * 9, etag='"two"')
    place.clear()
    place.directory.mkdir()
    with pytest.raises(DownloadFailed, match="answered 500"):
        await fetch(url, place)


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (401, DownloadFailed, "HF_TOKEN"),
        (403, DownloadFailed, "HF_TOKEN"),
        (404, ModelNotFound, "Check the name"),
        (400, DownloadFailed, ""),
    ],
)
async def test_a_refusal_is_final_and_says_what_to_do(web, place, status, kind, hint):
    url = web.put(MODEL, b"", statuses=[status] * 9)
    with pytest.raises(kind, match=str(status)) as refusal:
        await fetch(url, place)
    assert hint in refusal.value.hint
    assert len(web.requests(MODEL)) == 1


async def test_redirects_are_followed_but_not_for_ever_and_not_into_the_clear(web, data, place):
    web.put(MODEL, data)
    url = web.put("/moved", redirect=MODEL)
    assert (await fetch(url, place))[0] == data
    place.clear()
    place.directory.mkdir()
    web.put("/loop", redirect="/loop")
    with pytest.raises(DownloadFailed, match="redirects"):
        await fetch(f"{web.url}/loop", place)
    assert len(web.requests("/loop")) == 6
    with pytest.raises(DownloadFailed, match="without encryption"):
        await download(Wanted(url), place, in_thread, Meter(lambda _: None), QUICK)


async def test_a_size_other_than_announced_is_refused(web, data, place):
    with pytest.raises(DownloadFailed, match="announced"):
        await fetch(web.put(MODEL, data), place, size_bytes=len(data) + 1)


async def test_an_unreachable_server_is_said_to_be_so(place):
    with pytest.raises(DownloadFailed, match="could not be reached"):
        await fetch("http://127.0.0.1:9", place)


async def test_too_little_space_is_seen_before_the_body(web, data, place, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(place_module.shutil, "disk_usage", lambda path: usage(1 << 20))
    with pytest.raises(DownloadFailed, match="1 MiB free"):
        await fetch(web.put(MODEL, data), place)
    assert place.held() == 0


async def test_a_disk_that_fills_up_is_said_to_be_full_and_what_came_is_kept(web, data, place):
    url = web.put(MODEL, data)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (600_000, most)
    )  # the kernel refuses beyond, as a full disk does
    try:
        with pytest.raises(DownloadFailed, match="full") as failure:
            await fetch(url, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert "kept" in failure.value.hint
    assert place.held() == 600_000
    assert await fetch(url, place) == (data, sha256(data))
    assert web.requests(MODEL)[-1]["Range"] == "bytes=600000-"


@pytest.mark.parametrize("url", ["http://example.com/a.gguf", "https://", "http://[::2]/a"])
async def test_addresses_in_the_clear_or_none_at_all_are_refused(store, url):
    with pytest.raises(BadRequest):
        await pull(url, store, blocking=in_thread)


async def test_progress_has_a_speed_and_an_end(web, data, place):
    seen = []
    await fetch(web.put(MODEL, data, bytes_per_s=2e6), place, tell=seen.append)
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, len(data), len(data))
    middle = seen[len(seen) // 2]
    assert 0.5e6 < middle.bytes_per_s < 8e6
    assert middle.left_s == pytest.approx((len(data) - middle.done) / middle.bytes_per_s)
    assert len(seen) < 12
