"""Networks of the Linux kernel for real node processes: a namespace for each, switches, and cables to pull.

Everything lies in network namespaces of its own, also the switches, so this machine's network is not touched
and deleting the namespaces leaves nothing. Their names carry the process that made them: what one that was
killed has left, processes and all, is removed by the next. It needs root and iproute2; it knows no nodes.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count
from pathlib import Path

import psutil
import trio

from meshnode.errors import MeshError

PREFIX = "meshnode-"
PLACES = Path("/run/netns")
SUBNET = "10.77.{switch}.{host}"
HOSTS_MAX = 200
COMMAND_S = 20.0
ENDED_WITHIN_S = 5.0
CLONE_NEWNET = 0x40000000
CHUNK_BYTES = 64 * 1024
_serial = count()


class NoNamespaces(MeshError):
    """This machine lets us make no network namespaces; the message says why."""


@dataclass
class Host:
    """A machine of the network; `addresses` has one for each switch it is plugged into."""

    name: str
    namespace: str
    addresses: dict[str, str] = field(default_factory=dict)
    cables: dict[str, str] = field(default_factory=dict)

    @property
    def program(self) -> tuple[str, ...]:
        """What a command line begins with that is to run here."""
        return ("ip", "netns", "exec", self.namespace)

    def socket(self) -> socket.socket:
        """A TCP socket of this host, in the hands of this process."""
        with _inside(self.namespace):
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    @asynccontextmanager
    async def forwarded(self, port: int) -> AsyncIterator[int]:
        """A port on this machine's loopback that leads to one on the host's own loopback."""
        async with trio.open_nursery() as nursery:

            async def carry(near: trio.SocketStream) -> None:
                async with near, trio.SocketStream(trio.socket.from_stdlib_socket(self.socket())) as far:
                    await _carry(near, far, ("127.0.0.1", port))

            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, carry, 0, host="127.0.0.1")
            )
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()


class Network:
    """Hosts, switches, and the cables between them; made by `network`."""

    def __init__(self, hosts: Sequence[str], switches: Sequence[str]) -> None:
        if len(hosts) > HOSTS_MAX:
            raise ValueError(f"at most {HOSTS_MAX} hosts")
        self._own = f"{PREFIX}{os.getpid()}-{next(_serial)}-"
        self._rack = f"{self._own}rack"
        self._switches = {name: f"s{index}" for index, name in enumerate(switches)}
        self._other = f"s{len(switches)}"
        self.hosts = {name: Host(name, f"{self._own}{index}") for index, name in enumerate(hosts)}

    def build(self) -> None:
        """Make the namespaces and, in the rack, the switches."""
        for namespace in (self._rack, *(host.namespace for host in self.hosts.values())):
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        for switch in (*self._switches.values(), self._other):
            self._in_rack("add", switch, "type", "bridge")
            self._in_rack("set", switch, "up")

    def plug(self, name: str, switch: str) -> str:
        """Lay a cable from a host to a switch; the host's address on it."""
        host, number = self.hosts[name], list(self._switches).index(switch)
        address = SUBNET.format(switch=number, host=list(self.hosts).index(name) + 1)
        cable, card = f"c{number}-{list(self.hosts).index(name)}", f"eth{number}"
        self._in_rack("add", cable, "type", "veth", "peer", "name", card, "netns", host.namespace)
        self._in_rack("set", cable, "master", self._switches[switch], "up")
        _ip("-n", host.namespace, "address", "add", f"{address}/24", "dev", card)
        _ip("-n", host.namespace, "link", "set", card, "up")
        host.addresses[switch], host.cables[switch] = address, cable
        return address

    def pull(self, name: str) -> None:
        """Take all cables of a host down at the switch: nothing is closed, nothing arrives any more."""
        for cable in self.hosts[name].cables.values():
            self._in_rack("set", cable, "down")

    def put_back(self, name: str) -> None:
        """Take them up again."""
        for cable in self.hosts[name].cables.values():
            self._in_rack("set", cable, "up")

    def part(self, names: Sequence[str], switch: str) -> None:
        """Move these hosts' cables to a switch that leads nowhere else: both sides stay up, and apart."""
        for name in names:
            self._in_rack("set", self.hosts[name].cables[switch], "master", self._other)

    def heal(self) -> None:
        """Have every cable in its own switch again."""
        for host in self.hosts.values():
            for switch, cable in host.cables.items():
                self._in_rack("set", cable, "master", self._switches[switch])

    def remove(self) -> None:
        """End what still runs in the namespaces, and delete them."""
        _remove(self._own)

    def _in_rack(self, *words: str) -> None:
        _ip("-n", self._rack, "link", *words)


@contextmanager
def network(hosts: Sequence[str], switches: Sequence[str] = ("lan",)) -> Iterator[Network]:
    """A network for as long as the context lasts; raises NoNamespaces where that cannot be.

    With one switch all hosts are plugged into it; with more, `plug` says who is where.
    """
    why = refusal()
    if why:
        raise NoNamespaces(why)
    made = Network(hosts, switches)
    try:
        made.build()
        if len(switches) == 1:
            for name in hosts:
                made.plug(name, switches[0])
        yield made
    finally:
        made.remove()


@cache
def refusal() -> str:
    """Why no network can be made here; empty where one can. Removes what processes now dead have left."""
    if os.name != "posix" or not shutil.which("ip"):
        return "there is no `ip` command (Debian's package is iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    _remove_stale()
    try:
        trial = Network(["trial"], ["lan"])
        try:
            trial.build()
            trial.plug("trial", "lan")
            trial.hosts["trial"].socket().close()
        finally:
            trial.remove()
    except (OSError, MeshError) as error:
        return f"no network namespaces here: {error}"
    return ""


def _ip(*words: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own words
        ["ip", *words],  # noqa: S607 - wherever the system has it
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )
    if done.returncode:
        raise NoNamespaces(f"`ip {' '.join(words)}` failed: {done.stderr.strip()}")


def _names() -> list[str]:
    return sorted(place.name for place in PLACES.glob(f"{PREFIX}*"))


def _remove_stale() -> None:
    for name in _names():
        pid = name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            _remove(name)


def _remove(beginning: str) -> None:
    names = [name for name in _names() if name.startswith(beginning)]
    for name in names:
        _end_processes(name)
    for name in names:
        _ip("netns", "delete", name)


def _end_processes(namespace: str) -> None:
    """SIGKILL for each process whose network is this namespace: nobody but ours has come in."""
    found = subprocess.run(  # noqa: S603 - our own words
        ["ip", "netns", "pids", namespace],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )
    pids = [int(pid) for pid in found.stdout.split() if int(pid) != os.getpid()]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=ENDED_WITHIN_S)


@contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread is in the namespace; what it opens there stays there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as home, (PLACES / namespace).open("rb") as there:

        def enter(fileno: int) -> None:
            if libc.setns(fileno, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {namespace}: {os.strerror(ctypes.get_errno())}")

        enter(there.fileno())
        try:
            yield
        finally:
            enter(home.fileno())


async def _carry(near: trio.SocketStream, far: trio.SocketStream, to: tuple[str, int]) -> None:
    """Bytes both ways, until one end has closed or is lost."""
    try:
        await far.socket.connect(to)
    except OSError:
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pour, near, far)
        await _pour(far, near)
        nursery.cancel_scope.cancel()


async def _pour(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        async for chunk in source:
            await sink.send_all(chunk)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
