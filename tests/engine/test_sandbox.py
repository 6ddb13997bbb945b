"""A worker that was taken over gets nowhere: everything it could try is tried, in each kind of sandbox."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import msgspec
import psutil
import pytest
import trio

from meshnode.engine import sandbox as sandbox_module
from meshnode.engine.child import start_child
from meshnode.engine.sandbox import Sandbox
from meshnode.engine.worker.frames import Open
from meshnode.terms import Posture
from tests.engine.conftest import missing

HOSTILE = Path(__file__).with_name("hostile.py")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sandboxes are for Linux so far")
MODEL_BYTES = 100 << 20
KINDS = ("bubblewrap", "landlock")
# Each protection that can be left out, and what a hostile worker then gets done: proof that the attempts
# above are real ones, and that none of these protections can be lost without a test that fails.
NEEDED = {
    ("bubblewrap", "filter"): {"socket inet", "socket unix", "socket pair", "fork", "become another program"},
    ("bubblewrap", "limits"): {"fill the memory", "raise a limit"},
    ("bubblewrap", "wrapping"): {"read the key", "change the model", "write beside the model"},
    ("landlock", "filter"): {
        "socket unix",
        "fork",
        "open the key to all",
        "outlive the node",
    },
    ("landlock", "landlock"): {"read the key", "write to the home", "see processes", "read the passwords"},
    ("landlock", "limits"): {"fill the memory", "raise a limit"},
}


@pytest.fixture
def place(tmp_path: Path):
    """A key in its home, and a model, as they lie outside."""
    secret, model = tmp_path / "home" / "identity.key", tmp_path / "models" / "model.gguf"
    for path in (secret, model):
        path.parent.mkdir()
        path.write_text("secret")
    return secret, model


def launch_of(place, kind, *, readable=(), **given):
    """How a hostile worker is started: as the real one is, but for the name of its program."""
    secret, model = place
    sandbox = Sandbox(
        "auto" if kind == "bubblewrap" else kind, private=(secret,), readable=(HOSTILE, *readable)
    )
    told = {"secret": str(secret), "model": str(model), "node": os.getpid(), "port": 0} | given
    launch = sandbox.launch((sys.executable, "-P", str(HOSTILE), json.dumps(told)), str(model), MODEL_BYTES)
    if launch.wall.kind != kind:
        missing(f"{kind} is not to be had here: {sandbox.why}")
    return launch


async def said_by(launch):
    """What a hostile worker reports: its posture, and what its attempts came to."""
    with trio.fail_after(30):
        async with start_child(launch) as child:
            child.send(Open(launch.model, 1, wall=launch.wall))
            async with aclosing(child.events()) as events:
                async for confined in events:
                    return confined.posture, breaches(await anext(events))
            return missing(f"{launch.wall.kind} does not work here: {await child.last_words()}")


def breaches(report):
    """The attempts that succeeded, and what they got."""
    return {name: got for name, got in report.metadata.items() if got}


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_a_hostile_worker_tries_fails(place, kind):
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        posture, got = await said_by(launch_of(place, kind, port=listener.socket.getsockname()[1]))
    assert got == {}
    assert posture == Posture(kind=kind, network=False, writes=False, reads=False)
    assert posture.contained
    assert place[0].read_text() == "secret"


@pytest.mark.parametrize(("kind", "without"), NEEDED)
async def test_each_protection_is_needed(place, kind, without):
    needed = NEEDED[kind, without]
    launch = launch_of(place, kind, without=without, attempts=sorted(needed))
    if without == "wrapping":
        launch = dataclasses.replace(launch, wrapping=(), model=str(place[1]))
    posture, got = await said_by(launch)
    assert got.keys() == needed
    assert posture.contained == (without == "limits")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_that_lies_among_what_is_readable_is_told_of(place, kind):
    posture, got = await said_by(launch_of(place, kind, readable=(place[0],), attempts=["read the key"]))
    assert got == {"read the key": "secret"}
    assert posture == Posture(kind=kind, network=False, writes=False, reads=True)


async def test_without_a_file_to_try_nothing_counts_as_unreadable(place):
    launch = launch_of(place, "landlock", attempts=["read the key"])
    nothing_private = msgspec.structs.replace(launch.wall, private=())
    posture, _ = await said_by(dataclasses.replace(launch, wall=nothing_private))
    assert posture.reads
    assert not posture.contained


def test_a_file_that_is_not_there_proves_nothing(place):
    sandbox = Sandbox(private=(place[0], place[0].with_name("no.key")))
    assert sandbox.launch(("x",), str(place[1])).wall.private in ((str(place[0]),), ())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hostile_worker_dies_with_its_node(place, kind, tmp_path):
    launch = launch_of(place, kind, stays=True, attempts=["outlive the node"])
    node = tmp_path / "node.py"
    node.write_text(NODE)
    with subprocess.Popen(  # noqa: ASYNC220 - it is started at once
        [
            sys.executable,
            "-P",
            str(node),
            *map(json.dumps, (launch.command, launch.wrapping, launch.model)),
            msgspec.json.encode(launch.wall).decode(),
            json.dumps(launch.environment),
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    ) as process:
        worker = psutil.Process(int(process.stdout.readline()))
        assert "hostile" in " ".join(worker.cmdline())
        process.send_signal(signal.SIGKILL)
    with trio.fail_after(5):
        while lives(worker):
            await trio.sleep(0.01)


async def test_a_worker_that_is_killed_while_bubblewrap_forks_leaves_nothing(place):
    """What bubblewrap forked waits for it then, and would do so for ever."""
    launch = launch_of(place, "bubblewrap", stays=True)
    for _ in range(20):
        async with start_child(launch) as child:
            bubblewrap = child._process.pid
            forked = Path(f"/proc/{bubblewrap}/task/{bubblewrap}/children")
            while not forked.read_text():  # without a pause: it is a matter of microseconds
                pass
            child.kill()
    assert started_over(place[1]) == []


@pytest.mark.parametrize("delay_ms", range(0, 24, 6))
async def test_a_node_that_is_killed_while_its_worker_starts_leaves_nothing(place, delay_ms, tmp_path):
    launch = launch_of(place, "bubblewrap", stays=True)
    node = tmp_path / "node.py"
    node.write_text(DYING_NODE)
    facts = json.dumps([launch.command, launch.wrapping, launch.model, launch.environment, delay_ms])
    path = os.pathsep.join(sys.path)
    await trio.run_process(
        [sys.executable, "-P", node, facts], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    with trio.fail_after(5):
        while started_over(place[1]):
            await trio.sleep(0.01)


def started_over(model):
    """Processes that have to do with this model file: bubblewrap before it becomes the worker, and the worker."""
    return [process for process in psutil.process_iter() if lives(process) and mentions(process, str(model))]


def mentions(process, text):
    try:
        mounts = Path(f"/proc/{process.pid}/mountinfo").read_text()
        return text in process.cmdline() or any(
            line.split()[3].endswith(text) for line in mounts.splitlines()
        )
    except (psutil.Error, OSError):
        return False


def lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


NODE = """
import json, sys, msgspec, trio
from meshnode.engine import sandbox as sandbox_module
from meshnode.engine.child import start_child
from meshnode.engine.sandbox import Launch
from meshnode.engine.worker.frames import Open, Wall

