"""`meshnode ping`: how long a frame takes to another node and back, and over which way."""

from __future__ import annotations

import math
import signal
import statistics
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import click
import msgspec
import trio

from meshnode.cli import client
from meshnode.cli.complete import nodes_known
from meshnode.cli.render import Screen, milliseconds
from meshnode.cli.verb import verb
from meshnode.control.ping import TIMEOUT_DEFAULT_S, TIMEOUT_MAX_S, PingArguments, PingView
from meshnode.errors import BadRequest, Unreachable

COUNT_DEFAULT = 5
INTERVAL_S = (0.1, 3600.0)
ID_CHARACTERS = 8
SAMPLES_MAX = 100_000  # for the median; a day at one a second


class PingLine(PingView, frozen=True, kw_only=True, tag_field="event", tag="ping"):
    """What `ping` prints for each: `n` counts from 1; see `PingView` for the rest."""

    n: int


class PingEnd(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="end"):
    """What `ping` prints last. `loss` is the share without an answer; the round trips are None where all are lost.

    `direct` and `relayed` count the answers by the way that they took.
    """

    node: str
    name: str
    sent: int
    answered: int
    loss: float
    direct: int
    relayed: int
    min_ms: float | None = None
    median_ms: float | None = None
    max_ms: float | None = None


class Tally:
    """What has come of the pings so far."""

    def __init__(self) -> None:
        self.sent = 0
        self.direct = 0
        self.relayed = 0
        self.last: PingView | None = None
        self._rtts_ms: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._bounds_ms: tuple[float, float] | None = None

    def take(self, view: PingView) -> None:
        """One more."""
        self.sent += 1
        self.last = view
        if view.rtt_ms is None:
            return
        self._rtts_ms.append(view.rtt_ms)
        least, most = self._bounds_ms or (view.rtt_ms, view.rtt_ms)
        self._bounds_ms = (min(least, view.rtt_ms), max(most, view.rtt_ms))
        if view.relays:
            self.relayed += 1
        else:
            self.direct += 1

    @property
    def answered(self) -> int:
        """How many were answered."""
        return self.direct + self.relayed

    def end(self) -> PingEnd:
        """The account of at least one."""
        assert self.last is not None
        least, most = self._bounds_ms or (None, None)
        return PingEnd(
            node=self.last.node,
            name=self.last.name,
            sent=self.sent,
            answered=self.answered,
            loss=1 - self.answered / self.sent,
            direct=self.direct,
            relayed=self.relayed,
            min_ms=least,
            median_ms=statistics.median(self._rtts_ms) if self._rtts_ms else None,
            max_ms=most,
        )


@click.command()
@click.argument("node", shell_complete=nodes_known)
@click.option(
    "-c",
    "--count",
    default=COUNT_DEFAULT,
    show_default=True,
    type=click.IntRange(0),
    help="How many; 0 goes on until Ctrl-C.",
)
@click.option(
    "-i",
    "--interval",
    "interval_s",
    default=1.0,
    show_default=True,
    type=click.FloatRange(*INTERVAL_S),
    help="Seconds from one to the next.",
)
@click.option(
    "--timeout",
    "timeout_s",
    default=TIMEOUT_DEFAULT_S,
    show_default=True,
    type=click.FloatRange(0.01, TIMEOUT_MAX_S),
    help="Seconds to wait for each.",
)
@verb
async def ping(
    screen: Screen, home: Path, *, node: str, count: int, interval_s: float, timeout_s: float
) -> None:
    """Measure the round trip to NODE, over the way that a request would take there.

    NODE is a name, an id or the beginning of one, as `meshnode peers` shows them. Each line says whether the way is
    direct or leads through relays; where there is no link yet it begins relayed and may become direct. Ctrl-C ends it
    with the same account as the last one does.
    """
    if math.isnan(interval_s) or math.isnan(timeout_s):
        raise BadRequest("Seconds are a number.", param="interval")
    tally = Tally()
    ask = partial(_ask, home, timeout_s)
    try:
        stopped = await _until_ctrl_c(partial(_series, screen, tally, ask, node, count, interval_s))
    finally:
        if tally.sent:
            _account(screen, tally.end())
    if stopped and not tally.sent:
        raise KeyboardInterrupt
    if not tally.answered:
        raise Unreachable(
            f"{node} did not answer.",
            hint="`meshnode peers` shows what is known of it; `meshnode doctor` looks for what is wrong here.",
        )


async def _ask(home: Path, timeout_s: float, node: str) -> PingView:
    return await client.call(home, "ping", msgspec.structs.asdict(PingArguments(node, timeout_s)), PingView)


async def _series(
    screen: Screen,
    tally: Tally,
    ask: Callable[[str], Awaitable[PingView]],
    node: str,
    count: int,
    interval_s: float,
) -> None:
    """One after the other; after the first it is clear which node is meant, whatever it calls itself then."""
    while True:
        begun = trio.current_time()
        view = await ask(node)
        tally.take(view)
        node = view.node
        screen.json(PingLine(n=tally.sent, **msgspec.structs.asdict(view)))
        screen.line(_told(tally.sent, view))
        if tally.sent == count:
            return
        await trio.sleep_until(begun + interval_s)


async def _until_ctrl_c(work: Callable[[], Awaitable[None]]) -> bool:
    """Do the work, and leave off at Ctrl-C; whether it was left."""
    stopped = False
    with trio.open_signal_receiver(signal.SIGINT) as signals, trio.CancelScope() as scope:

        async def listen() -> None:
            nonlocal stopped
            await anext(signals)
            stopped = True
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await work()
            nursery.cancel_scope.cancel()
    return stopped


def _told(n: int, view: PingView) -> str:
    who = f"{view.name or view.node[:ID_CHARACTERS]} ({view.node[:ID_CHARACTERS]})"
    if view.rtt_ms is None:
        return f"{n:>3}  {who}  lost: {view.why}"
    way = f"via {', '.join(view.relays)}" if view.relays else f"direct, {view.address}"
    return f"{n:>3}  {who}  {milliseconds(view.rtt_ms)}  {way}"


def _account(screen: Screen, end: PingEnd) -> None:
    screen.json(end)
    ways = (f"{end.direct} direct" if end.direct else "", f"{end.relayed} relayed" if end.relayed else "")
    told = ", ".join(filter(None, ways))
    screen.line(
        f"{end.sent} sent, {end.answered} answered{f' ({told})' if told else ''}, {end.loss:.0%} lost"
    )
    if end.median_ms is not None:
        least, middle, most = map(milliseconds, (end.min_ms, end.median_ms, end.max_ms))
        screen.line(f"min {least}, median {middle}, max {most}")
