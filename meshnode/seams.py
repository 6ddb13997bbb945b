"""Where the world comes in: clocks, randomness, blocking work. The simulator swaps every one of them."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import psutil
import trio

from meshnode.terms import Reading
from meshwire import records, signing

Rng = random.Random
T = TypeVar("T")


class Blocking(Protocol):
    """Through this goes all work that would block the event loop: SQLite, files, long computations."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Run `work` and return what it returns; its exceptions pass through."""
        ...


async def in_thread(work: Callable[[], T], /) -> T:
    """Run blocking work in a thread; a caller that is cancelled leaves it to finish alone."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


async def inline(work: Callable[[], T], /) -> T:
    """Run blocking work at once: under virtual time a thread would let deadlines pass while it works."""
    await trio.lowlevel.checkpoint()
    return work()


def _free_memory_bytes() -> int:
    """Memory that programs could still get without swapping, in bytes."""
    return int(psutil.virtual_memory().available)


@dataclass(frozen=True, slots=True)
class Seams:
    """What a node takes from outside itself.

    `wall` gives unix seconds (the monotonic clock is trio's); `rng` feeds jitter and choices; `entropy(n)`
    gives n secret bytes; `blocking` runs work that would stall the loop; `verify` checks signatures, `read`
    those of records, and reads these; `free_memory_bytes` is what the machine has left; `look` says what it is doing,
    None for the machine itself, and `signs` what else shows that its owner needs it (a game, a GPU at work), which
    whoever embeds a node may know. For tests only: without `durable` what is stored need not outlive a power cut;
    `relay_tap` sees each payload that this node relays, after the link's own encryption is off, and
    `seal_circuits` switches the end-to-end encryption off at both ends.
    """

    wall: Callable[[], float] = time.time
    rng: Rng = field(default_factory=random.SystemRandom)
    entropy: Callable[[int], bytes] = os.urandom
    blocking: Blocking = in_thread
    verify: records.Verify = signing.verify
    read: records.Read = records.read_record
    free_memory_bytes: Callable[[], int] = _free_memory_bytes
    look: Callable[[], Reading] | None = None
    signs: Callable[[], tuple[str, ...]] = tuple
    durable: bool = True
    relay_tap: Callable[[bytes], None] | None = None
    seal_circuits: bool = True

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return int(self.wall() * 1000)