command, wrapping, model, wall, environment = sys.argv[1:]
wall = msgspec.json.decode(wall, type=Wall)
command, wrapping, model, environment = map(json.loads, (command, wrapping, model, environment))
launch = Launch(tuple(command), environment, model, wall, tuple(wrapping))

async def main():
    async with start_child(launch) as child:
        child.send(Open(launch.model, 1, wall=launch.wall))
        async for _ in child.events():
            print(child.pid, flush=True)
            await trio.sleep(60)

trio.run(main)
"""


DYING_NODE = """
import json, os, sys, trio
from meshnode.engine.child import start_child
from meshnode.engine.sandbox import Launch
from meshnode.engine.worker.frames import Wall

command, wrapping, model, environment, delay_ms = json.loads(sys.argv[1])
launch = Launch(tuple(command), environment, model, Wall(), tuple(wrapping))

async def main():
    async with start_child(launch):
        await trio.sleep(delay_ms / 1000)
        os.kill(os.getpid(), 9)

trio.run(main)
"""


async def test_the_pid_is_that_of_the_worker_itself(place):
    launch = launch_of(place, "bubblewrap", attempts=["fork"], stays=True)
    async with start_child(launch) as child:
        child.send(Open(launch.model, 1, wall=launch.wall))
        with trio.fail_after(10):
            async with aclosing(child.events()) as events:
                await anext(events)
        assert psutil.Process(child.pid).cmdline()[-1] == launch.command[-1]
        os.kill(child.pid, signal.SIGKILL)
        assert await child.last_words() == "it was ended by SIGKILL"
        assert child.killed


def test_the_strongest_comes_first_and_each_failure_is_told(monkeypatch):
    monkeypatch.setattr(sandbox_module, "_bubblewraps", lambda: ["/usr/bin/bwrap", "/wheel/bwrap"])
    sandbox = Sandbox()
    assert (sandbox.kind, sandbox.why) == ("bubblewrap", "")
    assert sandbox.weaken("no user namespaces")
    assert sandbox.kind == "bubblewrap"
    assert sandbox.weaken("none here either")
    assert (sandbox.kind, sandbox.weaken("too old")) == ("landlock", True)
    assert (sandbox.kind, sandbox.weaken("anything")) == ("none", False)
    assert "no user namespaces" in sandbox.why
    assert "landlock: too old" in sandbox.why


def test_what_has_worked_is_not_given_up(monkeypatch):
    monkeypatch.setattr(sandbox_module, "_bubblewraps", lambda: ["/usr/bin/bwrap"])
    sandbox = Sandbox()
    assert sandbox.proven(Posture(kind="bubblewrap")) == Posture(kind="bubblewrap")
    assert not sandbox.weaken("whatever it was")
    assert sandbox.kind == "bubblewrap"


def test_a_sandbox_that_is_switched_off_or_not_to_be_had_says_so(monkeypatch):
    assert (Sandbox("none").kind, Sandbox("none").why) == ("none", "it is switched off in the settings")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Sandbox().kind == "none"
    assert "this system" in Sandbox().why


def test_a_contained_worker_gets_none_of_the_nodes_environment(place, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    environment = launch_of(place, "landlock").environment
    assert "OPENAI_API_KEY" not in environment
    assert environment["OMP_WAIT_POLICY"] == "passive"


def test_the_code_of_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "sandbox.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(block, {})
