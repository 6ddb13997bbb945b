"""One life of a worker process: started, spoken to in frames, ended for certain. It knows no runs."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from meshnode.engine.worker.frames import AnyEvent, Command, FrameReader, pack, read_event
from meshnode.errors import EngineFailed
from meshnode.observe import log

WORKER_COMMAND = (sys.executable, "-P", "-m", "meshnode.engine.worker")
OUTBOX_FRAMES = 4096
READ_BYTES = 1 << 16
END_GRACE_S = 2.0  # between asking a worker to go and killing it
LOG_LINE_MAX_BYTES = 2000
LAST_LINES = 8

_log = log.get("engine")


class Child:
    """A running worker. `send` never waits; `events` ends when the process does."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._put, self._outbox = trio.open_memory_channel[Command](OUTBOX_FRAMES)
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Queue a command. A worker that has not read thousands of them is wedged, and killed."""
        try:
            self._put.send_nowait(command)
        except trio.WouldBlock:
            self.kill()

    def kill(self) -> None:
        """End the process at once; `events` then ends."""
        self._process.kill()

    async def events(self) -> AsyncGenerator[AnyEvent, None]:
        """What the worker says, until it is gone. Raises FrameError when it talks nonsense."""
        assert self._process.stdout is not None
        frames = FrameReader()
        while received := await self._process.stdout.receive_some(READ_BYTES):
            for body in frames.feed(bytes(received)):
                yield read_event(body)

    async def last_words(self) -> str:
        """How it ended, and the last line it wrote to its log, for a person. Waits for its end, briefly."""
        with trio.move_on_after(END_GRACE_S):
            await self._process.wait()
        ending = _ending(self._process.returncode)
        return f"{ending}: {self._last_lines[-1]}" if self._last_lines else ending

    async def write(self) -> None:
        """Pass queued commands to the process for as long as it reads."""
        assert self._process.stdin is not None
        async for command in self._outbox:
            try:
                await self._process.stdin.send_all(pack([command]))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def read_log(self) -> None:
        """Pass its standard error to the node's log, line by line and bounded."""
        assert self._process.stderr is not None
        held = b""
        while received := await self._process.stderr.receive_some(READ_BYTES):
            *lines, held = (held + received).split(b"\n")
            if len(held) > LOG_LINE_MAX_BYTES:
                lines, held = [*lines, held], b""
            for line in lines:
                self._log_line(line)

    async def end(self) -> None:
        """Ask it to go (the end of its input), and kill it if it does not."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.move_on_after(END_GRACE_S):
            await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _log_line(self, line: bytes) -> None:
        text = line[:LOG_LINE_MAX_BYTES].decode("utf-8", "replace").strip()
        if text:
            self._last_lines.append(text)
            _log.warning("worker", said=text)


@asynccontextmanager
async def start_child(command: Sequence[str] = WORKER_COMMAND) -> AsyncIterator[Child]:
    """A worker process, for as long as the context lasts. Raises EngineFailed when it cannot be started."""
    try:
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            # A Ctrl-C at the terminal is for the node, which then ends its worker in order.
            start_new_session=True,
        )
    except OSError as error:
        raise EngineFailed(f"the worker process cannot be started: {error}") from error
    child = Child(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.write)
            nursery.start_soon(child.read_log)
            yield child
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await child.end()


def _environment() -> dict[str, str]:
    """The node's own, with the very meshnode that the node runs from first on the path."""
    here = str(Path(__file__).parents[2])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _ending(code: int | None) -> str:
    if code is None:
        return "it does not end"
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it left with code {code}"
