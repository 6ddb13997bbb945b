"""The bytes of one streamed answer on their way to its run. It knows no HTTP."""

import trio

from meshnode.engine.upstream.answer import AnswerReader
from meshnode.engine.upstream.events import EventReader
from meshnode.engine.upstream.runs import UpstreamRun
from meshnode.errors import MeshError
from meshnode.terms import End


class Exchange:
    """Reads what comes into a run; what goes wrong with it waits for `end`."""

    def __init__(self, run: UpstreamRun, reader: AnswerReader) -> None:
        self._reader, self._run = reader, run
        self._events = EventReader()
        self._failure: MeshError | None = None

    def take(self, received: bytes) -> bool:
        """Put what these bytes complete; False when there is no use in more."""
        if self._failure is None:
            try:
                for payload in self._events.feed(received):
                    for piece in self._reader.take(payload):
                        self._run.watch.saw(trio.current_time())
                        self._run.put(piece)
            except MeshError as error:
                self._failure = error
        return self._failure is None

    def end(self) -> End:
        """The answer's end. Raises what went wrong."""
        if self._failure is not None:
            raise self._failure
        return self._reader.end()
