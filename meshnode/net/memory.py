"""The twin of the real network: many nodes in one process, messages as bytes, everything random from one rng.

Under virtual time it is deterministic. What lies between two places is told by `conditions`; what is sent into
a partition waits there, as TCP would retransmit it, and is delivered after the heal if the link still lives.
"""

import contextvars
import math
from collections import deque
from collections.abc import Callable

import structlog
import trio

from meshnode.errors import MeshError, PortInUse, Unreachable
from meshnode.net.alarm import Alarm, CallAt
from meshnode.net.base import Accept, Hello
from meshnode.net.conditions import GIVE_UP_S, KNOCKS_S, Conditions
from meshnode.net.hello import agree
from meshnode.seams import Rng
from meshwire import limits

BUFFER_BYTES = 256 * 1024  # what a connection takes before a sender has to wait, like a socket's buffers
SCHEME = "mem://"
log = structlog.get_logger("meshnode.net.memory")


class MemoryNetwork:
    """All of the network. Each node gets its own place in it: `network.place("a")` is reached at mem://a.

    The one-way delay between two places is drawn once from `delay_s` (lowest, highest), in seconds, unless
    `shape` sets another. `on_message` sees every message as it is sent: from which place, to which, and its
    bytes. `call_at` calls back at a time of trio's clock, in seconds; without it readers wait in cancel scopes.
    """

    def __init__(
        self,
        rng: Rng,
        delay_s: tuple[float, float] = (0.0, 0.0),
        on_message: Callable[[str, str, bytes], None] = lambda _source, _target, _message: None,
        call_at: CallAt | None = None,
    ) -> None:
        self.on_message = on_message
        self.call_at = call_at
        self.conditions = Conditions(rng, delay_s)
        self._transports: dict[MemoryTransport, None] = {}
        self.listeners: dict[str, _Listener] = {}

    def place(self, name: str) -> "MemoryPlace":
        """The network as the node of this name sees it."""
        return MemoryPlace(self, name)

    # --- Faults ---

    def shape(self, a: str, b: str, *, one_way: bool = False, **changes: float) -> None:
        """Change what lies between two places: the fields of `conditions.Way`, for what is sent from now on."""
        self.conditions.set(a, b, one_way=one_way, **changes)

    def partition(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Lose everything from a to b, and back unless `one_way`; TCP goes on trying for a while."""
        self.conditions.part(a, b, one_way=one_way)

    def hold(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Keep everything from a to b on its way, and back unless `one_way`, until `release`."""
        self.conditions.hold(a, b, one_way=one_way)

    def release(self, a: str, b: str) -> None:
        """Let what was held arrive, at once and in order; a partition stays."""
        self.conditions.release(a, b)
        self._wake_all()

    def heal(self, a: str, b: str) -> None:
        """Let everything through again, both ways, what waited first."""
        self.conditions.open(a, b)
        self._wake_all()

    def heal_all(self) -> None:
        """Let everything through again, everywhere."""
        self.conditions.open_all()
        self._wake_all()

    def pause(self, name: str) -> None:
        """Let a place neither send nor receive, as when its process is stopped; what it is sent waits."""
        self.conditions.pause(name)

    def resume(self, name: str) -> None:
        """The end of a pause."""
        self.conditions.resume(name)
        self._wake_all()

    def reset(self, a: str, b: str) -> None:
        """Break every connection between two places at once, as a router does that has restarted."""
        for transport in [one for one in self._transports if one.ends in ((a, b), (b, a))]:
            transport.close()

    def crash(self, name: str, *, silent: bool = False) -> None:
        """Close every connection of a place at once, as when its process dies.

        With `silent` nobody is told, as when its power fails: until it listens again, all that is sent there
        is lost.
        """
        self.listeners.pop(name, None)
        self.conditions.darken(name, dark=silent)
        for transport in [transport for transport in self._transports if transport.ends[0] == name]:
            transport.close(silent=silent)

    def listen(self, name: str, listener: "_Listener") -> None:
        """A place is there, and reached if it was dark."""
        self.listeners[name] = listener
        self.conditions.darken(name, dark=False)
        self._wake_all()

    # --- For places and their connections ---

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
        """A closed end is no concern of faults any more."""
        self._transports.pop(transport, None)

    def _wake_all(self) -> None:
        for transport in self._transports:
            transport.wake()


class _Listener:
    def __init__(self, hello: Hello, accept: Accept, nursery: trio.Nursery) -> None:
        self.hello = hello
        self._accept = accept
        self._nursery = nursery
        self._context = contextvars.copy_context()  # the listener's own, not that of whoever dials

    def take(self, transport: "MemoryTransport") -> None:
        self._context.copy().run(self._nursery.start_soon, self._serve, transport)

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
        """As `Network.dial`. A partition is silence, so it takes all of HANDSHAKE_S to notice."""
        target = address.removeprefix(SCHEME)
        network = self._network
        await self._knock(target, address)
        listener = network.listeners.get(target)
        if listener is None:
            raise Unreachable(f"Nothing listens at {address}.")
        theirs = agree(hello, listener.hello, address)
        ours = agree(listener.hello, hello, self._name)
        near, far = network.connect(self._name, target, ours, theirs)
        listener.take(far)
        return near

    async def _knock(self, target: str, address: str) -> None:
        """Get one packet there and one back, as often as TCP tries it."""
        conditions = self._network.conditions
        begun = trio.current_time()
        for pause_s in KNOCKS_S:
            await trio.sleep(pause_s)
            if conditions.connects(self._name, target):
                there, back = conditions.way(self._name, target), conditions.way(target, self._name)
                await trio.sleep(there.delay_s + back.delay_s)
                return
        await trio.sleep_until(begun + limits.HANDSHAKE_S)
        raise Unreachable(f"{address} did not answer within {limits.HANDSHAKE_S:g} s.")

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
            listener = _Listener(hello, accept, nursery)
            self._network.listen(name, listener)
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
        self._conditions = network.conditions
        self._ends = (source, target)
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._queued_bytes = 0
        self._last_arrival = 0.0
        self._lost_since: float | None = None  # when the first of the queue was first lost in a partition
        self._room = trio.lowlevel.ParkingLot()
        self._reader = Alarm(network.call_at)
        self.closed = False
        self.unread = False  # the reading end has closed

    def offer(self, message: bytes) -> bool:
        """Take a message to be sent, if there is room; raises Unreachable."""
        if self.closed:
            raise Unreachable("The connection is closed.")
        if self._queued_bytes + len(message) > BUFFER_BYTES:
            return False
        self._queued_bytes += len(message)
        self._network.on_message(*self._ends, message)
        self._append(message)
        return True

    async def put(self, message: bytes) -> None:
        """Take a message once there is room; raises Unreachable."""
        while not self.offer(message):
            await self._room.park()

    def end(self) -> None:
        """Nothing more will be sent."""
        if not self.closed:
            self.closed = True
            self._append(None)

    def wake(self) -> None:
        """Something about the network changed: look again."""
        self._room.unpark_all()
        self._reader.ring()

    def _append(self, message: bytes | None) -> None:
        arrival = self._conditions.arrival(*self._ends, len(message or b""), trio.current_time())
        self._last_arrival = max(self._last_arrival, arrival)
        self._queue.append((self._last_arrival, message))
        if len(self._queue) > 1:
            return
        if math.isfinite(arrival):
            self._reader.ring_at(self._last_arrival)  # the reader need not run before
        else:
            self._reader.ring()  # one that never comes, it waits for by itself

    async def get(self) -> bytes:
        """The next message that has arrived; raises Unreachable once the connection is lost."""
        while not self.unread:
            if not self._queue:
                await self._reader.wait()
            elif await self._first_is_here():
                return self._take()
        raise Unreachable("The connection is closed.")

    async def _first_is_here(self) -> bool:
        """Whether the first message has arrived; if not, wait for what it waits for."""
        now, due = trio.current_time(), self._queue[0][0]
        if due > now:
            await self._until(due)
            return False
        if not self._conditions.passes(*self._ends):
            if self._lost_since is None and self._conditions.parted(*self._ends):
                self._lost_since = now
            await self._reader.wait()
            return False
        if self._lost_since is not None:
            again = self._conditions.retried(*self._ends, self._lost_since, now)
            self._lost_since = None
            self._queue[0] = (again, self._queue[0][1])
            return False
        return True

    async def _until(self, due: float) -> None:
        """Wait until then, or until something changes; raises Unreachable if the connection breaks instead."""
        if math.isinf(due):
            await trio.sleep(GIVE_UP_S)
            raise Unreachable("The connection was reset: a packet did not get through.")
        await self._reader.wait(due)

    def _take(self) -> bytes:
        message = self._queue[0][1]
        if message is None:
            raise Unreachable("The other end closed the connection.")
        self._queue.popleft()
        self._queued_bytes -= len(message)
        if self._room:
            self._room.unpark_all()
        return message


class MemoryTransport:
    """One end of a connection."""

    def __init__(
        self, network: MemoryNetwork, ends: tuple[str, str], out: _Wire, back: _Wire, peer_hello: Hello
    ) -> None:
        self._network = network
        self._out = out
        self._back = back
        self._rest: deque[bytes] = deque()
        self.ends = ends
        self.remote = SCHEME + ends[1]
        self.peer_hello = peer_hello
        self._closed = False

    def send_now(self, message: bytes) -> bool:
        """As `Prompt.send_now`."""
        _check_length(message)
        try:
            if not self._rest and self._out.offer(message):
                return True
        except Unreachable:
            pass  # `send_rest` will say so
        self._rest.append(message)
        return False

    async def send_rest(self) -> None:
        """As `Prompt.send_rest`."""
        while self._rest:
            await self._out.put(self._rest[0])
            self._rest.popleft()

    async def send(self, message: bytes) -> None:
        """As `Transport.send`."""
        await trio.lowlevel.checkpoint()
        _check_length(message)
        await self._out.put(bytes(message))

    async def receive(self) -> bytes:
        """As `Transport.receive`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise Unreachable("The connection is closed.")
        return await self._back.get()

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self, *, silent: bool = False) -> None:
        """Close at once; the other end hears of it when the news gets there, or never if this end is silent.

        Until then what the other end sends is taken, as by a network, and lost.
        """
        if not self._closed:
            self._closed = True
            if not silent:
                self._out.end()
            self._out.closed = self._back.unread = True
            self.wake()
            self._network.forget(self)

    def wake(self) -> None:
        """Something about the network changed: look again."""
        self._out.wake()
        self._back.wake()


def _check_length(message: bytes) -> None:
    if len(message) > limits.TRANSPORT_MESSAGE_MAX:
        raise ValueError(f"a message of {len(message)} bytes is too long")
