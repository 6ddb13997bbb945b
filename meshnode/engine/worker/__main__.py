"""The worker's process: pipes, life and death. `python -m meshnode.engine.worker`, started by a node.

The first command says how to confine this process, which comes before all else. Then a thread waits on
standard input, so that an idle worker uses no CPU, a busy one sees a cancel at its next step, and the process
dies with its node (end of input) even if llama.cpp hangs. Frames leave through a private copy of standard
output; whatever libraries print goes to standard error.
"""

import importlib.util
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from meshnode.engine.worker.confinement import confine
from meshnode.engine.worker.frames import (
    AnyCommand,
    Broken,
    Confined,
    Event,
    FrameError,
    FrameReader,
    Open,
    pack,
    read_command,
)
from meshnode.errors import EngineFailed

EXIT_BROKEN = 3
NICE = 5  # the owner's programs, and the node itself, come first
EXIT_BAD_FRAME = 65
EXIT_NOT_FOR_PEOPLE = 64
READ_BYTES = 1 << 16

USAGE = """This is meshnode's inference worker. A node starts it and speaks to it in frames on standard input
and output; there is nothing to call by hand. To serve a model: meshnode up --model NAME"""
MISSING = "llama-cpp-python is not installed, so this node cannot run models itself"
MISSING_HINT = (
    "Install it: pip install 'meshnode[worker]'; in a clone, start it with scripts/start, which does that"
)
REBUILD = "Build it anew: pip install --force-reinstall --no-deps llama-cpp-python"


class Pipes:
    """Standard input as a queue of commands, standard output as a sink of events."""

    def __init__(self) -> None:
        self._output = os.dup(1)
        os.dup2(2, 1)
        self._commands: queue.SimpleQueue[AnyCommand] = queue.SimpleQueue()
        self._frames = FrameReader()
        self.foresee: Callable[[AnyCommand], None] = lambda _command: None  # told at once of what comes

    def first(self) -> AnyCommand:
        """The first command, while this process has one thread; those that came with it stay queued."""
        while self._commands.empty():
            self._take(os.read(0, READ_BYTES))
        return self._commands.get()

    def start(self) -> None:
        """Go on reading in a thread."""
        threading.Thread(target=self._read, daemon=True).start()

    def commands(self, wait: bool) -> Iterator[AnyCommand]:
        """What has come; with `wait`, at least one."""
        if wait:
            yield self._commands.get()
        while not self._commands.empty():
            yield self._commands.get()

    def emit(self, events: Sequence[Event]) -> None:
        """Write events, waiting while the pipe is full."""
        left = memoryview(pack(events))
        while left:
            left = left[os.write(self._output, left) :]

    def _read(self) -> None:
        while True:
            self._take(os.read(0, READ_BYTES))

    def _take(self, received: bytes) -> None:
        """Queue what came; the end of input and nonsense end the process."""
        if not received:
            _die(0)
        try:
            for body in self._frames.feed(received):
                command = read_command(body)
                self._commands.put(command)
                self.foresee(command)
        except FrameError as error:
            _die(EXIT_BAD_FRAME, f"worker: malformed frame: {error}")


def _die(code: int, message: str = "") -> NoReturn:
    """Leave at once from any thread: the other one may be deep inside llama.cpp."""
    if message:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    os._exit(code)


def main(arguments: Sequence[str]) -> int:
    """Serve until standard input ends; the exit code."""
    if arguments or sys.stdin.isatty():
        sys.stderr.write(USAGE + "\n")
        if importlib.util.find_spec("llama_cpp") is None:
            sys.stderr.write(f"{MISSING}. {MISSING_HINT}\n")
        return 0 if "--help" in arguments else EXIT_NOT_FOR_PEOPLE
    pipes = Pipes()
    try:
        return _serve(pipes)
    except EngineFailed as error:
        pipes.emit([Broken(error.message, error.hint)])
        return EXIT_BROKEN


def _serve(pipes: Pipes) -> int:
    first = pipes.first()
    if not isinstance(first, Open):
        _die(EXIT_BAD_FRAME, "worker: the first frame must open a model")
    os.nice(NICE)
    posture = confine(first.wall, first.path)
    pipes.start()
    if importlib.util.find_spec("llama_cpp") is None:
        raise EngineFailed(MISSING, hint=MISSING_HINT)
    # Only now: without llama.cpp the lines above must still be able to say so.
    try:
        from meshnode.engine.worker.opening import open_loop
    except (ImportError, OSError) as error:
        raise EngineFailed(
            f"llama-cpp-python is installed but cannot be used: {error}", hint=REBUILD
        ) from error

    pipes.emit([Confined(posture)])  # and able to go on: from here on the model is what may be wrong
    loop = open_loop(first, pipes.commands, pipes.emit)
    pipes.foresee = loop.foresee
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
