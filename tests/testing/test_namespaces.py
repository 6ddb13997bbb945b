"""Networks of the kernel: what is cut is silent, what is killed leaves nothing, and who may not is told so."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import trio

from meshnode.testing import namespaces
from meshnode.testing.namespaces import NoNamespaces, network

ONE_LEFT = """
import subprocess, sys
from meshnode.testing.namespaces import network
with network(["left"]) as made:
    child = subprocess.Popen([*made.hosts["left"].program, "sleep", "600"])
    print(made.hosts["left"].namespace, child.pid, flush=True)
    sys.stdin.read()
"""
HANG_S = 30.0
SILENT_S = 0.4


@pytest.fixture
def permitted() -> None:
    """Skip, saying why, where no network can be made."""
    if why := namespaces.refusal():
        pytest.skip(why)


async def _connected(made: namespaces.Network, asker: str, server: str) -> tuple[trio.SocketStream, ...]:
    """Both ends of a TCP connection between two hosts."""
    listener = made.hosts[server].socket()
    address = made.hosts[server].addresses["lan"]
    listener.bind((address, 7000))
    listener.listen()
    near = trio.socket.from_stdlib_socket(made.hosts[asker].socket())
    await near.connect((address, 7000))
    listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    far = await listening.accept()
    await listening.aclose()
    return trio.SocketStream(near), far


@pytest.mark.parametrize("how", ["part", "pull"])
async def test_what_is_cut_is_silent_and_comes_when_it_is_healed(how: str, permitted: None):
    with network(["a", "b"]) as made, trio.fail_after(HANG_S):
        near, far = await _connected(made, "a", "b")
        async with near, far:
            await near.send_all(b"before")
            assert await far.receive_some(6) == b"before"
            made.part(["a"], "lan") if how == "part" else made.pull("a")
            await near.send_all(b"during")
            with trio.move_on_after(SILENT_S) as silence:
                await far.receive_some(6)
            assert silence.cancelled_caught
            made.heal() if how == "part" else made.put_back("a")
            assert await far.receive_some(6) == b"during"


async def test_a_hosts_loopback_is_reached_through_a_port_of_ours(permitted: None):
    with network(["a"]) as made, trio.fail_after(HANG_S):
        inside = made.hosts["a"].socket()
        inside.bind(("127.0.0.1", 0))
        inside.listen()
        async with trio.SocketListener(trio.socket.from_stdlib_socket(inside)) as listener:
            port = inside.getsockname()[1]
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", port)
            async with (
                made.hosts["a"].forwarded(port) as near,
                await trio.open_tcp_stream("127.0.0.1", near) as client,
            ):
                await client.send_all(b"in")
                async with await listener.accept() as server:
                    assert await server.receive_some() == b"in"
                    await server.send_all(b"out")
                    assert await client.receive_some() == b"out"


def test_what_a_killed_process_left_is_removed_by_the_next(permitted: None):
    killed = subprocess.Popen(
        [sys.executable, "-c", ONE_LEFT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with killed:
        assert killed.stdout is not None
        namespace, pid = killed.stdout.readline().split()
        child = psutil.Process(int(pid))
        killed.send_signal(signal.SIGKILL)
    assert (namespaces.PLACES / namespace).exists()
    assert child.is_running()
    namespaces.refusal.cache_clear()
    assert namespaces.refusal() == ""
    assert not list(namespaces.PLACES.glob(namespace.rpartition("-")[0] + "-*"))
    assert not child.is_running()


def test_nothing_is_left_after_a_failure(permitted: None):
    with pytest.raises(ZeroDivisionError), network(["a", "b"]) as made:
        assert Path(namespaces.PLACES / made.hosts["a"].namespace).exists()
        raise ZeroDivisionError
    assert not list(namespaces.PLACES.glob(f"{namespaces.PREFIX}{os.getpid()}-*"))


def test_who_may_not_is_told_why(monkeypatch: pytest.MonkeyPatch):
    namespaces.refusal.cache_clear()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    try:
        with pytest.raises(NoNamespaces, match="need root"), network(["a"]):
            pass
    finally:
        namespaces.refusal.cache_clear()
