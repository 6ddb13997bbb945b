"""Bringing a model to this node: hands the work to whoever can fetch and passes on how far it is."""

from collections.abc import Awaitable, Callable
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


Pull = Callable[[PullArguments, Callable[[Progress], None]], Awaitable[Pulled]]


class PullResult(msgspec.Struct, frozen=True):
    """The model that is now here; `digest` is hex."""

    name: str
    digest: str
    size_bytes: int


def pull_verb(pull: Pull) -> Verb:
    """The verb `pull`, over a function that fetches, reports progress and gives the model."""

    async def run(given: Arguments, emit: Emit) -> PullResult:
        return await pull_with(pull, read_arguments(PullArguments, given), emit)

    return run


async def pull_with(pull: Pull, arguments: PullArguments, emit: Emit) -> PullResult:
    """Pull and emit `{"event": "progress", "step", "done", "total"}`, skipping some if nobody keeps up."""
    send, receive = trio.open_memory_channel[Progress](PROGRESS_WAITING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_forward, receive, emit)
        with send:
            outcome = await _outcome(pull, arguments, send)
    if isinstance(outcome, MeshError):  # raised out here, where no nursery wraps it
        raise outcome
    return PullResult(outcome.name, outcome.digest.hex(), outcome.size_bytes)


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
        await emit(
            {"event": "progress", "step": progress.step, "done": progress.done, "total": progress.total}
        )
