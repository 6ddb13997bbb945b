"""What `meshnode doctor` finds: with a node and without one, and for each thing that can be wrong."""

import os
import socket
import stat
import sys
from types import SimpleNamespace

import msgspec
import pytest
import trio
from trio.testing import MockClock

from meshnode import config, errors
from meshnode.cli import exits
from meshnode.cli.doctor import device, engine, finding, network, running
from meshnode.cli.doctor.finding import Verdict, diagnosis, examine
from meshnode.errors import BadRequest
from meshnode.identity import IDENTITY_FILE, load_or_create
from meshnode.node.home import locked_home
from meshnode.observe.snapshot import EngineView, MeshView, ModelView, PeerView
from meshnode.seams import Seams
from tests.api.fakes import END, piece
from tests.cli.fake_node import SNAPSHOT, lines_of

LOST = PeerView(node="q" * 32, name="shed", state="unreachable")


def found(result):
    (diagnosed, *_error) = lines_of(result)
    return {one["check"]: one for one in diagnosed["findings"]}


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """No models and free ports, so that a machine's own state does not decide a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / config.FILE_NAME).write_text('engine = "none"\nmodel = ""\napi_port = 0\nmesh_port = 0\n')


@pytest.mark.usefixtures("quick")
def test_a_real_request_goes_through_the_running_node(node, meshnode):
    checks = found(meshnode("doctor", "--json"))
    assert checks["request"]["verdict"] == "ok"
    assert "smollm2:135m answered" in checks["request"]["detail"]
    (job,) = node.doors.jobs
    assert (job.wish.cache, job.wish.max_price_usd, job.sampling.max_tokens) == ("off", 0, 8)
    assert "ok       request" in meshnode("doctor").stdout


@pytest.mark.usefixtures("quick")
def test_all_green_with_no_answer_is_not_green(node, meshnode):
    node.doors.refusal = errors.NoCandidate("every node is ruled out")
    result = meshnode("doctor", "--json", code=exits.TABLE["check_failed"])
    checks = found(result)
    assert [name for name, one in checks.items() if one["verdict"] == "failed"] == ["request"]
    assert "every node is ruled out" in checks["request"]["detail"]
    assert "meshnode route explain smollm2:135m" in checks["request"]["hint"]
    assert lines_of(result)[-1]["error"]["code"] == "check_failed"


@pytest.mark.usefixtures("quick")
def test_the_next_model_is_asked_when_the_first_does_not_answer(node, meshnode):
    other = ModelView(name="second:1b", nodes=("n" * 32,))
    paid = ModelView(name="paid", cloud="openai")
    node.snapshot = msgspec.structs.replace(node.snapshot, models=(paid, *SNAPSHOT.models, other))

    async def once():
        node.doors.steps = (piece(0, "ready"), END)
        raise errors.EngineFailed("the first one is broken")

    node.doors.steps = (once,)
    assert "second:1b answered" in found(meshnode("doctor", "--json"))["request"]["detail"]
    assert [job.wish.model for job in node.doors.jobs] == ["smollm2:135m", "second:1b"]


@pytest.mark.usefixtures("quick")
def test_without_a_node_it_says_how_to_start_one(meshnode):
    result = meshnode("doctor")
    assert "warning  node" in result.stdout
    assert "→ Start it with `meshnode up`" in result.stdout
    assert "ok       ports" in result.stdout
    assert "request" not in [line.split()[1] for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("quick")
def test_a_node_that_holds_the_home_and_does_not_answer_is_named(meshnode, tmp_path):
    with locked_home(tmp_path):
        checks = found(meshnode("doctor", "--json", code=51))
    assert checks["node"]["verdict"] == "failed"
    assert f"kill {os.getpid()}" in checks["node"]["hint"]
    assert found(meshnode("doctor", "--json"))["node"]["verdict"] == "warning"


def test_bad_settings_are_a_finding_and_the_rest_goes_on(meshnode, tmp_path):
    (tmp_path / config.FILE_NAME).write_text("slots = 0\n")
    checks = found(meshnode("doctor", "--json", code=51))
    assert "slots" in checks["settings"]["detail"]
    assert checks["node"]["verdict"] == "warning"
    assert "worker" not in checks


def test_nothing_is_made_where_nothing_is(tmp_path):
    home = tmp_path / "new"
    assert device.writable_home(home)[0] is Verdict.OK
    assert device.private_keys(home, Seams())[0] is Verdict.OK
    assert device.lock_holder(home) == ""
    assert not home.exists()


def test_a_home_that_is_a_file_or_open_to_others(tmp_path):
    (tmp_path / "file").write_text("")
    assert device.writable_home(tmp_path / "file")[0] is Verdict.FAILED
    tmp_path.chmod(0o777)
    assert device.writable_home(tmp_path)[0] is Verdict.WARNING


def test_keys_that_others_can_read_are_a_failure(tmp_path):
    own = load_or_create(tmp_path, os.urandom)
    assert own.name in device.private_keys(tmp_path, Seams())[1]
    (tmp_path / IDENTITY_FILE).chmod(stat.S_IRUSR | stat.S_IRGRP)
    verdict, detail, hint = device.private_keys(tmp_path, Seams())
    assert verdict is Verdict.FAILED
    assert IDENTITY_FILE in detail
    assert "chmod 600" in hint


async def test_damaged_keys_are_a_finding(tmp_path):
    load_or_create(tmp_path, os.urandom)
    (tmp_path / IDENTITY_FILE).write_text("{}")

    async def check():
        return device.private_keys(tmp_path, Seams())

    told = await examine("keys", check)
    assert (told.verdict, "damaged" in told.detail, bool(told.hint)) == (Verdict.FAILED, True, True)


@pytest.mark.parametrize(
    ("free", "verdict"), [(1_000, Verdict.FAILED), (10**9, Verdict.WARNING), (10**10, Verdict.OK)]
)
def test_room_on_the_disk(monkeypatch, tmp_path, free, verdict):
    monkeypatch.setattr(device.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert device.disk(tmp_path / "not" / "there")[0] is verdict


async def test_a_clock_behind_its_own_files_is_wrong(tmp_path):
    assert (await device.clock(tmp_path, Seams()))[0] is not Verdict.FAILED
    assert (await device.clock(tmp_path, Seams(wall=lambda: 1_000_000_000.0)))[0] is Verdict.FAILED


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        settings = config.load(None, {"api_port": port, "mesh_port": 0}, {})
        verdict, detail, _hint = network.ports(settings)
    assert verdict is Verdict.FAILED
    assert str(port) in detail
    assert network.ports(settings)[0] is Verdict.OK


@pytest.mark.parametrize(
    ("urls", "verdict"), [(("ws://127.0.0.1:1",), Verdict.WARNING), (("ws://10.0.0.1:1",), Verdict.OK)]
)
def test_only_loopback_is_a_warning(monkeypatch, urls, verdict):
    monkeypatch.setattr(network, "reachable_addresses", lambda *_args, **_named: urls)
    assert network.interfaces(config.load(None, {}, {}))[0] is verdict


async def test_a_library_that_is_missing_or_crashes(monkeypatch):
    settings = config.load(None, {}, {})
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert (await engine.library(settings))[0] is Verdict.FAILED
    monkeypatch.setattr(engine, "find_spec", lambda name: object())
    monkeypatch.setattr(engine, "LOAD", "import os; os.kill(os.getpid(), 4)")
    verdict, detail, _hint = await engine.library(settings)
    assert (verdict, "signal 4" in detail) == (Verdict.FAILED, True)
    monkeypatch.setattr(engine, "LOAD", "print('1.2')")
    assert await engine.library(settings) == (Verdict.OK, "llama-cpp-python 1.2 loads.")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no bubblewrap")
async def test_bubblewrap_that_is_there_and_forbidden_is_no_ok(monkeypatch):
    monkeypatch.setattr("meshnode.engine.sandbox._bubblewraps", lambda: ["/bin/false"])
    verdict, detail, _hint = await engine.containment(config.load(None, {}, {}))
    assert (verdict, "exit code 1" in detail) == (Verdict.WARNING, True)
    verdict, detail, _hint = await engine.containment(config.load(None, {"sandbox": "none"}, {}))
    assert (verdict, "Nothing contains" in detail) == (Verdict.WARNING, True)


def test_a_model_that_is_not_here_comes_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    verdict, _detail, hint = engine.models(config.load(None, {"model": "a:1b"}, {}), tmp_path)
    assert (verdict, hint.endswith("meshnode pull a:1b")) == (Verdict.WARNING, True)


@pytest.mark.parametrize(
    ("check", "change", "verdict"),
    [
        (running.state, {"state": "loading"}, Verdict.WARNING),
        (running.state, {"engine": EngineView(state="failed", detail="no memory")}, Verdict.FAILED),
        (running.state, {}, Verdict.OK),
        (running.mesh, {"join_state": "failed", "join_detail": "ticket used"}, Verdict.FAILED),
        (running.mesh, {"join_state": "joining"}, Verdict.WARNING),
        (running.mesh, {}, Verdict.OK),
        (running.peers, {"peers": ()}, Verdict.OK),
        (running.peers, {"peers": (LOST,)}, Verdict.FAILED),
        (running.peers, {"peers": (*SNAPSHOT.peers, LOST)}, Verdict.WARNING),
        (
            running.peers,
            {"peers": (msgspec.structs.replace(SNAPSHOT.peers[0], distrusted=("a",)),)},
            Verdict.WARNING,
        ),
        (running.peers, {}, Verdict.OK),
        (running.reachability, {"mesh_addresses": ()}, Verdict.WARNING),
        (running.reachability, {"mesh_addresses": (), "mesh": MeshView(relays=("r",))}, Verdict.OK),
    ],
)
def test_what_a_node_says_of_itself_is_judged(check, change, verdict):
    assert check(msgspec.structs.replace(SNAPSHOT, **change))[0] is verdict


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_a_check_that_hangs_ends_in_its_time():
    begun = trio.current_time()
    told = await examine("slow", trio.sleep_forever, 5)
    assert (told.verdict, trio.current_time() - begun) == (Verdict.FAILED, 5)


@pytest.mark.parametrize(
    "raised",
    [OSError("gone"), ValueError("x"), BadRequest("no", hint="do"), ExceptionGroup("n", [OSError("x")])],
)
async def test_what_a_check_runs_into_is_its_finding(raised):
    async def check():
        raise raised

    told = await examine("it", check)
    assert (told.verdict, told.hint) == (Verdict.FAILED, getattr(raised, "hint", ""))


def test_the_worst_finding_is_the_verdict():
    made = [finding.Finding("a", verdict, "") for verdict in (Verdict.WARNING, Verdict.FAILED, Verdict.OK)]
    assert diagnosis(made).verdict is Verdict.FAILED
    assert diagnosis(made[:1]).verdict is Verdict.WARNING
    assert diagnosis([]).verdict is Verdict.OK


@pytest.mark.parametrize("bug", [ZeroDivisionError(), ExceptionGroup("n", [ZeroDivisionError()])])
async def test_a_bug_in_a_check_is_not_hidden(bug):
    async def check():
        raise bug

    with pytest.raises((ZeroDivisionError, ExceptionGroup)):
        await examine("it", check)


@pytest.mark.usefixtures("quick")
def test_an_api_that_wants_a_key_says_where_to_put_it(node, meshnode):
    node.doors.refusal = errors.KeyRefused("There is no key.")
    asked = found(meshnode("doctor", "--json", code=51))["request"]
    assert (asked["detail"], "MESHNODE_API_KEY" in asked["hint"]) == ("There is no key.", True)
    assert len(node.doors.jobs) == 1


@pytest.mark.usefixtures("quick")
def test_an_answer_that_does_not_come_is_waited_for_in_bounds(node, meshnode, monkeypatch):
    monkeypatch.setattr(running, "REQUEST_S", 0.3)
    node.doors.place_s = 600
    asked = found(meshnode("doctor", "--json", code=51))["request"]
    assert "no answer within 0.3 seconds" in asked["detail"]


@pytest.mark.usefixtures("quick")
def test_an_api_that_is_gone_is_a_finding(node, meshnode):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        node.snapshot = msgspec.structs.replace(node.snapshot, api_url=url)
        checks = found(meshnode("doctor", "--json", code=51))
    assert [checks[name]["verdict"] for name in ("API", "request")] == ["failed", "failed"]
