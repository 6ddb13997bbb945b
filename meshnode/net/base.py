"""What a network is to the rest of the node: bytes to and from another place. It knows no frames, no peers.

Two networks keep these protocols: `websocket` (real) and `memory` (its deterministic twin). One test suite
runs over both.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

import msgspec
import trio


class Hello(msgspec.Struct, frozen=True):
    """What two ends compare before any handshake, so that a misfit is a clear error.

    `versions` are the protocol versions spoken, best first; `mesh` is the 16-byte mesh id. A dialler that
    does not know the mesh yet gives b"", meaning "tell me", and reads the answer from `peer_hello`.
    """

    versions: tuple[int, ...]
    mesh: bytes


class Transport(Protocol):
    """One connection that carries whole messages, in order, in both directions."""

    @property
    def remote(self) -> str:
        """The other end's address, for people to read."""
        ...

    @property
    def peer_hello(self) -> Hello:
        """What the other end said of itself; its versions are those both ends speak, best first."""
        ...

    async def send(self, message: bytes) -> None:
        """Send one message of at most TRANSPORT_MESSAGE_MAX bytes; raises Unreachable once it is lost.

        A caller that is cancelled inside may have broken the connection: shield it, or close afterwards.
        """
        ...

    async def receive(self) -> bytes:
        """The next message; raises Unreachable once the connection is lost."""
        ...

    async def aclose(self) -> None:
        """Close the connection, without waiting for what is still queued. Safe to call twice."""
        ...


@runtime_checkable
class Guarded(Protocol):
    """A transport that counts as a stranger's until its other end has proved who it is."""

    def introduced(self) -> None:
        """The other end has proved its key and been admitted."""
        ...


@runtime_checkable
class Prompt(Protocol):
    """A transport that can often send without waiting, which spares the sender a cancel scope and a turn."""

    def send_now(self, message: bytes) -> bool:
        """Send a message without waiting; False if some of it has to wait, for `send_rest`. Order is kept."""
        ...

    async def send_rest(self) -> None:
        """Send what had to wait; raises Unreachable, also for what went wrong in `send_now`."""
        ...


Accept = Callable[[Transport], Awaitable[None]]


class Network(Protocol):
    """A way to reach other nodes and to be reached."""

    async def dial(self, address: str, hello: Hello) -> Transport:
        """Connect to an address.

        Raises Unreachable when nothing answers within HANDSHAKE_S, WrongProtocol when what answers is no
        meshnode or shares no version with us, WrongMesh when it belongs to another mesh.
        """
        ...

    async def serve(
        self,
        address: str,
        hello: Hello,
        accept: Accept,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on an address for ever, and run `accept` for each connection, which closes when it returns.

        A MeshError that `accept` lets through ends that connection only. Reports through `task_status` the
        address as bound (port 0 becomes the port taken); raises PortInUse.
        """
        ...
