"""The twin of the real network: many nodes in one process, messages as bytes, delays from a seeded rng.

Under virtual time it is deterministic. It can be cut and healed: what is sent into a cut waits there, as TCP
would retransmit it, and is delivered after the heal if the link still lives.
"""

from collections import deque
from collections.abc import Callable

import structlog
import trio

from meshnode.errors import MeshError, PortInUse, Unreachable
from meshnode.net.base import Accept, Hello
from meshnode.net.hello import agree
from meshnode.seams import Rng
from meshwire import limits

BUFFER_BYTES = 256 * 1024  # what a connection takes before a sender has to wait, like a socket's buffers
SCHEME = "mem://"
log = structlog.get_logger("meshnode.net.memory")


class MemoryNetwork:
    """All of the network. Each node gets its own place in it: `network.place("a")` is reached at mem://a.

    The one-way delay between two places is drawn once from `delay_s` (lowest, highest). `on_message` sees
    every message as it is sent: from which place, to which, and its bytes.
    """

    def __init__(
        self,
        rng: Rng,
        delay_s: tuple[float, float] = (0.0, 0.0),
        on_message: Callable[[str, str, bytes], None] = lambda _source, _target, _message: None,
    ) -> None:
        self.on_message = on_message
        self._rng = rng
        self._delay_range_s = delay_s
        self._delays_s: dict[tuple[str, str], float] = {}
        self._cuts: dict[tuple[str, str], bool] = {}
        self._transports: dict[MemoryTransport, None] = {}
        self.listeners: dict[str, _Listener] = {}

    def place(self, name: str) -> "MemoryPlace":
        """The network as the node of this name sees it."""
        return MemoryPlace(self, name)

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Let nothing through from a to b, nor back unless `one_way`."""
        self._cuts[a, b] = True
        if not one_way:
            self._cuts[b, a] = True

    def heal(self, a: str, b: str) -> None:
        """Let everything through again, both ways, what waited first."""
        self._cuts.pop((a, b), None)
        self._cuts.pop((b, a), None)
        for transport in self._transports:
            transport.wake()

    def crash(self, name: str) -> None:
        """Close every connection of a place at once, as when its process dies."""
        self.listeners.pop(name, None)
        for transport in [transport for transport in self._transports if transport.ends[0] == name]:
            transport.close()

    def is_cut(self, a: str, b: str) -> bool:
        """Whether nothing gets from a to b."""
        return (a, b) in self._cuts

    def delay_s(self, a: str, b: str) -> float:
        """The one-way delay between two places."""
        pair = (min(a, b), max(a, b))
        if pair not in self._delays_s:
            self._delays_s[pair] = self._rng.uniform(*self._delay_range_s)
        return self._delays_s[pair]

    def connect(
        self, a: str, b: str, a_hello: Hello, b_hello: Hello
    ) -> "tuple[MemoryTransport, MemoryTransport]":
        """Both ends of a new connection; each holds what the other said of itself."""
        there, back = _Wire(self, a, b), _Wire(self, b, a)
        near = MemoryTransport(self, (a, b), there, back, b_hello)
        far = MemoryTransport(self, (b, a), back, there, a_hello)
        self._transports |= {near: None, far: None}
        return near, far

    def forget(self, transport: "MemoryTransport") -> None:
        """A closed end is no concern of cuts and heals any more."""
        self._transports.pop(transport, None)


class _Listener:
    def __init__(self, hello: Hello, accept: Accept, nursery: trio.Nursery) -> None:
        self.hello = hello
        self._accept = accept
        self._nursery = nursery

    def take(self, transport: "MemoryTransport") -> None:
        self._nursery.start_soon(self._serve, transport)

    async def _serve(self, transport: "MemoryTransport") -> None:
        try:
            await self._accept(transport)
        except MeshError as error:
            log.debug("connection ended", remote=transport.remote, why=str(error))
        finally:
            transport.close()


class MemoryPlace:
    """The Network of one node."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network = network
        self._name = name

    async def dial(self, address: str, hello: Hello) -> "MemoryTransport":
        """As `Network.dial`. A cut is silence, so it takes all of HANDSHAKE_S to notice."""
        target = address.removeprefix(SCHEME)
        network = self._network
        await trio.sleep(2 * network.delay_s(self._name, target))
        if network.is_cut(self._name, target) or network.is_cut(target, self._name):
            await trio.sleep(limits.HANDSHAKE_S)
            raise Unreachable(f"{address} did not answer within {limits.HANDSHAKE_S:g} s.")
        listener = network.listeners.get(target)
        if listener is None:
            raise Unreachable(f"Nothing listens at {address}.")
        theirs = agree(hello, listener.hello, address)
        ours = agree(listener.hello, hello, self._name)
        near, far = network.connect(self._name, target, ours, theirs)
        listener.take(far)
        return near

    async def serve(
        self,
        address: str,
        hello: Hello,
        accept: Accept,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """As `Network.serve`."""
        name = address.removeprefix(SCHEME)
        if name in self._network.listeners:
            raise PortInUse(f"{address} is taken.", hint="Give each node a name of its own.")
        async with trio.open_nursery() as nursery:
            listener = self._network.listeners[name] = _Listener(hello, accept, nursery)
            try:
                task_status.started(SCHEME + name)
                await trio.sleep_forever()
            finally:
                if self._network.listeners.get(name) is listener:
                    del self._network.listeners[name]


class _Wire:
    """One direction of a connection: messages with the time each arrives, None for the end."""

    def __init__(self, network: MemoryNetwork, source: str, target: str) -> None:
        self._network = network
        self._ends = (source, target)
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._queued_bytes = 0
        self.lot = trio.lowlevel.ParkingLot()
        self.closed = False
        self.unread = False  # the reading end has closed

    async def put(self, message: bytes) -> None:
        while self._queued_bytes + len(message) > BUFFER_BYTES and not self.closed:
            await self.lot.park()
        if self.closed:
            raise Unreachable("The connection is closed.")
        self._queued_bytes += len(message)
        self._network.on_message(*self._ends, message)
        self._append(message)

    def end(self) -> None:
        if not self.closed:
            self.closed = True
            self._append(None)

    def _append(self, message: bytes | None) -> None:
        self._queue.append((trio.current_time() + self._network.delay_s(*self._ends), message))
        self.lot.unpark_all()

    async def get(self) -> bytes:
        while not self.unread:
            if not self._queue or self._network.is_cut(*self._ends):
                await self.lot.park()
                continue
            due, message = self._queue[0]
            if due > trio.current_time():
                await trio.sleep_until(due)
                continue
            if message is None:
                raise Unreachable("The other end closed the connection.")
            self._queue.popleft()
            self._queued_bytes -= len(message)
            self.lot.unpark_all()
            return message
        raise Unreachable("The connection is closed.")


class MemoryTransport:
    """One end of a connection."""

    def __init__(
        self, network: MemoryNetwork, ends: tuple[str, str], out: _Wire, back: _Wire, peer_hello: Hello
    ) -> None:
        self._network = network
        self._out = out
        self._back = back
        self.ends = ends
        self.remote = SCHEME + ends[1]
        self.peer_hello = peer_hello
        self._closed = False

    async def send(self, message: bytes) -> None:
        """As `Transport.send`."""
        await trio.lowlevel.checkpoint()
        if len(message) > limits.TRANSPORT_MESSAGE_MAX:
            raise ValueError(f"a message of {len(message)} bytes is too long")
        await self._out.put(bytes(message))

    async def receive(self) -> bytes:
        """As `Transport.receive`."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise Unreachable("The connection is closed.")
        return await self._back.get()

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once; the other end hears of it after the delay, and its sends fail as soon as it does."""
        if not self._closed:
            self._closed = True
            self._out.end()
            self._back.closed = self._back.unread = True
            self.wake()
            self._network.forget(self)

    def wake(self) -> None:
        """Something about the network changed: look again."""
        self._out.lot.unpark_all()
        self._back.lot.unpark_all()
