"""One life of a worker process: started, spoken to in frames, ended for certain. It knows no runs.

The process is started by the thread that runs trio, which lives as long as the node: the kernel kills a worker
when the thread that started it ends, so none of trio's own threads, which come and go, may do it.
"""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import IO

import psutil
import trio

from meshnode.engine.sandbox import Launch
from meshnode.engine.worker.frames import AnyEvent, Command, FrameReader, pack, read_event
from meshnode.errors import EngineFailed
from meshnode.observe import log

WORKER_COMMAND = (sys.executable, "-P", "-m", "meshnode.engine.worker")
OUTBOX_FRAMES = 4096
READ_BYTES = 1 << 16
END_GRACE_S = 2.0  # between asking a worker to go and killing it
END_LOOK_S = 0.005
LOG_LINE_MAX_BYTES = 2000
LAST_LINES = 8
SIGNALS = {int(one): one.name for one in signal.Signals}
SIGNALLED = 128  # bubblewrap leaves with this and the number of the signal that ended what was in it

_log = log.get("engine")


class Child:
    """A running worker. `send` never waits; `events` ends when the process does."""

    def __init__(self, process: subprocess.Popen[bytes], pipes: "_Pipes", *, wrapped: bool) -> None:
        self._process = process
        self._pipes = pipes
        self._pid = 0 if wrapped else process.pid
        self._put, self._outbox = trio.open_memory_channel[Command](OUTBOX_FRAMES)
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def pid(self) -> int:
        """The worker's process id; while bubblewrap has not started it yet, bubblewrap's."""
        if not self._pid:
            with suppress(psutil.Error):
                self._pid = next((child.pid for child in psutil.Process(self._process.pid).children()), 0)
        return self._pid or self._process.pid

    @property
    def killed(self) -> bool:
        """Whether somebody has ended it with SIGKILL: this node, the system short of memory, or a person."""
        return self._process.returncode in (-signal.SIGKILL, SIGNALLED + signal.SIGKILL)

    def send(self, command: Command) -> None:
        """Queue a command. A worker that has not read thousands of them is wedged, and killed."""
        try:
            self._put.send_nowait(command)
        except trio.WouldBlock:
            self.kill()

    def kill(self) -> None:
        """End the process at once; `events` then ends.

        Bubblewrap forks, and what it forked dies with it only from some way on: until then it is in its group.
        """
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def events(self) -> AsyncGenerator[AnyEvent, None]:
        """What the worker says, until it is gone. Raises FrameError when it talks nonsense."""
        frames = FrameReader()
        while received := await self._pipes.output.receive_some(READ_BYTES):
            for body in frames.feed(bytes(received)):
                yield read_event(body)

    async def last_words(self) -> str:
        """How it ended, and the last line it wrote to its log, for a person. Waits for its end, briefly."""
        with trio.move_on_after(END_GRACE_S):
            await self._ended()
        ending = _ending(self._process.returncode)
        return f"{ending}: {self._last_lines[-1]}" if self._last_lines else ending

    async def write(self) -> None:
        """Pass queued commands to the process for as long as it reads."""
        async for command in self._outbox:
            try:
                await self._pipes.input.send_all(pack([command]))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def read_log(self) -> None:
        """Pass its standard error to the node's log, line by line and bounded."""
        held = b""
        while received := await self._pipes.log.receive_some(READ_BYTES):
            *lines, held = (held + received).split(b"\n")
            if len(held) > LOG_LINE_MAX_BYTES:
                lines, held = [*lines, held], b""
            for line in lines:
                self._log_line(line)

    async def end(self) -> None:
        """Ask it to go (the end of its input), and kill it if it does not."""
        await self._pipes.input.aclose()
        with trio.move_on_after(END_GRACE_S):
            await self._ended()
        self.kill()  # also what may be left of it when bubblewrap itself has ended
        await self._ended()
        await self._pipes.output.aclose()
        await self._pipes.log.aclose()

    async def _ended(self) -> None:
        """Wait for its end, which is near: by looking, for trio can wait for its own processes only."""
        while self._process.poll() is None:  # noqa: ASYNC110 - nobody would set an event
            await trio.sleep(END_LOOK_S)

    def _log_line(self, line: bytes) -> None:
        text = line[:LOG_LINE_MAX_BYTES].decode("utf-8", "replace").strip()
        if text:
            self._last_lines.append(text)
            _log.warning("worker", said=text)


class _Pipes:
    """The near ends of a worker's standard streams."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.input, self.output, self.log = map(_stream, (process.stdin, process.stdout, process.stderr))


@asynccontextmanager
async def start_child(launch: Launch) -> AsyncIterator[Child]:
    """A worker process, for as long as the context lasts. Raises EngineFailed when it cannot be started."""
    try:
        process = _start(launch)
    except OSError as error:
        raise EngineFailed(f"the worker process cannot be started: {error}") from error
    child = Child(process, _Pipes(process), wrapped=bool(launch.wrapping))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.write)
            nursery.start_soon(child.read_log)
            yield child
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await child.end()


def _start(launch: Launch) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and bubblewrap, without a shell
        launch.arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=launch.environment,
        # A Ctrl-C at the terminal is for the node, which then ends its worker in order; and a group to kill.
        start_new_session=True,
    )


def _stream(pipe: IO[bytes] | None) -> trio.lowlevel.FdStream:
    """Our end of a pipe, as trio reads and writes it."""
    assert pipe is not None
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    return trio.lowlevel.FdStream(descriptor)


def _ending(code: int | None) -> str:
    if code is None:
        return "it does not end"
    name = SIGNALS.get(-code if code < 0 else code - SIGNALLED)
    return f"it was ended by {name}" if name else f"it left with code {code}"
