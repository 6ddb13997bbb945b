"""Bringing a model to this node: hands the work to whoever can fetch and passes on how far it is."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import trio

from meshnode.control.verbs import Arguments, Emit, PullArguments, Verb, read_arguments
from meshnode.errors import MeshError

PROGRESS_WAITING = 64


class Progress(Protocol):
    """How far a pull is; the figures are bytes."""

    @property
    def step(self) -> str:
        """What is being done."""
        ...

    @property
    def done(self) -> int:
        """How much of it."""
        ...

    @property
    def total(self) -> int:
        """How much there is to do; 0 when unknown."""
        ...

    @property
    def bytes_per_s(self) -> float:
        """How fast it goes; 0 when unknown."""
        ...

    @property
    def left_s(self) -> float:
        """How many seconds the rest takes at that speed; 0 when unknown."""
        ...

    @property
    def peers(self) -> int:
        """How many nodes of the mesh give it; 0 for other sources."""
        ...


class Giver(Protocol):
    """A node that gave some of a model, or should have."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def given_bytes(self) -> int:
        """How much."""
        ...

    @property
    def problem(self) -> str:
        """Why it was left out; empty if it was not."""
        ...

    @property
    def wrong(self) -> bool:
        """Whether it gave what is not the model."""
        ...


class Pulled(Protocol):
    """The model that a pull brought."""

    @property
    def name(self) -> str:
        """What it is called here."""
        ...

    @property
    def digest(self) -> bytes:
        """Its SHA-256."""
        ...

    @property
    def size_bytes(self) -> int:
        """Its size."""
        ...

    @property
    def source(self) -> str:
        """Where it came from."""
        ...

    @property
    def licence(self) -> str:
        """What its publisher allows, empty when unknown."""
        ...

    @property
    def parts(self) -> Sequence[Giver]:
        """Who gave it, if it came from the mesh just now."""
        ...


Pull = Callable[[PullArguments, Callable[[Progress], None]], Awaitable[Pulled]]


class PeerPart(msgspec.Struct, frozen=True):
    """What one node of the mesh gave of a model; `wrong` says that it gave what is not the model."""

    name: str
    given_bytes: int = 0
    problem: str = ""
    wrong: bool = False


class PullResult(msgspec.Struct, frozen=True):
    """The model that is now here; `digest` is hex; `peers` is who gave it, if it came from the mesh."""

    name: str
    digest: str
    size_bytes: int
    source: str = ""
    licence: str = ""
    peers: tuple[PeerPart, ...] = ()


def pull_verb(pull: Pull) -> Verb:
    """The verb `pull`, over a function that fetches, reports progress and gives the model."""

    async def run(given: Arguments, emit: Emit) -> PullResult:
        return await pull_with(pull, read_arguments(PullArguments, given), emit)

    return run


async def pull_with(pull: Pull, arguments: PullArguments, emit: Emit) -> PullResult:
    """Pull and emit events `progress`: `step`, `done`, `total`, and `bytes_per_s` and `left_s` once known.

    Some are skipped if nobody keeps up.
    """
    send, receive = trio.open_memory_channel[Progress](PROGRESS_WAITING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_forward, receive, emit)
        with send:
            outcome = await _outcome(pull, arguments, send)
    if isinstance(outcome, MeshError):  # raised out here, where no nursery wraps it
        raise outcome
    peers = tuple(PeerPart(one.name, one.given_bytes, one.problem, one.wrong) for one in outcome.parts)
    digest = outcome.digest.hex()
    return PullResult(outcome.name, digest, outcome.size_bytes, outcome.source, outcome.licence, peers)


async def _outcome(
    pull: Pull, arguments: PullArguments, out: trio.MemorySendChannel[Progress]
) -> Pulled | MeshError:
    def report(progress: Progress) -> None:
        with suppress(trio.WouldBlock):
            out.send_nowait(progress)

    try:
        return await pull(arguments, report)
    except MeshError as error:
        return error


async def _forward(receive: trio.MemoryReceiveChannel[Progress], emit: Emit) -> None:
    async for progress in receive:
        await emit(progress_event(progress))


def progress_event(progress: Progress) -> dict[str, object]:
    """Progress as the event that everybody who watches gets."""
    event: dict[str, object] = {
        "event": "progress",
        "step": progress.step,
        "done": progress.done,
        "total": progress.total,
    }
    if progress.peers:
        event["peers"] = progress.peers
    speed = {"bytes_per_s": round(progress.bytes_per_s), "left_s": round(progress.left_s, 1)}
    return event | speed if progress.bytes_per_s else event
